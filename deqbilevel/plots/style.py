"""How every figure looks, as in a paper: one palette, one size of text, the width of a page."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow, which is lost
on white."""

MARKERS = "osD^vPX*<>"
LINES = ("-", "--", ":")

WIDTH, HEIGHT = 7.0, 9.0
"""Of a page's text, in inches."""

TEXT = 8
"""Size of all text, in points."""

LINE = 1.3 * TEXT / 72
"""From one line of text to the next, in inches."""

DPI = 200

RC: dict[str, Any] = {
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.titlelocation": "left",
    "axes.labelsize": TEXT,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "legend.fontsize": TEXT,
    "figure.titlesize": TEXT,
    "figure.labelsize": TEXT,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
    "pdf.fonttype": 42,
}


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """The function under this style alone: a user's may ask for what is not there (LaTeX)."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(cast(Any, RC))
            return draw(*args, **kwargs)

    return drawn


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line of one of many curves, no two of up to seventy alike."""
    turn, colour = divmod(index, len(PALETTE))
    return {
        "color": PALETTE[colour],
        "marker": MARKERS[(colour + turn) % len(MARKERS)],
        "linestyle": LINES[turn % len(LINES)],
        "markerfacecolor": "none",
    }


@styled
def save(figure: Figure, path: str | Path) -> None:
    """Writes the figure as PNG at 200 dpi, or as PDF where the name ends so.

    A PDF is for a paper, which has captions of its own: there the caption is the subject of the
    file. A reader of `path` never sees half a file.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    caption, size = figure.get_supxlabel(), figure.get_size_inches()
    pdf = path.suffix == ".pdf"
    try:
        if pdf and caption:
            figure.supxlabel("")
            figure.set_figheight(size[1] - caption_height(caption))
        about = {"Subject" if pdf else "Description": caption.replace("\n", " ")}
        figure.savefig(part, format="pdf" if pdf else "png", dpi=DPI, metadata=about)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        if pdf and caption:
            figure.supxlabel(caption)
            figure.set_figheight(size[1])


def caption_height(caption: str) -> float:
    """Of a wrapped caption and the gap above it, in inches."""
    return LINE * (1.5 + caption.count("\n")) if caption else 0.0
