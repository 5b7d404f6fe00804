"""What every experiment shares: options, errors, numbers and the last line of standard output."""

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Bad input ends the program with its message alone; only for what precedes the long work."""
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def options_of(config: Any, *, without: tuple[str, ...] = ("out", "fresh")) -> dict[str, Any]:
    """The options that decide the numbers, ready for JSON."""
    options = dataclasses.asdict(config)
    return {name: value for name, value in options.items() if name not in without}


def make_cpu_devices(count: int) -> None:
    """Make so many devices of a CPU; only before jax is used for the first time."""
    if count > 1:
        jax.config.update("jax_num_cpu_devices", count)


def digest(options: dict[str, Any]) -> str:
    """Eight characters that name a set of options."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """A record of NumPy scalars as JSON values; what was not measured (NaN) becomes null."""

    def value(x: Any) -> Any:
        x = x.item() if isinstance(x, np.ndarray | np.generic) else x
        return None if isinstance(x, float) and not np.isfinite(x) else x

    return {name: value(x) for name, x in record.items()}


def line(cells: Iterable[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def last_line(numbers: dict[str, Any]) -> None:
    """The headline numbers: one JSON object, the last line of standard output."""
    print(json.dumps(plain(numbers)), flush=True)


def span(text: str) -> tuple[float, float, bool]:
    """LOW..HIGH, or LOW..HIGH:log: both ends, and whether it is even in its logarithm.

    Raises: ValueError for other words.

    >>> from deqbilevel.commands import common
    >>> print(common.span("0.1..10:log"))
    (0.1, 10.0, True)
    """
    values, _, scale = text.partition(":")
    if scale not in ("", "log"):
        raise ValueError(f"after the colon {scale!r}, not log")
    low, high = (float(value) for value in values.split(".."))
    return low, high, scale == "log"
