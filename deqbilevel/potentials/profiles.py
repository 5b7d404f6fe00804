"""Sums and differences of Huber functions: splines of degree 2 with knots that can be learned.

    h_t(z) = z^2 / 2 where |z| <= t, and t |z| - t^2 / 2 beyond
    h_t'(z) = clip(z, -t, t),    h_t''(z) = 1 where |z| < t, and 0 beyond

    Hubers     sum_k a_k h_{t_k}(z), a_k >= 0: convex, with curvatures from 0 to sum_k a_k
    Profile    one such sum less another: its curvature is at least -sum_k a_k of that other

As phi'' falls and rises by what the heights add up to, that total bounds its variation too.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Hubers(NamedTuple):
    """sum_k a_k h_{t_k}.

    >>> h = potentials.Hubers(jnp.array([2.0, 1.0]), jnp.array([0.5, 3.0]))
    >>> z = jnp.array([0.25, 1.0, 5.0])
    >>> print(h.derivative(z), h.second_derivative(z))
    [0.75 2.   4.  ] [3. 1. 0.]
    """

    heights: Float[Array, " knots"]
    """a_k, the curvatures."""
    knots: Float[Array, " knots"]
    """t_k, where the curvature ends."""

    @property
    def curvature(self) -> Float[Array, ""]:
        """The largest, which is that at 0."""
        return jnp.sum(self.heights)

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The sum at each entry."""
        # With y = clip(z, -t, t) it is y (z - y / 2).
        return sum(
            (a * y * (z - y / 2) for a, y in self._clipped(z)),
            jnp.zeros_like(z),
        )

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Its derivative, odd and nondecreasing."""
        return sum((a * y for a, y in self._clipped(z)), jnp.zeros_like(z))

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Its second derivative, almost everywhere."""
        return sum(
            (a * (jnp.abs(z) < t) for a, t in zip(self.heights, self.knots, strict=True)),
            jnp.zeros_like(z),
        )

    def _clipped(self, z: Array) -> list[tuple[Array, Array]]:
        return [(a, jnp.clip(z, -t, t)) for a, t in zip(self.heights, self.knots, strict=True)]


class Profile(NamedTuple):
    """psi = convex - concave, both `Hubers`.

    >>> one = jnp.ones(1)
    >>> convex, concave = potentials.Hubers(10 * one, 0.1 * one), potentials.Hubers(one, one)
    >>> psi = potentials.Profile(convex, concave)
    >>> z = jnp.array([0.05, 0.55, 2.0])  # a bounded potential: its slope ends at 1 - 1
    >>> print(psi.derivative(z).round(2), psi.second_derivative(z))
    [0.45 0.45 0.  ] [ 9. -1.  0.]
    """

    convex: Hubers
    concave: Hubers

    @property
    def curvature(self) -> Float[Array, ""]:
        """A bound on |psi''|."""
        return jnp.maximum(self.convex.curvature, self.concave.curvature)

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """psi at each entry."""
        return self.convex.value(z) - self.concave.value(z)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """psi'."""
        return self.convex.derivative(z) - self.concave.derivative(z)

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """psi'', almost everywhere."""
        return self.convex.second_derivative(z) - self.concave.second_derivative(z)
