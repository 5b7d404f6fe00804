"""Figures of a run: one that cannot be drawn costs itself and a warning, no numbers.

They are PNG, and with `--pdf`, which every command has, PDF beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from deqbilevel import plots
from deqbilevel.commands import listing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")

PDF: ContextVar[bool] = ContextVar("PDF", default=False)
"""Whether a command was called with --pdf; no number depends on it, nor a run's options."""


def draw(
    path: Path, figure: Callable[P, Figure], /, *arguments: P.args, **options: P.kwargs
) -> bool:
    """Draw `figure(*arguments, **options)` into a file, or say why not; whether it is there."""
    paths = [path, path.with_suffix(".pdf")] if PDF.get() else [path]
    try:
        if listing.entries(path.parent):
            listing.will_write(path.parent, [each.name for each in paths])
        drawn = figure(*arguments, **options)
        for each in paths:
            plots.save(drawn, each)
    except Exception as error:  # whatever matplotlib makes of fonts, layouts and values
        print(f"warning: {path} was not drawn ({type(error).__name__}: {error})", file=sys.stderr)
        return False
    return True
