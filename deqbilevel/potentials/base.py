"""What a potential is, see `potentials`, and the proximal map of those without a closed form."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks


@runtime_checkable
class Potential(Protocol):
    """A scalar function with its derivatives and proximal map; see `potentials`.

    >>> phi = potentials.POTENTIALS["quadratic"]()
    >>> z = jnp.array([-2.0, 1.0])
    >>> print(phi.value(z), phi.derivative(z), phi.prox(z, 1.0))
    [2.  0.5] [-2.  1.] [-1.   0.5]
    """

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


def derived(of: Callable[[Any], Any]) -> Any:
    """A property of a potential in one line, where it needs no docstring."""
    return property(of)


def magnitude(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """|z| with the derivative 0 at 0, where that of `jnp.abs` is 1."""
    return jnp.sign(z) * z


LEAST = 1e-30
"""Of a squared modulus, below which phi is as at 0."""


def modulus(
    z: Float[Array, "filters parts height width"],
) -> Float[Array, "filters parts height width"]:
    """|z|, above zero, of real and imaginary parts in turns, for both of them.

    >>> print(potentials.modulus(jnp.array([3.0, 4.0]).reshape(1, 2, 1, 1)).ravel())
    [5. 5.]
    """
    pairs = z.reshape(z.shape[0], -1, 2, *z.shape[2:])
    squared = jnp.maximum(jnp.sum(pairs**2, axis=2, keepdims=True), LEAST)
    return jnp.broadcast_to(jnp.sqrt(squared), pairs.shape).reshape(z.shape)


def prox_by_bisection(
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


class Bisected:
    """A potential with a width eps and an odd derivative, whose prox has no closed form.

    Raises ValueError for a width that is none.
    """

    def __post_init__(self: Any) -> None:
        checks.number("eps", self.eps, least=LEAST_WIDTH, most=MOST_WIDTH)

    def prox(self: Potential, z: Float[Array, "*shape"], a: Any) -> Float[Array, "*shape"]:
        return prox_by_bisection(self.derivative, z, a)
