"""What is given by hand, checked: names, numbers, counts and shapes. Imports nothing of ours.

Each raises a ValueError that names what was given and what was expected. Values are looked at only
where they are concrete, so that a check may stand where a number can be traced.
"""

import importlib
import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.core import Tracer

Value = TypeVar("Value")


def known(what: str, name: Any, names: Iterable[str]) -> Any:
    """The name, if it is one of `names`."""
    names = list(names)
    if name not in names:
        raise ValueError(f"{what} {name!r}: expected one of {', '.join(map(str, names))}")
    return name


def needed(module: str, what: str, extra: str) -> Any:
    """The module of an optional library. Raises: ImportError that says what needs it, and how to
    install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what} needs {module.partition('.')[0]}, which is not installed; "
            f"pip install 'deqbilevel[{extra}]'"
        ) from error


class Registry(dict[str, Value]):
    """Things by name; to look up a name that is none of them is a ValueError that lists them."""

    def __init__(self, what: str, things: Mapping[str, Value]) -> None:
        super().__init__(things)
        self.what = what

    def __missing__(self, name: Any) -> Value:
        return self[known(self.what, name, self)]


def number(
    name: str,
    value: Any,
    *,
    above: float | int | None = None,
    least: float | int | None = None,
    most: float | int | None = None,
    below: float | int | None = None,
) -> Any:
    """The number, or the array of numbers, if all are real, finite in float32 and in range.

    What is too small for float32 is zero there, and so not above zero.
    """
    if traced(value):
        return value
    limits = [] if above is None else [f"above {above:g}"]
    limits += [] if least is None else [f"{least:g} or more"]
    limits += [] if most is None else [f"at most {most:g}"]
    limits += [] if below is None else [f"below {below:g}"]
    with np.errstate(over="ignore"):
        given = np.asarray(value)
        real = jax.numpy.issubdtype(given.dtype, np.integer) or jax.numpy.issubdtype(
            given.dtype, np.floating
        )
        x = given.astype(np.float32) if real else np.float32(np.nan)
    fits = np.isfinite(x)
    fits &= above is None or x > above
    fits &= least is None or x >= np.float32(least)
    fits &= most is None or x <= np.float32(most)
    fits &= below is None or x < below
    if not np.all(fits):
        # Of an array the first that does not fit.
        value = given[~np.broadcast_to(fits, given.shape)].flat[0] if given.ndim else value
        raise ValueError(f"{name}={value}: expected {', '.join(['a finite number', *limits])}")
    return value


def one(name: str, value: Any, **limits: Any) -> Any:
    """`number`, if it is one."""
    if np.shape(value) != ():
        raise ValueError(f"{name} of shape {list(np.shape(value))}: expected one number")
    return number(name, value, **limits)


def whole(name: str, value: Any, *, least: int = 1, most: int = 2**31 - 1) -> int:
    """The whole number, if it is one of at least `least` and at most `most`."""
    try:
        found = operator.index(value)
    except TypeError:
        found = least - 1
    if isinstance(value, bool) or not least <= found <= most:
        limit = f" and at most {most}" if found > most else ""
        raise ValueError(f"{name}={value}: expected a whole number, {least} or more{limit}")
    return found


def pixels(shape: Any) -> int:
    """The number of pixels of images of a shape (height, width)."""
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(f"shape={shape}: expected the height and the width of an image")
    height, width = (whole("shape", n) for n in shape)
    return height * width


def part_of_pairs(shape: Any) -> tuple[int, int]:
    """Height and width of complex images, as pictures with the imaginary part below the real one.

    >>> print(checks.part_of_pairs((8, 3)))
    (4, 3)
    """
    pixels(shape)
    if shape[0] % 2:
        raise ValueError(
            f"complex images of shape {shape}: expected an even height, of the real part and below "
            "it the imaginary one"
        )
    return shape[0] // 2, shape[1]


def traced(x: Any) -> bool:
    """Whether any leaf has no value yet."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(x))


def shaped(name: str, x: Any, expected: tuple[int | str, ...]) -> None:
    """Raises ValueError for another shape; a word stands for any size above 0."""
    shape = np.shape(x)
    fits = len(shape) == len(expected) and all(
        n > 0 if isinstance(wanted, str) else n == wanted
        for n, wanted in zip(shape, expected, strict=True)
    )
    if not fits:
        wanted = f"[{', '.join(map(str, expected))}]" if expected else "a single number"
        raise ValueError(f"{name}: of shape {list(shape)}; expected {wanted}")


def rows(name: str, x: Any, pixels: int | None = None) -> Any:
    """The images `[batch, pixels]`, if they are at least one, of floating numbers.

    pixels: how many each has to have.
    """
    shape = np.shape(x)
    wanted = f"[batch, {'pixels' if pixels is None else pixels}]"
    if len(shape) != 2 or 0 in shape or pixels not in (None, shape[1]):
        raise ValueError(f"{name}: of shape {list(shape)}; expected images {wanted}, one or more")
    return floating(name, x)


def floating(name: str, x: Any, *, of_complex: bool = False) -> Any:
    """The array, if it is of floating numbers; of whole ones differences may wrap around.

    of_complex: whether they may be complex.
    """
    dtype = np.dtype(getattr(x, "dtype", type(x)))
    if not jax.numpy.issubdtype(dtype, np.inexact if of_complex else np.floating):
        raise ValueError(f"{name}: of type {dtype}; expected floating numbers, as of float32")
    return x


def finite(name: str, x: Any) -> Any:
    """The array, or the tree of arrays, if all floating numbers in it are finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        known = isinstance(leaf, float | np.ndarray | jax.Array) and not traced(leaf)
        if known and jax.numpy.issubdtype(jax.numpy.result_type(leaf), np.inexact):
            if not np.isfinite(np.asarray(leaf)).all():
                where = name + jax.tree_util.keystr(path)
                raise ValueError(f"{where}: holds values that are not finite; mend them first")
    return x


def entries(name: str, tree: Any, needed: Iterable[str]) -> None:
    """A dictionary with an entry of each of these names."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{name}: {_form(tree)}; expected a dictionary")
    if missing := [entry for entry in needed if entry not in tree]:
        raise ValueError(f"{name}: no {', '.join(missing)}; has {', '.join(map(str, tree))}")


def alike(**arrays: Any) -> None:
    """Arrays of one shape, by the names that they are called by."""
    shapes = {name: np.shape(x) for name, x in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = " and ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"{listed}: expected arrays of one shape")


# ---- what a solver is given, traced or not


def count(name: str, value: Any, *, least: int = 1, most: int = 2**31 - 1) -> Any:
    """`whole`, or a traced one."""
    scalar = traced(value) and np.shape(value) == ()
    if not (scalar and jax.numpy.issubdtype(value.dtype, np.integer)):
        whole(name, value, least=least, most=most)
    return value


def limits(tolerance: Any, max_evaluations: Any) -> None:
    """A tolerance, None or one number of 0 or more, and a budget, a whole number of 1 or more."""
    if tolerance is not None:
        one("tolerance", tolerance, least=0)
    count("max_evaluations", max_evaluations)


def batch(**arrays: Any) -> None:
    """Arrays [batch, ...] of floating numbers, not empty, by the names that they are called by."""
    for name, x in arrays.items():
        shape, dtype = getattr(x, "shape", ()), getattr(x, "dtype", np.dtype(object))
        if not jax.numpy.issubdtype(dtype, np.floating):
            raise ValueError(
                f"{name}: {_form(x)}; expected an array of floating numbers, as of float32"
            )
        if len(shape) < 2:
            raise ValueError(
                f"{name}: {_form(x)}; expected a batch of images [batch, ...]: for one image give "
                f"{name}[None], and its data with such an axis too; under vmap, which takes an "
                "axis away, inside of what is mapped"
            )
        if 0 in shape:
            raise ValueError(f"{name}: {_form(x)}; expected one image or more, of some size")


def function(name: str, value: Any) -> Any:
    """What can be called, and is no class or text in its place."""
    if not callable(value):
        raise ValueError(f"{name}: {_form(value)}; expected a function")
    return value


def switch(name: str, value: Any) -> bool:
    """True or False, and no text or None in its place."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={value!r}: expected True or False")
    return bool(value)


def same_form(new: Any, old: Any) -> None:
    """What a map returns for `old`, if it has the shape and the dtype of that."""
    if (getattr(new, "shape", None), getattr(new, "dtype", None)) != (old.shape, old.dtype):
        raise ValueError(
            f"the map returns {_form(new)} for {_form(old)}: expected the same shape and dtype; "
            "mend the map, or give what it is applied to in that form"
        )


def key(name: str, value: Any) -> Any:
    """The random key; one of `jax.random.PRNGKey`, numbers of their own kind, as one of today's."""
    dtype, shape = getattr(value, "dtype", np.dtype(object)), getattr(value, "shape", ())
    if jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        return value
    if dtype == np.uint32 and shape and shape[-1] == jax.random.key_data(jax.random.key(0)).size:
        return jax.random.wrap_key_data(value)
    raise ValueError(f"{name}: {_form(value)}; expected a random key, jax.random.key(seed)")


def _form(x: Any) -> str:
    dtype = getattr(x, "dtype", None)
    return f"a {type(x).__name__}" if dtype is None else f"{dtype} of shape {list(np.shape(x))}"
