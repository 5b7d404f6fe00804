"""Denoisers of other libraries for plug-and-play, [CF] (7.4): without a derivative."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from deqbilevel import checks
from deqbilevel.types import Images, Params
from deqbilevel.variational.plug_and_play import Denoiser


def outside(denoise: Callable[[np.ndarray, float], Any], shape: tuple[int, int]) -> Denoiser:
    """D(x, params) by `denoise(image, strength)` of one image [height, width] in NumPy.

    strength: `params["strength"]`, mostly the standard deviation of the noise. It is called on the
    host for one image after the other, under jit and vmap too. What is learned beside it is learned
    without derivatives, by `search` or by `hypergradients.METHODS["finite_differences"]`.

    Raises: ValueError for images of another size, where `denoise` returns another shape, and where
    a derivative is taken.

    >>> def halved(image, strength):
    ...     return image / 2
    >>> D = variational.outside(halved, (1, 2))
    >>> print(D(jnp.array([[2.0, 4.0]]), {"strength": 0.1}))
    [[1. 2.]]
    """
    checks.function("denoise", denoise)
    pixels, name = checks.pixels(shape), getattr(denoise, "__name__", "denoise")

    def image(x: Any, strength: Any) -> np.ndarray:
        found = np.asarray(denoise(np.asarray(x).reshape(shape), float(strength)))
        if found.shape != tuple(shape):
            raise ValueError(f"{name}: returns {found.shape} for an image of {tuple(shape)}")
        return found.reshape(-1).astype(x.dtype)

    @jax.custom_jvp
    def one(x: Any, strength: Any) -> Any:
        form = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(image, form, x, strength, vmap_method="sequential")

    @one.defjvp
    def derivative(*_: Any) -> Any:
        raise ValueError(
            f"{name}: runs outside of JAX and has no derivative; take finite_differences, a search "
            "without gradients, or a denoiser in JAX"
        )

    def apply(x: Images, params: Params) -> Images:
        checks.entries("params", params, ("strength",))
        checks.rows("x", x, pixels)
        return jax.vmap(one, (0, None))(x, params["strength"])

    return apply


def bm3d(shape: tuple[int, int], **options: Any) -> Denoiser:
    """Block matching and 3-D filtering of the library `bm3d` (Dabov et al. 2007; Makinen et al.
    2020), which may be used for research alone; options are those of `bm3d.bm3d`.

    Raises: ImportError where it is not installed, saying how it is; else as `outside`.
    """
    library = checks.needed("bm3d", "denoiser 'bm3d'", "bm3d")

    def bm3d(image: np.ndarray, strength: float) -> Any:
        return library.bm3d(image, strength, **options)

    return outside(bm3d, shape)
