"""Builders and references that several test modules share."""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
from jax.experimental import io_callback

from deqbilevel import learning, losses, models, operators, potentials, regularizers
from deqbilevel.regularizers import convolutional
from deqbilevel.settings import SETTINGS, Budget

SHAPE = (6, 6)
PIXELS = SHAPE[0] * SHAPE[1]


def float64(test: Callable) -> Callable:
    """The test, run in double precision.

    For all threads, unlike `jax.enable_x64`: a callback may run on another one.
    """

    @functools.wraps(test)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        jax.config.update("jax_enable_x64", True)
        try:
            return test(*args, **kwargs)
        finally:
            jax.config.update("jax_enable_x64", False)

    return wrapped


@contextlib.contextmanager
def untyped() -> Iterator[None]:
    """Without the check of types and shapes that the tests have, and users have not."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


class WrongAdjoint(NamedTuple):
    """A forward difference along the rows of pixels, with itself for its adjoint."""

    def apply(self, u: jax.Array) -> jax.Array:
        return jnp.roll(u, 1, -1) - u

    adjoint = apply

    def resolvent(self, z: jax.Array, a: Any) -> jax.Array:
        return z


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers in the default precision."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def default_precision(tree: Any) -> Any:
    """Every leaf as an array in the default precision, complex ones as complex ones."""
    return jax.tree.map(lambda x: jnp.asarray(x, complex if jnp.iscomplexobj(x) else float), tree)


def complex_matrix(shape: tuple[int, int]) -> operators.Matrix:
    """An operator whose data is complex, and of another size than its images."""
    rows, pixels = shape[0] * shape[1] // 2 + 1, shape[0] * shape[1]
    rng = np.random.default_rng(5)
    parts = rng.standard_normal((2, rows, pixels)) / rows**0.5
    return operators.Matrix(jnp.asarray(parts[0] + 1j * parts[1]))


def stored_matrix(shape: tuple[int, int]) -> operators.Matrix:
    """A matrix that was read from a file."""
    pixels = shape[0] * shape[1]
    M = np.random.default_rng(6).standard_normal((pixels // 2, pixels)) / pixels**0.5
    with tempfile.TemporaryDirectory() as folder:
        np.save(file := f"{folder}/K.npy", M)
        return operators.matrix(shape, file)


def blurred(shape: tuple[int, int]) -> operators.Operator:
    """A blur of which some pixels are seen."""
    return operators.compose(operators.pixel_mask(shape), operators.diagonal_blur(shape, 3))


ALL_OPERATORS: dict[str, Callable[..., operators.Operator]] = {
    **operators.OPERATORS,
    "matrix": stored_matrix,
    "gaussian_blur": functools.partial(operators.gaussian_blur, sigma=0.6),
    "downsampling": functools.partial(operators.downsampling, factor=3),
    "parallel_beam": functools.partial(operators.parallel_beam, angles=7),
    "coils": functools.partial(operators.fourier, rate=0.5, coils=2),
    "complex_coils": functools.partial(operators.fourier, rate=0.5, coils=2, complex_images=True),
    "stack": lambda shape: operators.stack(shape, operators.identity(shape), blurred(shape)),
    "complex_matrix": complex_matrix,
}
"""Every operator of the table, on images of 6 x 6 pixels and more, and others that are no entry."""

KINDS = {
    name: ALL_OPERATORS[name]
    for name in ("identity", "row_mask", "diagonal_blur", "diagonal_blur_zero", "stack", "coils")
}
"""Of them what differs above: K = I, the resolvent in closed form or by iterations, data of another
size, complex data."""


def dense(apply: Callable[[jax.Array], jax.Array], pixels: int) -> np.ndarray:
    """The matrix of a linear map on rows: apply(u) = u @ matrix.T."""
    return np.asarray(apply(jnp.eye(pixels))).T


def affine(n: int = 8, batch: int = 3, *, symmetric: bool, radius: float = 0.7) -> Any:
    """J, c with ||J|| = radius, for u -> u @ J.T + c."""
    J = np.random.default_rng(0).standard_normal((n, n))
    J = J + J.T if symmetric else J
    return jnp.asarray(radius * J / np.linalg.norm(J, 2)), normal(1, batch, n)


def recorded(G: Callable[[jax.Array], jax.Array]) -> tuple[Callable, list[np.ndarray]]:
    """G, and the list of the inputs that it is evaluated at while it runs compiled."""
    inputs: list[np.ndarray] = []

    def record(u: jax.Array) -> None:
        inputs.append(np.asarray(u))

    def watched(u: jax.Array) -> jax.Array:
        io_callback(record, None, u, ordered=True)
        return G(u)

    return watched, inputs


def residual(new: Any, old: Any) -> float:
    """The relative residual of `types.Info`, written again."""
    new, old = np.asarray(new), np.asarray(old)
    return float(np.linalg.norm(new - old) / (1e-5 + np.linalg.norm(new)))


def model_params(model: models.Model, phi: Any = None, **scalars: float) -> dict[str, Any]:
    """Params of a strongly monotone model, whose fixed point is unique, in the default precision,
    with a step size for the norm of its K.

    An untied C is near A; a preconditioner is always there, and only its own map reads it.
    """
    weights = model.init(jax.random.key(1))
    if "C" in weights:
        weights["C"] = weights["A"] + 0.2 * weights["C"]
    phi = potentials.CornerRounded(0.5) if phi is None else phi
    tau = 0.6 / max(1.0, float(operators.norm(model.K, PIXELS)) ** 2)
    params = default_precision(
        {"tau": tau, "gamma": 0.9, "lam": 1.3, "phi": phi, **scalars} | weights
    )
    return params | {"inverse": models.inverse(model.K, model.R, params)}


def small_model(operator: str, name: str, step: Any = None) -> models.Model:
    """A model on 6x6 images with a named operator, tied or untied by its name."""
    K = ALL_OPERATORS[operator](SHAPE)
    options = {} if step is None else {"step": step}
    R = regularizers.dense.dense(SHAPE, tied=models.MODELS[name], activation=None)
    return models.assemble(K, R, start=zeros, **options)


def measurements(K: operators.Operator, seed: int, batch: int = 2) -> jax.Array:
    """Standard normal data of images of `SHAPE`, complex where that of K is."""
    data = jax.eval_shape(K.apply, jax.ShapeDtypeStruct((batch, PIXELS), float))
    f = normal(seed, *data.shape)
    if not jnp.issubdtype(data.dtype, jnp.complexfloating):
        return f
    return f + 1j * normal(seed + 100, *data.shape)


FILTERED = (6, 7)
"""The shape of the images that filters are learned on."""


def filter_model(phi: Any, K: Any = None, shape: tuple[int, int] = FILTERED) -> Any:
    """A small model of three filters, its params, true images and measurements in the default
    precision; blurred unless K says otherwise."""
    K = default_precision(operators.diagonal_blur(shape, 3) if K is None else K)
    c, beta = 0.5 * normal(0, 3, 3, 2), np.array([-0.5, 0.0, 0.3])
    p = convolutional.init(c, beta_0=-2.0, beta=beta, phi=phi)
    model = models.assemble(K, convolutional.bank_of(shape).regularizer(lambda key: p))
    truth = normal(1, 2, shape[0] * shape[1])
    f = K.apply(truth) + 0.1 * normal(2, 2, shape[0] * shape[1])
    return model, p | {"lam": jnp.ones(()), "gamma": jnp.ones(())}, truth, f


def filter_learner(
    *of: models.Model,
    learned: tuple[str, ...] = ("filters", "beta"),
    optimiser: Any = None,
    forward: Any = 50,
    adjoint: Any = 1000,
    **setting: Any,
) -> learning.Learner:
    """Learning filters by 1/2 ||u - truth||^2 with lower levels that go on warm, as in [CF] D."""
    budget = Budget(forward, adjoint)
    options = {
        "forward_tolerance": 0.0,
        "adjoint_tolerance": 1e-5,
        "budget": budget,
        "limit": budget,
        "solver": "optimized_gradient",
        "hypergradient": "minimiser",
        "warm": True,
    }
    return learning.Learner(
        of,
        SETTINGS["paper"]._replace(**options | setting),
        learning.fixed(optax.adam(1e-2)) if optimiser is None else optimiser,
        learned,
        losses.half_squared_error,
    )


def zeros(f: jax.Array) -> jax.Array:
    """Images of `SHAPE`, black, for measurements f."""
    return jnp.zeros((len(f), PIXELS), jnp.finfo(f.dtype).dtype)
