"""Every solver of exact problems ends at one minimiser, and says how far it is from it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal

from deqbilevel import operators, variational
from deqbilevel.variational import SOLVERS, Problem
from deqbilevel.variational.saddle import origin

SHAPE = (5, 5)
CASES = {
    "tv": ("identity", variational.total_variation(SHAPE), (0.4,)),
    "tgv": ("diagonal_blur_zero", variational.generalised_variation(SHAPE, False), (0.1, 0.1)),
}
TOLERANCE = 1e-5


def posed(case):
    kind, omega, weights = CASES[case]
    K = operators.OPERATORS[kind](SHAPE)
    return Problem(K, omega), weights, K.apply(normal(0, 2, SHAPE[0] * SHAPE[1]))


@float64
@pytest.mark.parametrize("case", CASES)
def test_all_reach_one_minimiser(case):
    """In two lanes."""
    problem, weights, f = posed(case)
    lanes = tuple(jnp.array([5 * w, w]) for w in weights)
    start = jax.tree.map(lambda x: jnp.stack((x, x)), origin(problem, f))
    found = {}
    for name, solver in SOLVERS.items():
        if name == "fista" and case != "tv":
            with pytest.raises(ValueError, match="needs K = I"):
                solver(problem, weights, f)
            continue
        options = {"tolerance": TOLERANCE, "max_iterations": 20_000}
        solve = jax.jit(jax.vmap(partial(solver, **options), (None, 0, None, 0)))
        at, info = solve(problem, lanes, f, start)
        assert info.converged.all() and info.relative_gap.max() <= TOLERANCE, name
        x, d = at.x[1], tuple(d[1] for d in at.d)
        np.testing.assert_allclose(info.cost[1], problem.cost(x, weights, f), rtol=1e-9)
        for size, w in zip(map(problem.omega.size, d), weights, strict=True):
            assert size.max() <= w + 1e-12  # feasible, as the gap needs it
        _, warm = solve(problem, lanes, f, at)
        assert warm.iterations.max() == 0
        found[name] = problem.image(x), info.cost[1], info.gap[1]
    u, _, own = found["chambolle_pock"]
    for v, cost, gap in found.values():
        assert all((cost <= other + gap).all() for _, other, _ in found.values())
        if problem.convexity:  # P(x) is above the minimum by |x - minimiser|^2 / 2 at least
            distance = np.linalg.norm(v - u, axis=1)
            assert (distance <= np.sqrt(2 * gap) + np.sqrt(2 * own)).all()


def test_refusals():
    problem, _, f = posed("tv")
    for solver in SOLVERS.values():
        with pytest.raises(ValueError, match="weights"):
            solver(problem, (0.1, 0.1), f)
        with pytest.raises(ValueError, match="0 or more"):
            solver(problem, (-0.1,), f)
        with pytest.raises(ValueError, match="expected a whole number, 1 or more"):
            solver(problem, (0.1,), f, max_iterations=0)
