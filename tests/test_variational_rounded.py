"""Newton's method for potentials of |Omega x|, and what of the exact problem is left by them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, float64, normal

from deqbilevel import hypergradients, operators, potentials, variational
from deqbilevel.variational import Problem, differentiable, rounded_newton, rounded_slope

SHAPE = (5, 6)
PIXELS = SHAPE[0] * SHAPE[1]


@float64
@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_rounded_norms_end_where_the_cost_is_stationary(p):
    problem = Problem(
        operators.OPERATORS["diagonal_blur_zero"](SHAPE), variational.total_variation(SHAPE)
    )
    phi, f = potentials.RoundedPower(p, 0.01), normal(0, 2, PIXELS)
    solve = jax.jit(partial(rounded_newton, tolerance=1e-9))
    x, info = solve(problem, (0.3,), f, phi)
    assert info.converged and info.evaluations <= 60

    def cost(x):
        (z,) = problem.omega.apply(x)
        size = jnp.sqrt(jnp.sum(z**2, axis=1) + 1e-300)
        return jnp.sum(problem.fit(x, f)) + 0.3 * jnp.sum(phi.value(size))

    np.testing.assert_allclose(jax.grad(cost)(x), 0, atol=1e-7)
    assert cost(x) < cost(problem.K.adjoint(f))
    if p == 2:
        K, Omega = (
            dense(lambda x, of=of: of(x).reshape(len(x), -1), PIXELS)
            for of in (problem.K.apply, lambda x: problem.omega.apply(x)[0])
        )
        expected = np.linalg.solve(K.T @ K + 0.6 * Omega.T @ Omega, K.T @ f.T).T
        np.testing.assert_allclose(x, expected, atol=1e-7)
        assert info.evaluations <= 4


@float64
def test_the_exact_hypergradient_is_the_limit_of_smooth_ones():
    """By the weights of TGV, of which the smooth ones come by `hypergradients.minimiser`."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    truth = jnp.asarray((rows > 2) + 0.2 * columns).reshape(1, -1)
    f = truth + 0.1 * normal(0, 1, PIXELS)
    problem = Problem(operators.identity(SHAPE), variational.generalised_variation(SHAPE, False))
    weights = (jnp.array(0.2), jnp.array(0.3))
    solver = partial(variational.chambolle_pock, tolerance=1e-12, max_iterations=50_000)
    solve = differentiable(solver, tolerance=1e-10, max_evaluations=3000)
    exact = jax.jit(
        jax.grad(
            lambda w: jnp.sum((problem.image(solve(problem, w, f)[0]) - truth) ** 2) / 2,
        )
    )(weights)
    F, errors = rounded_slope(problem), []

    @jax.jit
    def smooth(weights, phi):
        x, info = rounded_newton(problem, weights, f, phi, tolerance=1e-11, products=1000)
        g, none = problem.omega.start(problem.image(x) - truth), jnp.zeros_like(x)
        limits = {"tolerance": 1e-9, "max_evaluations": 5000}
        gradient, _, adjoint = hypergradients.minimiser(
            F, {"weights": weights}, {"phi": phi}, f, x, g, none, **limits
        )
        return gradient["weights"], info.converged & adjoint.converged

    for eps in (1e-2, 1e-3, 1e-4):
        found, converged = smooth(weights, potentials.CornerRounded(jnp.array(eps)))
        assert converged
        errors.append(np.linalg.norm(np.subtract(found, exact)))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 1e-2 * np.linalg.norm(exact)
