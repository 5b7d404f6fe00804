"""Structural similarity as a loss, at one scale or at several."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.losses.base import Supervised, pair
from deqbilevel.losses.scores import SSIM_WINDOW, has_ssim, ssim
from deqbilevel.types import Images

SIGMA = 1.5
"""Standard deviation in pixels of the window's weights."""

K1, K2 = 0.01, 0.03
"""The constants that keep the quotients finite, as parts of the range of values."""

POWERS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, the finest first: Wang, Simoncelli, Bovik (2003)."""


def structural_dissimilarity(shape: tuple[int, int], *, peak: float = 1.0) -> Supervised:
    """1 - SSIM, in the mean over the images, [CF] 3.1.

    peak: the range of values, as for `ssim`.
    Raises: ValueError for images below the window, see `ssim`.

    >>> loss = losses.structural_dissimilarity((11, 11), peak=1.0)
    >>> u = jax.random.uniform(jax.random.key(0), (1, 121))
    >>> print(loss(u, u))
    0.0
    """
    _holds(shape)
    checks.number("peak", peak, above=0)
    return lambda u, truth: 1 - jnp.mean(ssim(u, truth, shape, data_range=peak))


def multiscale_dissimilarity(
    shape: tuple[int, int], *, peak: float = 1.0, scales: int | None = None
) -> Supervised:
    """1 - MS-SSIM, in the mean over the images, [CF] 3.1: Wang, Simoncelli, Bovik (2003).

        MS-SSIM = (mean l_M cs_M)^{p_M} prod_{j < M} (mean cs_j)^{p_j}

    with luminance l, and contrast and structure cs, at M scales, each half as fine as the one
    before by means of 2 x 2 pixels, and the published powers p, scaled to sum to 1 where there are
    fewer scales than five.

    scales: None: as many of five as the images hold windows of 11 x 11 pixels. A negative cs, of
    structures that are opposite, counts as 0, with the derivative 0: its power is no number.
    Raises: ValueError for more scales than that.

    >>> u = jax.random.uniform(jax.random.key(0), (1, 24 * 24))
    >>> print(losses.multiscale_dissimilarity((24, 24), scales=2)(u, u))
    0.0
    """
    checks.pixels(shape)
    checks.number("peak", peak, above=0)
    most = sum(min(shape) >> j >= SSIM_WINDOW for j in range(len(POWERS)))
    if not most or (scales is not None and not 1 <= checks.whole("scales", scales) <= most):
        raise ValueError(
            f"scales={scales} of {shape[0]}x{shape[1]} pixels: these hold {most} with a window of "
            f"{SSIM_WINDOW}x{SSIM_WINDOW}; take larger images or fewer scales"
        )
    powers = np.array(POWERS[: scales or most])
    powers = powers / powers.sum()

    def loss(u: Images, truth: Images) -> Float[Array, ""]:
        pair(u, truth)
        x, y = (checks.rows("u", v, checks.pixels(shape)).reshape(-1, *shape) for v in (u, truth))
        product = jnp.ones(len(u), u.dtype)
        for scale, power in enumerate(powers):
            luminance, structure = compared(x, y, peak)
            seen = structure if scale < len(powers) - 1 else luminance * structure
            product = product * _power(jnp.mean(seen, axis=(1, 2)), power)
            x, y = _halved(x), _halved(y)
        return 1 - jnp.mean(product)

    return loss


def compared(
    x: Float[Array, "batch height width"], y: Float[Array, "batch height width"], peak: float
) -> tuple[Float[Array, "batch rows columns"], Float[Array, "batch rows columns"]]:
    """Luminance, and contrast with structure, in every window that lies inside the images:

        l = (2 m_x m_y + c_1) / (m_x^2 + m_y^2 + c_1),  cs = (2 s_xy + c_2) / (s_x^2 + s_y^2 + c_2)

    with means m, variances s^2 and covariance s_xy weighted by a Gaussian, c_i = (K_i peak)^2.
    """
    place = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (place / SIGMA) ** 2)
    weights = jnp.asarray(weights / weights.sum(), x.dtype)

    def mean(v: Array) -> Array:
        for window in (weights[:, None], weights[None]):
            v = jax.lax.conv(v[:, None], window[None, None], (1, 1), "VALID")[:, 0]
        return v

    m_x, m_y = mean(x), mean(y)
    c_1, c_2 = ((k * peak) ** 2 for k in (K1, K2))
    s_xx, s_yy, s_xy = mean(x * x) - m_x**2, mean(y * y) - m_y**2, mean(x * y) - m_x * m_y
    luminance = (2 * m_x * m_y + c_1) / (m_x**2 + m_y**2 + c_1)
    return luminance, (2 * s_xy + c_2) / (s_xx + s_yy + c_2)


def _power(x: Float[Array, " batch"], power: float) -> Float[Array, " batch"]:
    """x^power, and 0 with the derivative 0 where x is not above 0."""
    above = x > 0
    return jnp.where(above, jnp.where(above, x, 1.0) ** power, 0.0)


def _halved(x: Float[Array, "batch height width"]) -> Float[Array, "batch rows columns"]:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    blocks = x[:, : 2 * rows, : 2 * columns].reshape(-1, rows, 2, columns, 2)
    return jnp.mean(blocks, axis=(2, 4))


def _holds(shape: tuple[int, int]) -> None:
    if not has_ssim(shape):
        raise ValueError(
            f"pictures of {shape[0]}x{shape[1]}: expected {SSIM_WINDOW}x{SSIM_WINDOW} or more, the "
            "window of structural similarity; take larger pictures or another loss"
        )
