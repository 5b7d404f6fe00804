"""Descents with a line search: what they evaluate, where they get, and in how many evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import affine, filter_model, float64, normal, recorded, residual

from deqbilevel import operators
from deqbilevel.potentials import POTENTIALS
from deqbilevel.solvers import (
    DESCENTS,
    limited_memory_bfgs,
    nonlinear_conjugate_gradient,
    picard,
    symmetric_solve,
)

CURVED = ["nonlinear_conjugate_gradient", "limited_memory_bfgs"]


@pytest.fixture(params=["backtracking", *CURVED])
def descent(request):
    return DESCENTS[request.param]


def quadratic(condition, n=12, batch=3):
    """The diagonal of a Hessian, between 1 / condition and 1, and a right side."""
    return jnp.asarray(np.geomspace(1 / condition, 1, n)), normal(2, batch, n)


def step_on(h, c, length=1.0):
    """G(u) = u - length (h u - c)."""
    return lambda u: u - length * (h * u - c)


@float64
def test_info_and_result_are_those_of_the_accepted_points(descent):
    """Also where the budget ends in the middle of a line; every image returns a point it tried."""
    h, c = quadratic(30.0)
    G, inputs = recorded(step_on(h, c, 5.0))
    run = jax.jit(
        lambda tolerance, budget: descent(tolerance=tolerance, max_evaluations=budget)(G, 0 * c)
    )
    for tolerance, budget in ((1e-6, 500), *((1e-12, budget) for budget in range(1, 10))):
        inputs.clear()
        u, info = run(tolerance, budget)
        jax.effects_barrier()
        assert info.evaluations == len(inputs) <= budget
        np.testing.assert_allclose(info.residual, residual(step_on(h, c, 5.0)(u), u), rtol=1e-9)
        assert info.converged == (info.residual <= tolerance) == (len(inputs) < budget)
        tried = np.stack(inputs)
        assert (tried == u[None]).all(axis=2).any(axis=0).all()


@float64
def test_evaluations_of_an_ill_conditioned_quadratic():
    h, c = quadratic(300.0)
    spent = {}
    for name in ("gradient_descent", "backtracking", *CURVED):
        solve = DESCENTS[name](tolerance=1e-8, max_evaluations=9000)
        u, info = solve(step_on(h, c), 0 * c)
        assert info.converged
        np.testing.assert_allclose(u, c / h, rtol=1e-3)
        spent[name] = int(info.evaluations)
    assert spent["backtracking"] < spent["gradient_descent"] / 2
    assert spent["nonlinear_conjugate_gradient"] < spent["gradient_descent"] / 10
    assert spent["limited_memory_bfgs"] < spent["gradient_descent"] / 20


@float64
def test_exact_line_searches_make_linear_conjugate_gradients():
    """Two evaluations an iteration: one shows the curvature of a line, one is its minimiser."""
    h, c = quadratic(50.0, n=8)
    linear = symmetric_solve(lambda u: u * h, c, 0 * c, tolerance=1e-10)[1]
    solve = nonlinear_conjugate_gradient(tolerance=1e-10, max_evaluations=200, sigma=1e-3)
    u, info = solve(step_on(h, c), 0 * c)
    assert info.converged and info.evaluations <= 2 * linear.evaluations <= 20
    np.testing.assert_allclose(u, c / h, rtol=1e-7)


@float64
def test_a_wrong_step_of_the_map_costs_little(descent):
    """20 times too long, where plain gradient descent diverges, and 50 times too short."""
    h, c = quadratic(10.0)

    def run(solver):
        def solve(length):
            options = {"tolerance": 1e-7 * length, "max_evaluations": 400}
            return solver(**options)(step_on(h, c, length), 0 * c)

        return jax.jit(solve)

    searched, plain = run(descent), run(picard)
    right = searched(1.0)[1].evaluations
    for length in (20.0, 1 / 50):
        u, info = searched(length)
        assert info.converged and info.evaluations <= right + 60
        np.testing.assert_allclose(u, c / h, rtol=1e-4)
        assert not plain(length)[1].converged


@float64
def test_a_cost_without_convexity(descent):
    """The first line may begin where the curvature is negative: d(a) > d(0)."""
    model, p, _, f = filter_model(POTENTIALS["log_sum"](), operators.Identity())
    p["beta_0"] = jnp.asarray(2.0)
    F, h = jax.jit(model.stationarity()), 1e-6
    bend = (F(f[:1] + h * jnp.eye(f.shape[1]), p, f[:1]) - F(f[:1], p, f[:1])) / h
    assert np.linalg.eigvalsh(bend)[0] < -1, "the cost was to be bent down at the start"
    solver = descent(tolerance=1e-10, max_evaluations=500)
    u, info = jax.jit(lambda f: model.reconstruct(solver, p, f))(f)
    assert info.converged and info.evaluations < 100
    np.testing.assert_allclose(F(u, p, f), 0, atol=1e-8)
    assert (model.energy(u, p, f) < model.energy(f, p, f)).all()
    # A double well sum (u^2 - 1)^2 / 4 from beside its top: to the well on the same side.
    u0 = jnp.array([[0.01, -0.02, 0.5], [1e-6, 1e-6, -1e-6]])
    u, info = solver(lambda u: u - 0.1 * (u**3 - u), u0)
    assert info.converged
    np.testing.assert_allclose(u, jnp.sign(u0), rtol=1e-8)


def test_trials_that_are_not_finite_are_too_long(descent):
    """sum u - log u, whose gradient is not finite at u <= 0."""
    u0 = jnp.array([[1e-2, 0.3, 5.0], [3.0, 1.0, 2.0]])
    run = descent(tolerance=1e-5, max_evaluations=400)
    solve = jax.jit(
        lambda length, bad: run(lambda u: u - length * jnp.where(u > 0, 1 - 1 / u, bad), u0)
    )
    for bad in (jnp.nan, jnp.inf):
        u, info = solve(3.0, bad)
        assert info.converged and 10 < info.evaluations
        np.testing.assert_allclose(u, 1, rtol=1e-3)
    u, info = solve(jnp.nan, jnp.nan)
    np.testing.assert_array_equal(u, u0)
    assert not info.converged and info.evaluations == 1


@float64
def test_images_do_not_influence_one_another(descent):
    """One with an easy cost, one with a hard one, one that starts at its minimiser, one whose cost
    has no minimum, one whose cost is flat."""
    h = jnp.stack([quadratic(k)[0] for k in (2.0, 100.0, 10.0, 10.0, 1.0)])
    h = h * jnp.array([1.0, 1, 1, -1, 0])[:, None]
    centre = normal(2, *h.shape)
    u0 = jnp.zeros_like(h).at[2].set(centre[2])
    run = descent(tolerance=0.0, max_evaluations=25)
    solve = jax.jit(lambda h, m, u0: run(lambda u: u - 3 * h * (u - m), u0))
    together, _ = solve(h, centre, u0)
    np.testing.assert_array_equal(together[jnp.array([2, 4])], u0[jnp.array([2, 4])])
    for image in range(5):
        only = slice(image, image + 1)
        alone, _ = solve(h[only], centre[only], u0[only])
        np.testing.assert_allclose(together[only], alone, rtol=1e-9, atol=1e-12)


def test_lanes_are_bit_for_bit_what_they_are_alone(descent):
    J, c = affine(symmetric=True, radius=1.0)
    maps = jnp.stack([0.3 * J, 0.9 * J, 1e6 * jnp.eye(len(J)), 0.6 * J, -4 * J @ J])
    budgets = jnp.array([80, 80, 80, 6, 80])

    def solve(J, budget):
        run = descent(tolerance=1e-5, max_evaluations=budget)
        return run(lambda u: u @ J.T + c, jnp.zeros_like(c))

    together, single = jax.jit(jax.vmap(solve))(maps, budgets), jax.jit(solve)
    for i in range(len(maps)):
        alone = single(maps[i], budgets[i])
        for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(x[i], y)
    assert together[1].converged.tolist() == [True, True, False, False, True]
    assert together[1].evaluations[3] == 6 and np.isfinite(together[0]).all()


@float64
def test_float32_reaches_a_small_gradient(descent):
    """Where differences of costs are rounding; float64 as the default changes nothing."""
    model, p, _, f = filter_model(POTENTIALS["corner_rounded"](), operators.Identity())
    p, f = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (p, f))
    solver = descent(tolerance=2e-6, max_evaluations=1000)
    u, info = jax.jit(lambda f: model.reconstruct(solver, p, f))(f)
    assert info.converged and u.dtype == info.residual.dtype == jnp.float32
    slope = np.linalg.norm(model.stationarity()(u, p, f))
    assert slope < 1e-5 * np.linalg.norm(u) * model.lipschitz(p)


@float64
def test_start_at_the_minimiser_and_warm_start(descent):
    """With images of any shape."""
    h, centre = quadratic(10.0)
    h, centre = h.reshape(3, 4), centre.reshape(3, 3, 4)
    run = descent(tolerance=1e-9, max_evaluations=500)
    solve = jax.jit(lambda u0: run(lambda u: u - h * (u - centre), u0))
    u, info = solve(centre)
    np.testing.assert_array_equal(u, centre)
    assert info.evaluations == 1 and info.residual == 0 and info.converged
    cold, before = solve(0 * centre)
    warm, info = solve(cold)
    assert before.evaluations > 10 and info.evaluations == 1 and info.converged
    np.testing.assert_array_equal(warm, cold)


def test_what_cannot_be_run_is_refused(descent):
    with pytest.raises(ValueError, match="max_evaluations=0: expected a whole number, 1 or more"):
        descent(max_evaluations=0)(lambda u: u, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="memory=0: expected a whole number, 1 or more"):
        limited_memory_bfgs(memory=0)
