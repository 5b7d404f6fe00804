"""Upper-level steps: closed values, recorded evaluations, and Q1 with each of them."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import float64, normal, recorded

from deqbilevel import algorithms
from deqbilevel.algorithms import aid, batching, steps

A = np.diag([1.0, 2.0, 4.0]) + 0.3
KEY = jax.random.key(0)


def bowl(x):
    return x @ jnp.asarray(A) @ x / 2


def walk(optimiser, count, x=None, loss=bowl):
    """The points of a descent on a loss, and the states of its optimiser."""
    x = normal(0, 3) if x is None else x
    state, path = optimiser.init(x), []
    update = optax.with_extra_args_support(optimiser).update
    for _ in range(count):
        value, gradient = jax.value_and_grad(loss)(x)
        extra = {"value": value, "grad": gradient, "value_fn": loss}
        updates, state = update(gradient, state, x, **extra)
        path.append((x, state))
        x = optax.apply_updates(x, updates)
    return [*(point for point, _ in path), x], [state for _, state in path]


@float64
def test_dimension_normalised():
    gradient = {"a": normal(0, 2, 3), "b": normal(1, 3)}
    step = steps.dimension_normalised(lambda u: 1.0 / (1 + u), 5)
    state = step.init(gradient)
    for u in range(2):
        updates, state = step.update(gradient, state)
        for name in gradient:
            np.testing.assert_allclose(updates[name], -gradient[name] / 5 / (1 + u), rtol=1e-14)


# ---- Armijo


@float64
def test_armijo_takes_the_first_of_its_trials_that_falls_enough():
    """Recorded: from `rate` at first, then from 1.5 times the last step, halved until it is met."""
    loss, points = recorded(bowl)
    step = steps.armijo(3.0, sufficient=0.3)
    x, state, last = normal(0, 3), step.init(normal(0, 3)), 3.0 / 1.5
    for _ in range(4):
        points.clear()
        value, gradient = jax.value_and_grad(bowl)(x)
        updates, state = step.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
        jax.effects_barrier()
        rates = [1.5 * last * 0.5**k for k in range(len(points))]
        expected = [np.asarray(x - a * gradient) for a in rates]
        np.testing.assert_allclose(points, expected, rtol=1e-10)
        slope = gradient @ gradient
        falls = [bool(bowl(x - a * gradient) <= value - 0.3 * a * slope) for a in rates]
        assert falls == [False] * (len(rates) - 1) + [True]
        assert algorithms.base.trials(state) == len(points)
        np.testing.assert_allclose(updates, -rates[-1] * gradient, rtol=1e-14)
        x, last = x + updates, rates[-1]


@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan, 7.0])
@float64
def test_armijo_stays_where_no_trial_falls_and_starts_anew(bad):
    step = steps.armijo(1.0, trials=3)
    x, gradient = normal(0, 3), normal(1, 3)
    extra = {"value": jnp.array(5.0), "grad": gradient}
    updates, state = step.update(
        gradient, step.init(x), x, value_fn=lambda x: bad + 0 * x[0], **extra
    )
    assert not np.any(updates) and algorithms.base.trials(state) == 3
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(state))
    updates, state = step.update(gradient, state, x, value_fn=lambda x: 0 * x[0], **extra)
    np.testing.assert_allclose(updates, -gradient, rtol=1e-14)
    assert algorithms.base.trials(state) == 1


@float64
def test_the_lower_solves_of_armijo_are_counted():
    """Each lower-level solve is followed by one evaluation of the loss, which is recorded."""
    posed, solves = algorithms.quadratic(), []

    def upper(gamma, x, data):
        jax.debug.callback(lambda gamma: solves.append(np.asarray(gamma)), gamma, ordered=True)
        return posed.problem.upper(gamma, x, data)

    problem = posed.problem._replace(upper=upper)
    method = aid(problem, steps.armijo(8.0), lower_iterations=7, adjoint_iterations=3)
    steps_taken = jax.jit(lambda state: batching.run(method, state, posed.data, KEY, 8))
    _, infos = steps_taken(method.init(posed.gamma, posed.x))
    jax.effects_barrier()
    assert jnp.sum(infos.calls.upper_gradients) == len(solves) > 16
    assert jnp.sum(infos.calls.lower_gradients) == 7 * len(solves)


# ---- Barzilai and Borwein


@pytest.mark.parametrize("variant", ["long", "short"])
@float64
def test_barzilai_borwein_has_the_quotients_of_the_last_change(variant):
    points, states = walk(steps.barzilai_borwein(0.1, variant=variant), 25)
    points = np.array(points)
    for u, state in enumerate(states[:12]):
        rate = 0.1
        if u:
            s = points[u] - points[u - 1]
            y = A @ s
            rate = s @ s / (s @ y) if variant == "long" else s @ y / (y @ y)
        np.testing.assert_allclose(state.rate, rate, rtol=1e-6)
        np.testing.assert_allclose(points[u + 1], points[u] - rate * A @ points[u], atol=1e-7)
    assert np.linalg.norm(points[-1]) < 1e-8 * np.linalg.norm(points[0])


@float64
def test_barzilai_borwein_is_kept_in_bounds_and_needs_curvature():
    _, (_, flat) = walk(steps.barzilai_borwein(0.1, most=50.0), 2, loss=lambda x: 1e-6 * bowl(x))
    np.testing.assert_allclose(flat.rate, 5.0, rtol=1e-12)
    _, (_, steep) = walk(steps.barzilai_borwein(2.0, least=0.3), 2, loss=lambda x: 1e3 * bowl(x))
    np.testing.assert_allclose(steep.rate, 0.6, rtol=1e-12)
    _, (_, hill) = walk(steps.barzilai_borwein(0.1), 2, loss=lambda x: -bowl(x))
    assert hill.rate == 0.1
    _, still = walk(steps.barzilai_borwein(0.1), 3, x=jnp.zeros(3))
    assert still[-1].rate == 0.1


# ---- HOAG


@float64
def test_hoag_adaptive_applies_a_step_once_and_reverts_where_the_loss_grew():
    """Told what the losses are: fallen enough, too little, grown, grown much, and not finite."""
    step, x = steps.hoag_adaptive(), normal(0, 4)
    state, L, kept = step.init(x), 0.0, (x, x)
    told = [(2.0, 1), (1.0, 0.95), (0.99999, 1), (1.1, 2), (1.33, 2), (jnp.nan, 2)]
    for u, (value, factor) in enumerate(told):
        gradient = normal(10 + u, 4)
        updates, state = step.update(gradient, state, x, value=jnp.asarray(value))
        L = factor * L if u else np.linalg.norm(gradient) / 2
        np.testing.assert_allclose(state.lipschitz, L, rtol=1e-14)
        if u < 4:
            kept = (x, gradient)
        np.testing.assert_allclose(x + updates, kept[0] - kept[1] / L, rtol=1e-12, atol=1e-14)
        x = x + updates if u else x - 0.1 * gradient  # so small that a fall by 1 is sufficient
    assert state.reverts == 2


@float64
def test_hoag_adaptive_finds_a_step_that_falls():
    """From a constant 100 times too small: the losses of what is kept never grow by a fifth."""
    _, states = walk(steps.hoag_adaptive(0.04), 60)
    values = [float(state.value) for state in states]
    assert int(states[-1].reverts) >= 4
    assert all(after <= 1.2 * before for before, after in pairwise(values))
    assert values[-1] < 1e-6 * values[0]


@float64
def test_hoag_adaptive_does_not_drift_away_once_it_has_arrived():
    """Where nothing falls any more L must not shrink for ever; from a tiny gradient it is 1."""
    H = jnp.array([[0.8, -0.2], [-0.2, 0.6]])
    points, _ = walk(steps.hoag_adaptive(1.5), 120, jnp.ones(2), lambda x: 2 + x @ H @ x / 2)
    assert max(np.linalg.norm(points[40:], axis=1)) < 1e-6
    step, x = steps.hoag_adaptive(), jnp.ones(4)
    _, state = step.update(jnp.full(4, 1e-4), step.init(x), x, value=jnp.ones(()))
    assert state.lipschitz == 1


# ---- projections


@float64
def test_a_box_on_a_tree():
    gamma = {"a": jnp.array([0.0, 5.0]), "b": jnp.array(-3.0)}
    step = optax.chain(optax.sgd(1.0), steps.box({"a": -1.0, "b": -6.0}, 6))
    gradient = {"a": jnp.array([4.0, -4.0]), "b": jnp.array(1.5)}
    moved, _ = algorithms.base.move(step, gradient, step.init(gamma), gamma)
    assert moved["a"].tolist() == [-1, 6] and moved["b"] == -4.5


@float64
def test_a_projection_is_the_last_word():
    step = optax.chain(optax.sgd(0.2), steps.projected(optax.projections.projection_simplex))
    points, _ = walk(step, 30)
    np.testing.assert_allclose([x.sum() for x in points[1:]], 1, rtol=1e-12)
    inverse = np.linalg.solve(A, np.ones(3))
    np.testing.assert_allclose(points[-1], inverse / inverse.sum(), rtol=1e-4)


# ---- Q1

SMALLEST = -1.0
BOXED = np.array([SMALLEST, (25 / 18 + SMALLEST / 6) / 0.6])
"""The minimiser of Q1 with gamma_1 >= -1, which binds."""

WAYS = {
    "dimension_normalised": (lambda a: steps.dimension_normalised(3.0 * a, 3), 40),
    "armijo": (lambda a: steps.armijo(4.0 * a), 40),
    "barzilai_borwein": (lambda a: steps.barzilai_borwein(0.5 * a), 40),
    "hoag_adaptive": (lambda a: steps.hoag_adaptive(1.5 / a), 60),
    "box": (lambda a: optax.chain(optax.sgd(a), steps.box(SMALLEST, 6)), 40),
}


@pytest.mark.parametrize("name", WAYS)
@float64
def test_q1_with_every_step_alone_and_as_lanes(name):
    make, count = WAYS[name]
    posed = algorithms.quadratic()

    def last(scale):
        method = aid(posed.problem, make(scale), lower_iterations=30, adjoint_iterations=3)
        state = method.init(posed.gamma, posed.x)
        return batching.run(method, state, posed.data, KEY, count)[0].gamma

    scales = jnp.array([1.0, 0.8])
    lanes = jax.jit(jax.vmap(last))(scales)
    target = BOXED if name == "box" else posed.solution
    np.testing.assert_allclose(lanes, np.stack([target, target]), atol=1e-6)
    np.testing.assert_allclose(jax.jit(last)(scales[1]), lanes[1], rtol=1e-12)


def test_what_is_refused():
    for make, named in (
        (lambda: steps.armijo(trials=0), "trials=0: expected a whole number, 1"),
        (lambda: steps.armijo(-1.0), "rate=-1.0: expected a finite number, above 0"),
        (
            lambda: steps.armijo(shrink=1.0),
            r"shrink=1.0: expected a finite number, above 0, below 1",
        ),
        (
            lambda: steps.barzilai_borwein(1.0, variant="medium"),
            "variant='medium': expected one of",
        ),
        (lambda: steps.barzilai_borwein(1.0, least=2.0), "least=2.0"),
        (lambda: steps.hoag_adaptive(0.0), "lipschitz=0.0"),
        (lambda: steps.hoag_adaptive(failure=0.5), "failure=0.5"),
        (lambda: steps.dimension_normalised(1.0, 0), "dimension=0"),
        (lambda: steps.dimension_normalised(float("nan"), 3), "rate=nan"),
        (lambda: steps.box(6, -6), "box from 6 to -6: expected numbers, the lower one first"),
        (lambda: steps.box({"a": 0.0}, {"a": float("nan")}), "box from 0.0 to nan"),
        (lambda: steps.projected(3), "project=3: expected a function"),
    ):
        with pytest.raises(ValueError, match=named):
            make()
    for name in ("armijo", "hoag_adaptive"):
        step = getattr(steps, name)()
        with pytest.raises(ValueError, match=f"{name} looks at the upper-level loss"):
            step.update(jnp.ones(2), step.init(jnp.ones(2)), jnp.ones(2))
