"""Figures of a run: one that cannot be drawn costs itself and a warning, no numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from deqbilevel import plots
from deqbilevel.commands import listing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")


def draw(
    path: Path, figure: Callable[P, Figure], /, *arguments: P.args, **options: P.kwargs
) -> bool:
    """Draw `figure(*arguments, **options)` into a file, or say why not; whether it is there."""
    try:
        if listing.entries(path.parent):
            listing.will_write(path.parent, [path.name])
        plots.save(figure(*arguments, **options), path)
    except Exception as error:  # whatever matplotlib makes of fonts, layouts and values
        print(f"warning: {path} was not drawn ({type(error).__name__}: {error})", file=sys.stderr)
        return False
    return True
