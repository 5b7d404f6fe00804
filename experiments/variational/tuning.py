"""lam and strength of plug-and-play: by a grid, through the fixed point, and for each iteration."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from deqbilevel import hypergradients, losses, solvers
from deqbilevel.operators import Operator
from deqbilevel.types import FixedPointMap, Images, Info, Params
from deqbilevel.variational import plug_and_play
from experiments.variational import denoising

ITERATIONS, TOLERANCE = 200, 1e-4
SCHEDULED = 10
RATE = 0.1
"""Of Adam, for the logarithms of lam and strength."""

Solve = Callable[[Params, Array], tuple[Array, Info]]


def start(K: Operator, f: Array) -> Array:
    """[K^T f, 0]."""
    back = K.adjoint(f)
    return jnp.concatenate((back, jnp.zeros_like(back)), axis=1)


def solver(K: Operator, G: FixedPointMap) -> Solve:
    """`solve(params, f) -> (u, info)`: the fixed point, and how it was reached."""
    solve = solvers.picard(tolerance=TOLERANCE, max_evaluations=ITERATIONS)
    return jax.jit(lambda params, f: solve(lambda u: G(u, params, f), start(K, f)))


def grid(name: str, solve: Solve, truth: Images, f: Array) -> Params:
    """lam and strength of the least error."""
    tried = []
    for strength in denoising.STRENGTHS[name]:
        for lam in denoising.LAMS[name]:
            u, _ = solve(_pair(lam, strength), f)
            error = losses.mean_squared_error(plug_and_play.image(u), truth)
            tried.append((float(error), lam, strength))
    _, lam, strength = min(tried)
    return _pair(lam, strength)


def _pair(lam: float, strength: float) -> Params:
    return {"lam": jnp.asarray(lam, float), "strength": jnp.asarray(strength, float)}


def descended(steps: int, error: Any, logs: Params) -> Params:
    """exp of the logarithms of the least error that Adam comes past."""
    optimiser, best = optax.adam(RATE), (np.inf, logs)
    state, derivative = optimiser.init(logs), jax.jit(jax.value_and_grad(error))
    for _ in range(steps):
        value, gradient = derivative(logs)
        best = min(best, (float(value), logs), key=lambda pair: pair[0])
        updates, state = optimiser.update(gradient, state)
        logs = jax.tree.map(jnp.add, logs, updates)
    best = min(best, (float(derivative(logs)[0]), logs), key=lambda pair: pair[0])
    return jax.tree.map(jnp.exp, best[1])


def learned(
    steps: int, K: Operator, G: FixedPointMap, truth: Images, f: Array, logs: Params
) -> Params:
    """Through the fixed point."""
    solve = hypergradients.METHODS["gmres"](
        G,
        solvers.picard(tolerance=TOLERANCE, max_evaluations=ITERATIONS),
        tolerance=1e-3,
        max_evaluations=40,
    )

    def error(logs: Params) -> Array:
        u, _ = solve(jax.tree.map(jnp.exp, logs), f, start(K, f))
        return losses.mean_squared_error(plug_and_play.image(u), truth)

    return descended(steps, error, logs)


def scheduled(
    steps: int, K: Operator, G: FixedPointMap, truth: Images, f: Array, logs: Params
) -> Params:
    """A pair for each of a few iterations."""

    def error(logs: Params) -> Array:
        schedule = jax.tree.map(jnp.exp, logs)
        u, _ = plug_and_play.scheduled(G, {}, schedule, f, start(K, f))
        return losses.mean_squared_error(plug_and_play.image(u), truth)

    return descended(4 * steps, error, jax.tree.map(lambda x: jnp.full(SCHEDULED, x), logs))


def contraction(G: FixedPointMap, params: Params, u: Array, f: Array) -> float:
    """By how much iterations shrink their steps at last, as far as rounding lets it be seen."""
    sizes: list[float] = []
    while len(sizes) < 60 and (not sizes or sizes[-1] > 1e-5 * sizes[0]):
        new = G(u, params, f)
        sizes.append(float(jnp.linalg.norm(new - u)))
        u = new
    half = len(sizes) // 2
    return (sizes[-1] / sizes[half - 1]) ** (1 / (len(sizes) - half)) if half else 0.0
