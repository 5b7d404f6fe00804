"""Potentials phi: R -> R of the analysis regulariser 1' phi(A u + b), applied entry by entry.

A potential is a pytree whose parameters are leaves, with

    value(z)               phi(z)
    derivative(z)          sigma(z) = phi'(z), the activation
    second_derivative(z)   phi''(z), almost everywhere
    prox(z, a)             argmin_x a phi(x) + (x - z)^2 / 2
    lipschitz              the Lipschitz constant of phi', sup |phi''|
    slope                  sup |phi'|
    least_curvature        inf phi''
    curvature_lipschitz    the Lipschitz constant of phi'', sup |phi'''|
    convex                 whether phi is convex
    twice_differentiable   whether phi'' is continuous

The prox of a potential that is not convex needs 1 + a phi'' > 0, which makes the minimiser unique;
its docstring says up to which a that holds.

The activations of [REB] 3.2 are proximal maps sigma = prox_{R*}, and their potential is the
Moreau-Yosida energy of [REB] (20),

    phi(z) = min_x R(x) + (x - z)^2 / 2,    phi'(z) = z - prox_R(z) = prox_{R*}(z)     (21)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.checks import Registry
from deqbilevel.types import pytree

Scalar = Float[Array, ""] | float


@runtime_checkable
class Potential(Protocol):
    """A scalar function with its derivatives and proximal map; see the module's docstring."""

    @property
    def lipschitz(self) -> Any: ...

    @property
    def slope(self) -> Any: ...

    @property
    def least_curvature(self) -> Any: ...

    @property
    def curvature_lipschitz(self) -> Any: ...

    @property
    def convex(self) -> bool: ...

    @property
    def twice_differentiable(self) -> bool: ...

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]: ...

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]: ...

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]: ...

    def prox(self, z: Float[Array, "*shape"], a: Any) -> Float[Array, "*shape"]: ...


def _prox_by_bisection(
    derivative: Callable[[Array], Array], z: Float[Array, "*shape"], a: Any
) -> Float[Array, "*shape"]:
    """The root x between 0 and z of x + a phi'(x) = z, for an odd phi' with 1 + a phi'' > 0.

    It is differentiable in z, a and the parameters of phi by the implicit function theorem;
    differentiating the bisection itself would give x / z.
    """

    def bisect(residual: Callable[[Array], Array], z: Array) -> Array:
        def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            near, far = bracket
            x = 0.5 * (near + far)
            beyond = jnp.sign(z) * residual(x) > 0
            return jnp.where(beyond, near, x), jnp.where(beyond, x, far)

        bits = jnp.finfo(z.dtype).nmant + 2
        near, far = jax.lax.fori_loop(0, bits, halve, (jnp.zeros_like(z), z))
        return 0.5 * (near + far)

    return jax.lax.custom_root(
        lambda x: x + a * derivative(x) - z,
        z,
        bisect,
        lambda linear, y: y / linear(jnp.ones_like(y)),
    )


LEAST_WIDTH, MOST_WIDTH = 1e-9, 1e9
"""Of `eps`, whose fourth power must be a number in float32."""


class _Bisected:
    """A potential with a width eps and an odd derivative, whose prox has no closed form.

    Raises ValueError for a width that is none.
    """

    def __post_init__(self: Any) -> None:
        checks.number("eps", self.eps, least=LEAST_WIDTH, most=MOST_WIDTH)

    def prox(self: Potential, z: Float[Array, "*shape"], a: Any) -> Float[Array, "*shape"]:
        return _prox_by_bisection(self.derivative, z, a)


@pytree
@dataclass(frozen=True)
class Quadratic:
    """phi(z) = s/2 z^2. Raises ValueError for a negative s."""

    s: Any = 1.0
    convex = True
    twice_differentiable = True
    slope = float("inf")
    curvature_lipschitz = 0.0

    def __post_init__(self) -> None:
        checks.number("s", self.s, least=0)

    @property
    def lipschitz(self) -> Any:
        return self.s

    @property
    def least_curvature(self) -> Any:
        return self.s

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
    """sigma(z) = z: the quadratic potential z^2 / 2."""
    return PiecewiseQuadratic(1.0, 0.0, 0.0, 0.0)


def relu() -> PiecewiseQuadratic:
    """sigma(z) = max(z, 0): the potential max(z, 0)^2 / 2."""
    return PiecewiseQuadratic(0.0, 1.0, 0.0, 0.0)


def softshrink(threshold: Scalar) -> PiecewiseQuadratic:
    """sigma(z) = sign(z) max(|z| - threshold, 0): half the squared distance to the interval."""
    return PiecewiseQuadratic(0.0, 1.0, 1.0, checks.number("threshold", threshold, least=0))


def clipping(bound: Scalar = 1.0) -> PiecewiseQuadratic:
    """sigma(z) = min(max(z, -bound), bound): the Huber potential."""
    return PiecewiseQuadratic(1.0, -1.0, -1.0, checks.number("bound", bound, least=0))


@pytree
@dataclass(frozen=True)
class CornerRounded(_Bisected):
    """phi(z) = sqrt(z^2 + eps^2), the corner-rounded 1-norm of [CF] 1.3."""

    eps: Any = 0.01
    convex = True
    twice_differentiable = True
    slope = 1.0
    least_curvature = 0.0

    @property
    def lipschitz(self) -> Any:
        return 1 / self.eps

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
class RoundedPower(_Bisected):
    """phi(z) = (z^2 + eps^2)^(p/2) with 0 < p <= 2, the rounded p-norms of [CF] 6.1.

    p = 1 is `CornerRounded`, and p = 2 is `Quadratic(2)` plus a constant. For p < 1 the prox
    needs a < ((4 - p) / (1 - p))^(2 - p/2) eps^(2 - p) / (2 p). |phi''| is largest at 0.

    Raises ValueError for any other p.
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

    @property
    def lipschitz(self) -> Any:
        return self.p * self.eps ** (self.p - 2)

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


def _magnitude(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """|z| with the derivative 0 at 0, where that of `jnp.abs` is 1."""
    return jnp.sign(z) * z


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
class Fair(_Bisected):
    """phi(z) = eps^2 (|z|/eps - log(1 + |z|/eps)), the Fair potential of [CF] 4.2.3."""

    eps: Any = 1.0
    convex = True
    twice_differentiable = True
    lipschitz = 1.0
    least_curvature = 0.0

    @property
    def slope(self) -> Any:
        return self.eps

    @property
    def curvature_lipschitz(self) -> Any:
        return 2 / self.eps

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.eps**2 * _excess_over_log1p(_magnitude(z) / self.eps)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return z / (1 + _magnitude(z) / self.eps)

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return 1 / (1 + _magnitude(z) / self.eps) ** 2


@pytree
@dataclass(frozen=True)
class LogCosh(_Bisected):
    """phi(z) = eps log cosh(z / eps), whose derivative is tanh(z / eps).

    The activation of [REB]'s experiments with faces, where eps = 1/100.
    """

    eps: Any = 0.01
    convex = True
    twice_differentiable = True
    slope = 1.0
    least_curvature = 0.0

    @property
    def lipschitz(self) -> Any:
        return 1 / self.eps

    @property
    def curvature_lipschitz(self) -> Any:
        """|phi'''| where tanh^2(z / eps) = 1/3."""
        return 4 / (27**0.5 * self.eps**2)

    def value(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        x = _magnitude(z) / self.eps
        # cosh overflows far away, and the sum of logarithms cancels near 0.
        near = jnp.log1p(2 * jnp.sinh(jnp.minimum(x, 1) / 2) ** 2)
        far = x + jnp.log1p(jnp.exp(-2 * x)) - jnp.log(2.0)
        return self.eps * jnp.where(x < 1, near, far)

    def derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.tanh(z / self.eps)

    def second_derivative(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        # 1 - tanh^2 would cancel far away.
        tail = jnp.exp(-2 * _magnitude(z) / self.eps)
        return 4 * tail / (self.eps * (1 + tail) ** 2)


@pytree
@dataclass(frozen=True)
class LogSum(_Bisected):
    """phi(z) = log(1 + z^2/eps^2), the log-sum or Student-t potential.

    eps = 1 is that of [CF] 6.1, and eps = sqrt(2) that of [CF] (2.8), the field of experts.
    phi'' >= -1 / (4 eps^2), so the prox needs a < 4 eps^2.
    """

    eps: Any = 1.0
    convex = False
    twice_differentiable = True

    @property
    def lipschitz(self) -> Any:
        return 2 / self.eps**2

    @property
    def slope(self) -> Any:
        return 1 / self.eps

    @property
    def least_curvature(self) -> Any:
        return -0.25 / self.eps**2

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
class LogRoot(_Bisected):
    """phi(z) = log(10 + sqrt(z^2 + eps^2)), of [CF] 6.1.

    With r = sqrt(z^2 + eps^2), phi'' = (eps^2 (10 + 2 r) / r^3 - 1) / (10 + r)^2. Its positive
    part falls with r from 1 / (eps (10 + eps)) at z = 0, and it is above -1 / (10 + eps)^2; so
    the former is the Lipschitz constant, and the prox allows every a <= (10 + eps)^2. `slope`,
    `least_curvature` and `curvature_lipschitz` have no closed form, and are bounds.
    """

    eps: Any = 2**0.5
    convex = False
    twice_differentiable = True

    @property
    def lipschitz(self) -> Any:
        return 1 / (self.eps * (10 + self.eps))

    @property
    def slope(self) -> Any:
        return 1 / (10 + self.eps)

    @property
    def least_curvature(self) -> Any:
        return -1 / (10 + self.eps) ** 2

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


@pytree
@dataclass(frozen=True)
class GemanMcClure(_Bisected):
    """phi(z) = z^2 / (2 (1 + z^2/eps^2)), scaled to phi''(0) = 1; it is bounded by eps^2 / 2.

    phi'' >= -1/4, so the prox needs a < 4.
    """

    eps: Any = 1.0
    convex = False
    twice_differentiable = True
    lipschitz = 1.0
    least_curvature = -0.25

    @property
    def slope(self) -> Any:
        return 3 * 3**0.5 / 16 * self.eps

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
class Welsch(_Bisected):
    """phi(z) = eps^2/2 (1 - exp(-z^2/eps^2)), which is bounded by eps^2 / 2.

    phi'' >= -2 exp(-3/2), so the prox needs a < exp(3/2) / 2 = 2.24.
    """

    eps: Any = 1.0
    convex = False
    twice_differentiable = True
    lipschitz = 1.0
    least_curvature = -2 * math.exp(-1.5)

    @property
    def slope(self) -> Any:
        return math.exp(-0.5) / 2**0.5 * self.eps

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


@pytree
@dataclass(frozen=True)
class PowerSum:
    """phi(z) = beta |z| + 2 beta_tilde |z|^p / p with 1 < p <= 2, of [CF] (4.23).

    It has a kink at 0, where `derivative` is the subgradient 0 and `second_derivative` is 0. Its
    prox is zero up to |z| = a beta, as that of the 1-norm, and yet continuously differentiable
    for p < 2. With w = |z| - a beta > 0, the magnitude x of the prox is the root of
    x + 2 a beta_tilde x^(p-1) = w; for p = 3/2 this is a quadratic equation in sqrt(x).

    Raises ValueError for any other p.
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
        return self.beta * _magnitude(z) + self._power(z, self.p) / self.p

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
            x = _prox_by_bisection(lambda x: self._power(x, self.p - 1), w, a)
        return jnp.where(kept, jnp.sign(z) * x, 0)


POTENTIALS: Registry[Callable[[], Potential]] = Registry(
    "potential",
    {
        "identity": identity,
        "relu": relu,
        "softshrink": lambda: softshrink(0.5),
        "clipping": clipping,
        "quadratic": Quadratic,
        "corner_rounded": CornerRounded,
        "rounded_half": RoundedPower,
        "fair": Fair,
        "log_cosh": LogCosh,
        "log_sum": LogSum,
        "log_root": LogRoot,
        "geman_mcclure": GemanMcClure,
        "welsch": Welsch,
        "power_sum": PowerSum,
    },
)
"""Every potential, at example parameters. The shared property tests walk this table."""
