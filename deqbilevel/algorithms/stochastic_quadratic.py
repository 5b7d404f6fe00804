"""The stochastic variant of Q1: eight samples of it, the means of which are Q1 itself."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deqbilevel.algorithms.base import Gamma, Posed, from_cost
from deqbilevel.rules import count, options


class Samples(NamedTuple):
    """Phi and l as means over m samples, each of the form of Q1, with weights that add up to 1."""

    H: Float[Array, "m n n"]
    B: Float[Array, "m n r"]
    c: Float[Array, "m n"]
    d: Float[Array, "m n"]
    ridge: Any
    weights: Float[Array, " m"]
    size: Int[Array, ""]
    """How many samples `draw` takes, 1 to the `batch` of the problem; may grow."""


@options(batch=count(1))
def stochastic_quadratic(posed: Posed, *, batch: int = 2) -> Posed:
    """`problems.quadratic()` from samples, with the same solution: a draw takes `batch` of them.

    H_i = H + 0.2 a_i I, B_i = (1 + 0.2 b_i) B, c_i = c + 0.2 e_i, d_i = d + 0.2 a_i, for the signs
    a_i = (-1)^i, b_i = (-1)^[i/2], e_i = (-1)^[i/4] of i = 0, ..., 7. Drawn with replacement, a
    batch in every call of an oracle. Raises ValueError for a batch below 1, and another problem.

    >>> posed = algorithms.stochastic_quadratic(algorithms.quadratic())
    >>> print(posed.data.c.shape, posed.data.c.mean(0))  # that of Q1
    (8, 3) [ 1. -1.  0.]
    """
    if getattr(posed.data, "_fields", ()) != ("H", "B", "c", "d", "ridge"):
        raise ValueError(f"data: a {type(posed.data).__name__}, expected those of quadratic()")
    i = jnp.arange(8)
    a, b, e = ((-1.0) ** (i // period) for period in (1, 2, 4))
    H, B, c, d, ridge = posed.data
    data = Samples(
        H + 0.2 * a[:, None, None] * jnp.eye(len(H)),
        (1 + 0.2 * b)[:, None, None] * B,
        c + 0.2 * e[:, None],
        d + 0.2 * a[:, None],
        ridge,
        jnp.full(len(i), 1 / len(i)),
        jnp.asarray(batch),
    )

    def upper(gamma: Gamma, x: Array, data: Samples) -> Float[Array, ""]:
        squares = jnp.sum((x[:, None] - data.d) ** 2, axis=2)
        return jnp.sum(squares @ data.weights) / 2 + data.ridge / 2 * jnp.sum(gamma**2)

    def lower(x: Array, gamma: Gamma, data: Samples) -> Float[Array, ""]:
        H, B, c = (jnp.tensordot(data.weights, y, 1) for y in (data.H, data.B, data.c))
        return jnp.sum(x * (x @ H / 2 - B @ gamma - c))

    def draw(data: Samples, key: PRNGKeyArray) -> Samples:
        drawn = jax.random.randint(key, (batch, 1), 0, len(i))
        size = jnp.clip(data.size, 1, batch)
        taken = (drawn == i) & (jnp.arange(batch) < size)[:, None]
        return data._replace(weights=jnp.sum(taken, axis=0) / size)

    problem = from_cost(
        upper,
        lower,
        posed.problem.lower_step,
        draw=draw,
        strong_convexity=posed.problem.strong_convexity - 0.2,
    )
    return posed._replace(problem=problem, data=data)
