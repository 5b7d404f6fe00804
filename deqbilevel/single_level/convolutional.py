r"""Convolutional analysis operator learning, [CF] (2.12).

$$ \min_{c, z} \sum_k \tfrac12 \|c_k * x - z_k\|^2 + \beta \|z_k\|_0
\quad \text{with} \quad \sum_k c_k c_k^T = \frac1R I $$

of filters with R taps; x are images that are continued circularly. The best z is c_k * x where that
is above sqrt(2 beta), and 0 elsewhere; sum_k ||c_k * x||^2 is the same for all such filters, so
that the best are the polar factor of those that correlate x with z. Both are exact: the objective,
which is recorded per pixel, never rises.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.convolutions import Filters, bank
from deqbilevel.single_level.base import Method, Rows, thresholded
from deqbilevel.single_level.constraints import parseval
from deqbilevel.types import Images


class State(NamedTuple):
    """The filters."""

    operator: Filters


def frame(c: Filters, *, without_constant: bool = False) -> Filters:
    """The nearest filters with sum_k c_k c_k^T = I / R, so that sum_k ||c_k * x||^2 = ||x||^2.

    without_constant: of filters that sum to zero, and x less its local means.
    Raises: ValueError for fewer filters than such a frame has at least.

    >>> c = single_level.frame(jnp.array([[[2.0, 0.0]], [[0.0, 1.0]]]))
    >>> print(c[:, 0] @ c[:, 0].T)
    [[0.5 0. ]
     [0.  0.5]]
    """
    omega: Rows = c.reshape(len(c), -1)
    tight = parseval(omega, without_constant=without_constant)
    return (tight / math.sqrt(omega.shape[1])).reshape(c.shape)


def convolutional_analysis(
    shape: tuple[int, int], beta: Any, *, without_constant: bool = False
) -> Method:
    """Convolutional analysis operator learning of images of a shape, in [batch, pixels].

    The operator are filters [filters, rows, columns], at least as many as taps (less one, without
    the constant), as the convolutional regulariser takes them.
    Raises: ValueError for a beta that is not above 0, and too few filters.

    >>> x = jnp.repeat(jnp.array([[0.0, 1.0, 3.0, 2.0]]), 4, axis=1)  # steps of 4 pixels
    >>> method = single_level.convolutional_analysis((1, 16), 0.01, without_constant=True)
    >>> c, _ = single_level.run(method, jnp.array([[[1.0, 0.0]]]), x, 3)
    >>> print(jnp.abs(c))
    [[[0.5 0.5]]]
    """
    checks.one("beta", beta, above=0)
    convolutions = bank(shape)

    def objective(c: Filters, x: Images) -> Float[Array, ""]:
        """At the best z."""
        z = convolutions.apply(c, x)
        return jnp.sum(jnp.minimum(z**2 / 2, beta)) / x.size

    def init(c: Filters, x: Images) -> State:
        checks.rows("data", x, checks.pixels(shape))
        return State(frame(c, without_constant=without_constant))

    def step(state: State, x: Images) -> tuple[State, Float[Array, ""]]:
        z, pull = jax.vjp(lambda c: convolutions.apply(c, x), state.operator)
        (correlated,) = pull(thresholded(z, beta))
        c = frame(correlated, without_constant=without_constant)
        return State(c), objective(c, x)

    return Method(init, step)
