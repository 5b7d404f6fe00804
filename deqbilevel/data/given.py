"""Images of one's own: arrays, and what a function draws."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from deqbilevel import checks
from deqbilevel.data.base import (
    SIGNED,
    DataError,
    Images,
    Range,
    check_memory,
    check_not_empty,
    checked_range,
    mapped,
    size,
)

ROUNDING = 1e-6
"""How far beyond its range a value may be, relative to it."""

Draw = Callable[[Key[Array, ""], int], Shaped[Array | np.ndarray, "count height width"]]
"""`draw(key, count)`: that many pictures, the same for the same key."""


def arrays(
    train: Shaped[Array | np.ndarray, "train ..."],
    test: Shaped[Array | np.ndarray, "test ..."],
    *,
    value_range: Range,
    to: Range = SIGNED,
    shape: tuple[int, int] | None = None,
    source: str = "images of one's own",
) -> Images:
    """Images from arrays, grey: pictures [images, height, width], or flat rows [images, pixels].

    Args:

        train: of numbers of any real type, whole ones too.
        test: of the same height and width.
        value_range: the values that stand for black and white: (0, 255) of 8 bits, (0, 1), ...
        to: the same in the images that are returned; values in between are mapped affinely.
        shape: (height, width) of flat rows, row by row; of pictures to be left out.
        source: what they are, for captions.

    Raises:

        DataError: no such arrays, values that are not finite or beyond the range by more than
            rounding, images of one grey, or one for training and for test.

    >>> train, test = np.array([[[0, 255]]]), np.array([[[255, 51]]])
    >>> print(data.arrays(train, test, value_range=(0, 255), to=(0, 1)).test)
    [[1.  0.2]]
    """
    value_range, to = checked_range("value_range", value_range), checked_range("to", to)
    shape = None if shape is None else _checked_shape(shape)
    given, of_train = _rows("train", train, shape)
    held_out, of_test = _rows("test", test, shape)
    if of_train != of_test:
        raise DataError(
            f"train has images of {size(of_train)} and test of {size(of_test)}; expected one shape"
        )
    _check_values("train", given, value_range)
    _check_values("test", held_out, value_range)
    counted = f"{len(given)} + {len(held_out)} {source}, {size(of_train)}"
    rows, test_rows = (mapped(x, value_range, to) for x in (given, held_out))
    images = Images(rows, test_rows, of_train, counted, to)
    check_not_empty(source, images)
    _check_apart(images)
    return images


def drawn(
    draw: Draw,
    *,
    train_size: int,
    test_size: int,
    key: Key[Array, ""],
    shape: tuple[int, int],
    value_range: Range,
    to: Range = SIGNED,
) -> Images:
    """Images that a function draws, such as a generator of phantoms: `draw(key, count)` gives
    pictures [count, height, width].

    All are drawn here and kept. For other training images in every epoch, draw again by another
    key, `jax.random.fold_in(key, epoch)`, and give `learning.epoch` those.

    Args:

        draw: called once for the test and once for the training images.
        train_size: number of training images.
        test_size: number of test images.
        key: a random key; the same gives the same images.
        shape: (height, width) of what it draws.
        value_range: the values of what it draws that stand for black and white.
        to: the same in the images that are returned.

    Raises:

        DataError: as `arrays`, and for a function that draws other shapes than it should.
        ValueError: what is no function, no key or no number of images.

    >>> draw = lambda key, count: jax.random.uniform(key, (count, 2, 3))
    >>> options = {"train_size": 4, "test_size": 1, "key": jax.random.key(0), "value_range": (0, 1)}
    >>> print(data.drawn(draw, shape=(2, 3), **options).train.shape)
    (4, 6)
    """
    checks.function("draw", draw)
    for_train, for_test = jax.random.split(checks.key("key", key))
    shape = _checked_shape(shape)
    for name, count in (("train_size", train_size), ("test_size", test_size)):
        checks.whole(name, count)
    check_memory(train_size + test_size, shape, "shape")
    value_range = checked_range("value_range", value_range)

    def pictures(key: Key[Array, ""], count: int) -> np.ndarray:
        found = np.asarray(draw(key, count))
        if found.shape != (count, *shape):
            raise DataError(
                f"draw: gives an array of shape {list(found.shape)} for a count of {count}; "
                f"expected {[count, *shape]}"
            )
        return found

    test = pictures(for_test, test_size)  # fewer as a rule: what is wrong is found sooner
    train = pictures(for_train, train_size)
    source = f"images of {getattr(draw, '__name__', 'a function')}"
    return arrays(train, test, value_range=value_range, to=to, source=source)


def _checked_shape(shape: Any) -> tuple[int, int]:
    try:
        checks.pixels(shape)
    except ValueError as error:
        raise DataError(str(error)) from error
    return shape


def _rows(
    name: str, given: Any, shape: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Flat rows and their shape; raises `DataError` for what are no grey images."""
    try:
        x = np.asarray(given)
    except ValueError as error:  # rows of several lengths
        raise DataError(f"{name}: expected an array ({error})") from error
    real = (np.bool_, np.integer, np.floating)
    if not any(jax.numpy.issubdtype(x.dtype, kind) for kind in real):
        raise DataError(f"{name}: of type {x.dtype}; expected an array of real numbers")
    held = f"{name}: of shape {list(x.shape)}"
    if 0 in x.shape:
        raise DataError(f"{held}; expected one image or more")
    if x.ndim == 3 and shape in (None, x.shape[1:]):
        height, width = x.shape[1:]
        return x.reshape(len(x), -1), (height, width)
    if x.ndim == 2 and shape is not None and x.shape[1] == shape[0] * shape[1]:
        return x, shape
    advice = {
        2: "one image is x[None]; flat rows need shape=(height, width) with as many pixels",
        3: f"images of another shape than {shape}; leave shape out",
        4: "grey images have no channels: take one, x[..., 0], or their mean",
    }.get(x.ndim, "see data.arrays")
    raise DataError(f"{held}; expected [images, height, width]: {advice}")


def _check_values(name: str, rows: np.ndarray, value_range: Range) -> None:
    """Raises `DataError` for the first image whose values are not those of the range."""
    low, high = value_range
    floating = jax.numpy.issubdtype(rows.dtype, np.floating)
    rounding = max(ROUNDING, 2 * float(jax.numpy.finfo(rows.dtype).eps) if floating else 0)
    margin = rounding * max(abs(low), abs(high))
    least, most = rows.min(1).astype(float), rows.max(1).astype(float)
    inside = (low - margin <= least) & (most <= high + margin)
    if not inside.all():
        i = int(np.argmin(inside))
        raise DataError(
            f"{name}[{i}]: values from {least[i]:g} to {most[i]:g}, expected finite ones in "
            f"[{low:g}, {high:g}]; say the range that they have (value_range, or range in a "
            "file), or clip them to this one"
        )


def _check_apart(images: Images) -> None:
    """Raises `DataError` where a training and a test image are the same, naming both."""
    trained = {_digest(row): i for i, row in enumerate(images.train)}
    same = [
        f"train[{trained[digest]}] and test[{i}]"
        for i, row in enumerate(images.test)
        if (digest := _digest(row)) in trained
    ]
    if same:
        more = f" and {len(same) - 3} more pairs" if len(same) > 3 else ""
        raise DataError(
            f"{'; '.join(same[:3])}{more}: the same image for training and for test; remove one "
            "of the two (of one array, np.unique(images, axis=0) has each once)"
        )


def _digest(row: Float[np.ndarray, " pixels"]) -> bytes:
    return hashlib.sha256(row.data).digest()
