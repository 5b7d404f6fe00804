"""Learning with lower levels that go on warm: minimisers, hypergradients at them, minibatches,
shapes, line searches, a grid to start from, and what is refused."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import FILTERED as SHAPE
from helpers import (
    WrongAdjoint,
    filter_learner,
    filter_model,
    float64,
    normal,
    untyped,
)

from deqbilevel import hypergradients, learning, losses, models, operators
from deqbilevel.potentials import POTENTIALS, Quadratic
from deqbilevel.regularizers import convolutional
from deqbilevel.solvers import DESCENTS, symmetric_solve
from experiments import filters
from experiments.filters import lanes as filter_lanes
from experiments.filters import tasks

PIXELS = SHAPE[0] * SHAPE[1]
LEARNED = ("filters", "beta", "beta_0", "phi")
SMOOTH = [name for name, phi in POTENTIALS.items() if phi().twice_differentiable]


@jax.jit
def at_images(u, p, f):
    """The lower-level cost of images, what has to be zero at its minimiser, and its slope."""
    model, *_ = filter_model(POTENTIALS["fair"](), operators.Identity())
    cost, back = jax.vjp(lambda u: model.energy(u, p, f), u)
    return cost, model.stationarity()(u, p, f), back(jnp.ones_like(cost))[0]


@pytest.mark.parametrize("name", DESCENTS)
@float64
def test_every_descent_reaches_the_minimiser(name):
    model, p, _, f = filter_model(POTENTIALS["fair"](), operators.Identity())
    solver = DESCENTS[name](tolerance=1e-13, max_evaluations=3000)
    u, info = jax.jit(lambda p, f: model.reconstruct(solver, p, f))(p, f)
    assert info.converged
    moved = u + 1e-3 * normal(5, 2, PIXELS)
    below, least, _ = at_images(u, p, f)
    above, slope, expected = at_images(moved, p, f)
    np.testing.assert_allclose(least, 0, atol=1e-11)
    assert (below < above).all()
    np.testing.assert_allclose(slope, expected, rtol=1e-9, atol=1e-12)


@float64
def test_momentum_needs_fewer_evaluations_than_gradient_descent():
    model, p, _, f = filter_model(POTENTIALS["corner_rounded"](), operators.Identity())
    spent = {}
    for name in ("gradient_descent", "nesterov", "optimized_gradient", "barzilai_borwein"):
        solve = DESCENTS[name](tolerance=1e-8, max_evaluations=20000)
        spent[name] = int(model.reconstruct(solve, p, f)[1].evaluations)
    assert spent["optimized_gradient"] < spent["nesterov"] < spent["gradient_descent"] / 2
    assert spent["barzilai_borwein"] < spent["gradient_descent"] / 2


@pytest.mark.parametrize(
    "name", ["nesterov", "optimized_gradient", "preconditioned_momentum", "barzilai_borwein"]
)
@float64
def test_descents_start_warm_count_truly_and_keep_lanes_apart(name):
    J = jnp.asarray(np.diag(np.linspace(0.05, 0.98, 8)))
    c = normal(0, 2, 8)
    exact = np.linalg.solve(np.eye(8) - np.asarray(J), np.asarray(c).T).T

    @jax.jit
    def run(u0, tolerance, budget):
        solve = DESCENTS[name](tolerance=tolerance, max_evaluations=budget)
        return solve(lambda u: u @ J + c, u0)

    cold, info = run(jnp.zeros_like(c), 1e-12, 2000)
    np.testing.assert_allclose(cold, exact, rtol=1e-8)
    warm = run(cold, 1e-9, 2000)[1]
    assert warm.evaluations == 1 and info.evaluations > 10
    starts = jnp.stack([jnp.zeros_like(c), cold])
    lanes = jax.jit(jax.vmap(run, (0, None, 0)))(starts, 1e-12, jnp.array([7, 2000]))
    alone = run(jnp.zeros_like(c), 1e-12, 7)
    assert lanes[1].evaluations.tolist()[0] == 7 and not bool(lanes[1].converged[0])
    np.testing.assert_allclose(lanes[0][0], alone[0], rtol=1e-12)


def exact_gradient(model, p, truth, f, learned=LEARNED):
    """The loss, its hypergradient by `minimiser`, and its Info, at a lower level solved exactly."""
    solver = DESCENTS["optimized_gradient"](tolerance=1e-14, max_evaluations=20000)
    u, _ = model.reconstruct(solver, p, f)
    weights = {name: p[name] for name in learned}
    gradient, _, info = hypergradients.minimiser(
        model.stationarity(), weights, p, f, u, u - truth, jnp.zeros_like(u), tolerance=1e-12
    )
    return 0.5 * jnp.sum((u - truth) ** 2), gradient, info


@pytest.mark.parametrize("name", SMOOTH)
@float64
def test_hypergradient_against_finite_differences(name):
    """Filters, betas and the potential's own parameters, along random directions."""
    eps = {"corner_rounded": 0.3, "rounded_half": 0.7, "log_cosh": 0.3}
    phi = POTENTIALS[name]()
    phi = type(phi)(eps=eps[name]) if name in eps else phi
    model, p, truth, f = filter_model(phi, operators.Identity())
    evaluate = jax.jit(lambda p: exact_gradient(model, p, truth, f))
    _, gradient, info = evaluate(p)
    assert info.converged and info.evaluations < 100
    h = 1e-4
    for entry in LEARNED:
        leaves, structure = jax.tree.flatten(p[entry])
        ways = [normal(7 + i, *leaf.shape) for i, leaf in enumerate(leaves)]
        slope = sum(
            jnp.vdot(g, w) for g, w in zip(jax.tree.leaves(gradient[entry]), ways, strict=True)
        )

        def moved(t, leaves=leaves, ways=ways, structure=structure, entry=entry):
            there = [x + t * w for x, w in zip(leaves, ways, strict=True)]
            return float(evaluate(p | {entry: jax.tree.unflatten(structure, there)})[0])

        difference = 8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))
        np.testing.assert_allclose(slope, difference / (12 * h), rtol=1e-6, atol=1e-9)


@float64
def test_hypergradient_against_the_closed_form_of_the_quadratic_potential():
    """u = (K'K + sum_k Q_k)^{-1} K'f, Q_k = e^{beta_0 + beta_k} C_k'C_k: dl/dbeta_k = -v'Q_k u."""
    model, p, truth, f = filter_model(Quadratic())
    eye, N = jnp.eye(PIXELS), jax.jit(model.N)
    K = np.asarray(model.K.apply(eye)).T
    parts = []
    for k in range(3):
        only = p | {"beta": jnp.asarray(np.where(np.arange(3) == k, p["beta"], -1e9))}
        parts.append(np.asarray(N(eye, only)))
    H = K.T @ K + sum(parts)
    u = np.linalg.solve(H, K.T @ np.asarray(f).T).T
    v = np.linalg.solve(H, (u - np.asarray(truth)).T).T
    expected = [-np.sum(v * (u @ part)) for part in parts]
    _, gradient, info = jax.jit(lambda p: exact_gradient(model, p, truth, f, ("beta",)))(p)
    assert info.converged
    np.testing.assert_allclose(gradient["beta"], expected, rtol=1e-8)


@float64
def test_conjugate_gradients_start_warm_and_flag_what_they_cannot_solve():
    H = np.diag(np.linspace(1, 50, 12))
    g = normal(0, 2, 12)

    def product(x):
        return x @ jnp.asarray(H)

    solve = jax.jit(lambda g, w, tolerance: symmetric_solve(product, g, w, tolerance=tolerance))
    w, info = solve(g, 0 * g, 1e-12)
    np.testing.assert_allclose(w, np.asarray(g) / np.diag(H), rtol=1e-9)
    assert info.converged and 10 < info.evaluations <= 15
    assert solve(g, w, 1e-9)[1].evaluations <= 3
    exact = symmetric_solve(
        product, g, jnp.zeros_like(g), tolerance=1e-12, precondition=lambda r: r / np.diag(H)
    )[1]
    assert exact.converged and exact.evaluations == 3  # of the start, one step, of the end
    singular = np.diag(H) * (np.arange(12) > 0)
    w, info = symmetric_solve(lambda x: x * singular, g, jnp.zeros_like(g), max_evaluations=200)
    assert not info.converged and np.isfinite(w).all() and info.residual > 1e-3
    w, info = symmetric_solve(lambda x: -x, g, jnp.zeros_like(g), max_evaluations=200)
    assert not info.converged and np.isfinite(w).all()
    zero = solve(0 * g, 0 * g, 1e-6)
    assert zero[1].converged and np.all(zero[0] == 0)


def test_learning_lowers_the_loss_and_lanes_are_what_they_are_alone():
    model, p, _, noise = filter_model(POTENTIALS["corner_rounded"](), operators.Identity())
    learner = filter_learner(model, forward=100)
    truth = jnp.tile(jnp.array([1.0, 0, 0, 1, 0, 0, 0]), (2, 6))
    f = truth + 0.2 * noise
    p["beta_0"] = jnp.float32(-4)
    values = (-6.0, -4.0, -2.0, 0.0)
    best, all_losses = learning.search(learner, p, truth, f, "beta_0", values)
    assert float(best) == values[int(np.argmin(all_losses))]
    starts = [p, p | {"beta": p["beta"] + 1}]
    run = jax.jit(lambda s: learning.steps(learner, s, truth, 30, f=f))
    alone = [run(learning.start(learner, q, f)) for q in starts]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    start = jax.vmap(lambda q: learning.start(learner, q, f))(stacked)
    together = jax.jit(jax.vmap(run))(start)
    for i, (state, metrics) in enumerate(alone):
        assert metrics.loss[-1] < 0.9 * metrics.loss[0]
        assert bool(metrics.adjoint_converged.all()) and not bool(state.diverged)
        np.testing.assert_allclose(together[1].loss[i], metrics.loss, rtol=1e-3)
        np.testing.assert_array_equal(state.params["beta_0"], p["beta_0"])
    noisy, learned = losses.snr(f, truth).mean(), losses.snr(alone[0][0].u[0], truth).mean()
    assert learned > noisy


STILL = learning.fixed(optax.sgd(0.0))
"""Weights that stay where they are."""


@cache
def exact_of_fair():
    """The loss and its hypergradient, for one model of several tests."""
    model, p, truth, f = filter_model(POTENTIALS["fair"]())
    exact = jax.jit(lambda p: exact_gradient(model, p, truth, f, ("filters", "beta")))
    return exact(p)[:2]


@float64
def test_a_warm_lower_level_and_its_adjoint_go_on_and_a_cold_one_starts_anew():
    model, p, truth, f = filter_model(POTENTIALS["fair"]())
    evaluated = {}
    for warm in (True, False):
        learner = filter_learner(model, optimiser=STILL, warm=warm, forward=15, adjoint=60)
        run = jax.jit(lambda s, learner=learner: learning.steps(learner, s, truth, 20, f=f))
        state, metrics = run(learning.start(learner, p, f))
        evaluated[warm] = metrics
        assert (state.u is None) == (state.v is None) == (not warm)
        assert metrics.forward_evaluations[0] == 15
    assert evaluated[True].lower_gradient_norm[-1] < 1e-6 * evaluated[True].lower_gradient_norm[0]
    assert evaluated[True].forward_evaluations[-1] == 1
    for name, cold in evaluated[False]._asdict().items():
        np.testing.assert_allclose(cold, cold[0], rtol=1e-12, err_msg=name)
    adjoint = evaluated[True].adjoint_evaluations
    assert adjoint[-1] < adjoint[0]
    # What both come to is the hypergradient of the minimiser.
    loss, gradient = exact_of_fair()
    size = sum(x.size for x in jax.tree.leaves(gradient)) ** 0.5
    np.testing.assert_allclose(evaluated[True].loss[-1], loss, rtol=1e-6)
    norm = optax.tree.norm(gradient) / size
    np.testing.assert_allclose(evaluated[True].gradient_norm[-1], norm, rtol=1e-4)


@float64
def test_the_lower_level_can_be_solved_beforehand():
    model, p, _, f = filter_model(POTENTIALS["fair"]())
    learner = filter_learner(model, optimiser=STILL, forward=1)
    near = learning.start(learner, p, f, evaluations=2000)
    np.testing.assert_allclose(model.stationarity()(near.u[0], p, f), 0, atol=1e-8)
    at_start = learning.start(learner, p, f)
    np.testing.assert_array_equal(at_start.u[0], model.K.adjoint(f))
    assert not at_start.v[0].any()


@pytest.mark.parametrize("hypergradient", ["minimiser", "conjugate_gradient", "gmres"])
@float64
def test_a_step_is_against_the_hypergradient_whichever_way_it_is_found(hypergradient):
    model, p, truth, f = filter_model(POTENTIALS["fair"]())
    learner = filter_learner(
        model,
        optimiser=learning.fixed(optax.sgd(0.01)),
        hypergradient=hypergradient,
        forward=3000,
        adjoint_tolerance=1e-10,
    )
    state, metrics = jax.jit(lambda s: learning.step(learner, s, truth, f=f))(
        learning.start(learner, p, f)
    )
    _, gradient = exact_of_fair()
    assert metrics.adjoint_converged == 1 and state.step == 1
    for name, slope in gradient.items():
        np.testing.assert_allclose(
            (p[name] - state.params[name]) / 0.01, slope, rtol=1e-6, atol=1e-8
        )
    for name in ("beta_0", "lam", "gamma"):
        assert state.params[name] == p[name]


@float64
def test_a_minibatch_leaves_the_other_images_where_they_are():
    model, p, truth, f = filter_model(POTENTIALS["fair"]())
    learner = filter_learner(model)
    start = learning.start(learner, p, f)
    take = jax.jit(lambda s, rows: learning.steps(learner, s, truth, rows, f=f))
    state, metrics = take(start, jnp.array([[1], [1]]))
    assert metrics.loss.shape == (2,) and state.step == 2
    np.testing.assert_array_equal(state.u[0][0], start.u[0][0])
    assert not state.v[0][0].any() and state.v[0][1].any()
    assert (state.u[0][1] != start.u[0][1]).any()
    together, both = take(start, jnp.array([[0, 1], [0, 1]]))
    plain, _ = jax.jit(lambda s: learning.steps(learner, s, truth, 2, f=f))(start)
    for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)
    other = take(start, jnp.array([[0], [0]]))[1]
    np.testing.assert_allclose(metrics.loss[0] + other.loss[0], both.loss[0], rtol=1e-12)


@float64
def test_images_of_several_shapes_add_up():
    """The loss of all is the sum, and so is the way of plain gradient descent."""

    def stepped(learner, start, truth, f):
        return jax.jit(lambda s: learning.step(learner, s, truth, f=f))(start)

    parts = [
        filter_model(POTENTIALS["fair"](), operators.Identity(), shape) for shape in (SHAPE, (5, 4))
    ]
    (_, p, *_), optimiser = parts[0], learning.fixed(optax.sgd(1e-3))
    alone, moved = [], []
    for model, _, truth, f in parts:
        learner = filter_learner(model, optimiser=optimiser)
        state, metrics = stepped(learner, learning.start(learner, p, f), truth, f)
        alone.append(metrics)
        moved.append(state.params["filters"] - p["filters"])
    models_, _, truths, fs = zip(*parts, strict=True)
    learner = filter_learner(*models_, optimiser=optimiser)
    start = learning.start(learner, p, fs)
    state, metrics = stepped(learner, start, truths, fs)
    np.testing.assert_allclose(metrics.loss, sum(x.loss for x in alone), rtol=1e-12)
    np.testing.assert_allclose(state.params["filters"] - p["filters"], sum(moved), rtol=1e-10)
    assert metrics.adjoint_evaluations == max(x.adjoint_evaluations for x in alone)
    assert [x.shape for x in state.u] == [(2, PIXELS), (2, 20)]
    rows = (jnp.array([[0, 1]]), jnp.array([[0, 1]]))
    scanned, _ = learning.steps(learner, start, truths, rows, f=fs)
    np.testing.assert_allclose(scanned.params["filters"], state.params["filters"], rtol=1e-10)


@float64
def test_fresh_noise_follows_from_its_keys():
    model, p, truth, _ = filter_model(POTENTIALS["fair"]())
    learner, p = filter_learner(model, warm=False), p | {"noise": jnp.asarray(0.1)}
    keys = jax.random.split(jax.random.key(0), 3)
    state, metrics = learning.steps(learner, learning.start(learner, p), truth, 3, keys=keys)
    again, step = (
        learning.start(learner, p),
        jax.jit(lambda s, f: learning.step(learner, s, truth, f=f)),
    )
    for key, loss in zip(keys, metrics.loss, strict=True):
        f = model.measure(p, truth, key)
        again, one = step(again, f)
        np.testing.assert_allclose(one.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(state.params["filters"], again.params["filters"], rtol=1e-12)


@pytest.mark.parametrize("name", learning.SEARCHING)
@float64
def test_line_searches_never_raise_the_loss_and_count_their_solves(name):
    model, p, truth, f = filter_model(POTENTIALS["fair"](), operators.Identity())
    learner = filter_learner(model, optimiser=learning.SEARCHING[name](), forward=200)
    run = jax.jit(lambda s: learning.steps(learner, s, truth, 12, f=f))
    _, metrics = run(learning.start(learner, p, f, evaluations=500))
    assert (np.diff(metrics.loss) <= 1e-9 * metrics.loss[0]).all()
    assert metrics.loss[-1] < 0.95 * metrics.loss[0]
    assert (metrics.lower_solves >= 2).all()


def test_what_cannot_be_learned_is_refused():
    model, p, _, f = filter_model(POTENTIALS["corner_rounded"](), operators.Identity())
    learner = filter_learner(model, learned=LEARNED)
    with pytest.raises(ValueError, match="f: holds values that are not finite"):
        learning.start(learner, p, f.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="PowerSum: not twice differentiable"):
        learning.check(learner, p | {"phi": POTENTIALS["power_sum"]()})
    with pytest.raises(ValueError, match=r"filters of shape \[3, 7, 1\]: .* no larger than"):
        learning.start(learner, p | {"filters": jnp.ones((3, 7, 1))}, f)
    with pytest.raises(ValueError, match="f: none; a warm lower level starts from the measurem"):
        learning.start(learner, p)
    learning.start(learner, p, f)


@float64
def test_parameters_without_lam_and_gamma_have_them_as_one():
    model, p, _, f = filter_model(POTENTIALS["fair"]())
    bare = {name: x for name, x in p.items() if name not in ("lam", "gamma")}
    solver = DESCENTS["optimized_gradient"](tolerance=1e-10, max_evaluations=500)
    found = [jax.jit(lambda p: model.reconstruct(solver, p, f))(q)[0] for q in (bare, p)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(*(model.energy(f, q, f) for q in (bare, p)))
    np.testing.assert_array_equal(*(model.stationarity()(f, q, f) for q in (bare, p)))
    with pytest.raises(ValueError, match="params: no beta, phi, which the weights"):
        model.reconstruct(solver, {"filters": 1, "beta_0": 1}, f)


def test_a_best_value_at_the_edge_of_the_grid_says_so():
    model, p, truth, f = filter_model(POTENTIALS["corner_rounded"](), operators.Identity())
    learner = filter_learner(model, forward=20)
    truth, f = (jnp.asarray(x, jnp.float32) for x in (truth, f))
    search = jax.jit(lambda p, values: learning.search(learner, p, truth, f, "beta_0", values))
    for values in ([-9.0, -2.0, 3.0], [-9.0, -8.5, -8.0], [1.0, 2.0, 3.0], [0.5]):
        found = search(p, jnp.array(values))
        assert bool(found.at_edge) == (int(np.argmin(found.losses)) in (0, len(values) - 1))
    assert learning.Search(jnp.ones(()), jnp.full(3, jnp.nan)).at_edge
    np.testing.assert_array_equal(
        learning.Search(jnp.ones(2), jnp.array([[2.0, 1, 2], [2, 2, 1]])).at_edge, [False, True]
    )
    for values in ([1.0, 1.0], [2.0, 1.0], [], [[1.0]], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="values="):
            learning.search(learner, p, truth, f, "beta_0", values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learned": ("filters", "kernels")}, r"learned=.*: \['kernels'\] of params, which has"),
        ({"learned": ()}, "none of params"),
        ({"forward": 0}, "budget.forward=0: expected a whole number, 1 or more"),
        ({"adjoint": 2.5}, "budget.adjoint=2.5: expected a whole number"),
        ({"forward_tolerance": -1.0}, "forward_tolerance=-1.0"),
        ({"adjoint_tolerance": float("nan")}, "adjoint_tolerance=nan"),
        ({"solver": "simplex"}, "solver 'simplex': expected one of anderson"),
        ({"solver": "newton"}, "solver 'newton': needs a map that puts its Jacobian together"),
        ({"hypergradient": "guess"}, "hypergradient 'guess': expected one of"),
        ({"warm": "yes"}, "warm='yes': expected True or False"),
    ],
)
def test_learners_out_of_range_are_refused(options, message):
    model, p, _, f = filter_model(POTENTIALS["fair"](), operators.Identity())
    with untyped(), pytest.raises(ValueError, match=message):
        learning.start(filter_learner(model, **options), p, f)


def test_an_operator_with_another_adjoint_is_refused():
    with pytest.raises(ValueError, match=r"WrongAdjoint: <K u, v> = .* and <u, K\^T v> = "):
        models.assemble(WrongAdjoint(), convolutional.convolutional(SHAPE))


def test_images_and_batches_out_of_range_are_refused():
    model, p, truth, f = filter_model(POTENTIALS["fair"](), operators.Identity())
    learner = filter_learner(model, optimiser=learning.fixed(optax.sgd(1.0)))
    truth, f = jnp.float32(truth), jnp.float32(f)
    state = learning.start(learner, p, f)
    for batches in (0, -3, 2.5, np.int64(0), None):
        with (
            untyped(),
            pytest.raises(ValueError, match=f"batches={batches}: expected a whole number, 1"),
        ):
            learning.steps(learner, state, truth, batches, f=f)
    for batches in ([[0, 99]], [[-1, 0]]):
        with pytest.raises(ValueError, match=r"batches: from .* expected indices of 2 images"):
            learning.steps(learner, state, truth, jnp.array(batches), f=f)
    with untyped(), pytest.raises(ValueError, match=r"batches: float32 of shape .* expected whole"):
        learning.steps(learner, state, truth, jnp.ones((1, 2)), f=f)
    for bad in (f[0], f[:0], f[:, :5], jnp.ones(f.shape, int)):
        for use in (
            lambda f: model.reconstruct(DESCENTS["optimized_gradient"](), p, f),
            lambda f: learning.start(learner, p, f),
        ):
            with untyped(), pytest.raises(ValueError, match=r"f: of "):
                use(bad)
    with untyped(), pytest.raises(ValueError, match=r"u \[2, 42\].*: expected arrays of one shape"):
        learning.step(learner, state, truth[:1], f=f)


def test_filters_print_that_the_best_beta_0_is_at_the_edge(monkeypatch, capsys):
    options = filters.Filters("vertical-bars", filters=(2, 3, 2), seeds=2).resolved()
    lanes = filter_lanes.lanes_of(options, tasks.task("vertical-bars", None, None, 1, 0, 0))

    def search(learner, params, truth, f, name, values):
        """The first value is best for the lane whose filters sum to more."""
        losses = jnp.linspace(0, 1, len(values))
        first = jnp.sum(params["filters"]) > sums.mean()
        return learning.Search(jnp.float32(-4.0), jnp.where(first, losses, jnp.abs(losses - 0.5)))

    sums = lanes.params["filters"].sum((1, 2, 3))
    monkeypatch.setattr(learning, "search", search)
    found = filter_lanes.searched(options, lanes)
    np.testing.assert_array_equal(found.params["beta_0"], [-4, -4])
    (line,) = capsys.readouterr().out.splitlines()
    assert f"beta_0 = -4 of lane {int(sums.argmax())} is at the edge of the grid from -6 to" in line
