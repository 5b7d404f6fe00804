"""The convolutional analysis regulariser of [CF] (Ex),

    R(u) = e^{beta_0} sum_k e^{beta_k} 1' phi(c_k * u)
    N(u) = e^{beta_0} sum_k e^{beta_k} C_k^T phi'(c_k * u),    its gradient

`params` holds `filters`: [filters, rows, columns], `beta`: [filters], `beta_0` and `phi`. With a
`basis`: [elements, rows, columns] the filters are its combinations, and `filters` their
coefficients: [filters, elements]; a basis of filters that sum to zero keeps that so. With a `mask`
of zeros and ones, [filters, rows, columns], filters keep sizes of their own. With a `field`:
[rows, columns] the weights vary in space, [CF] 6.1: e^{field}, its logarithm interpolated linearly
between points equally spaced over the image, multiplies those of every filter at a pixel. There may
be one for each image, [batch, rows, columns], and `predicted` from its measurement.

>>> c = regularizers.convolutional
>>> params = c.init(2 * jnp.ones((1, 2, 2)), beta_0=0.0, phi=potentials.Quadratic())
>>> print(c.filters(params).shape, c.weights(params), c.strengths(params))  # ||2 * 1|| = 4
(1, 2, 2) [1.] [4.]
>>> R = c.Convolutional(*c.bank_of((2, 2)))
>>> print(R.energy(jnp.ones((1, 4)), params))  # at each of 4 pixels (4 * 2)^2 / 2
[128.]
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.convolutions import PAD_NORM, Bank, Boundary, Method, bank, multiplied, transfer
from deqbilevel.potentials import modulus
from deqbilevel.regularizers import predicted
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.regularizers.bases import BASES, cosines, random
from deqbilevel.regularizers.weighted import (
    drawn,
    filters,
    init,
    require,
    strengths,
    varied,
    weights,
)
from deqbilevel.types import Images, Params

__all__ = [
    "BASES",
    "Convolutional",
    "bank_of",
    "convolutional",
    "cosines",
    "drawn",
    "filters",
    "init",
    "random",
    "require",
    "strengths",
    "varied",
    "weights",
]


class Convolutional(NamedTuple):
    """The regulariser for images of one shape."""

    bank: Bank
    shape: tuple[int, int]
    """Of an image, or of a part of a complex one."""
    boundary: Boundary
    of_pairs: bool = False
    """Whether images are complex: pictures with the imaginary part below the real one."""

    def gradient(self, u: Images, params: Params) -> Images:
        """N(u) of each image."""
        c, phi = filters(params), params["phi"]
        z = self._features(c, u)
        if self.of_pairs:
            m = modulus(z)
            slopes = z * (phi.derivative(m) / m)
        else:
            slopes = phi.derivative(z)
        slopes = varied(slopes, params)
        return self.bank.adjoint(c, weights(params)[:, None, None, None] * slopes).reshape(u.shape)

    def energy(self, u: Images, params: Params) -> Float[Array, " batch"]:
        """R(u) of each image."""
        z = self._features(filters(params), u)
        values = params["phi"].value(modulus(z)[:, ::2] if self.of_pairs else z)
        values = varied(values, params)
        return weights(params) @ jnp.sum(values, axis=(2, 3))

    def _features(self, c: Array, u: Images) -> Array:
        """c_k * u; of complex images each part is an image."""
        return self.bank.apply(c, u.reshape(-1, self.shape[0] * self.shape[1]))

    def lipschitz(self, params: Params) -> Float[Array, ""]:
        """A Lipschitz constant of N: e^{beta_0} sup phi'' max_w sum_k e^{beta_k} |c_k^(w)|^2.

        The transfer functions c^ are those of circular convolution on the image's shape, with its
        margin for other boundaries. It is at most (4.19) of [CF], see `lipschitz_by_norms`, which
        is 20 times larger for cosine filters.
        """
        c = filters(params)
        rows, columns = (n + m - 1 for n, m in zip(self.shape, c.shape[1:], strict=True))
        grid = self.shape if self.boundary == "circular" else (rows, columns)
        power = jnp.abs(transfer(c, grid)) ** 2
        most = jnp.max(jnp.einsum("k,khw->hw", weights(params), power))
        if "network" in params:
            most = most * jnp.exp(predicted.BOUND)
        elif "field" in params:
            most = most * jnp.exp(jnp.max(params["field"]))
        return PAD_NORM[self.boundary] * params["phi"].lipschitz * most

    def preconditioner(
        self, u: Images, params: Params, identity: Any
    ) -> Callable[[Images], Images]:
        """An approximation of (identity I + Hessian of R at u)^{-1}, for conjugate gradients.

        phi''(c_k * u) of each image is replaced by its mean, at least 0, so that the Hessian is a
        circular convolution, whose inverse is a division of Fourier transforms.
        """
        c, phi = filters(params), params["phi"]
        z = self._features(c, u)
        if self.of_pairs:  # along c_k * u, and across it
            m = modulus(z)
            curvature = (phi.second_derivative(m) + phi.derivative(m) / m) / 2
        else:
            curvature = phi.second_derivative(z)
        mean = jnp.maximum(jnp.mean(varied(curvature, params), axis=(2, 3)), 0)
        power = jnp.abs(transfer(c, self.shape)) ** 2
        symbol = identity + jnp.einsum("k,kb,khw->bhw", weights(params), mean, power)
        return Partial(self._divided, symbol)

    def _divided(
        self, symbol: Float[Array, "parts rows frequencies"], r: Float[Array, "batch pixels"]
    ) -> Float[Array, "batch pixels"]:
        """r over the symbol of a circular convolution; of complex images it has both parts."""
        parts = r.reshape(-1, self.shape[0] * self.shape[1])
        return multiplied(1 / symbol, parts, self.shape, self.shape).reshape(r.shape)

    def regularizer(
        self,
        start: Callable[[PRNGKeyArray], dict[str, Any]],
        learned: tuple[str, ...] = ("filters", "beta"),
        spacing: int | None = None,
    ) -> Regularizer:
        """As what everything above takes, with `start` as its `init`; with a spacing its field is
        predicted from the measurement."""

        def told(params: Params, x: Images) -> Params:
            return predicted.told(params, x, self.shape, spacing or 1)

        return Regularizer(
            (2 * self.shape[0], self.shape[1]) if self.of_pairs else self.shape,
            start,
            self.gradient,
            learned,
            energy=self.energy,
            lipschitz=self.lipschitz,
            preconditioner=self.preconditioner,
            told=None if spacing is None else told,
        )

    def lipschitz_by_norms(self, params: Params) -> Float[Array, ""]:
        """The bound of [CF] (4.19), (C.5): e^{beta_0} sup phi'' sum_k e^{beta_k} ||c_k||_1^2."""
        norms = jnp.sum(jnp.abs(filters(params)), axis=(1, 2))
        most = jnp.sum(weights(params) * norms**2)
        return PAD_NORM[self.boundary] * params["phi"].lipschitz * most


def bank_of(
    shape: tuple[int, int],
    boundary: Boundary = "circular",
    method: Method | None = None,
    complex_images: bool = False,
) -> Convolutional:
    """The functions for images of a shape; `method` as in `convolutions.bank`."""
    part = checks.part_of_pairs(shape) if complex_images else shape
    return Convolutional(bank(part, boundary, method), part, boundary, complex_images)


def convolutional(
    shape: tuple[int, int],
    *,
    filters: tuple[int, int, int] = (24, 5, 5),
    basis: Literal["cosines", "cosines_and_constant", "differences"] | None = None,
    potential: str = "corner_rounded",
    eps: float = 0.01,
    beta_0: float = -4.0,
    boundary: Boundary = "circular",
    field: tuple[int, int] | None = None,
    predicted_field: int | None = None,
    method: Method | None = None,
    complex_images: bool = False,
) -> Regularizer:
    """The regulariser of images of a shape, started as `drawn` says.

    Of complex images, pictures with the imaginary part below the real one, phi is that of the
    modulus |c_k * u|. field: rows and columns of the points between which the weights vary in
    space; they start at 0. predicted_field: the points are so many pixels apart, and a network
    says their weights of each measurement.
    Raises: ValueError as `drawn` and `convolutions.bank` do, for an odd height of complex ones, for
    a field that is finer than the image, and one that is predicted too or of complex images.

    >>> R = regularizers.convolutional.convolutional((8, 8), filters=(24, 5, 5))
    >>> print(R.tied, R.learned)
    True ('filters', 'beta')
    """
    own = bank_of(shape, boundary, method, checks.switch("complex_images", complex_images))
    if any(n > m for n, m in zip(filters[1:], own.shape, strict=True)):
        raise ValueError(
            f"filters of {filters[1]}x{filters[2]} pixels are larger than the image of "
            f"{shape[0]}x{shape[1]}; take smaller ones"
        )
    options: dict[str, Any] = {"filters": filters, "basis": basis, "potential": potential}
    options |= {"eps": eps, "beta_0": beta_0}
    drawn(jax.random.key(0), **options)  # for its refusals
    if predicted_field is not None:
        if field is not None or complex_images:
            other = "complex_images" if field is None else f"field={field}"
            raise ValueError(f"predicted_field={predicted_field} with {other}: leave one out")
        predicted.network(own.shape, predicted_field)  # for its refusals

        def begin(key: PRNGKeyArray) -> dict[str, Any]:
            weights = predicted.init(jax.random.fold_in(key, 1), own.shape, predicted_field)
            return drawn(key, **options) | {"network": weights}

        return own.regularizer(begin, ("filters", "beta", "network"), predicted_field)
    if field is None:
        return own.regularizer(lambda key: drawn(key, **options))
    for n, most in zip(field, own.shape, strict=True):
        checks.whole("field", n, most=most)
    return own.regularizer(
        lambda key: drawn(key, **options) | {"field": jnp.zeros(field)},
        ("filters", "beta", "field"),
    )
