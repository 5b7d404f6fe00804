r"""The Moreau envelope of a convex potential: split analysis, [CF] (2.6), in x alone.

$$ \min_{x, z} D(x) + \beta \Big( \tfrac{1}{2 a} \|\Omega x - z\|^2 + 1^T \varphi(z) \Big)
   = \min_x D(x) + \beta\, 1^T M_a \varphi(\Omega x) $$
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.potentials.base import Potential, derived
from deqbilevel.types import pytree


@pytree
@dataclass(frozen=True)
class MoreauEnvelope:
    """M_a phi(z) = min_x phi(x) + (x - z)^2 / (2 a), of a convex phi, with any prox.

    Its minimiser x = prox(z, a) of phi is the split variable, and its derivative (z - x) / a. That
    of |z| is the Huber function.
    Raises: ValueError for a phi that is not convex, and for an a that is not above 0.

    >>> phi = potentials.MoreauEnvelope(potentials.PowerSum(beta=1.0, beta_tilde=0.0), a=2.0)
    >>> z = jnp.array([1.0, 5.0])  # z^2 / (2 a), and |z| - a / 2
    >>> print(phi.value(z), phi.derivative(z), phi.prox(z, 1.0))
    [0.25 4.  ] [0.5 1. ] [0.6667 4.    ]
    """

    phi: Potential
    a: Any = 1.0
    convex = True
    twice_differentiable = False
    curvature_lipschitz = float("inf")

    def __post_init__(self) -> None:
        checks.number("a", self.a, above=0)
        if not self.phi.convex:
            raise ValueError(
                f"phi={self.phi}: expected a convex potential, whose split variable is unique"
            )

    lipschitz = derived(lambda self: 1 / (1 / self.phi.lipschitz + self.a))
    slope = derived(lambda self: self.phi.slope)
    least_curvature = derived(
        lambda self: self.phi.least_curvature / (1 + self.a * self.phi.least_curvature)
    )

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        x = jax.lax.stop_gradient(self.phi.prox(z, self.a))  # where the minimum's derivative is 0
        return self.phi.value(x) + (x - z) ** 2 / (2 * self.a)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return (z - self.phi.prox(z, self.a)) / self.a

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jax.jvp(self.derivative, (z,), (jnp.ones_like(z),))[1]

    def prox(self, z: Float[Array, "*shape"], a: Any) -> Float[Array, "*shape"]:
        total = a + self.a
        return z + a / total * (self.phi.prox(z, total) - z)
