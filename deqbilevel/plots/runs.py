"""The pictures and curves of one training run."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from deqbilevel.plots.base import Rows, curve, finish, level, new_figure, picture_grid, styled


def reconstructions(rows: Rows, shape: tuple[int, int], caption: str) -> Figure:
    """One labelled row of grey pictures on [-1, 1] per entry, a column per picture.

    Args:
        rows: label to pictures, such as truth, measurement, K u* and reconstruction.
        shape: (height, width), with height * width = pixels.
        caption: stands below, wrapped.

    Raises:
        ValueError: the shape is not that of the pictures, or there is none.
    """
    return picture_grid({"": rows}, shape, "", caption)


@styled
def loss_curves(
    records: list[dict[str, Any]], caption: str, levels: Mapping[str, float] | None = None
) -> Figure:
    """Train and test loss against the epoch, from dicts with epoch, train_loss and test_loss.

    levels: label to a loss that is drawn across, such as that of the measurement.
    """
    figure = new_figure(6.0, 3.8, "", caption)
    axes = figure.subplots()
    epochs = [record["epoch"] for record in records]
    for split, colour in (("train", "tab:green"), ("test", "tab:purple")):
        loss = [record[f"{split}_loss"] for record in records]
        curve(axes, epochs, loss, color=colour, label=f"{split} loss")
    for i, (label, value) in enumerate((levels or {}).items()):
        level(axes, value, label, color=f"{0.25 * i}")
    axes.set(yscale="log", ylabel="loss")
    finish(axes, "epoch", "both")
    axes.legend(fontsize=8)
    return figure
