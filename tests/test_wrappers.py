"""Algorithms around algorithms: divergence, stopping, schedules, growing batches, minibatches."""

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import float64, normal

from deqbilevel import algorithms
from deqbilevel.algorithms import Algorithm, Calls, aid
from deqbilevel.algorithms.base import from_cost, info
from deqbilevel.algorithms.batching import minibatches, run
from deqbilevel.algorithms.guarding import guarded
from deqbilevel.algorithms.scheduling import enlarging, growing, scheduled

KEY = jax.random.key(0)


def q1(rate=1.0, **options):
    posed = algorithms.quadratic()
    options = {"lower_iterations": 10, "adjoint_iterations": 3} | options
    return posed, aid(posed.problem, optax.sgd(rate), **options)


def go(method, posed, steps):
    start = method.init(posed.gamma, posed.x)
    return jax.jit(lambda state: run(method, state, posed.data, KEY, steps))(start)


def all_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


# ---- divergence


@float64
def test_a_diverging_lane_is_frozen_and_recorded_and_its_neighbours_are_as_alone():
    """Steps of 30 and 1e200 diverge, the second at once; the state of neither has a NaN."""
    posed, _ = q1()

    def lane(rate, bound=jnp.inf):
        method = guarded(q1(rate)[1], loss=bound)
        return run(method, method.init(posed.gamma, posed.x), posed.data, KEY, 400)

    rates = jnp.array([1.0, 30.0, 1e200, 0.5])
    states, infos = jax.jit(jax.vmap(lane))(rates)
    assert states.diverged.tolist() == [False, True, True, False]
    assert not any(states.stopped)
    assert states.steps[0] == states.steps[3] == 400
    assert 100 < states.steps[1] < 400 and 1 <= states.steps[2] < 3
    assert all_finite((states, infos))
    for i in (0, 3):
        alone, _ = go(q1(rates[i])[1], posed, 400)
        for mine, other in zip(jax.tree.leaves(states.inner), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(mine[i], other, rtol=1e-12, atol=1e-14)
    taken = int(states.steps[1])
    assert infos.calls.lower_gradients[1].tolist() == [10] * (taken + 1) + [0] * (399 - taken)
    assert states.calls.lower_gradients[1] == 10 * (taken + 1)
    frozen = infos.loss[1, taken - 1 :]
    assert (frozen == frozen[0]).all() and frozen[0] == states.last.loss[1] > 1e100
    bounded, _ = jax.jit(lane)(rates[1], jnp.asarray(1e6))
    assert bounded.diverged and bounded.last.loss <= 1e6 and 1 < bounded.steps < taken


@float64
def test_a_step_that_diverges_at_once_leaves_the_start():
    posed, _ = q1()
    broken = posed.problem._replace(upper=lambda gamma, x, data: jnp.sum(x) / 0)
    method = guarded(aid(broken, optax.sgd(1.0)))
    state, infos = go(method, posed, 3)
    assert state.diverged and state.steps == 0 and not np.any(state.gamma) and not np.any(state.x)
    assert infos.calls.upper_gradients.tolist() == [1, 0, 0]
    assert np.isinf(infos.loss).all() and not any(np.isnan(x).any() for x in jax.tree.leaves(infos))


class Plain(NamedTuple):
    """A State with a number that is no row, and a key."""

    gamma: Any
    x: Any
    extra: Any
    key: Any


@pytest.mark.parametrize("extra", [jnp.inf, jnp.nan])
def test_only_a_nan_outside_of_the_rows_is_a_divergence(extra):
    def step(state, data, key):
        found = info(Calls(1, 0, 0, 1), jnp.float32(1), state.gamma, 0.0, jnp.nan)
        return state._replace(extra=jnp.float32(extra)), found

    def init(gamma, x):
        return Plain(gamma, x, jnp.float32(0), jax.random.key(7))

    method = guarded(Algorithm(init, step))
    state, infos = run(method, method.init(jnp.ones(2), jnp.ones((1, 2))), None, KEY, 2)
    assert bool(state.diverged) == bool(np.isnan(extra)) and not np.isnan(state.inner.extra)
    assert np.isnan(infos.adjoint_residual).any() != state.diverged


# ---- stopping


@float64
def test_the_rules_stop_after_the_first_step_that_meets_them():
    posed, method = q1()
    gammas = [np.asarray(posed.gamma)]
    state, norms, calls = method.init(posed.gamma, posed.x), [], []
    step = jax.jit(method.step)
    for _ in range(20):
        state, found = step(state, posed.data, KEY)
        gammas.append(np.asarray(state.gamma))
        norms.append(float(found.gradient_norm))
        calls.append(float(found.calls.total()))
    changes = [  # by the norm before, which is 0 at first
        np.linalg.norm(new - old) / (np.linalg.norm(old) or 1e-300) for old, new in pairwise(gammas)
    ]
    expected = {
        "gradient_norm": 1 + next(u for u, x in enumerate(norms) if x <= 1e-3),
        "relative_change": 1 + next(u for u, x in enumerate(changes) if x <= 0.01),
        "calls": 1 + next(u for u, x in enumerate(np.cumsum(calls)) if x >= 120),
    }
    assert len(set(expected.values())) == 3 and max(expected.values()) < 15
    rules = jnp.where(
        jnp.eye(4, 3, dtype=bool), jnp.array([1e-3, 0.01, 120]), jnp.array([-1.0, -1, jnp.inf])
    )

    def lane(rule):
        watched = guarded(method, gradient_norm=rule[0], relative_change=rule[1], calls=rule[2])
        return run(watched, watched.init(posed.gamma, posed.x), posed.data, KEY, 20)

    states, infos = jax.jit(jax.vmap(lane))(rules)
    assert states.stopped.tolist() == [True, True, True, False] and not any(states.diverged)
    assert states.steps.tolist() == [*expected.values(), 20]
    for i, steps in enumerate(states.steps.tolist()):
        np.testing.assert_allclose(states.gamma[i], gammas[steps], rtol=1e-12)
        assert states.calls.total()[i] == sum(calls[:steps])
        assert not np.any(infos.calls.total()[i, steps:])
        np.testing.assert_allclose(infos.gradient_norm[i, steps - 1 :], norms[steps - 1], rtol=1e-9)


# ---- schedules


@float64
def test_scheduled_options_are_those_of_each_step():
    posed = algorithms.quadratic()
    factory = partial(aid, posed.problem, optax.sgd(1.0), adjoint_iterations=3)
    method = guarded(scheduled(factory, lower_iterations=lambda u: 1 + u // 2))
    state, infos = go(method, posed, 6)
    assert infos.calls.lower_gradients.tolist() == [1, 1, 2, 2, 3, 3]
    by_hand = factory().init(posed.gamma, posed.x)
    step = jax.jit(lambda state, T: factory(lower_iterations=T).step(state, posed.data, KEY))
    for u in range(6):
        by_hand, _ = step(by_hand, jnp.array(1 + u // 2))
    np.testing.assert_allclose(state.gamma, by_hand.gamma, rtol=1e-12)
    np.testing.assert_allclose(state.x, by_hand.x, rtol=1e-12)
    assert state.inner.steps == 6


class Sized(NamedTuple):
    size: Any


def test_growing_batches():
    def step(state, data, key):
        return state, info(Calls(), data.size.astype(float), state.gamma, 0, 0)

    method = growing(Algorithm(lambda gamma, x: Plain(gamma, x, 0, 0), step), lambda u: 2 * u + 1)
    start = method.init(jnp.ones(2), jnp.ones((1, 2)))
    state, infos = run(method, start, Sized(jnp.array(9)), KEY, 4)
    assert infos.loss.tolist() == [1, 3, 5, 7]
    assert state.gamma.shape == (2,) and state.x.shape == (1, 2)


@float64
def test_a_batch_grows_where_a_step_fails_to_lower_the_loss():
    """Told what the losses are: fallen enough, too little, enough again, grown, and grown."""
    told = jnp.array([5.0, 4.0, 3.9999, 3.0, 3.5, 4.0, 4.1])

    def step(state, data, key):
        found = info(Calls(lower_gradients=data.size), told[state.extra], state.gamma, 0, 0)
        return state._replace(extra=state.extra + 1), found

    inner = Algorithm(lambda gamma, x: Plain(gamma, x, jnp.array(0), 0), step)
    method = enlarging(inner, initial=3, largest=12, factor=1.5, decrease=1e-3)
    start = method.init(jnp.ones(2), jnp.ones((1, 2)))
    _, infos = run(method, start, Sized(jnp.array(9)), KEY, 7)
    assert infos.calls.lower_gradients.tolist() == [3, 3, 3, 4, 4, 6, 10]
    with pytest.raises(ValueError, match="data: a dict without `size`"):
        run(method, start, {}, KEY, 1)


@float64
def test_batches_that_grow_where_they_have_to_find_the_solution():
    """Constant steps from one sample stay away; with growing batches they come close."""
    posed = algorithms.stochastic_quadratic(algorithms.quadratic(), batch=512)
    inner = algorithms.stocbio(posed.problem, optax.sgd(0.5), adjoint_terms=20)

    def last(method):
        state = method.init(posed.gamma, posed.x)
        gamma = run(method, state, posed.data, KEY, 300)[0].gamma
        return np.linalg.norm(gamma - posed.solution)

    few = last(growing(inner, lambda u: 1))
    more = last(enlarging(inner, initial=1, largest=512))
    assert more < 0.05 < few


# ---- minibatches


def rows(count):
    """Lower-level problems that share gamma: Phi = sum_i <e^gamma, x_i^2>/2 + ||x_i - y_i||^2/2."""

    def upper(gamma, x, data):
        return jnp.sum((x - data["truth"]) ** 2) / 2

    def lower(x, gamma, data):
        return jnp.sum(jnp.exp(gamma) * x**2 + (x - data["y"]) ** 2) / 2

    data = {"y": normal(0, count, 3), "truth": normal(1, count, 3)}
    problem = from_cost(upper, lower, lambda gamma: 1 / (1 + jnp.max(jnp.exp(gamma))))
    return problem, data


@float64
def test_minibatches_take_step_and_put_back_their_rows():
    problem, data = rows(5)
    method = aid(problem, optax.sgd(0.1), lower_iterations=3, adjoint_iterations=2)
    start = method.init(jnp.zeros(3), normal(2, 5, 3))
    start = start._replace(v=normal(3, 5, 3))
    indices = jnp.array([[4, 1], [0, 4]])
    state, infos = jax.jit(lambda state: run(minibatches(method), state, data, KEY, indices))(start)
    by_hand, step = start, jax.jit(method.step)
    for chosen in np.asarray(indices):
        part = by_hand._replace(x=by_hand.x[chosen], v=by_hand.v[chosen])
        part, _ = step(part, {name: value[chosen] for name, value in data.items()}, KEY)
        x, v = np.array(by_hand.x), np.array(by_hand.v)
        x[chosen], v[chosen] = part.x, part.v
        by_hand = part._replace(x=jnp.asarray(x), v=jnp.asarray(v))
    for mine, other in zip(jax.tree.leaves(state), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12)
    assert (state.x[jnp.array([2, 3])] == start.x[jnp.array([2, 3])]).all()
    assert (state.v[jnp.array([2, 3])] == start.v[jnp.array([2, 3])]).all()
    assert infos.loss.shape == (2,)
    watched = guarded(minibatches(method), calls=1)
    stopped, _ = run(watched, watched.init(start.gamma, start.x), data, KEY, indices)
    assert stopped.steps == 1 and (stopped.x[0] == start.x[0]).all()


def test_minibatches_go_around_the_method_itself():
    _, method = q1()
    with pytest.raises(ValueError, match=r"guarded\(minibatches\(method\)\)"):
        minibatches(guarded(method))
