"""A potential whose proximal map is that of a sparse one, and smooth."""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.potentials.base import magnitude, prox_by_bisection
from deqbilevel.types import pytree


@pytree
@dataclass(frozen=True)
class PowerSum:
    """phi(z) = beta |z| + 2 beta_tilde |z|^p / p with 1 < p <= 2, of [CF] (4.23).

    It has a kink at 0, where `derivative` is the subgradient 0 and `second_derivative` is 0. Its
    prox is zero up to |z| = a beta, as that of the 1-norm, and yet continuously differentiable
    for p < 2. With w = |z| - a beta > 0, the magnitude x of the prox is the root of
    x + 2 a beta_tilde x^(p-1) = w; for p = 3/2 this is a quadratic equation in sqrt(x).

    Raises ValueError for any other p.

    >>> phi = potentials.PowerSum(beta=1.0, beta_tilde=0.75, p=1.5)
    >>> print(phi.value(jnp.array(4.0)))  # 4 + 1.5 * 8 / 1.5
    12.0
    >>> print(phi.prox(jnp.array([0.5, -8.0]), 1.0))  # x + 1.5 sqrt(x) = 7 has the root 4
    [ 0. -4.]
    """

    beta: Any = 0.5
    beta_tilde: Any = 0.3
    p: float = field(default=1.5, metadata={"static": True})
    convex = True
    twice_differentiable = False
    lipschitz = float("inf")
    slope = float("inf")
    least_curvature = 0.0
    curvature_lipschitz = float("inf")

    def __post_init__(self) -> None:
        checks.number("the exponent p", self.p, above=1, most=2)
        checks.number("beta", self.beta, least=0)
        checks.number("beta_tilde", self.beta_tilde, least=0)

    def _power(self, z: Float[Array, "*shape"], exponent: float) -> Float[Array, "*shape"]:
        """2 beta_tilde |z|^exponent, and 0 with the derivative 0 at z = 0."""
        away = jnp.where(z == 0, 1, jnp.abs(z))  # a power at 0 may have an infinite derivative
        return jnp.where(z == 0, 0, 2 * self.beta_tilde * away**exponent)

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.beta * magnitude(z) + self._power(z, self.p) / self.p

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.sign(z) * (self.beta + self._power(z, self.p - 1))

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return (self.p - 1) * self._power(z, self.p - 2)

    def prox(self, z: Float[Array, "*shape"], a: Any) -> Float[Array, "*shape"]:
        kept = jnp.abs(z) > a * self.beta
        w = jnp.where(kept, jnp.abs(z) - a * self.beta, 1)
        if self.p == 1.5:
            c = a * self.beta_tilde
            x = (w / (c + jnp.sqrt(c**2 + w))) ** 2
        else:
            x = prox_by_bisection(lambda x: self._power(x, self.p - 1), w, a)
        return jnp.where(kept, jnp.sign(z) * x, 0)
