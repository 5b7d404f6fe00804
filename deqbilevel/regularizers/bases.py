"""Sets of filters to start from, or to learn combinations of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.checks import Registry


def cosines(
    rows: int, columns: int, *, constant: bool = False
) -> Float[np.ndarray, "filters rows columns"]:
    """The orthonormal basis of the discrete cosine transform, with the constant filter or without.

    All but the constant one sum to zero.
    Raises: ValueError for a size below 1.

    >>> c = regularizers.bases.cosines(2, 2, constant=True)
    >>> print(c[0], c[1:].sum(axis=(1, 2)) == 0)
    [[0.5 0.5]
     [0.5 0.5]] [ True  True  True]
    """
    _sized(rows=rows, columns=columns)
    checks.switch("constant", constant)
    units = np.eye(rows * columns).reshape(-1, rows, columns)
    found = np.asarray(scipy.fft.idctn(units, axes=(1, 2), norm="ortho"))
    return found if constant else found[1:]


def differences(rows: int, columns: int) -> Float[np.ndarray, "filters rows columns"]:
    """Finite differences between neighbours, down and right, of filters of that size.

    Raises: ValueError for a size below 1.
    """
    _sized(rows=rows, columns=columns)
    found = np.zeros((2, rows, columns))
    for i, (down, right) in enumerate(((1, 0), (0, 1))):
        if rows > down and columns > right:
            found[i, 0, 0], found[i, down, right] = -1, 1
    return found[[rows > 1, columns > 1]]


def random(
    key: PRNGKeyArray, count: int, rows: int, columns: int
) -> Float[Array, "filters rows columns"]:
    """Normal random filters of norm 1.

    Raises: ValueError for a count or a size below 1, and what is no key.
    """
    _sized(count=count, rows=rows, columns=columns)
    c = jax.random.normal(checks.key("key", key), (count, rows, columns))
    return c / jnp.linalg.norm(c, axis=(1, 2), keepdims=True)


def _sized(**counts: int) -> None:
    """Raises: ValueError for a count below 1."""
    for name, count in counts.items():
        checks.whole(name, count)


BASES: Registry[Callable[[int, int], Float[np.ndarray, "filters rows columns"]]] = Registry(
    "basis",
    {
        "cosines": cosines,
        "cosines_and_constant": lambda rows, columns: cosines(rows, columns, constant=True),
        "differences": differences,
    },
)
"""Sets of filters of a size; those that a user brings are as good."""
