"""M-estimators of robust statistics: of linear growth, convex; and bounded."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel.potentials.base import Bisected, derived, magnitude
from deqbilevel.types import pytree


def _excess_over_log1p(r: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """r - log(1 + r) for r >= 0.

    For small r the difference cancels, so with s = r / (2 + r) the series of
    log(1 + r) = 2 artanh(s) gives r s - 2 s^3 (1/3 + s^2/5 + s^4/7 + ...).
    """
    s = r / (2 + r)
    series = jnp.zeros_like(r)
    for k in range(17, 1, -2):
        series = series * s**2 + 1 / k
    return jnp.where(r < 0.25, r * s - 2 * s**3 * series, r - jnp.log1p(r))


@pytree
@dataclass(frozen=True)
class Fair(Bisected):
    """phi(z) = eps^2 (|z|/eps - log(1 + |z|/eps)), the Fair potential of [CF] 4.2.3.

    >>> phi = potentials.Fair(eps=1.0)
    >>> print(phi.derivative(jnp.array([1.0, -3.0])))  # z / (1 + |z|)
    [ 0.5  -0.75]
    """

    eps: Any = 1.0
    convex = True
    twice_differentiable = True
    lipschitz = 1.0
    least_curvature = 0.0
    slope = derived(lambda self: self.eps)
    curvature_lipschitz = derived(lambda self: 2 / self.eps)

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.eps**2 * _excess_over_log1p(magnitude(z) / self.eps)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return z / (1 + magnitude(z) / self.eps)

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return 1 / (1 + magnitude(z) / self.eps) ** 2


@pytree
@dataclass(frozen=True)
class LogCosh(Bisected):
    """phi(z) = eps log cosh(z / eps), whose derivative is tanh(z / eps).

    The activation of [REB]'s experiments with faces, where eps = 1/100.

    >>> phi = potentials.LogCosh(eps=0.01)
    >>> print(phi.derivative(jnp.array([0.0, -2.0])))
    [ 0. -1.]
    """

    eps: Any = 0.01
    convex = True
    twice_differentiable = True
    slope = 1.0
    least_curvature = 0.0
    lipschitz = derived(lambda self: 1 / self.eps)

    @property
    def curvature_lipschitz(self) -> Any:
        """|phi'''| where tanh^2(z / eps) = 1/3."""
        return 4 / (27**0.5 * self.eps**2)

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        x = magnitude(z) / self.eps
        # cosh overflows far away, and the sum of logarithms cancels near 0.
        near = jnp.log1p(2 * jnp.sinh(jnp.minimum(x, 1) / 2) ** 2)
        far = x + jnp.log1p(jnp.exp(-2 * x)) - jnp.log(2.0)
        return self.eps * jnp.where(x < 1, near, far)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.tanh(z / self.eps)

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        # 1 - tanh^2 would cancel far away.
        tail = jnp.exp(-2 * magnitude(z) / self.eps)
        return 4 * tail / (self.eps * (1 + tail) ** 2)


@pytree
@dataclass(frozen=True)
class GemanMcClure(Bisected):
    """phi(z) = z^2 / (2 (1 + z^2/eps^2)), scaled to phi''(0) = 1; it is bounded by eps^2 / 2.

    phi'' >= -1/4, so the prox needs a < 4.

    >>> phi = potentials.GemanMcClure(eps=1.0)
    >>> print(phi.value(jnp.array([1.0, 3.0])))  # 1/2 times 1/2 and 9/10
    [0.25 0.45]
    """

    eps: Any = 1.0
    convex = False
    twice_differentiable = True
    lipschitz = 1.0
    least_curvature = -0.25
    slope = derived(lambda self: 3 * 3**0.5 / 16 * self.eps)

    @property
    def curvature_lipschitz(self) -> Any:
        """|phi'''| at z^2 = x eps^2."""
        x = 1 - 2 / 5**0.5
        return 12 * x**0.5 * (1 - x) / (1 + x) ** 4 / self.eps

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return 0.5 * z**2 / (1 + (z / self.eps) ** 2)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return z / (1 + (z / self.eps) ** 2) ** 2

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        square = (z / self.eps) ** 2
        return (1 - 3 * square) / (1 + square) ** 3


@pytree
@dataclass(frozen=True)
class Welsch(Bisected):
    """phi(z) = eps^2/2 (1 - exp(-z^2/eps^2)), which is bounded by eps^2 / 2.

    phi'' >= -2 exp(-3/2), so the prox needs a < exp(3/2) / 2 = 2.24.

    >>> phi = potentials.Welsch(eps=2.0)
    >>> print(phi.value(jnp.array([0.0, 100.0])), phi.second_derivative(jnp.array(0.0)))
    [0. 2.] 1.0
    """

    eps: Any = 1.0
    convex = False
    twice_differentiable = True
    lipschitz = 1.0
    least_curvature = -2 * math.exp(-1.5)
    slope = derived(lambda self: math.exp(-0.5) / 2**0.5 * self.eps)

    @property
    def curvature_lipschitz(self) -> Any:
        """|phi'''| at z^2 = x eps^2."""
        x = (3 - 6**0.5) / 2
        return (6 - 4 * x) * x**0.5 * math.exp(-x) / self.eps

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return -0.5 * self.eps**2 * jnp.expm1(-((z / self.eps) ** 2))

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return z * jnp.exp(-((z / self.eps) ** 2))

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        square = (z / self.eps) ** 2
        return (1 - 2 * square) * jnp.exp(-square)
