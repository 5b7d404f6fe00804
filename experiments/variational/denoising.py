"""The denoisers that are plugged in, each as D(x, params) with a `strength`.

tv       the proximal map of strength times total variation
ridge    the shipped ridge regulariser of a convex cost, for noise of that standard deviation
network  I - strength N, of a small network that is trained here to remove noise of --denoised;
         nonexpansive for a strength of at most 2, unless --no-normalise
bm3d     BM3D of the library `bm3d`, for noise of that standard deviation
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from deqbilevel import (
    contraction,
    losses,
    models,
    operators,
    recipes,
    regularizers,
    solvers,
    variational,
)
from deqbilevel.disk import archives, arrays
from deqbilevel.types import Images, Params
from deqbilevel.variational.plug_and_play import Denoiser
from experiments.variational import learning

DENOISERS = ("tv", "ridge", "network", "bm3d")
STRENGTHS = {"tv": (0.05,), "ridge": (0.05,), "network": (0.5, 1.0, 1.6), "bm3d": (0.02, 0.04)}
"""That are tried. A proximal map has one, as its strength over lam is all that counts."""
LAMS = {
    "tv": (3.0, 6.0, 12.0, 25.0, 50.0, 100.0),
    "ridge": (1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
    "network": (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0),
    "bm3d": (0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
}
CHANNELS, LAYERS, SIZE = 16, 4, 3
"""Of the network."""
PATCH, PATCHES, BATCH, RATE = 32, 400, 16, 3e-3
"""What it is trained on, and how."""
STORED: arrays.Schema = {"weights": arrays.Array(("parameters",))}
FILE = "states/plug-network.npz"


def check(names: tuple[str, ...], shape: tuple[int, int]) -> None:
    """Raises: ValueError for one whose library is not installed."""
    if "bm3d" in names:
        try:
            variational.bm3d(shape)
        except ImportError as error:
            raise ValueError(f"--denoisers bm3d: {error}, or leave it out") from error


def made(config: Any, name: str, shape: tuple[int, int], out: Path) -> Denoiser:
    """The denoiser of images of a shape; a network is trained where it was not yet."""
    if name == "tv":
        return _total_variation(shape)
    if name == "ridge":
        return _ridge(shape)
    if name == "bm3d":
        return variational.bm3d(shape)
    return _network(config, shape, out)


def epsilon(denoise: Denoiser, x: Images, params: Params) -> Float[Array, ""]:
    """The Lipschitz constant of D - I at x: the largest singular value of its Jacobian there."""

    def residual(u: Images, params: Params, f: Array) -> Images:
        return denoise(u, params) - u

    key = jax.random.key(0)
    return jnp.max(contraction.lipschitz(residual, params, x, x, key, iterations=30))


def _total_variation(shape: tuple[int, int]) -> Denoiser:
    problem = variational.Problem(operators.identity(shape), variational.total_variation(shape))
    solve = partial(variational.fista, tolerance=1e-5, max_iterations=300)

    def apply(x: Images, params: Params) -> Images:
        return solve(problem, (params["strength"],), x)[0].x

    return apply


def _ridge(shape: tuple[int, int]) -> Denoiser:
    learned = recipes.load("ridge")
    model = models.assemble(operators.Identity(), learned.model(shape).R)
    own, known = dict(learned.params), float(learned.params["noise"])
    own.pop("tau", None)
    solve = solvers.DESCENTS[model.descent](tolerance=1e-4, max_evaluations=50)

    def apply(x: Images, params: Params) -> Images:
        lam = own["lam"] * (known / params["strength"]) ** 2
        return model.reconstruct(solve, own | {"lam": lam}, x)[0]

    return apply


def _network(config: Any, shape: tuple[int, int], out: Path) -> Denoiser:
    options: dict[str, Any] = {"channels": CHANNELS, "layers": LAYERS, "size": SIZE}
    options["normalised"] = config.normalise
    small = regularizers.networks.denoiser((PATCH, PATCH), **options)
    start = jax.jit(small.init)(jax.random.key(config.seed))
    flat, unravel = ravel_pytree(start["network"])
    if (out / FILE).exists():
        flat = jnp.asarray(archives.read_arrays(out / FILE, STORED)["weights"])
    else:
        flat, _ = ravel_pytree(_trained(config, small, start)["network"])
        archives.write_arrays(out / FILE, {"weights": np.asarray(flat)})
    R = regularizers.networks.denoiser(shape, **options)
    own = jax.jit(R.refresh)({"network": unravel(flat)})

    def apply(x: Images, params: Params) -> Images:
        return x - params["strength"] * R.gradient(x, own)

    return apply


def _trained(config: Any, R: Any, params: Params) -> Params:
    """To remove noise of --denoised from patches of photographs."""
    loaded = learning.patches_of(config, PATCH, PATCHES, 1)
    steps = config.network_steps
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, max(1, steps)))

    @jax.jit
    def step(k: Any, params: Params, state: Any, train: Images) -> tuple[Params, Any]:
        draw, noise = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), k))
        truth = train[jax.random.choice(draw, len(train), (BATCH,))]
        x = truth + config.denoised * jax.random.normal(noise, truth.shape)

        def error(network: Any) -> Array:
            u = x - R.gradient(x, params | {"network": network})
            return losses.mean_squared_error(u, truth)

        updates, state = optimiser.update(jax.grad(error)(params["network"]), state)
        network = optax.apply_updates(params["network"], updates)
        return R.refresh(params | {"network": network}), state

    state, train = optimiser.init(params["network"]), jnp.asarray(loaded.train)
    for k in range(steps):
        params, state = step(k, params, state, train)
    return params
