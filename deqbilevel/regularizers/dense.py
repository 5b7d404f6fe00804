"""The dense analysis regulariser of [REB] 3.2, one matrix pair,

    N(u) = C^T sigma(A u + b),    sigma = phi'    (19)

Tied (C = A) it is the gradient (21) of R(u) = 1' phi(A u + b), the Moreau-Yosida energy (20)
composed with an affine map, and gives bilevel learning (14); untied it is not a gradient in
general, and gives a DEQ (18).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks, potentials
from deqbilevel.checks import Registry
from deqbilevel.regularizers.base import Regularizer, require_tied
from deqbilevel.types import Params

ACTIVATIONS: Registry[Callable[[float], potentials.PiecewiseQuadratic]] = Registry(
    "activation",
    {
        "identity": lambda threshold: potentials.identity(),
        "relu": lambda threshold: potentials.relu(),
        "softshrink": potentials.softshrink,
        "clipping": potentials.clipping,
    },
)
"""The activations of [REB] 3.2, built for a threshold (the study takes tau for it)."""


def dense(
    shape: tuple[int, int],
    *,
    tied: bool = True,
    features: int | None = None,
    activation: Literal["identity", "relu", "softshrink", "clipping"] | None = "identity",
    threshold: float = 0.1,
) -> Regularizer:
    """The regulariser of images of a shape.

    features: the number of rows of A; None: as many as pixels, as in the paper. activation: sigma,
    which bends at the threshold; None: it comes with the hyperparameters.
    Raises: ValueError for a shape without pixels, fewer than one feature, an unknown activation and
    a negative threshold.

    >>> R, u = regularizers.dense.dense((1, 2), activation="relu"), jnp.array([[-1.0, 3.0]])
    >>> params = R.init(jax.random.key(0)) | {"A": jnp.eye(2), "b": jnp.zeros(2)}
    >>> print(R.gradient(u, params), R.energy(u, params))  # max(u, 0) and half its square
    [[0. 3.]] [4.5]
    """
    pixels = checks.pixels(shape)
    if features is not None:
        checks.whole("features", features)
    checks.switch("tied", tied)
    start = partial(init, pixels=pixels, tied=tied, features=features)
    if activation is not None:
        phi = ACTIVATIONS[activation](checks.number("threshold", threshold, least=0))
        start = partial(_with, start, phi)
    return Regularizer(
        shape,
        start,
        gradient,
        ("A", "b") if tied else ("A", "b", "C"),
        energy=energy if tied else None,
        lipschitz=lipschitz,
        matrix=matrix,
        jacobian=jacobian,
    )


def _with(
    weights: Callable[[PRNGKeyArray], dict[str, Any]], phi: Any, key: PRNGKeyArray
) -> dict[str, Any]:
    return weights(key) | {"phi": jax.tree.map(partial(jnp.asarray, dtype=float), phi)}


def init(
    key: PRNGKeyArray, pixels: int, *, tied: bool, features: int | None = None
) -> dict[str, Array]:
    """A: [features, pixels], b: [features] and, if untied, C: [features, pixels].

    Every entry is uniform on (-1/sqrt(pixels), 1/sqrt(pixels)), A and C drawn independently, as
    in [REB]'s published settings; the same key gives tied and untied regularisers the same A, b.
    Raises: ValueError for fewer than one pixel or feature, and what is no key.

    >>> weights = regularizers.dense.init(jax.random.key(0), pixels=4, tied=False, features=3)
    >>> print({name: x.shape for name, x in weights.items()})
    {'A': (3, 4), 'b': (3,), 'C': (3, 4)}
    """
    key = checks.key("key", key)
    checks.whole("pixels", pixels)
    checks.switch("tied", tied)
    features = pixels if features is None else checks.whole("features", features)
    keys = jax.random.split(key, 3)
    bound = pixels**-0.5

    def uniform(key: PRNGKeyArray, *shape: int) -> Array:
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    weights = {"A": uniform(keys[0], features, pixels), "b": uniform(keys[1], features)}
    return weights if tied else weights | {"C": uniform(keys[2], features, pixels)}


def gradient(u: Float[Array, "batch pixels"], params: Params) -> Float[Array, "batch pixels"]:
    """C^T sigma(A u + b), with C = A where `params` holds no C: (19), and (21) without C.

    Raises: ValueError for params without A, b or phi, or of images of another size.

    >>> params = {"A": jnp.array([[1.0, -1.0]]), "b": jnp.zeros(1), "phi": potentials.identity()}
    >>> print(regularizers.dense.gradient(jnp.array([[5.0, 2.0]]), params))  # A^T 3
    [[ 3. -3.]]
    """
    features = _analysed(u, params)
    return params["phi"].derivative(features) @ params.get("C", params["A"])


def energy(u: Float[Array, "batch pixels"], params: Params) -> Float[Array, " batch"]:
    """R(u) = 1' phi(A u + b) of each image. (20)

    Raises: ValueError if the regulariser is untied, because it then has no energy.

    >>> params = {"A": jnp.array([[1.0, -1.0]]), "b": jnp.zeros(1), "phi": potentials.identity()}
    >>> print(regularizers.dense.energy(jnp.array([[5.0, 2.0]]), params))  # 3^2 / 2
    [4.5]
    """
    require_tied(params)
    features = _analysed(u, params)
    return jnp.sum(params["phi"].value(features), axis=-1)


def lipschitz(params: Params) -> Float[Array, ""]:
    """||C|| sup phi'' ||A||, a Lipschitz constant of N.

    Raises: ValueError for params without A or phi.

    >>> params = {"A": jnp.array([[3.0, 4.0]]), "phi": potentials.identity()}
    >>> print(regularizers.dense.lipschitz(params))  # 5^2
    25.0
    """
    checks.entries("params", params, ("A", "phi"))
    A = jnp.linalg.norm(params["A"], 2)
    C = jnp.linalg.norm(params["C"], 2) if "C" in params else A
    return A * C * params["phi"].lipschitz


def matrix(params: Params) -> Float[Array, "pixels pixels"]:
    """1/2 C^T A: N' where half of the features are active, as they are for ReLU at the start.

    Raises: ValueError for params without A.

    >>> print(regularizers.dense.matrix({"A": jnp.array([[1.0, -1.0]])}))
    [[ 0.5 -0.5]
     [-0.5  0.5]]
    """
    checks.entries("params", params, ("A",))
    return params.get("C", params["A"]).T @ params["A"] / 2


def jacobian(params: Params) -> Float[Array, "pixels pixels"]:
    """s C^T A: N' of the identity activation, sigma(z) = s z, for all images.

    Raises: ValueError for another activation, by name, unless its numbers are traced, and for
    params without A or phi.

    >>> params = {"A": jnp.array([[1.0, -1.0]]), "phi": potentials.identity()}
    >>> print(regularizers.dense.jacobian(params))
    [[ 1. -1.]
     [-1.  1.]]
    """
    checks.entries("params", params, ("A", "phi"))
    phi = params["phi"]
    slope, *bends = _slopes(phi)
    if None in bends or (not checks.traced(bends) and any(np.asarray(x).any() for x in bends)):
        known = (
            n for n, f in ACTIVATIONS.items() if np.array_equal(_slopes(f(1.0)), (slope, *bends))
        )
        raise ValueError(
            f"activation {next(known, type(phi).__name__)}: N is not affine; expected identity, or "
            "take a solver such as anderson"
        )
    return slope * params.get("C", params["A"]).T @ params["A"]


def _slopes(phi: Any) -> tuple[Any, ...]:
    """That of sigma in the middle, and by how much it changes above and below; None of others."""
    if isinstance(phi, potentials.Quadratic):
        return phi.s, 0.0, 0.0
    return tuple(getattr(phi, name, None) for name in ("s", "p", "q"))


def _analysed(u: Float[Array, "batch pixels"], params: Params) -> Float[Array, "batch features"]:
    """A u + b. Raises: ValueError for params without these, or of images of another size."""
    checks.entries("params", params, ("A", "b", "phi"))
    A, b = params["A"], params["b"]
    if A.shape[-1:] != u.shape[-1:] or b.shape != A.shape[:1]:
        raise ValueError(
            f"A {list(A.shape)} and b {list(b.shape)}: expected [features, {u.shape[-1]}] and "
            f"[features] for u {list(u.shape)}"
        )
    # Not u @ A.T, of which XLA keeps a transposed copy of A in every step.
    return jax.lax.dot_general(u, A, (((u.ndim - 1,), (1,)), ((), ()))) + b
