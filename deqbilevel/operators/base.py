"""What an operator is, see `operators`, and what is found by iterations where it is not known."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, Inexact

from deqbilevel import checks
from deqbilevel.checks import number, whole
from deqbilevel.types import Params

Pullback = tuple[Inexact[Array, "*batch data"], Callable[[Array], Float[Array, "*batch pixels"]]]
"""K(u), and v -> K'(u)^T v."""


@runtime_checkable
class Operator(Protocol):
    """A map from images to data, linear unless it has a `pullback`; see `operators`.

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


def linear(K: Any) -> bool:
    """Whether an operator is linear: it has no `pullback`.

    >>> print([operators.linear(K((1, 4))) for K in (operators.elliptic, operators.diffusion)])
    [True, False]
    """
    return not hasattr(K, "pullback")


def pullback(K: Operator, u: Float[Array, "*batch pixels"]) -> Pullback:
    """K(u), and v -> K'(u)^T v: the adjoint where K is linear, else its own `pullback`.

    >>> v, back = operators.pullback(operators.Matrix(jnp.array([[1.0, 2.0]])), jnp.ones((1, 2)))
    >>> print(v, back(v))
    [[3.]] [[3. 6.]]
    """
    own = getattr(K, "pullback", None)
    return (K.apply(u), K.adjoint) if own is None else own(u)


def derivative(K: Operator, u: Float[Array, "*batch pixels"]) -> Inexact[Array, "*batch data"]:
    """K'(0) u, which is K u where K is linear.

    >>> print(operators.derivative(operators.Identity(), jnp.ones((1, 2))))
    [[1. 1.]]
    """
    return K.apply(u) if linear(K) else jax.jvp(K.apply, (jnp.zeros_like(u),), (u,))[1]


def norm(K: Any, pixels: int, *, iterations: int = 100) -> Float[Array, ""]:
    """||K||_2 or a bound on it: the operator's own, else by power iteration on K^T K.

    The latter is never above the true norm, and below it by less than a percent but for spectra
    whose largest values lie close together. Where K is not linear it is that of K'(0).
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
        v = K.adjoint(derivative(K, u))
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    start = jax.random.normal(jax.random.key(0), (1, pixels))
    u = jax.lax.fori_loop(0, iterations, iterate, start / jnp.linalg.norm(start))
    return jnp.linalg.norm(derivative(K, u))


def known_bound(K: Any) -> Any:
    """The operator's own bound; None where it has none."""
    return getattr(K, "bound", lambda: None)()


def require(name: str, K: Any) -> None:
    """Raises ValueError for what has no apply or no adjoint."""
    for method in ("apply", "adjoint"):
        checks.function(f"{name}.{method}", getattr(K, method, None))


def require_linear(what: str, K: Any) -> None:
    """Raises ValueError for an operator that is not linear, where what is done needs one that is.

    >>> operators.base.require_linear("K^T K", operators.Identity())  # no error
    """
    if not linear(K):
        raise ValueError(
            f"{what}: {type(K).__name__} is not linear; expected a linear operator, or take "
            "gradient_step"
        )


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
