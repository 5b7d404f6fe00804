"""What an operator is, see `operators`, and what is found by iterations where it is not known."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, Inexact

from deqbilevel import checks
from deqbilevel.checks import number, whole
from deqbilevel.types import Params


@runtime_checkable
class Operator(Protocol):
    """A linear map from images to data; see `operators`.

    >>> K = operators.identity((2, 2))
    >>> print(isinstance(K, operators.Operator))
    True
    """

    def apply(self, u: Float[Array, "*batch pixels"]) -> Inexact[Array, "*batch data"]: ...

    def adjoint(self, v: Inexact[Array, "*batch data"]) -> Float[Array, "*batch pixels"]: ...


def of(K: Operator, params: Params) -> Operator:
    """The operator at `params`: their `K`, where the operator or a part of it is learned, else K.

    Raises: ValueError for a `K` of another kind of operator.

    >>> K = operators.Mask(jnp.array([1.0, 0.0]))
    >>> params = {"K": operators.Mask(jnp.array([1.0, 0.5]))}  # a mask that is learned
    >>> print(operators.of(K, params).mask, operators.of(K, {}).mask)
    [1.  0.5] [1. 0.]
    """
    learned = params.get("K", K)
    if type(learned) is not type(K):
        raise ValueError(
            f"params: K is a {type(learned).__name__}; expected a {type(K).__name__} as in the "
            "model, whose leaves alone are learned"
        )
    return learned


def norm(K: Any, pixels: int, *, iterations: int = 100) -> Float[Array, ""]:
    """||K||_2 or a bound on it: the operator's own, else by power iteration on K^T K.

    The latter is never above the true norm, and below it by less than a percent but for spectra
    whose largest values lie close together.
    Raises: ValueError for what is no operator, and for counts that are none.

    >>> K = operators.Matrix(jnp.array([[3.0, 0.0], [0.0, 4.0]]))
    >>> print(operators.norm(K, pixels=2))
    4.0
    """
    require("K", K)
    whole("pixels", pixels)
    whole("iterations", iterations, least=0)
    bound = known_bound(K)
    if bound is not None:
        return jnp.asarray(bound)

    def iterate(_: Any, u: Array) -> Array:
        v = K.adjoint(K.apply(u))
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    start = jax.random.normal(jax.random.key(0), (1, pixels))
    u = jax.lax.fori_loop(0, iterations, iterate, start / jnp.linalg.norm(start))
    return jnp.linalg.norm(K.apply(u))


def known_bound(K: Any) -> Any:
    """The operator's own bound; None where it has none."""
    return getattr(K, "bound", lambda: None)()


def require(name: str, K: Any) -> None:
    """Raises ValueError for what has no apply or no adjoint."""
    for method in ("apply", "adjoint"):
        checks.function(f"{name}.{method}", getattr(K, method, None))


def resolvent(
    K: Operator, z: Float[Array, "*batch pixels"], a: Any
) -> Float[Array, "*batch pixels"]:
    """(I + a K^T K)^{-1} z: the operator's own, else by conjugate gradients on each image.

    These take some sqrt(1 + a ||K||^2) iterations for each digit, to rounding. Derivatives in z, a
    and the leaves of K are again solutions of such a system, as exact.
    Raises: ValueError for a negative a.

    >>> K = operators.Matrix(jnp.array([[1.0, 0.0], [0.0, 3.0]]))
    >>> print(operators.resolvent(K, jnp.array([[4.0, 20.0]]), 1.0))  # z / (1 + a s^2), s = 1 and 3
    [[2. 2.]]
    """
    own = getattr(K, "resolvent", None)
    return _by_conjugate_gradients(K, z, a) if own is None else own(z, a)


def _by_conjugate_gradients(
    K: Operator, z: Float[Array, "*batch pixels"], a: Any
) -> Float[Array, "*batch pixels"]:
    a = jnp.asarray(number("a", a, least=0), z.dtype)

    def system(x: Array) -> Array:
        return x + a * K.adjoint(K.apply(x[None]))[0]

    def solve(z: Array) -> Array:
        return cg(system, z, tol=float(jnp.finfo(z.dtype).eps))[0]

    return jax.vmap(solve)(z.reshape(-1, z.shape[-1])).reshape(z.shape)


def sized(name: str, x: Any, pixels: int) -> Any:
    """Images of so many pixels; others may broadcast, or fill another number of images."""
    if np.shape(x)[-1:] != (pixels,):
        raise ValueError(f"{name} of shape {list(np.shape(x))}: expected images of {pixels} pixels")
    return x
