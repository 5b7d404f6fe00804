"""The 1-norm analysis regulariser: unrolled primal-dual steps, and its single level."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from helpers import default_precision, float64, normal

from deqbilevel import operators
from deqbilevel.hypergradients.nonsmooth import (
    primal_dual_start,
    primal_dual_step,
    signs,
    single_level,
)
from deqbilevel.hypergradients.unrolled import unrolled
from deqbilevel.potentials import PowerSum
from deqbilevel.solvers import picard

PIXELS = 12
WEIGHT = 0.4


def analysis(x, params):
    return x @ params["Omega"].T


STEP = primal_dual_step(operators.Identity(), analysis)


def scalars(tau, gamma, Omega):
    return default_precision({"tau": tau, "lam": 1.0, "gamma": gamma, "Omega": Omega})


def steps(count):
    """Iterations from x = y and d = 0: `(params, y) -> x`, differentiable."""
    solve = unrolled(STEP, picard(max_evaluations=count))

    def run(params, y):
        start = primal_dual_start(y, params, analysis)
        return solve(params, y, start)[0][:, : y.shape[1]]

    return run


@float64
def test_a_step_solves_for_the_resolvent_that_an_operator_has_not():
    K = SimpleNamespace(apply=lambda u: 2 * u, adjoint=lambda v: 2 * v)
    own = SimpleNamespace(**vars(K), resolvent=lambda z, a: z / (1 + 4 * a))
    y, params = jnp.array([[2, 0.4, -1.5, -0.3]]), scalars(0.9, 1.0, np.eye(4))
    u = primal_dual_start(y, params, analysis)
    found, expected = (primal_dual_step(k, analysis)(u, params, y) for k in (K, own))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@float64
def test_primal_dual_steps_reach_the_soft_threshold():
    """[CF] (4.20) with +<d, Omega x>; the errors after T steps were measured beforehand."""
    y, params = jnp.array([[2, 0.4, -1.5, -0.3]]), scalars(0.9, 1.0, np.eye(4))

    def step(u, _):
        u = STEP(u, params, y)
        return u, u[0, :4]

    _, x = jax.lax.scan(step, primal_dual_start(y, params, analysis), length=50)
    threshold = jnp.sign(y) * jnp.maximum(jnp.abs(y) - 1, 0)
    errors = jnp.abs(x - threshold).max(axis=1)[jnp.array([5, 10, 20, 50]) - 1]
    np.testing.assert_allclose(errors, [0.052, 2.2e-3, 3.65e-6, 1.6e-14], rtol=0.02)


def test_dual_variable_stays_inside_in_single_precision():
    """Far past where rounding takes tanh to 1, and back."""
    params = scalars(0.5, 1.0, np.eye(2))
    u = jnp.array([[50.0, -50.0, 0.0, 0.0]])
    run = jax.jit(lambda u, f: jax.lax.fori_loop(0, 80, lambda _, u: STEP(u, params, f), u))
    for target in (50.0, -50.0):
        f = jnp.array([[target, -target]])
        u = run(u, f)
        assert (jnp.abs(u[:, 2:]) <= 1).all()
        np.testing.assert_allclose(u[:, :2], f - jnp.sign(f), rtol=1e-4)
    slope = jax.jit(jax.grad(lambda u: jnp.sum(STEP(u, params, f))))(u)
    assert jnp.isfinite(slope).all()


@float64
def test_smooth_proximal_map():
    """[CF] (4.23): the root of sqrt(x)^2 + 0.6 sqrt(x) = 1.5, seen as 0.923429 beforehand."""
    phi = PowerSum(0.5, 0.3)
    x = phi.prox(jnp.array([2.0, 0.4, -2.0]), 1.0)
    root = -0.3 + 1.59**0.5
    np.testing.assert_allclose(x, [root**2, 0, -(root**2)], rtol=1e-14)
    np.testing.assert_allclose(x[0], 0.923429, rtol=1e-6)


# ---- total variation in one dimension


def signal():
    """Two noisy steps; every difference that is zero keeps well inside of |d| < 1."""
    levels = np.repeat([0.0, 1.5, 0.4], PIXELS // 3)
    return levels + 0.05 * np.random.default_rng(0).standard_normal((2, PIXELS))


def differences():
    return np.diff(np.eye(PIXELS), axis=0)


def by_dual_projected_gradient(Omega, y, weight, iterations=20000):
    """x = y - Omega^T d with d = argmin_{|d| <= weight} ||y - Omega^T d||, (A.10)."""
    d = np.zeros((len(y), len(Omega)))
    length = 1 / np.linalg.norm(Omega, 2) ** 2
    for _ in range(iterations):
        moved = np.clip(d + length * (y - d @ Omega) @ Omega.T, -weight, weight)
        if np.array_equal(moved, d):
            break
        d = moved
    return y - d @ Omega, d


@float64
def test_single_level_is_the_minimiser():
    Omega, y = differences(), signal()
    x, d = by_dual_projected_gradient(Omega, y, WEIGHT)
    pattern = signs(jnp.asarray(x @ Omega.T))
    assert set(np.unique(pattern)) == {-1, 0, 1}
    inside = np.abs(d[np.asarray(pattern) == 0])
    assert inside.max() < 0.85 * WEIGHT, "the pattern is not stable"
    found = single_level(jnp.asarray(Omega), jnp.asarray(y), WEIGHT, pattern)
    np.testing.assert_allclose(found, x, atol=1e-12)
    np.testing.assert_array_equal(signs(found @ Omega.T), pattern)


@float64
def test_single_level_has_the_derivative_of_the_minimiser():
    """With respect to the weight and Omega, whose entries move within one pattern."""
    Omega, y = differences(), signal()
    x, _ = by_dual_projected_gradient(Omega, y, WEIGHT)
    pattern, w = signs(jnp.asarray(x @ Omega.T)), np.asarray(normal(1, 2, PIXELS))
    direction = 0.1 * np.asarray(normal(5, *Omega.shape))

    def value(weight, t):
        x = single_level(jnp.asarray(Omega) + t * direction, jnp.asarray(y), weight, pattern)
        return jnp.sum(w * x)

    def solved(weight, t):
        moved = Omega + t * direction
        x, _ = by_dual_projected_gradient(moved, y, weight)
        np.testing.assert_array_equal(signs(jnp.asarray(x @ moved.T)), pattern)
        return np.sum(w * x)

    slopes, h = jax.jit(jax.grad(value, (0, 1)))(WEIGHT, 0.0), 1e-4
    expected = (
        (solved(WEIGHT + h, 0) - solved(WEIGHT - h, 0)) / (2 * h),
        (solved(WEIGHT, h) - solved(WEIGHT, -h)) / (2 * h),
    )
    np.testing.assert_allclose(slopes, expected, rtol=1e-6)
    assert min(np.abs(expected)) > 0.1


@float64
def test_unrolled_primal_dual_steps_have_the_gradient_of_the_single_level():
    Omega, y = jnp.asarray(differences()), jnp.asarray(signal())
    x, _ = by_dual_projected_gradient(np.asarray(Omega), np.asarray(y), WEIGHT)
    pattern, w = signs(jnp.asarray(x @ Omega.T)), normal(1, 2, PIXELS)
    run = steps(5000)

    def unrolled_value(weight, Omega):
        return jnp.sum(w * run(scalars(1.2, 1.0, Omega) | {"gamma": weight, "Omega": Omega}, y))

    def single_value(weight, Omega):
        return jnp.sum(w * single_level(Omega, y, weight, pattern))

    ways = [jax.jit(jax.value_and_grad(way, (0, 1))) for way in (unrolled_value, single_value)]
    found, expected = (way(jnp.asarray(WEIGHT), Omega) for way in ways)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8), found, expected)
