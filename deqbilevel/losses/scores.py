"""Image quality: how near reconstructions are to the true images, by image, `[batch, pixels]`.

All raise ValueError where shapes differ, where they are no images [batch, pixels], one or more, or
their numbers are not floating ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.losses.base import pair
from deqbilevel.types import Images

SSIM_WINDOW = 11
"""Height and width of the window of `ssim`, which pictures have to hold."""


def psnr(u: Images, truth: Images, *, data_range: float | None) -> Float[Array, " batch"]:
    """Peak signal-to-noise ratio of each image in dB, 10 log10(peak^2 / mean squared error).

    The peak is the width of the range of values, 2 for images in [-1, 1] and 1 for [0, 1], as
    `data.Images.peak` says it: with that of the other range, the number is 6.02 dB off. Or with
    None that of the true image, ||truth||_inf, as in [CF] (3.2):
    10 log10(N ||truth||_inf^2 / ||u - truth||^2).

    >>> u, truth = jnp.array([[0.0, 1.0]]), jnp.array([[0.1, 0.9]])
    >>> print(losses.psnr(u, truth, data_range=1.0))  # 10 log10(1 / 0.01)
    [20.]
    """
    pair(u, truth)
    if data_range is None:
        peak = jnp.max(jnp.abs(truth), axis=-1)
    else:
        peak = checks.number("data_range", data_range, above=0)
    return 10 * jnp.log10(peak**2 / jnp.mean((u - truth) ** 2, axis=-1))


def snr(u: Images, truth: Images) -> Float[Array, " batch"]:
    """Signal-to-noise ratio of each image in dB, 10 log10(||truth||^2 / ||u - truth||^2): [CF]
    (3.2).

    >>> u, truth = jnp.array([[3.0, 4.1]]), jnp.array([[3.0, 4.0]])
    >>> print(losses.snr(u, truth))  # 10 log10(25 / 0.01)
    [33.9794]
    """
    pair(u, truth)
    return 10 * jnp.log10(jnp.sum(truth**2, axis=-1) / jnp.sum((u - truth) ** 2, axis=-1))


def ssim(
    u: Images, truth: Images, shape: tuple[int, int], *, data_range: float
) -> Float[Array, " batch"]:
    """Structural similarity of each image of a shape, at most 1, by dm-pix.

    `data_range` is as for `psnr`. It compares means, of values as they are: images in [-1, 1] have
    another similarity than the same in [0, 1], for which it was defined.

    Raises: ValueError for pictures below its window of 11x11, of which it would be another number.

    >>> u = jax.random.uniform(jax.random.key(0), (1, 121))
    >>> print(losses.ssim(u, u, (11, 11), data_range=1.0))
    [1.]
    """
    if not has_ssim(shape):
        raise ValueError(
            f"pictures of {shape[0]}x{shape[1]}: expected {SSIM_WINDOW}x{SSIM_WINDOW} or more, the "
            "window of structural similarity; take larger pictures or another measure"
        )
    return _ssim(u, truth, shape, data_range)


def ssim_or_nan(
    u: Images, truth: Images, shape: tuple[int, int], *, data_range: float
) -> Float[Array, " batch"]:
    """`ssim`, for reports: not a number where the pictures are below its window.

    >>> print(losses.ssim_or_nan(jnp.ones((1, 4)), jnp.ones((1, 4)), (2, 2), data_range=1.0))
    [nan]
    """
    if has_ssim(shape):
        return _ssim(u, truth, shape, data_range)
    pair(u, truth)
    checks.rows("u", u, checks.pixels(shape))
    return jnp.full(len(u), jnp.nan, u.dtype)


def scores(
    u: Images, truth: Images, shape: tuple[int, int], peak: float
) -> dict[str, Float[Array, " batch"]]:
    """What reports say of each image: SNR and PSNR in dB, SSIM (`ssim_or_nan`).

    The peak is the `data_range` of `psnr` and `ssim`, as `data.Images.peak` says it.

    >>> u, truth = jnp.array([[3.0, 4.1]]), jnp.array([[3.0, 4.0]])
    >>> print(losses.scores(u, truth, (1, 2), peak=1.0)["snr_db"])
    [33.9794]
    """
    return {
        "snr_db": snr(u, truth),
        "psnr_db": psnr(u, truth, data_range=peak),
        "ssim": ssim_or_nan(u, truth, shape, data_range=peak),
    }


def mean_scores(
    u: Images, truth: Images, shape: tuple[int, int], peak: float
) -> dict[str, Float[Array, ""]]:
    """The means of `scores` over the images.

    >>> u, truth = jnp.array([[0.1], [0.01]]), jnp.zeros((2, 1))
    >>> print(losses.mean_scores(u, truth, (1, 1), peak=1.0)["psnr_db"])  # of 20 and 40
    30.0
    """
    return {name: jnp.mean(values) for name, values in scores(u, truth, shape, peak).items()}


def has_ssim(shape: tuple[int, int]) -> bool:
    """Whether pictures of a shape hold the window of `ssim`.

    >>> print(losses.has_ssim((11, 11)), losses.has_ssim((10, 20)))
    True False
    """
    checks.pixels(shape)
    return min(shape) >= SSIM_WINDOW


def _ssim(
    u: Images, truth: Images, shape: tuple[int, int], data_range: float
) -> Float[Array, " batch"]:
    pair(u, truth)
    checks.rows("u", u, checks.pixels(shape))
    checks.number("data_range", data_range, above=0)
    pictures = (x.reshape(-1, *shape, 1) for x in (u, truth))
    return _similarity(*pictures, data_range)


@jax.jit  # one program: its forty operations are forty otherwise
def _similarity(u: Array, truth: Array, data_range: Any) -> Array:
    import dm_pix

    return jnp.asarray(dm_pix.ssim(u, truth, max_val=data_range, filter_size=SSIM_WINDOW))


def quantised(u: Images) -> Images:
    """Images in [0, 1] clipped to it and rounded to the 256 grey values that a file holds.

    Raises: ValueError for numbers that are not floating ones.

    >>> u = losses.quantised(jnp.array([[-0.2, 0.1, 1.5]]))
    >>> print((255 * u).astype(int))  # 25.5 is rounded to an even number
    [[  0  26 255]]
    """
    return jnp.round(255 * jnp.clip(checks.floating("u", u), 0, 1)) / 255
