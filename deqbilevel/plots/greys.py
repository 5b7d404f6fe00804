"""Grey pictures: with PSNR and SSIM below, the map of their errors, and what their greys mean."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.image import AxesImage

from deqbilevel import losses
from deqbilevel.plots.base import note

Pictures = Float[np.ndarray, "pictures pixels"]

BELOW = "Below pictures: PSNR in dB | SSIM."
ERRORS = "magma"
"""Colours of errors."""


def show(
    axes: Axes,
    picture: Float[np.ndarray, "height width"],
    grey: tuple[float, float],
    below: str = "",
    **how: Any,
) -> AxesImage:
    """One picture from black to white at the ends of `grey`; "none" where it is not finite."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if below:
        axes.set_xlabel(below, labelpad=2)
    if not np.isfinite(picture).all():
        axes.set_facecolor("0.93")
        note(axes, "none")
        picture = np.full_like(picture, np.nan)
    return axes.imshow(picture, vmin=grey[0], vmax=grey[1], **how)


def blank(axes: Axes) -> None:
    """Nothing there."""
    axes.set_axis_off()


def bar(figure: FigureBase, image: AxesImage, axes: Iterable[Axes], label: str, **how: Any) -> None:
    """The bar that says what the colours of a row are."""
    low, high = image.get_clim()
    options = {"shrink": 0.9, "aspect": 12, "pad": 0.01, "ticks": [low, (low + high) / 2, high]}
    found = figure.colorbar(image, ax=list(axes), **options | how)
    found.set_label(label)
    found.ax.tick_params(length=2)
    found.outline.set_visible(False)
    formatted = [f"{x:.2g}" for x in (low, (low + high) / 2, high)]
    found.set_ticklabels(formatted)


def error_scale(errors: Iterable[Float[np.ndarray, "..."]]) -> float:
    """Where the colours of several maps of errors end: the least of their 99th percentiles, so that
    the best of them can be seen; what is above is drawn as that. Of few pixels that are wrong the
    largest error, and maps without any do not count."""
    finite = [error[np.isfinite(error)] for error in errors]
    ends = [float(np.quantile(x, 0.99)) or float(x.max()) for x in finite if x.size]
    return max(min(filter(None, ends), default=1.0), float(np.finfo(np.float32).tiny))


def numbers(u: Pictures, truth: Pictures, shape: tuple[int, int], peak: float) -> list[str]:
    """PSNR in dB and SSIM of each picture; "" of one that is not finite."""
    found = losses.scores(jnp.asarray(u), jnp.asarray(truth), shape, peak)
    texts = []
    for psnr, ssim in zip(found["psnr_db"].tolist(), found["ssim"].tolist(), strict=True):
        parts = [f"{psnr:.2f}"] if np.isfinite(psnr) else []
        parts += [f"{ssim:.2f}"] if np.isfinite(ssim) else []
        texts.append(" | ".join(parts))
    return texts
