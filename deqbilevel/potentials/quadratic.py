"""The quadratic potential, and the piecewise quadratic ones of [REB] 3.2.

The activations of [REB] 3.2 are proximal maps sigma = prox_{R*}, and their potential is the
Moreau-Yosida energy of [REB] (20),

    phi(z) = min_x R(x) + (x - z)^2 / 2,    phi'(z) = z - prox_R(z) = prox_{R*}(z)     (21)
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.potentials.base import derived
from deqbilevel.types import pytree

Scalar = Float[Array, ""] | float
"""One number, which may be traced."""


@pytree
@dataclass(frozen=True)
class Quadratic:
    """phi(z) = s/2 z^2. Raises ValueError for a negative s.

    >>> phi = potentials.Quadratic(s=3.0)
    >>> print(phi.value(jnp.array(2.0)), phi.prox(jnp.array(8.0), 1.0))
    6.0 2.0
    """

    s: Any = 1.0
    convex = True
    twice_differentiable = True
    slope = float("inf")
    curvature_lipschitz = 0.0

    def __post_init__(self) -> None:
        checks.number("s", self.s, least=0)

    lipschitz = derived(lambda self: self.s)
    least_curvature = derived(lambda self: self.s)

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return 0.5 * self.s * z**2

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.s * z

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.s * jnp.ones_like(z)

    def prox(self, z: Float[Array, "*shape"], a: Any) -> Float[Array, "*shape"]:
        return z / (1 + a * self.s)


@pytree
@dataclass(frozen=True)
class PiecewiseQuadratic:
    """phi(z) = s/2 z^2 + p/2 max(z - t, 0)^2 + q/2 max(-z - t, 0)^2, with t >= 0.

    One family holds every activation of [REB] 3.2, so that the activation is a traced
    hyperparameter and a whole grid is one compiled program; (s, p, q, t) is

        identity     (1, 0, 0, 0)     R = indicator of {0}
        ReLU         (0, 1, 0, 0)     R = indicator of (-inf, 0]
        Softshrink   (0, 1, 1, t)     R = indicator of [-t, t]
        clipping     (1, -1, -1, t)   R = t |.|, so sigma is the prox of the conjugate of the
                                      1-norm (for t = 1), and phi is the Huber function

    These are convex, and phi'' jumps at -t and t: but for the identity, which `Quadratic` is too,
    no member is twice differentiable. Raises ValueError for one that is not convex, and for t < 0.

    >>> phi = potentials.PiecewiseQuadratic(s=0.0, p=1.0, q=1.0, t=1.0)  # Softshrink
    >>> print(phi.derivative(jnp.array([-3.0, 0.5, 2.0])))
    [-2.  0.  1.]
    """

    s: Any
    p: Any
    q: Any
    t: Any
    convex = True
    twice_differentiable = False
    curvature_lipschitz = float("inf")

    def __post_init__(self) -> None:
        for name in ("s", "p", "q"):
            checks.number(name, getattr(self, name))
        for name in ("p", "q"):
            if not checks.traced((self.s, getattr(self, name))):
                checks.number(f"s + {name}", self.s + getattr(self, name), least=0)
        checks.number("s", self.s, least=0)
        checks.number("t", self.t, least=0)

    @property
    def lipschitz(self) -> Any:
        bent = jnp.maximum(jnp.asarray(self.p), jnp.asarray(self.q))
        return self.s + jnp.maximum(bent, 0.0)

    @property
    def slope(self) -> Any:
        flat = (jnp.asarray(self.s + self.p) == 0) & (jnp.asarray(self.s + self.q) == 0)
        return jnp.where(flat, self.s * self.t, jnp.inf)

    @property
    def least_curvature(self) -> Any:
        bent = jnp.minimum(jnp.asarray(self.p), jnp.asarray(self.q))
        return self.s + jnp.minimum(bent, 0.0)

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        above, below = jnp.maximum(z - self.t, 0), jnp.maximum(-z - self.t, 0)
        return 0.5 * (self.s * z**2 + self.p * above**2 + self.q * below**2)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        below = jnp.where(z < -self.t, self.q * (z + self.t), 0)
        return self.s * z + jnp.where(z > self.t, self.p * (z - self.t), below)

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        below = jnp.where(z < -self.t, self.q, 0)
        return self.s + jnp.where(z > self.t, self.p, below)

    def prox(self, z: Float[Array, "*shape"], a: Any) -> Float[Array, "*shape"]:
        inner = z / (1 + a * self.s)
        above = (z + a * self.p * self.t) / (1 + a * (self.s + self.p))
        below = (z - a * self.q * self.t) / (1 + a * (self.s + self.q))
        return jnp.where(inner > self.t, above, jnp.where(inner < -self.t, below, inner))


def identity() -> PiecewiseQuadratic:
    """sigma(z) = z: the quadratic potential z^2 / 2.

    >>> print(potentials.identity().derivative(jnp.array([-3.0, 2.0])))
    [-3.  2.]
    """
    return PiecewiseQuadratic(1.0, 0.0, 0.0, 0.0)


def relu() -> PiecewiseQuadratic:
    """sigma(z) = max(z, 0): the potential max(z, 0)^2 / 2.

    >>> print(potentials.relu().value(jnp.array([-3.0, 2.0])))
    [0. 2.]
    """
    return PiecewiseQuadratic(0.0, 1.0, 0.0, 0.0)


def softshrink(threshold: Scalar) -> PiecewiseQuadratic:
    """sigma(z) = sign(z) max(|z| - threshold, 0): half the squared distance to the interval.

    Raises: ValueError for a negative threshold.

    >>> print(potentials.softshrink(0.5).derivative(jnp.array([-3.0, 0.2, 2.0])))
    [-2.5  0.   1.5]
    """
    return PiecewiseQuadratic(0.0, 1.0, 1.0, checks.number("threshold", threshold, least=0))


def clipping(bound: Scalar = 1.0) -> PiecewiseQuadratic:
    """sigma(z) = min(max(z, -bound), bound): the Huber potential.

    Raises: ValueError for a negative bound.

    >>> print(potentials.clipping(1.0).derivative(jnp.array([-3.0, 0.2, 2.0])))
    [-1.   0.2  1. ]
    """
    return PiecewiseQuadratic(1.0, -1.0, -1.0, checks.number("bound", bound, least=0))
