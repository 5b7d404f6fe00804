"""Conjugates and the dual of the analysis problem, [CF] App. A; synthesis and split analysis."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal
from scipy.optimize import minimize_scalar

from deqbilevel import hypergradients, losses, operators, potentials, solvers, variational
from deqbilevel.potentials import MoreauEnvelope, PowerSum
from deqbilevel.variational import duality, synthesising

ONE = PowerSum(beta=1.0, beta_tilde=0.0)
"""The 1-norm."""
WITH_CONJUGATE = [
    potentials.Quadratic(1.7),
    potentials.CornerRounded(0.3),
    potentials.Fair(0.8),
    potentials.LogCosh(0.4),
    PowerSum(0.5, 0.3, 1.2),
    MoreauEnvelope(ONE, 0.6),
    ONE,
]
OMEGA = variational.total_variation((3, 4), together=False)
BETA = 0.6


@jax.jit
def solved(phi, y):
    """The dual problem of each image, with the costs of both problems."""
    at, info = duality.dual_gradient(OMEGA, phi, BETA, y, tolerance=1e-11, max_iterations=20_000)
    costs = duality.cost(OMEGA, phi, BETA, at.x, y), duality.dual_cost(OMEGA, phi, BETA, at.d, y)
    return at, info, costs


@float64
@pytest.mark.parametrize("phi", WITH_CONJUGATE, ids=str)
def test_conjugates_are_suprema(phi):
    d = np.array([-0.7, 0.0, 0.2, 0.75])
    found = np.asarray(duality.conjugate(phi, jnp.asarray(d)))
    for slope, value in zip(d, found, strict=True):
        best = minimize_scalar(
            lambda z, slope=slope: float(phi.value(jnp.asarray(z)) - slope * z),
            bounds=(-30, 30),
            method="bounded",
            options={"xatol": 1e-10},
        )
        np.testing.assert_allclose(value, -best.fun, atol=1e-8)
    outside = 2 * phi.slope if np.isfinite(phi.slope) else np.nan
    if np.isfinite(outside):
        assert np.isinf(duality.conjugate(phi, jnp.asarray(outside)))


@float64
@pytest.mark.parametrize("phi", WITH_CONJUGATE, ids=str)
def test_the_dual_problem_has_no_gap_and_gives_the_minimiser(phi):
    y = normal(0, 2, 12)
    at, info, (cost, dual_cost) = solved(phi, y)
    assert info.converged.all()
    assert np.abs(np.asarray(cost) - np.asarray(dual_cost)).max() < 1e-9
    (z,) = OMEGA.apply(at.x)
    away = np.abs(z) > 1e-3  # (A.13), as everywhere where phi is smooth
    np.testing.assert_allclose(at.d[0][away], BETA * phi.derivative(z)[away], atol=1e-3)
    near = np.asarray(at.x)[:, None] + 0.1 * np.asarray(normal(1, 2, 50, 12))
    of = jax.jit(lambda x, y: duality.cost(OMEGA, phi, BETA, x, y))
    costs = of(near.reshape(100, 12), np.repeat(y, 50, axis=0)).reshape(2, 50)
    assert (np.asarray(costs) >= np.asarray(info.cost)[:, None]).all()


@float64
def test_printed_forms_do_not_hold():
    """(A.8) with the other sign of <d, Omega x>, and phi*(d) for beta phi*(d / beta)."""
    phi, y = potentials.CornerRounded(0.3), normal(0, 1, 12)
    at, info, _ = solved(phi, y)
    printed = y + OMEGA.adjoint(at.d)
    assert duality.cost(OMEGA, phi, BETA, printed, y) > info.cost + 1
    quadratic = jnp.sum(y**2) / 2 - jnp.sum((OMEGA.adjoint(at.d) - y) ** 2) / 2
    unscaled = quadratic - jnp.sum(duality.conjugate(phi, at.d[0]))
    assert unscaled > info.cost[0] + 1  # no lower bound at all


def test_refusals():
    with pytest.raises(ValueError, match="with a conjugate"):
        duality.dual_gradient(OMEGA, potentials.Welsch(), 1.0, jnp.ones((1, 12)))
    with pytest.raises(ValueError, match="expected a convex potential"):
        MoreauEnvelope(potentials.Welsch())
    with pytest.raises(ValueError, match="kappa=3"):
        synthesising.largest(jnp.ones((1, 2)), 3)


# ---- split analysis


@float64
@pytest.mark.parametrize("phi", [ONE, PowerSum(0.5, 0.3, 1.5)], ids=str)
def test_an_envelope_is_the_least_over_the_split_variable(phi):
    envelope, z = MoreauEnvelope(phi, 0.7), jnp.array([-2.3, 0.1, 1.4])
    x = np.linspace(-4, 4, 80_001)[:, None]
    apart = (x - np.asarray(z)) ** 2 / 2
    value = jax.jit(envelope.value)
    least = np.min(jax.jit(phi.value)(x) + apart / 0.7, axis=0)
    np.testing.assert_allclose(value(z), least, atol=1e-7)
    for method, slope in (("value", "derivative"), ("derivative", "second_derivative")):
        automatic = jax.jit(jax.vmap(jax.grad(getattr(envelope, method))))(z)
        np.testing.assert_allclose(jax.jit(getattr(envelope, slope))(z), automatic, atol=1e-12)
    least = np.argmin(1.3 * np.asarray(value(x)) + apart, axis=0)
    np.testing.assert_allclose(jax.jit(envelope.prox)(z, 1.3), x[least, 0], atol=1e-4)
    curvature = jax.jit(envelope.second_derivative)(np.linspace(-5, 5, 4001))
    assert np.max(curvature) <= envelope.lipschitz + 1e-12


# ---- synthesis


def dictionary():
    """Square, and well conditioned."""
    return jnp.eye(8) + 0.2 * normal(3, 8, 8) / 8**0.5


@float64
def test_analysis_is_synthesis_with_the_inverse():
    D, f = dictionary(), normal(0, 2, 8)
    omega = variational.Analysis(
        (1, 8), 8, lambda x: ((x @ jnp.linalg.inv(D).T)[:, None],), (2.0,), together=False
    )
    assert np.linalg.norm(np.linalg.inv(D), 2) <= 2
    options = {"tolerance": 1e-12, "max_iterations": 20_000}
    analysed, _ = variational.chambolle_pock(
        variational.Problem(operators.identity((1, 8)), omega), (0.5,), f, balance=0.5, **options
    )
    problem = variational.synthesis(operators.identity((1, 8)), D)
    z, info = variational.proximal_gradient(problem, (0.5,), f, **options)
    assert info.converged.all()
    np.testing.assert_allclose(z.x @ D.T, analysed.x, atol=1e-5)


@float64
def test_the_relaxed_synthesis_minimises_both():
    """(2.3) by its own cost, against moves of x and z."""
    D, f, beta, w = dictionary(), normal(0, 1, 8), 0.7, 0.4
    problem = variational.synthesis(operators.identity((1, 8)), D)
    at, _ = variational.proximal_gradient(problem, (w * (1 + beta) / beta,), f, tolerance=1e-13)

    def both(x, z):
        fit = jnp.sum((x - f) ** 2, 1) / 2 + beta / 2 * jnp.sum((x - z @ D.T) ** 2, 1)
        return fit + w * jnp.sum(jnp.abs(z), 1)

    x = synthesising.relaxed(at.x, D, f, beta)
    moved = both(x + 0.01 * normal(1, 200, 8), at.x + 0.01 * normal(2, 200, 8))
    assert both(x, at.x)[0] <= moved.min()


@float64
def test_the_sparsest_of_an_orthonormal_dictionary():
    D, _ = jnp.linalg.qr(normal(3, 6, 6))
    f, kappa = normal(0, 1, 6), 2
    G = synthesising.hard_threshold_step(operators.Identity(), kappa)
    z, info = solvers.picard(tolerance=1e-9)(lambda z: G(z, {"tau": 0.99, "D": D}, f), f @ D)
    np.testing.assert_allclose(z, synthesising.largest(f @ D, kappa), atol=1e-6)
    errors = [
        jnp.sum((f[0] - D[:, on] @ jnp.linalg.lstsq(D[:, on], f[0])[0]) ** 2)
        for on in (jnp.array(pair) for pair in combinations(range(6), kappa))
    ]
    assert info.converged
    np.testing.assert_allclose(jnp.sum((f - z @ D.T) ** 2), min(errors), atol=1e-9)


@float64
def test_dictionaries_have_hypergradients():
    """Of the exact 1-norm, without a weight of one atom, and of kappa atoms, overcomplete, against
    differences."""
    D, f, truth = normal(3, 6, 9) / 6**0.5, normal(0, 2, 6), normal(4, 2, 6)
    solve = variational.differentiable(
        lambda *of: variational.proximal_gradient(*of, tolerance=1e-13, max_iterations=20_000),
        tolerance=1e-12,
    )
    G = synthesising.hard_threshold_step(operators.Identity(), 2)
    fixed = hypergradients.METHODS["gmres"](
        G,
        solvers.picard(tolerance=1e-13, max_evaluations=20_000),
        tolerance=1e-12,
        max_evaluations=100,
    )

    @jax.jit
    def exact(D):
        problem = variational.synthesis(operators.Identity(), D)
        weights = (jnp.full(9, 0.3).at[0].set(0.0),)
        return losses.mean_squared_error(solve(problem, weights, f)[0] @ D.T, truth)

    @jax.jit
    def sparse(D):
        z, _ = fixed({"tau": jnp.array(0.2), "D": D}, f, jnp.zeros((2, 9)))
        return losses.mean_squared_error(z @ D.T, truth)

    V, h = normal(5, 6, 9), 1e-5
    for loss in (exact, sparse):
        difference = (loss(D + h * V) - loss(D - h * V)) / (2 * h)
        np.testing.assert_allclose(np.vdot(jax.jit(jax.grad(loss))(D), V), difference, rtol=1e-5)
