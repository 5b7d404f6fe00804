"""The normalised convolutional regulariser of [REB]'s experiments with faces,

    N(u) = c/||C|| C^T sigma(c/||A|| A u),    sigma = phi'

A and C are banks of convolutions without bias, and ||.|| are their operator norms for images of
this shape. Tied (C = A) it is the gradient of R(u) = 1' phi(c/||A|| A u) and gives bilevel
learning; untied it is no gradient in general and gives a DEQ. Either way ||N(u) - N(v)|| is at
most c^2 sup phi'' ||u - v||, whatever is learned: the step size needs no change while learning.

`params` holds `A` and, untied, `C`: [kernels, rows, columns]; `c`; `phi`; and what `refresh` keeps
up to date: the norms `norm_A`, `norm_C` and the images `top_A`, `top_C` that attain them, from
which the next power iteration goes on. The norms are constants of the differentiation, as in [REB].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.convolutions import Bank, Boundary, Method, bank
from deqbilevel.convolutions.stencils import Factored, Stencil, assembled
from deqbilevel.potentials import LogCosh
from deqbilevel.regularizers.base import Regularizer, require_tied
from deqbilevel.types import Images, Params

SCALE = 2.7300944
"""c of [REB]'s published settings; c^2 = 7.45 is just below 8, the norm of a discrete gradient."""

CACHED = 2**20
"""Features of so many pixels at once stay in the cache of a CPU: 2.5 times as fast, as measured on
30 kernels and ten images of 218x178."""

STENCIL_TAPS = 25
"""Kernels with more have a Jacobian of more diagonals than it has features."""

Kernels = Float[Array, "kernels rows columns"]
"""A bank of filters."""


class Normalised(NamedTuple):
    """The regulariser for images of one shape.

    Raises: ValueError, see `start` and `energy`.

    >>> R = regularizers.normalised.bank_of((1, 2))
    >>> params = R.start(jnp.array([[[3.0]]]), c=1.0, eps=1.0)  # c A / ||A|| is the identity
    >>> print(R.gradient(jnp.array([[0.0, 100.0]]), params))  # tanh u
    [[0. 1.]]
    """

    bank: Bank
    shape: tuple[int, int]
    boundary: Boundary = "zero"

    def gradient(self, u: Images, params: Params) -> Images:
        """N(u) of each image."""
        A, C = scaled(params)
        phi = params["phi"]

        def of_images(u: Images) -> Images:
            return self.bank.adjoint(C, phi.derivative(self.bank.apply(A, u)))

        return _some_at_a_time(of_images, len(A), u)

    def linearised(self, u: Images, params: Params) -> tuple[Images, Stencil | Factored]:
        """N(u) and its Jacobian in u: a stencil of small kernels and zeros beyond the border, else
        in its factors."""
        A, C = scaled(params)
        sigma, tied = params["phi"].derivative, "C" not in params
        small = self.boundary == "zero" and A[0].size <= STENCIL_TAPS

        def slopes(z: Array) -> tuple[Array, Array]:
            return jax.jvp(sigma, (z,), (jnp.ones_like(z),))

        def of_images(u: Images) -> tuple[Images, Stencil]:
            features, d = slopes(self.bank.apply(A, u))
            return self.bank.adjoint(C, features), assembled(A, None if tied else C, d)

        if small:
            return _some_at_a_time(of_images, len(A), u)
        features, d = slopes(self.bank.apply(A, u))
        return self.bank.adjoint(C, features), Factored(A, C, d, self.bank, tied)

    def energy(self, u: Images, params: Params) -> Float[Array, " batch"]:
        """R(u) of each image. Raises: ValueError if the regulariser is untied, as it has none."""
        require_tied(params)
        z = self.bank.apply(scaled(params)[0], u)
        return jnp.sum(params["phi"].value(z), axis=(0, 2, 3))

    def lipschitz(self, params: Params) -> Float[Array, ""]:
        """A Lipschitz constant of N: c^2 sup phi''."""
        return jnp.asarray(params["c"] ** 2 * params["phi"].lipschitz)

    def start(
        self,
        A: Kernels,
        C: Kernels | None = None,
        *,
        c: float = SCALE,
        eps: float = 0.01,
        iterations: int = 100,
    ) -> dict[str, Any]:
        """`params` with sigma(z) = tanh(z / eps); tied without C, which in [REB] starts as A.

        iterations: of the power iteration for the first norms.
        Raises: ValueError for kernels that are no floating numbers, not finite or all zero, for A
        and C of different shapes, and for c, eps or iterations out of range.
        """
        kernels = {"A": A} if C is None else {"A": A, "C": C}
        _check(kernels)
        checks.number("c", c, above=0)
        checks.whole("iterations", iterations, least=0)
        top = jax.random.normal(jax.random.key(0), (1, self.shape[0] * self.shape[1]), A.dtype)
        params = kernels | {f"top_{name}": top for name in kernels}
        params |= {"c": jnp.asarray(c, A.dtype), "phi": LogCosh(jnp.asarray(eps, A.dtype))}
        return self.refresh(params, iterations)

    def refresh(self, params: Params, iterations: int = 10) -> Params:
        """`params` with the norms of its kernels, by power iteration from where the last ended."""
        found = {}
        for name in ("A", "C") if "C" in params else ("A",):
            kernels = params[name]

            def power(_: Any, u: Images, kernels: Kernels = kernels) -> Images:
                v = self.bank.adjoint(kernels, self.bank.apply(kernels, u))
                return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

            top = jax.lax.fori_loop(0, iterations, power, params[f"top_{name}"])
            norm = jnp.linalg.norm(self.bank.apply(kernels, top)) / jnp.linalg.norm(top)
            found |= {f"top_{name}": top, f"norm_{name}": norm}
        return params | found


def bank_of(
    shape: tuple[int, int], boundary: Boundary = "zero", method: Method | None = None
) -> Normalised:
    """The functions for images of a shape; `method` and errors as in `convolutions.bank`.

    >>> R = regularizers.normalised.bank_of((1, 2))
    >>> print(R.lipschitz(R.start(jnp.array([[[3.0]]]), c=1.0, eps=0.5)))  # c^2 / eps
    2.0
    """
    return Normalised(bank(shape, boundary, method), shape, boundary)


def normalised(
    shape: tuple[int, int],
    *,
    tied: bool = True,
    kernels: tuple[int, int] = (30, 3),
    boundary: Boundary = "zero",
) -> Regularizer:
    """The regulariser of images of a shape.

    kernels: number, and height and width, of the random ones to start with, of which C is a copy;
    `bank_of(shape).start` starts with others.
    Raises: ValueError for fewer than one kernel or entry, and kernels larger than the images.

    >>> R = regularizers.normalised.normalised((1, 2), tied=False, kernels=(1, 1))
    >>> params = R.init(jax.random.key(0))
    >>> print(R.learned, bool(jnp.all(params["A"] == params["C"])))
    ('A', 'C') True
    """
    checks.switch("tied", tied)
    count, size = (checks.whole("kernels", n) for n in kernels)
    if size > min(shape):
        raise ValueError(
            f"kernels of {size}x{size} pixels are larger than the image of "
            f"{shape[0]}x{shape[1]}; take smaller ones"
        )
    own = bank_of(shape, boundary)

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        A = uniform(key, count, size, size)
        return own.start(A, None if tied else A)

    return Regularizer(
        shape,
        init,
        own.gradient,
        ("A",) if tied else ("A", "C"),
        energy=own.energy if tied else None,
        lipschitz=own.lipschitz,
        refresh=own.refresh,
        linearised=own.linearised,
    )


def _check(kernels: dict[str, Kernels]) -> None:
    """Raises: ValueError for kernels that cannot be normalised."""
    checks.alike(**kernels)
    for name, x in kernels.items():
        if x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{name}: {x.dtype} of shape {list(x.shape)}; expected floating numbers "
                "[kernels, rows, columns]"
            )
        if not checks.traced(checks.finite(name, x)) and not bool(jnp.any(x)):
            raise ValueError(f"{name}: every kernel is zero, and so is the norm that divides them")


def _some_at_a_time(function: Callable[[Images], Any], kernels: int, u: Images) -> Any:
    """The function of all images, by as many at once as the cache has room for."""
    together = max(1, CACHED // (kernels * u.shape[1]))
    if together >= len(u) or jax.default_backend() != "cpu":
        return function(u)
    together = max(d for d in range(1, together + 1) if len(u) % d == 0)
    found = jax.lax.map(function, u.reshape(-1, together, u.shape[1]))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def scaled(params: Params) -> tuple[Kernels, Kernels]:
    """c/||A|| A and c/||C|| C, the same where tied. Raises: ValueError for params without these.

    >>> params = {"A": jnp.array([[[3.0]]]), "c": 2.0, "norm_A": 3.0}
    >>> print(regularizers.normalised.scaled(params)[0].ravel())
    [2.]
    """
    checks.entries("params", params, ("A", "c", "norm_A"))
    norms = jax.lax.stop_gradient({k: params[k] for k in ("norm_A", "norm_C") if k in params})
    A = params["c"] / norms["norm_A"] * params["A"]
    return A, params["c"] / norms["norm_C"] * params["C"] if "C" in params else A


def first_differences(rows: int, columns: int) -> Float[Array, "kernels rows columns"]:
    """(-1, 1) from the centre to the right and downwards, in kernels of that size.

    >>> print(regularizers.normalised.first_differences(3, 3)[0])
    [[ 0.  0.  0.]
     [ 0. -1.  1.]
     [ 0.  0.  0.]]
    """
    return _centred(rows, columns, ((0, -1.0), (1, 1.0)))


def second_differences(rows: int, columns: int) -> Float[Array, "kernels rows columns"]:
    """(1, -2, 1) around the centre, across and down, in kernels of that size.

    >>> print(regularizers.normalised.second_differences(3, 3)[0])
    [[ 0.  0.  0.]
     [ 1. -2.  1.]
     [ 0.  0.  0.]]
    """
    return _centred(rows, columns, ((-1, 1.0), (0, -2.0), (1, 1.0)))


def _centred(
    rows: int, columns: int, taps: tuple[tuple[int, float], ...]
) -> Float[Array, "kernels rows columns"]:
    """Raises: ValueError for kernels below 3x3, which have no place for them."""
    if min(checks.whole("rows", rows), checks.whole("columns", columns)) < 3:
        raise ValueError(f"kernels of {rows}x{columns}: expected 3x3 or more for differences")
    kernels = jnp.zeros((2, rows, columns))
    for place, value in taps:
        kernels = kernels.at[0, rows // 2, columns // 2 + place].set(value)
        kernels = kernels.at[1, rows // 2 + place, columns // 2].set(value)
    return kernels


def uniform(key: PRNGKeyArray, count: int, rows: int, columns: int) -> Kernels:
    """Kernels with entries uniform on +-1/sqrt(rows columns), as in [REB]'s published settings.

    Raises: ValueError for a count below 1, and what is no key.

    >>> A = regularizers.normalised.uniform(jax.random.key(0), 30, 3, 3)
    >>> print(A.shape, bool(jnp.max(jnp.abs(A)) <= 1 / 3))
    (30, 3, 3) True
    """
    for name, n in (("count", count), ("rows", rows), ("columns", columns)):
        checks.whole(name, n)
    bound = (rows * columns) ** -0.5
    key = checks.key("key", key)
    return jax.random.uniform(key, (count, rows, columns), minval=-bound, maxval=bound)
