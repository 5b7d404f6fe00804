"""What tells one set of loaded images from another, so that a run goes on over its own only."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from deqbilevel.data.base import SIGNED, Images


def fingerprint(images: Images) -> dict[str, Any]:
    """What to store beside a run's options: equal exactly where the images are, value by value.

    It holds no path: a folder moved, or written another way, keeps its fingerprint.

    Returns:

        What JSON keeps as it is: `source`; `shape`, (height, width); `range`, where it is not
        (-1, 1); of either side, `train` and `test`, its `_rows`, `_dtype` and `_sha256`, of its
        values row by row.

    >>> images = data.load("sample", train_size=2, test_size=1)
    >>> print(data.fingerprint(images)["train_rows"], data.fingerprint(images)["shape"])
    2 [28, 28]
    """
    sides = {
        f"{side}_{name}": value
        for side in ("train", "test")
        for name, value in _of(getattr(images, side)).items()
    }
    # Runs of before there were other ranges go on.
    other = {} if images.range == SIGNED else {"range": list(map(float, images.range))}
    return {"source": images.source, "shape": list(map(int, images.shape)), **other, **sides}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, each as a message's part; empty where nothing does.

    >>> print(data.changes({"train_rows": 2, "test_rows": 1}, {"train_rows": 3, "test_rows": 1}))
    ['train_rows was 2, is 3']
    """
    names = dict.fromkeys((*before, *now))
    pairs = {name: (before.get(name), now.get(name)) for name in names}
    return [
        f"{name} was {_short(old)}, is {_short(new)}"
        for name, (old, new) in pairs.items()
        if old != new
    ]


def _of(rows: np.ndarray) -> dict[str, Any]:
    stored = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
    digest = hashlib.sha256(stored.data if stored.size else b"").hexdigest()
    return {"rows": len(rows), "dtype": rows.dtype.name, "sha256": digest}


def _short(value: Any) -> str:
    """A value as messages write it; of a digest its first digits, which tell two apart."""
    digest = isinstance(value, str) and len(value) == 64 and " " not in value
    return f"{value[:12]}..." if digest else repr(value)
