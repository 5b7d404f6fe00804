"""Figures 3.2 and 6.4 of [CF]: images of one error under every loss, and the noise corridor."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float

from deqbilevel import losses, plots
from deqbilevel.commands import common
from deqbilevel.commands.drawing import draw
from deqbilevel.data import phantoms
from deqbilevel.losses.without_truth import outside

WIDTHS = (0.1, 0.25, 0.5)
"""Half the width of the corridors of Figure 6.4, as a part of sigma^2."""


def distorted(
    truth: Float[np.ndarray, "height width"], error: float, key: jax.Array
) -> dict[str, Float[np.ndarray, "height width"]]:
    """The image with four distortions, each of the normalised error ||u - truth|| / ||truth||.

    Raises: ValueError for an error that no blur and no salt and pepper has.
    """
    size = float(np.linalg.norm(truth))
    noise_key, place_key = jax.random.split(key)
    noise = np.asarray(jax.random.normal(noise_key, truth.shape))
    # Salt and pepper on as many pixels as it takes, in an order that is drawn.
    grains = np.where(noise > 0, 1.0, 0.0) - truth
    order = np.asarray(jax.random.permutation(place_key, truth.size))
    power = np.cumsum(grains.ravel()[order] ** 2)
    count = int(np.searchsorted(power, (error * size) ** 2))
    pepper = np.zeros(truth.size)
    pepper[order[: count + 1]] = grains.ravel()[order[: count + 1]]

    def of_blur(sigma: float) -> Float[np.ndarray, "height width"]:
        return scipy.ndimage.gaussian_filter(truth, sigma, mode="wrap") - truth

    widest = min(truth.shape) / 8
    if count >= truth.size or np.linalg.norm(of_blur(widest)) < error * size:
        raise ValueError(f"--error {error}: more than a blur has; take less")
    sigma: Any = scipy.optimize.brentq(
        lambda s: np.linalg.norm(of_blur(s)) - error * size, 1e-3, widest
    )
    changes = {
        "blur": of_blur(sigma),
        "white noise": noise,
        "salt and pepper": pepper.reshape(truth.shape),
        "offset": np.ones_like(truth),
    }
    return {
        name: truth + error * size / np.linalg.norm(change) * change
        for name, change in changes.items()
    }


def draw_3_2(config: Any, out: Path) -> dict[str, dict[str, float]]:
    """Draw it; every loss of each distortion."""
    shape = (config.side, config.side)
    truth = np.asarray(phantoms.drawn_on(phantoms.shepp_logan(), shape), np.float32)
    shown = distorted(truth, config.error, jax.random.key(config.seed))
    built = {name: losses.named([name], shape, 1.0) for name in losses.LOSSES}
    of_truth: dict[str, Any] = {name: losses.of_truth(loss) for name, loss in built.items()}

    def row(u: Any) -> Array:
        return jnp.asarray(u, jnp.float32).reshape(1, -1)

    found = {
        name: {label: float(loss(row(u), row(truth))) for label, u in shown.items()}
        for name, loss in of_truth.items()
        if loss is not None
    }
    caption = (
        f"Shepp-Logan phantom with four distortions of the normalised error {config.error:g}: "
        "pixels count them alike, structures do not"
    )
    rows = {"true u": np.asarray(row(truth))}
    rows |= {label: np.asarray(row(u)) for label, u in shown.items()}
    draw(out / "figure_3_2.png", plots.reconstructions, rows, shape, caption, grey=(0.0, 1.0))
    return found


def draw_6_4(out: Path) -> None:
    """What the corridor counts of a local variance."""
    v = jnp.linspace(0, 2.5, 501)
    curves = {
        f"half width {width:g} sigma^2": np.asarray(outside(v, 1 - width, 1 + width))
        for width in WIDTHS
    }
    labels = ("local variance / sigma^2", "F")
    draw(
        out / "figure_6_4.png",
        plots.function_figure,
        np.asarray(v),
        {"F of (6.2)": curves},
        labels,
        "",
    )


def table(seen: dict[str, dict[str, float]]) -> str:
    """Of `draw_3_2`, in Markdown."""
    labels = list(next(iter(seen.values())))
    lines = [common.line(["loss", *labels]), common.line(["---"] * (1 + len(labels)))]
    for name, row in seen.items():
        lines.append(common.line([name, *(f"{row[label]:.4g}" for label in labels)]))
    return "\n".join(lines)
