"""Upper-level losses and image quality, on images `[batch, pixels]` with values in [-1, 1]."""

from collections.abc import Callable

import dm_pix
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel.checks import Registry
from deqbilevel.types import Images

Loss = Callable[[Images, Images], Float[Array, ""]]


def mean_squared_error(u: Images, truth: Images) -> Float[Array, ""]:
    """1/(batch pixels) ||u - truth||^2, the upper-level loss of [REB] 4."""
    return jnp.mean((u - truth) ** 2)


def psnr(u: Images, truth: Images, data_range: float = 2.0) -> Float[Array, " batch"]:
    """Peak signal-to-noise ratio of each image in dB, 10 log10(range^2 / mean squared error).

    The range of images in [-1, 1] is 2.
    """
    return 10 * jnp.log10(data_range**2 / jnp.mean((u - truth) ** 2, axis=-1))


def snr(u: Images, truth: Images) -> Float[Array, " batch"]:
    """Signal-to-noise ratio of each image in dB, 10 log10(||truth||^2 / ||u - truth||^2): [CF]
    (3.2)."""
    return 10 * jnp.log10(jnp.sum(truth**2, axis=-1) / jnp.sum((u - truth) ** 2, axis=-1))


def ssim(
    u: Images, truth: Images, shape: tuple[int, int], data_range: float = 2.0
) -> Float[Array, " batch"]:
    """Structural similarity of each image of a shape, at most 1, by dm-pix."""
    pictures = (x.reshape(-1, *shape, 1) for x in (u, truth))
    return jnp.asarray(dm_pix.ssim(*pictures, max_val=data_range))


def quantised(u: Images) -> Images:
    """Images in [0, 1] clipped to it and rounded to the 256 grey values that a file holds."""
    return jnp.round(255 * jnp.clip(u, 0, 1)) / 255


LOSSES: Registry[Loss] = Registry(
    "loss",
    {
        "mean_squared_error": mean_squared_error,
    },
)
"""Every upper-level loss. The shared property tests walk this table."""
