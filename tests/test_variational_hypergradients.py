"""Hypergradients of exact total variation and its kin against differences within one pattern."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal

from deqbilevel import hypergradients, operators, solvers
from deqbilevel.hypergradients import no_info
from deqbilevel.variational import (
    Problem,
    chambolle_pock,
    differentiable,
    generalised_variation,
    infimal_convolution,
    pattern,
    primal_dual_map,
    total_variation,
)
from deqbilevel.variational.saddle import flat

SHAPE = (5, 6)
PIXELS = SHAPE[0] * SHAPE[1]
STEP = 1e-5


def problem_of(K, make, together):
    return Problem(operators.OPERATORS[K](SHAPE), make(SHAPE, together))


def posed(problem):
    """Two blocks and noise; measurements, and what is to be found."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    truth = jnp.asarray((rows > 2) + 1.0 * (columns > 3)).reshape(1, -1)
    return problem.K.apply(truth) + 0.2 * normal(0, 2, PIXELS), truth


@float64
@pytest.mark.parametrize(
    ("K", "make", "together", "weights"),
    [
        ("identity", total_variation, True, (0.2,)),
        ("diagonal_blur_zero", total_variation, True, (0.02,)),
        ("identity", generalised_variation, False, (0.2, 0.3)),
        ("identity", infimal_convolution, True, (0.1, 0.2)),
    ],
)
def test_weights_of_each_place_against_differences(K, make, together, weights):
    problem = problem_of(K, make, together)
    f, truth = posed(problem)
    solver = partial(
        chambolle_pock,
        tolerance=1e-13,
        max_iterations=50_000,
        balance=0.1,
        every=50,
        preconditioned=len(weights) > 1,
    )
    solve = differentiable(solver, tolerance=1e-12, max_evaluations=3000)
    weights = tuple(jnp.full(PIXELS, w) for w in weights)

    @jax.jit
    def loss(weights, f, probe):
        x, (at, info) = solve(problem, weights, f, None, probe)
        value = jnp.sum((problem.image(x) - truth) ** 2) / 2
        return value, (at, info)

    derivative = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, (at, info)), (*gradient, adjoint) = derivative(weights, f, no_info(jnp.float64))
    assert info.converged.all() and adjoint.converged
    direction = [normal(1, *x.shape) for x in jax.tree.leaves((weights, f))]
    given, tree = jax.tree.flatten((weights, f))
    active = jax.jit(lambda at, weights: pattern(problem, at, weights).active)
    values, patterns = [], []
    for sign in (1, -1):
        near, g = tree.unflatten(
            [x + sign * STEP * d for x, d in zip(given, direction, strict=True)]
        )
        value, (moved, _) = loss(near, g, no_info(jnp.float64))
        values.append(value)
        patterns.append(active(moved, near))
    for found in patterns:
        for a, b in zip(found, active(at, weights), strict=True):
            np.testing.assert_array_equal(a, b)
    expected = (values[0] - values[1]) / (2 * STEP)
    along = zip(jax.tree.leaves(gradient), direction, strict=True)
    np.testing.assert_allclose(sum(np.vdot(a, b) for a, b in along), expected, rtol=1e-5)


@float64
def test_every_way_through_the_saddle_point_is_the_same():
    problem = problem_of("identity", total_variation, False)
    f, truth = posed(problem)
    limits = {"tolerance": 1e-11, "max_evaluations": 3000}
    G = primal_dual_map(problem, balance=0.1)

    def error(u, truth):
        return jnp.sum((problem.image(u) - truth) ** 2) / 2

    params = {"weights": (jnp.full(PIXELS, 0.2),)}
    solver = jax.jit(partial(chambolle_pock, tolerance=1e-13, balance=0.1))
    at, _ = solver(problem, params["weights"], f)
    u0 = flat(at)
    found = []
    for way in ("gmres", "unrolled"):
        solve = hypergradients.METHODS[way](
            G, solvers.picard(tolerance=None, max_evaluations=600), **limits
        )
        slope = jax.grad(lambda p, solve=solve: error(solve(p, f, u0)[0], truth))
        found.append(jax.jit(slope)(params))
    run = hypergradients.piggyback(G, error, **limits)
    _, (beside, _, info) = jax.jit(run)(params, f, u0, jnp.zeros_like(u0), truth)
    found.append(beside)
    solve = differentiable(solver, tolerance=1e-10)
    slope = jax.grad(lambda p: error(solve(problem, p["weights"], f)[0], truth))
    found.append(jax.jit(slope)(params))
    assert info.converged
    for other in found[1:]:
        np.testing.assert_allclose(other["weights"][0], found[0]["weights"][0], atol=1e-6)


def test_a_pattern_near_its_border_is_told():
    """A step of 1e-4 that is left is all but zero, one of 1/2 is not."""
    problem = Problem(operators.identity((1, 2)), total_variation((1, 2)))

    @jax.jit
    def margin(f):
        at, _ = chambolle_pock(problem, (0.25,), f, tolerance=1e-6)
        return pattern(problem, at, (0.25,)).margin[0]

    margins = [margin(jnp.array([[0.0, step]])) for step in (0.5 + 1e-4, 1.0)]
    assert margins[0] < 0.1 < 0.5 < margins[1]
