"""Bilevel learning of filters: minimisers, hypergradients, steps, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import WrongAdjoint, default_precision, float64, normal, untyped

from deqbilevel import bilevel, hypergradients, losses, operators
from deqbilevel.potentials import POTENTIALS, Quadratic
from deqbilevel.regularizers import convolutional
from deqbilevel.solvers import DESCENTS, symmetric_solve
from experiments import filter_lanes, filter_tasks, filters

SHAPE = (6, 7)
PIXELS = 42
SMOOTH = [name for name, phi in POTENTIALS.items() if phi().twice_differentiable]


def setup(phi, learned=("filters", "beta", "beta_0", "phi"), K=None, **options):
    """A small problem with its parameters, true images and measurements."""
    K = operators.diagonal_blur(SHAPE, 3) if K is None else K
    K = default_precision(K)
    problem = bilevel.Problem(K, 1.0, convolutional.convolutional(SHAPE), learned, **options)
    c = 0.5 * normal(0, 3, 3, 2)
    p = convolutional.init(c, beta_0=-2.0, beta=np.array([-0.5, 0.0, 0.3]), phi=phi)
    truth = normal(1, 2, PIXELS)
    f = K.apply(truth) + 0.1 * normal(2, 2, PIXELS)
    return problem, p | {"lam": jnp.ones(()), "gamma": jnp.ones(())}, truth, f


@pytest.mark.parametrize("name", DESCENTS)
@float64
def test_every_descent_reaches_the_minimiser(name):
    problem, p, _, f = setup(POTENTIALS["fair"](), K=operators.Identity())
    solver = DESCENTS[name](tolerance=1e-13, max_evaluations=3000)
    u, info = jax.jit(lambda p, f: bilevel.solve(problem, p, f, f, solver))(p, f)
    assert info.converged
    np.testing.assert_allclose(problem.gradient()(u, p, f), 0, atol=1e-11)
    moved = u + 1e-3 * normal(5, 2, PIXELS)
    assert (problem.energy(u, p, f) < problem.energy(moved, p, f)).all()
    expected = jax.grad(lambda u: jnp.sum(problem.energy(u, p, f)))(moved)
    np.testing.assert_allclose(problem.gradient()(moved, p, f), expected, rtol=1e-9, atol=1e-12)


@float64
def test_momentum_needs_fewer_evaluations_than_gradient_descent():
    problem, p, _, f = setup(POTENTIALS["corner_rounded"](), K=operators.Identity())
    spent = {}
    for name in ("gradient_descent", "nesterov", "optimized_gradient", "barzilai_borwein"):
        solve = DESCENTS[name](tolerance=1e-8, max_evaluations=20000)
        spent[name] = int(bilevel.solve(problem, p, f, f, solve)[1].evaluations)
    assert spent["optimized_gradient"] < spent["nesterov"] < spent["gradient_descent"] / 2
    assert spent["barzilai_borwein"] < spent["gradient_descent"] / 2


@pytest.mark.parametrize("name", ["nesterov", "optimized_gradient", "barzilai_borwein"])
@float64
def test_descents_start_warm_count_truly_and_keep_lanes_apart(name):
    J = jnp.asarray(np.diag(np.linspace(0.05, 0.98, 8)))
    c = normal(0, 2, 8)
    exact = np.linalg.solve(np.eye(8) - np.asarray(J), np.asarray(c).T).T

    def run(u0, tolerance, budget):
        solve = DESCENTS[name](tolerance=tolerance, max_evaluations=budget)
        return solve(lambda u: u @ J + c, u0)

    cold, info = run(jnp.zeros_like(c), 1e-12, 2000)
    np.testing.assert_allclose(cold, exact, rtol=1e-8)
    warm = run(cold, 1e-9, 2000)[1]
    assert warm.evaluations == 1 and info.evaluations > 10
    lanes = jax.vmap(run, (0, None, 0))(jnp.stack([0 * c, cold]), 1e-12, jnp.array([7, 2000]))
    alone = run(jnp.zeros_like(c), 1e-12, 7)
    assert lanes[1].evaluations.tolist()[0] == 7 and not bool(lanes[1].converged[0])
    np.testing.assert_allclose(lanes[0][0], alone[0], rtol=1e-12)


def exact_gradient(problem, p, truth, f):
    """The loss, its hypergradient by `minimiser`, and its Info, at a lower level solved exactly."""
    solver = DESCENTS["optimized_gradient"](tolerance=1e-14, max_evaluations=20000)
    u, _ = bilevel.solve(problem, p, f, f, solver)
    learned = bilevel.weights(problem, p)
    gradient, _, info = hypergradients.minimiser(
        problem.gradient(), learned, p, f, u, u - truth, jnp.zeros_like(u), tolerance=1e-12
    )
    return 0.5 * jnp.sum((u - truth) ** 2), gradient, info


@pytest.mark.parametrize("name", SMOOTH)
@float64
def test_hypergradient_against_finite_differences(name):
    """Filters, betas and the potential's own parameters, along random directions."""
    eps = {"corner_rounded": 0.3, "rounded_half": 0.7, "log_cosh": 0.3}
    phi = POTENTIALS[name]()
    phi = type(phi)(eps=eps[name]) if name in eps else phi
    problem, p, truth, f = setup(phi, K=operators.Identity())
    evaluate = jax.jit(lambda p: exact_gradient(problem, p, truth, f))
    _, gradient, info = evaluate(p)
    assert info.converged and info.evaluations < 100
    learned, h = bilevel.weights(problem, p), 1e-4
    for entry in problem.learned:
        leaves, structure = jax.tree.flatten(learned[entry])
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
    problem, p, truth, f = setup(Quadratic(), learned=("beta",))
    eye = jnp.eye(PIXELS)
    K = np.asarray(problem.K.apply(eye)).T
    parts = []
    for k in range(3):
        only = p | {"beta": jnp.where(jnp.arange(3) == k, p["beta"], -1e9)}
        parts.append(np.asarray(problem.regularizer.gradient(eye, only)))
    H = K.T @ K + sum(parts)
    u = np.linalg.solve(H, K.T @ np.asarray(f).T).T
    v = np.linalg.solve(H, (u - np.asarray(truth)).T).T
    expected = [-np.sum(v * (u @ part)) for part in parts]
    _, gradient, info = exact_gradient(problem, p, truth, f)
    assert info.converged
    np.testing.assert_allclose(gradient["beta"], expected, rtol=1e-8)


@float64
def test_conjugate_gradients_start_warm_and_flag_what_they_cannot_solve():
    H = np.diag(np.linspace(1, 50, 12))
    g = normal(0, 2, 12)

    def product(x):
        return x @ jnp.asarray(H)

    w, info = symmetric_solve(product, g, jnp.zeros_like(g), tolerance=1e-12)
    np.testing.assert_allclose(w, np.asarray(g) / np.diag(H), rtol=1e-9)
    assert info.converged and 10 < info.evaluations <= 15
    assert symmetric_solve(product, g, w, tolerance=1e-9)[1].evaluations <= 3
    exact = symmetric_solve(
        product, g, jnp.zeros_like(g), tolerance=1e-12, precondition=lambda r: r / np.diag(H)
    )[1]
    assert exact.converged and exact.evaluations == 3  # of the start, one step, of the end
    singular = np.diag(H) * (np.arange(12) > 0)
    w, info = symmetric_solve(lambda x: x * singular, g, jnp.zeros_like(g), max_evaluations=200)
    assert not info.converged and np.isfinite(w).all() and info.residual > 1e-3
    w, info = symmetric_solve(lambda x: -x, g, jnp.zeros_like(g), max_evaluations=200)
    assert not info.converged and np.isfinite(w).all()
    zero = symmetric_solve(product, 0 * g, jnp.zeros_like(g))
    assert zero[1].converged and np.all(zero[0] == 0)


def test_learning_lowers_the_loss_and_lanes_are_what_they_are_alone():
    problem, p, _, noise = setup(
        POTENTIALS["corner_rounded"](), ("filters", "beta"), operators.Identity(),
        lower_evaluations=100,
    )  # fmt: skip
    truth = jnp.tile(jnp.array([1.0, 0, 0, 1, 0, 0, 0]), (2, 6))
    f = truth + 0.2 * noise
    p["beta_0"] = jnp.float32(-4)
    optimiser = optax.adam(1e-2)
    best, all_losses = bilevel.search(problem, p, truth, f, (-6.0, -4.0, -2.0, 0.0))
    assert float(best) == (-6.0, -4.0, -2.0, 0.0)[int(np.argmin(all_losses))]
    starts = [p, p | {"beta": p["beta"] + 1}]
    run = jax.jit(lambda s: bilevel.steps(problem, optimiser, s, truth, f, 30))
    alone = [run(bilevel.start(problem, q, optimiser, f)) for q in starts]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    start = jax.vmap(lambda q: bilevel.start(problem, q, optimiser, f))(stacked)
    together = jax.jit(jax.vmap(lambda s: bilevel.steps(problem, optimiser, s, truth, f, 30)))(
        start
    )
    for i, (state, metrics) in enumerate(alone):
        assert metrics.loss[-1] < 0.9 * metrics.loss[0]
        assert bool(metrics.adjoint_converged.all())
        np.testing.assert_allclose(together[1].loss[i], metrics.loss, rtol=1e-3)
        np.testing.assert_array_equal(state.params["beta_0"], p["beta_0"])
    noisy, learned = losses.snr(f, truth).mean(), losses.snr(alone[0][0].u, truth).mean()
    assert learned > noisy


def test_what_cannot_be_learned_is_refused():
    problem, p, truth, f = setup(POTENTIALS["corner_rounded"](), K=operators.Identity())
    with pytest.raises(ValueError, match="f: holds values that are not finite"):
        bilevel.check(problem, p, truth, f.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="PowerSum: not twice differentiable"):
        bilevel.check(problem, p | {"phi": POTENTIALS["power_sum"]()}, truth, f)
    with pytest.raises(ValueError, match="filters of 7x1 pixels are larger than the image of 6x7"):
        bilevel.check(problem, p | {"filters": jnp.ones((3, 7, 1))}, truth, f)
    bilevel.check(problem, p, truth, f)


@float64
def test_parameters_without_lam_and_gamma_have_them_as_one():
    problem, p, _, f = setup(POTENTIALS["fair"]())
    bare = {name: x for name, x in p.items() if name not in ("lam", "gamma")}
    solver = DESCENTS["optimized_gradient"](tolerance=1e-10, max_evaluations=500)
    found = [jax.jit(lambda p: bilevel.solve(problem, p, f, f, solver))(q)[0] for q in (bare, p)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(*(problem.energy(f, q, f) for q in (bare, p)))
    np.testing.assert_array_equal(*(problem.gradient()(f, q, f) for q in (bare, p)))
    with pytest.raises(ValueError, match="params: no beta, phi; expected what"):
        bilevel.solve(problem, {"filters": 1, "beta_0": 1}, f, f, solver)


def test_a_best_value_at_the_edge_of_the_grid_says_so():
    problem, p, truth, f = setup(
        POTENTIALS["corner_rounded"](), K=operators.Identity(), lower_evaluations=20
    )
    truth, f = (jnp.asarray(x, jnp.float32) for x in (truth, f))
    search = jax.jit(lambda p, values: bilevel.search(problem, p, truth, f, values))
    for values in ([-9.0, -2.0, 3.0], [-9.0, -8.5, -8.0], [1.0, 2.0, 3.0], [0.5]):
        found = search(p, jnp.array(values))
        assert bool(found.at_edge) == (int(np.argmin(found.losses)) in (0, len(values) - 1))
    assert bilevel.Search(jnp.ones(()), jnp.full(3, jnp.nan)).at_edge
    np.testing.assert_array_equal(
        bilevel.Search(jnp.ones(2), jnp.array([[2.0, 1, 2], [2, 2, 1]])).at_edge, [False, True]
    )
    for values in ([1.0, 1.0], [2.0, 1.0], [], [[1.0]], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="values="):
            bilevel.search(problem, p, truth, f, values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"K_norm": -1.0}, "K_norm=-1.0: expected a finite number, above 0"),
        ({"K_norm": 0.0}, "K_norm=0.0"),
        ({"K_norm": float("nan")}, "K_norm=nan"),
        ({"K_norm": 0.5}, r"K_norm=0.5: expected at least \|\|K\|\|, which is 1"),
        ({"learned": ("filters", "kernels")}, "learned 'kernels': expected one of .*filters"),
        ({"lower_evaluations": 0}, "lower_evaluations=0: expected a whole number, 1 or more"),
        ({"adjoint_evaluations": 2.5}, "adjoint_evaluations=2.5: expected a whole number"),
        ({"lower_tolerance": -1.0}, "lower_tolerance=-1.0"),
        ({"adjoint_tolerance": float("nan")}, "adjoint_tolerance=nan"),
        ({"lower_solver": "newton"}, "lower_solver 'newton': expected one of gradient_descent"),
        ({"hypergradient": "guess"}, "hypergradient 'guess': expected one of minimiser"),
        ({"K": WrongAdjoint()}, r"WrongAdjoint: <K u, v> = .* and <u, K\^T v> = "),
    ],
)
def test_problems_out_of_range_are_refused(options, message):
    problem, p, truth, f = setup(POTENTIALS["fair"](), ("filters",), operators.Identity())
    problem = problem._replace(**options)
    with pytest.raises(ValueError, match=message):
        bilevel.check(problem, p, jnp.float32(truth), jnp.float32(f))


def test_images_and_batches_out_of_range_are_refused():
    problem, p, truth, f = setup(POTENTIALS["fair"](), ("filters",), operators.Identity())
    truth, f = jnp.float32(truth), jnp.float32(f)
    optimiser = optax.sgd(1.0)
    state = bilevel.start(problem, p, optimiser, f)
    for batches in (0, -3, 2.5, np.int64(0), None):
        with (
            untyped(),
            pytest.raises(ValueError, match=f"batches={batches}: expected a whole number, 1"),
        ):
            bilevel.steps(problem, optimiser, state, truth, f, batches)
    for batches in ([[0, 99]], [[-1, 0]]):
        with pytest.raises(ValueError, match=r"batches: from .* expected indices of 2 images"):
            bilevel.steps(problem, optimiser, state, truth, f, jnp.array(batches))
    with untyped(), pytest.raises(ValueError, match=r"batches: float32 of shape .* expected whole"):
        bilevel.steps(problem, optimiser, state, truth, f, jnp.ones((1, 2)))
    solver = DESCENTS["optimized_gradient"]()
    for bad in (f[0], f[:0], f[:, :5], jnp.ones(f.shape, int)):
        with untyped(), pytest.raises(ValueError, match=r"[fu]: of "):
            bilevel.solve(problem, p, bad, bad, solver)
    with untyped(), pytest.raises(ValueError, match=r"u \[2, 42\].*: expected arrays of one shape"):
        bilevel.step(problem, optimiser, state, truth[:1], f)


def test_filters_print_that_the_best_beta_0_is_at_the_edge(monkeypatch, capsys):
    options = filters.Filters("vertical-bars", filters=(2, 3, 2), seeds=2).resolved()
    lanes = filter_lanes.lanes_of(options, filter_tasks.task("vertical-bars", None, None, 1, 0, 0))

    def search(problem, params, truth, f, values):
        """The first value is best for the lane whose filters sum to more."""
        losses = jnp.linspace(0, 1, len(values))
        first = jnp.sum(params["filters"]) > sums.mean()
        return bilevel.Search(jnp.float32(-4.0), jnp.where(first, losses, jnp.abs(losses - 0.5)))

    sums = lanes.params["filters"].sum((1, 2, 3))
    monkeypatch.setattr(bilevel, "search", search)
    np.testing.assert_array_equal(filter_lanes.searched(options, lanes), [-4, -4])
    (line,) = capsys.readouterr().out.splitlines()
    assert f"beta_0 = -4 of lane {int(sums.argmax())} is at the edge of the grid from -6 to" in line
