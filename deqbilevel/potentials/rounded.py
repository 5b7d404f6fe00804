"""Functions of z^2 + eps^2: the rounded norms, and their logarithms."""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.potentials.base import Bisected, derived
from deqbilevel.types import pytree


@pytree
@dataclass(frozen=True)
class CornerRounded(Bisected):
    """phi(z) = sqrt(z^2 + eps^2), the corner-rounded 1-norm of [CF] 1.3.

    >>> phi, z = potentials.CornerRounded(eps=3.0), jnp.array([4.0])
    >>> print(phi.value(z), phi.derivative(z))  # 5 and 4 / 5
    [5.] [0.8]
    """

    eps: Any = 0.01
    convex = True
    twice_differentiable = True
    slope = 1.0
    least_curvature = 0.0
    lipschitz = derived(lambda self: 1 / self.eps)

    @property
    def curvature_lipschitz(self) -> Any:
        """|phi'''| at z = eps / 2."""
        return 1.5 / (1.25**2.5 * self.eps**2)

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.sqrt(z**2 + self.eps**2)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return z / jnp.sqrt(z**2 + self.eps**2)

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.eps**2 / jnp.sqrt(z**2 + self.eps**2) ** 3


@pytree
@dataclass(frozen=True)
class RoundedPower(Bisected):
    """phi(z) = (z^2 + eps^2)^(p/2) with 0 < p <= 2, the rounded p-norms of [CF] 6.1.

    p = 1 is `CornerRounded`, and p = 2 is `Quadratic(2)` plus a constant. For p < 1 the prox
    needs a < ((4 - p) / (1 - p))^(2 - p/2) eps^(2 - p) / (2 p). |phi''| is largest at 0.

    Raises ValueError for any other p.

    >>> phi = potentials.RoundedPower(p=0.5, eps=3.0)
    >>> print(phi.value(jnp.array([4.0])) ** 2)  # of (16 + 9)^(1/4)
    [5.]
    """

    p: float = field(default=0.5, metadata={"static": True})
    eps: Any = 0.01
    twice_differentiable = True

    def __post_init__(self) -> None:
        checks.number("the exponent p", self.p, above=0, most=2)
        super().__post_init__()

    @property
    def convex(self) -> bool:
        return self.p >= 1

    lipschitz = derived(lambda self: self.p * self.eps ** (self.p - 2))

    @property
    def slope(self) -> Any:
        """phi' where phi'' = 0, at z^2 = eps^2 / (1 - p)."""
        if self.p >= 1:
            return 1.0 if self.p == 1 else float("inf")
        square = 1 / (1 - self.p)
        return self.p * square**0.5 * (1 + square) ** (self.p / 2 - 1) * self.eps ** (self.p - 1)

    @property
    def least_curvature(self) -> Any:
        """phi'' at z^2 = 3 eps^2 / (1 - p)."""
        if self.p >= 1:
            return 0.0 if self.p < 2 else 2.0
        ratio = (1 - self.p) / (4 - self.p)
        return -2 * self.p * ratio ** (2 - self.p / 2) * self.eps ** (self.p - 2)

    @property
    def curvature_lipschitz(self) -> Any:
        """|phi'''| at the lesser root of (1 - p)(3 - p) x^2 - 6 (3 - p) x + 3, x = (z / eps)^2."""
        x = 1 / (3 - self.p + ((3 - self.p) * (8 - 2 * self.p) / 3) ** 0.5)
        scale = self.p * (2 - self.p) * self.eps ** (self.p - 3)
        return scale * x**0.5 * (3 + (self.p - 1) * x) * (1 + x) ** (self.p / 2 - 3)

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return (z**2 + self.eps**2) ** (self.p / 2)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.p * z * (z**2 + self.eps**2) ** (self.p / 2 - 1)

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        square = z**2 + self.eps**2
        return self.p * (self.eps**2 + (self.p - 1) * z**2) * square ** (self.p / 2 - 2)


@pytree
@dataclass(frozen=True)
class LogSum(Bisected):
    """phi(z) = log(1 + z^2/eps^2), the log-sum or Student-t potential.

    eps = 1 is that of [CF] 6.1, and eps = sqrt(2) that of [CF] (2.8), the field of experts.
    phi'' >= -1 / (4 eps^2), so the prox needs a < 4 eps^2.

    >>> phi = potentials.LogSum(eps=1.0)
    >>> print(phi.derivative(jnp.array([1.0, 3.0])))  # 2 z / (1 + z^2)
    [1.  0.6]
    """

    eps: Any = 1.0
    convex = False
    twice_differentiable = True
    lipschitz = derived(lambda self: 2 / self.eps**2)
    slope = derived(lambda self: 1 / self.eps)
    least_curvature = derived(lambda self: -0.25 / self.eps**2)

    @property
    def curvature_lipschitz(self) -> Any:
        """|phi'''| at z = (sqrt(2) - 1) eps."""
        return (1.5 + 2**0.5) / self.eps**3

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.log1p((z / self.eps) ** 2)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return 2 * z / (z**2 + self.eps**2)

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return 2 * (self.eps - z) * (self.eps + z) / (z**2 + self.eps**2) ** 2


@pytree
@dataclass(frozen=True)
class LogRoot(Bisected):
    """phi(z) = log(10 + sqrt(z^2 + eps^2)), of [CF] 6.1.

    With r = sqrt(z^2 + eps^2), phi'' = (eps^2 (10 + 2 r) / r^3 - 1) / (10 + r)^2. Its positive
    part falls with r from 1 / (eps (10 + eps)) at z = 0, and it is above -1 / (10 + eps)^2; so
    the former is the Lipschitz constant, and the prox allows every a <= (10 + eps)^2. `slope`,
    `least_curvature` and `curvature_lipschitz` have no closed form, and are bounds.

    >>> phi = potentials.LogRoot(eps=3.0)
    >>> print(phi.derivative(jnp.array([4.0])))  # 4 / (5 (10 + 5))
    [0.0533]
    """

    eps: Any = 2**0.5
    convex = False
    twice_differentiable = True
    lipschitz = derived(lambda self: 1 / (self.eps * (10 + self.eps)))
    slope = derived(lambda self: 1 / (10 + self.eps))
    least_curvature = derived(lambda self: -1 / (10 + self.eps) ** 2)

    @property
    def curvature_lipschitz(self) -> Any:
        """|phi'''| is a sum of r''' / (10 + r), 3 r' r'' / (10 + r)^2 less 2 r'^3 / (10 + r)^3."""
        least = 10 + self.eps
        falling = CornerRounded(self.eps).curvature_lipschitz / least
        falling = falling + 9 * 3**0.5 / 16 / (self.eps * least**2)
        return jnp.maximum(jnp.asarray(falling), jnp.asarray(2 / least**3))

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.log(10 + jnp.sqrt(z**2 + self.eps**2))

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r = jnp.sqrt(z**2 + self.eps**2)
        return z / (r * (10 + r))

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r = jnp.sqrt(z**2 + self.eps**2)
        return (self.eps**2 * (10 + 2 * r) / r**3 - 1) / (10 + r) ** 2
