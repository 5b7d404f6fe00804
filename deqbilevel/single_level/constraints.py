"""Constraint sets of analysis operators, as projections, and numbers that say what they do.

    none                 all operators: the best is Omega = 0
    unit_rows            ||omega_k|| = 1: rows may repeat
    parseval             Omega^T Omega = I
    uniform_tight_frame  both up to scale: ||omega_k|| = 1 and Omega^T Omega = (filters / taps) I

[CF] 2.3, 7.4. Without the constant, rows sum to zero and I is the identity on what does: the best
filter for patches less their means would be the constant one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel.checks import Registry
from deqbilevel.regularizers.bases import cosines
from deqbilevel.single_level.base import Rows

ALTERNATIONS = 50
"""Of the projections on tight frames and on unit rows."""


def none(omega: Rows, *, without_constant: bool = False) -> Rows:
    """Omega itself, or its rows less their means."""
    return omega - jnp.mean(omega, axis=1, keepdims=True) if without_constant else omega


def unit_rows(omega: Rows, *, without_constant: bool = False) -> Rows:
    """Rows of norm 1; a row of zeros, which has no nearest one, stays.

    >>> print(single_level.CONSTRAINTS["unit_rows"](jnp.array([[3.0, 4.0]])))
    [[0.6 0.8]]
    """
    omega = none(omega, without_constant=without_constant)
    norms = jnp.linalg.norm(omega, axis=1, keepdims=True)
    return omega / jnp.where(norms > 0, norms, 1)


def parseval(omega: Rows, *, without_constant: bool = False) -> Rows:
    """The nearest Omega with Omega^T Omega = I, the polar factor U V^T of Omega = U S V^T.

    Raises: ValueError for fewer rows than such a frame has at least.

    >>> omega = single_level.CONSTRAINTS["parseval"](jnp.array([[2.0, 0.0], [0.0, 3.0]]))
    >>> print(omega)
    [[1. 0.]
     [0. 1.]]
    """
    filters, taps = omega.shape
    least = taps - without_constant
    if filters < least:
        raise ValueError(
            f"{filters} filters of {taps} taps: a tight frame has {least} or more; take more "
            "of them, or unit_rows"
        )
    if not without_constant:
        return _polar(omega)
    # In the cosine basis of what sums to zero, so that no direction of it is mixed with the
    # constant where Omega lacks a rank.
    basis = jnp.asarray(cosines(1, taps)[:, 0], omega.dtype)
    return _polar(omega @ basis.T) @ basis


def _polar(omega: Rows) -> Rows:
    U, _, V = jnp.linalg.svd(omega, full_matrices=False)
    return U @ V


def uniform_tight_frame(omega: Rows, *, without_constant: bool = False) -> Rows:
    """A uniformly normalised tight frame near Omega, by alternating projections.

    Its rows are of norm 1; the frame is tight as far as `ALTERNATIONS` of them bring it.
    Raises: ValueError as `parseval` does.

    >>> omega = jnp.array([[1.0, 0.0], [0.3, 1.0], [-0.8, 0.5]])
    >>> omega = single_level.CONSTRAINTS["uniform_tight_frame"](omega)
    >>> print(omega.T @ omega)
    [[1.5 0. ]
     [0.  1.5]]
    """

    def nearer(_: Any, omega: Rows) -> Rows:
        return unit_rows(parseval(omega, without_constant=without_constant))

    return jax.lax.fori_loop(0, ALTERNATIONS, nearer, omega)


CONSTRAINTS: Registry[Callable[..., Rows]] = Registry(
    "constraint",
    {
        "none": none,
        "unit_rows": unit_rows,
        "parseval": parseval,
        "uniform_tight_frame": uniform_tight_frame,
    },
)
"""Omega -> the nearest operator of the set, with the option `without_constant`."""


def constraint(name: str, *, without_constant: bool = False) -> Callable[[Rows], Rows]:
    """One of `CONSTRAINTS`. Raises: ValueError for another name.

    >>> print(single_level.constraint("unit_rows", without_constant=True)(jnp.array([[2.0, 0.0]])))
    [[ 0.7071 -0.7071]]
    """
    return partial(CONSTRAINTS[name], without_constant=without_constant)


def coherences(omega: Rows) -> Float[Array, "filters filters"]:
    """|cos| of the angle between each two rows, 0 of a row and itself.

    >>> print(single_level.coherences(jnp.array([[1.0, 0.0], [3.0, 4.0]])))
    [[0.  0.6]
     [0.6 0. ]]
    """
    omega = unit_rows(omega)
    return jnp.abs(omega @ omega.T) * (1 - jnp.eye(len(omega)))


def mutual_coherence(omega: Rows) -> Float[Array, ""]:
    """The largest cosine of an angle between two rows: 1 where a filter repeats.

    >>> print(single_level.mutual_coherence(jnp.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])))
    1.0
    """
    return jnp.max(coherences(omega))
