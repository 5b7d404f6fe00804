"""What an analysis operator Omega is, see `variational`, and norms of what it makes of an image."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.variational.cosines import Symbol

Unknowns = Float[Array, "batch unknowns"]
"""x of each image: its pixels u, and after them what else is minimised over."""
Term = Float[Array, "batch components places"]
Terms = tuple[Float[Array, "batch _ _"], ...]
"""Omega_t x: [batch, components, places], or the dual variables of them, for each term t."""
Weights = tuple[Any, ...]
"""w_t for each term: a number, one for each place, or `[batch, places]`; 0 or more."""


class Analysis(NamedTuple):
    """A linear map Omega of the unknowns of an image to one or more terms.

    >>> omega = variational.total_variation((1, 3))
    >>> (z,) = omega.apply(jnp.array([[1.0, 3.0, 3.0]]))
    >>> print(z[0])  # the differences to the pixel below, and to that on the right
    [[0. 0. 0.]
     [2. 0. 0.]]
    """

    shape: tuple[int, int]
    """Of an image."""
    unknowns: int
    """Their number for each image, the first of which are its pixels."""
    apply: Callable[[Unknowns], Terms]
    norms: tuple[float, ...]
    """A bound on ||Omega_t|| for each term."""
    together: bool
    """Whether |z| at a place is the 2-norm of its components there, else the sum of their moduli:
    isotropic or anisotropic."""
    symbol: Callable[[tuple[Any, ...]], Symbol] | None = None
    """sigma -> a diagonal in cosines that is at least sum_t sigma_t Omega_t^T Omega_t."""
    balanced: Callable[[Terms], Terms] | None = None
    """d -> d near it whose Omega^T d is 0 in unknowns other than u, as it is at a saddle point."""
    orthonormal: bool = False
    """Omega Omega^T = I of all terms together."""

    @property
    def pixels(self) -> int:
        """Of an image."""
        return self.shape[0] * self.shape[1]

    def adjoint(self, d: Terms) -> Unknowns:
        """Omega^T d, as the linear transpose."""
        form = jax.ShapeDtypeStruct((len(d[0]), self.unknowns), d[0].dtype)
        (x,) = jax.linear_transpose(self.apply, form)(d)
        return x

    def size(self, z: Term) -> Float[Array, "batch _ places"]:
        """|z| at each place; anisotropic: of each component."""
        return length(z) if self.together else jnp.abs(z)

    def weigh(self, weights: Weights, z: Terms) -> tuple[Array, ...]:
        """The weights in a shape that goes with the terms z. Raises: ValueError for weights that
        are negative or do not fit."""
        if len(weights) != len(self.norms):
            raise ValueError(
                f"weights: {len(weights)} of them; expected a tuple of {len(self.norms)}, one for "
                "each term"
            )
        return tuple(_shaped(w, x) for w, x in zip(weights, z, strict=True))

    def value(self, x: Unknowns, weights: Weights) -> Float[Array, " batch"]:
        """R = sum_t sum_p w_t[p] |(Omega_t x)[p]| of each image.

        >>> omega = variational.total_variation((1, 3))
        >>> print(omega.value(jnp.array([[1.0, 3.0, 3.0]]), (0.5,)))
        [1.]
        """
        z = self.apply(x)
        pairs = zip(self.weigh(weights, z), z, strict=True)
        return sum(
            (jnp.sum(w * self.size(a), axis=(1, 2)) for w, a in pairs), jnp.zeros(len(x), x.dtype)
        )

    def project(self, d: Terms, weights: Weights) -> Terms:
        """The nearest dual variables with |d_t| <= w_t at each place, in the dual norm of |.|."""
        pairs = zip(self.weigh(weights, d), d, strict=True)
        if not self.together:
            return tuple(jnp.clip(x, -w, w) for w, x in pairs)
        return tuple(x * jnp.minimum(1, ratio(w, length(x))) for w, x in pairs)

    def feasible(self, d: Terms, weights: Weights) -> Terms:
        """Dual variables with |d_t| <= w_t, which are `balanced` where that is known."""
        if self.balanced is None:
            return self.project(d, weights)
        d = self.balanced(d)
        pairs = list(zip(self.weigh(weights, d), d, strict=True))
        most = [jnp.min(ratio(w, self.size(x)), axis=(1, 2), keepdims=True) for w, x in pairs]
        scale = jnp.minimum(1, jnp.min(jnp.stack(most), axis=0))
        return tuple(scale * x for x in d)

    def start(self, u: Float[Array, "batch pixels"]) -> Unknowns:
        """The unknowns of images u: themselves, and zeros.

        >>> print(variational.generalised_variation((1, 2)).start(jnp.ones((1, 2))))
        [[1. 1. 0. 0. 0. 0.]]
        """
        return jnp.pad(u, ((0, 0), (0, self.unknowns - self.pixels)))


def _shaped(w: Any, z: Term) -> Array:
    w = jnp.asarray(checks.number("weights", w, least=0), z.dtype)
    batch, _, places = z.shape
    if w.shape not in ((), (places,), (1, places), (batch, places)):
        raise ValueError(
            f"weights of shape {list(w.shape)}: expected one number, [{places}] or [{batch}, "
            f"{places}], one for each place"
        )
    return w if w.ndim == 0 else w.reshape(-1, 1, places)


def length(z: Term) -> Float[Array, "batch 1 places"]:
    """The 2-norm of the components at each place, with the derivative 0 at 0."""
    squared = jnp.sum(z**2, axis=1, keepdims=True)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)


def ratio(x: Array, y: Array) -> Array:
    """x / y, and 1 where y is 0."""
    return jnp.where(y != 0, x / jnp.where(y != 0, y, 1), 1)
