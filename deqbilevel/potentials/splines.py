"""A potential of its own for each filter, whose derivative is an odd spline of degree 1:

    phi_k(z) = sum_j a_kj h_{t_j}(z) / t_j,    phi_k'(z) = sum_j a_kj clip(z / t_j, -1, 1)

with the Huber functions of `profiles`, common knots t_j and amplitudes a_kj of either sign: phi_k'
is any odd spline with these knots that is constant beyond the last. It is the influence function of
trainable nonlinear reaction diffusion and of variational networks, which have sums of Gaussians.
"""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.potentials.base import derived, prox_by_bisection
from deqbilevel.potentials.profiles import Hubers
from deqbilevel.types import pytree

Responses = Float[Array, "filters *shape"]
"""What the filters make of images."""

KNOTS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""For filters of norm about 1 and images in [0, 1]."""


@pytree
@dataclass(frozen=True)
class Splines:
    """phi_k of z: [filters, ...]; the amplitudes are learned, the knots stay.

    `prox` needs 1 + a phi_k'' > 0.

    >>> phi = potentials.Splines(jnp.array([[1.0, 0.0], [0.0, 1.0]]), (0.1, 0.2))
    >>> z = jnp.array([[0.05, 1.0], [0.1, 1.0]])
    >>> print(phi.derivative(z), phi.lipschitz)
    [[0.5 1. ]
     [0.5 1. ]] 10.0
    """

    amplitudes: Float[Array, "*iterations filters knots"]
    knots: tuple[float, ...] = field(metadata={"static": True}, default=KNOTS)
    convex = False
    twice_differentiable = False
    curvature_lipschitz = float("inf")

    @property
    def lipschitz(self) -> Any:
        """sup |phi_k''|, the largest of all filters."""
        return jnp.max(jnp.abs(self._curvatures()))

    @property
    def slope(self) -> Any:
        """sup |phi_k'|: of a spline of degree 1 at a knot."""
        knots = jnp.asarray(self.knots)
        at = self.amplitudes @ jnp.minimum(knots / knots[:, None], 1)
        return jnp.max(jnp.abs(at))

    least_curvature = derived(lambda self: jnp.minimum(jnp.min(self._curvatures()), 0))

    def value(self, z: Responses) -> Responses:
        return self._of(z).value(z)

    def derivative(self, z: Responses) -> Responses:
        return self._of(z).derivative(z)

    def second_derivative(self, z: Responses) -> Responses:
        return self._of(z).second_derivative(z)

    def prox(self, z: Responses, a: Any) -> Responses:
        return prox_by_bisection(self.derivative, z, a)

    def _of(self, z: Array) -> Hubers:
        knots = jnp.asarray(self.knots, z.dtype)
        heights = (self.amplitudes / knots).T
        return Hubers(heights.reshape(len(knots), -1, *(1,) * (z.ndim - 1)), knots)

    def _curvatures(self) -> Float[Array, "*iterations filters knots"]:
        """phi_k'' between one knot and the next, from 0 to the last."""
        heights = self.amplitudes / jnp.asarray(self.knots)
        return jnp.cumsum(heights[..., ::-1], axis=-1)[..., ::-1]


def splines(filters: int, *, first: float = 0.02, knots: tuple[float, ...] = KNOTS) -> Splines:
    """The Huber function with slope 1 beyond a knot, for each filter, to start with.

    Raises: ValueError for no filters, and knots that are none or do not grow from above 0, or of
    which `first` is none.

    >>> print(potentials.splines(1, first=0.5, knots=(0.25, 0.5)).amplitudes)
    [[0. 1.]]
    """
    checks.whole("filters", filters)
    if not knots or list(knots) != sorted({*knots}) or not knots[0] > 0:
        raise ValueError(f"knots={knots}: expected growing numbers above 0")
    if first not in knots:
        raise ValueError(f"first={first}: expected one of the knots {knots}")
    amplitudes = jnp.zeros((filters, len(knots)))
    return Splines(amplitudes.at[:, knots.index(first)].set(1.0), knots)
