"""Potentials phi: R -> R of the analysis regulariser 1' phi(A u + b), applied entry by entry.

A potential is a pytree whose parameters are leaves, with

    value(z)               phi(z)
    derivative(z)          sigma(z) = phi'(z), the activation
    second_derivative(z)   phi''(z), almost everywhere
    prox(z, a)             argmin_x a phi(x) + (x - z)^2 / 2
    lipschitz              the Lipschitz constant of phi'

The activations of [REB] 3.2 are proximal maps sigma = prox_{R*}, and their potential is the
Moreau-Yosida energy of [REB] (20),

    phi(z) = min_x R(x) + (x - z)^2 / 2,    phi'(z) = z - prox_R(z) = prox_{R*}(z)     (21)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""] | float


@runtime_checkable
class Potential(Protocol):
    """A scalar function with its derivatives and proximal map; see the module's docstring."""

    @property
    def lipschitz(self) -> Any: ...

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]: ...

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]: ...

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]: ...

    def prox(self, z: Float[Array, "*shape"], a: Any) -> Float[Array, "*shape"]: ...


@jax.tree_util.register_dataclass
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
    """

    s: Any
    p: Any
    q: Any
    t: Any

    @property
    def lipschitz(self) -> Any:
        bent = jnp.maximum(jnp.asarray(self.p), jnp.asarray(self.q))
        return self.s + jnp.maximum(bent, 0.0)

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
    """sigma(z) = z: the quadratic potential z^2 / 2."""
    return PiecewiseQuadratic(1.0, 0.0, 0.0, 0.0)


def relu() -> PiecewiseQuadratic:
    """sigma(z) = max(z, 0): the potential max(z, 0)^2 / 2."""
    return PiecewiseQuadratic(0.0, 1.0, 0.0, 0.0)


def softshrink(threshold: Scalar) -> PiecewiseQuadratic:
    """sigma(z) = sign(z) max(|z| - threshold, 0): half the squared distance to the interval."""
    return PiecewiseQuadratic(0.0, 1.0, 1.0, threshold)


def clipping(bound: Scalar = 1.0) -> PiecewiseQuadratic:
    """sigma(z) = min(max(z, -bound), bound): the Huber potential."""
    return PiecewiseQuadratic(1.0, -1.0, -1.0, bound)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CornerRounded:
    """phi(z) = sqrt(z^2 + eps^2), the corner-rounded 1-norm of [CF] 1.3."""

    eps: Any = 0.01

    @property
    def lipschitz(self) -> Any:
        return 1 / self.eps

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.sqrt(z**2 + self.eps**2)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return z / jnp.sqrt(z**2 + self.eps**2)

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.eps**2 / jnp.sqrt(z**2 + self.eps**2) ** 3

    def prox(self, z: Float[Array, "*shape"], a: Any) -> Float[Array, "*shape"]:
        """The root of x (1 + a / sqrt(x^2 + eps^2)) = |z|, bracketed by 0 and |z|, by bisection."""

        def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            x = 0.5 * (low + high)
            above = x + a * self.derivative(x) > jnp.abs(z)
            return jnp.where(above, low, x), jnp.where(above, x, high)

        bits = jnp.finfo(z.dtype).nmant + 2
        low, high = jax.lax.fori_loop(0, bits, halve, (jnp.zeros_like(z), jnp.abs(z)))
        return jnp.sign(z) * 0.5 * (low + high)


POTENTIALS: dict[str, Callable[[], Potential]] = {
    "identity": identity,
    "relu": relu,
    "softshrink": lambda: softshrink(0.5),
    "clipping": clipping,
    "corner_rounded": CornerRounded,
}
"""Every potential, at example parameters. The shared property tests walk this table."""
