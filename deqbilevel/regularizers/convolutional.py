"""The convolutional analysis regulariser of [CF] (Ex),

    R(u) = e^{beta_0} sum_k e^{beta_k} 1' phi(c_k * u)
    N(u) = e^{beta_0} sum_k e^{beta_k} C_k^T phi'(c_k * u),    its gradient

`params` holds `filters`: [filters, rows, columns], `beta`: [filters], `beta_0` and `phi`. With a
`basis`: [elements, rows, columns] the filters are its combinations, and `filters` their
coefficients: [filters, elements]; a basis of filters that sum to zero keeps that so. With a `mask`
of zeros and ones, [filters, rows, columns], filters keep sizes of their own.

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
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.convolutions import Bank, Boundary, Method, bank, multiplied, transfer
from deqbilevel.potentials import POTENTIALS, Potential, modulus
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.regularizers.bases import BASES, cosines, random
from deqbilevel.types import Images, Params

PAD_NORM = {"circular": 1.0, "zero": 1.0, "reflecting": 4.0}
"""The most that continuing an image beyond its border multiplies its squared norm by, where
filters are no larger than the image; circular continuation is none, the convolution is circular."""


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
        return self.bank.adjoint(c, weights(params)[:, None, None, None] * slopes).reshape(u.shape)

    def energy(self, u: Images, params: Params) -> Float[Array, " batch"]:
        """R(u) of each image."""
        z = self._features(filters(params), u)
        values = params["phi"].value(modulus(z)[:, ::2] if self.of_pairs else z)
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
        mean = jnp.maximum(jnp.mean(curvature, axis=(2, 3)), 0)
        power = jnp.abs(transfer(c, self.shape)) ** 2
        symbol = identity + jnp.einsum("k,kb,khw->bhw", weights(params), mean, power)

        def apply(r: Images) -> Images:
            parts = r.reshape(-1, self.shape[0] * self.shape[1])
            return multiplied(1 / symbol, parts, self.shape, self.shape).reshape(r.shape)

        return apply

    def regularizer(self, start: Callable[[PRNGKeyArray], dict[str, Any]]) -> Regularizer:
        """As what everything above takes, with `start` as its `init`."""
        return Regularizer(
            (2 * self.shape[0], self.shape[1]) if self.of_pairs else self.shape,
            start,
            self.gradient,
            ("filters", "beta"),
            energy=self.energy,
            lipschitz=self.lipschitz,
            preconditioner=self.preconditioner,
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
    method: Method | None = None,
    complex_images: bool = False,
) -> Regularizer:
    """The regulariser of images of a shape, started as `drawn` says.

    Of complex images, pictures with the imaginary part below the real one, phi is that of the
    modulus |c_k * u|.
    Raises: ValueError as `drawn` and `convolutions.bank` do, and for an odd height of complex ones.

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
    return own.regularizer(lambda key: drawn(key, **options))


def drawn(
    key: PRNGKeyArray,
    *,
    filters: tuple[int, int, int],
    basis: str | None,
    potential: str,
    eps: float,
    beta_0: float,
) -> dict[str, Any]:
    """`params` to start from: as many filters as their size has, less one, are cosines without the
    constant, divided by their height; others are random, of norm 1. With a basis of `BASES` they
    are those of it, or random combinations.

    filters: number, height and width; potential: one of `potentials.POTENTIALS`, which bends at
    `eps`.
    Raises: ValueError for counts below 1, a single pixel, and unknown names.

    >>> R = regularizers.convolutional.convolutional((8, 8), filters=(3, 2, 2))
    >>> sums = R.init(jax.random.key(0))["filters"].sum((1, 2))  # of cosines but the constant
    >>> print(bool(jnp.all(jnp.abs(sums) < 1e-6)))
    True
    """
    count, rows, columns = (checks.whole("filters", n) for n in filters)
    if rows * columns < 2:
        raise ValueError(f"filters {filters}: numbers and no filters; take a larger size")
    checks.number("eps", eps, above=0)
    kind: Any = POTENTIALS[potential]
    try:
        phi = kind(eps=eps)
    except TypeError as error:
        raise ValueError(
            f"potential {potential!r}: has no eps to bend at; take a smooth one, such as "
            "corner_rounded or log_sum"
        ) from error
    if basis is None:
        plain = cosines(rows, columns) / rows
        c = plain if count == len(plain) else random(key, count, rows, columns)
        return init(c, beta_0=beta_0, phi=phi)
    elements = BASES[basis](rows, columns)
    elements = elements / (rows if "cosines" in basis else 1)
    few = count != len(elements)
    c = random(key, count, 1, len(elements))[:, 0] if few else np.eye(count)
    return init(c, beta_0=beta_0, phi=phi, basis=elements)


def filters(params: Params) -> Float[Array, "filters rows columns"]:
    """The filters c_k. Raises: ValueError for parameters of another regulariser."""
    require(params)
    if "basis" in params:
        return jnp.tensordot(params["filters"], params["basis"], 1)
    return params["filters"] * params.get("mask", 1)


def require(params: Params) -> Params:
    """The parameters. Raises: ValueError for those of another regulariser."""
    checks.entries("params", params, ())
    missing = [name for name in ("filters", "beta", "beta_0", "phi") if name not in params]
    if missing:
        raise ValueError(
            f"params: no {', '.join(missing)}; expected what `regularizers.convolutional.init` "
            "returns"
        )
    return params


def weights(params: Params) -> Float[Array, " filters"]:
    """The weights e^{beta_0 + beta_k}. Raises: ValueError as `filters` does."""
    require(params)
    return jnp.exp(params["beta_0"] + params["beta"])


def strengths(params: Params) -> Float[Array, " filters"]:
    """The effective strengths e^{beta_0 + beta_k} ||c_k||, by which filters are ordered."""
    return weights(params) * jnp.linalg.norm(filters(params), axis=(1, 2))


def init(
    c: Any,
    *,
    beta_0: float,
    beta: Any = 0.0,
    phi: Any,
    basis: Any = None,
) -> dict[str, Any]:
    """`params` of the regulariser: filters (coefficients, with a basis), weights and potential.

    Filters of different sizes are filled up with zeros to the largest; the weight of each is
    e^{beta_0 + beta_k}.
    Raises: ValueError for values that are not finite, a potential that is none, and filters,
    weights and a basis whose shapes do not fit.
    """
    if not isinstance(phi, Potential):
        raise ValueError(f"phi={phi!r}: expected a potential, see `potentials`")
    mask = None
    if not hasattr(c, "ndim"):
        if not isinstance(c, list | tuple):
            raise ValueError(f"filters: a {type(c).__name__}; expected an array or a list of them")
        sizes = [np.shape(x) for x in c]
        if not sizes or any(len(size) != 2 or 0 in size for size in sizes):
            raise ValueError(f"filters of shapes {sizes}: expected one or more [rows, columns]")
        margins = [np.max(sizes, axis=0) - size for size in sizes]
        pads = [[(0, n) for n in margin] for margin in margins]
        mask = np.stack([np.pad(np.ones(size), p) for size, p in zip(sizes, pads, strict=True)])
        c = np.stack([np.pad(x, p) for x, p in zip(c, pads, strict=True)])
    shape = ("filters", "rows", "columns") if basis is None else ("filters", "elements")
    checks.shaped("filters", c, shape)
    if basis is not None:
        checks.shaped("basis", basis, (c.shape[1], "rows", "columns"))
    checks.shaped("beta_0", beta_0, ())
    checks.shaped("beta", beta, (len(c),) if np.ndim(beta) else ())
    numbers = {"filters": c, "beta": np.broadcast_to(beta, len(c)), "beta_0": beta_0}
    for name, value in (numbers | ({} if basis is None else {"basis": basis})).items():
        with np.errstate(over="ignore"):  # a number beyond float32 is infinite there
            if not checks.traced(value) and not np.isfinite(_rounded(value)).all():
                raise ValueError(f"{name}: expected finite numbers, found {np.asarray(value)}")
    params: dict[str, Any] = {name: jnp.asarray(x, float) for name, x in numbers.items()}
    constants = {"phi": phi, "basis": basis, "mask": mask}
    return params | {
        name: jax.tree.map(lambda x: jnp.asarray(x, float), x)
        for name, x in constants.items()
        if x is not None
    }


def _rounded(value: Any) -> np.ndarray:
    """In the default precision."""
    return np.asarray(value).astype(jnp.result_type(float))
