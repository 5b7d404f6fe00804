r"""Analysis operator learning: rows that make patches sparse, [CF] (2.9), (2.10).

$$ \min_{\Omega \in S} \frac1J \sum_j 1'\varphi(\Omega x_j) + p(\Omega), \qquad
\min_{\Omega \in S,\, X} \frac1J \sum_j \Big(
\tfrac12 \|y_j - x_j\|^2 + \beta\, 1'\varphi(\Omega x_j)\Big) + p(\Omega) $$

of J clean patches x_j, or noisy ones y_j. phi is the 1-norm with a rounded corner, S one of
`CONSTRAINTS`, and p penalties that stand in its place, [CF] 7.5. Each step is one of projected
gradient descent whose length is halved until the objective falls enough, so that it never rises.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.potentials import CornerRounded, Potential
from deqbilevel.single_level.base import Method, Patches, Rows
from deqbilevel.single_level.constraints import unit_rows

HALVINGS = 40
"""Of a step, at most; after them the operator stays."""

ENOUGH = 1e-4
"""Of ||step||^2 / length, by which the objective has to fall."""


class State(NamedTuple):
    """Omega, the patches as they are estimated, and the length that the next step tries."""

    operator: Rows
    x: Patches
    length: Float[Array, ""]


def analysis(
    project: Callable[[Rows], Rows],
    *,
    phi: Potential | None = None,
    penalty: Callable[[Rows], Float[Array, ""]] = lambda omega: jnp.zeros(()),
    beta: Any = None,
) -> Method:
    """Analysis operator learning within a set.

    project: one of `CONSTRAINTS`; phi: None: sqrt(z^2 + 0.01^2); penalty: p, see `tightness` and
    `coherence`; beta: None: of clean patches (2.9), else of noisy ones (2.10).
    Raises: ValueError for a beta that is not above 0.

    >>> method = single_level.analysis(single_level.CONSTRAINTS["parseval"])
    >>> X = jnp.array([[1.0, 1.0], [2.0, 2.1], [0.5, 0.4]])
    >>> omega, _ = single_level.run(method, jnp.array([[1.0, 0.3], [-0.3, 1.0]]), X, 30)
    >>> print(omega.round(1))
    [[ 0.7  0.7]
     [-0.7  0.7]]
    """
    checks.function("project", project)
    if beta is not None:
        checks.one("beta", beta, above=0)
    rounded = CornerRounded(0.01) if phi is None else phi

    def objective(omega: Rows, x: Patches, y: Patches) -> Float[Array, ""]:
        sparse = jnp.sum(rounded.value(x @ omega.T)) / len(x)
        if beta is not None:
            sparse = beta * sparse + jnp.sum((x - y) ** 2) / (2 * len(x))
        return sparse + penalty(omega)

    def init(omega: Rows, y: Patches) -> State:
        checks.rows("data", y, omega.shape[1])
        return State(project(omega), y, jnp.ones((), omega.dtype))

    def step(state: State, y: Patches) -> tuple[State, Float[Array, ""]]:
        omega, x, _ = state
        if beta is not None:
            slope = x - y + beta * rounded.derivative(x @ omega.T) @ omega
            x = x - slope / (1 + beta * rounded.lipschitz * jnp.linalg.norm(omega, 2) ** 2)
        before, slopes = jax.value_and_grad(objective)(omega, x, y)

        def tried(length: Array) -> tuple[Rows, Array, Array]:
            moved = project(omega - length * slopes)
            after = objective(moved, x, y)
            fallen = before - after >= ENOUGH * jnp.sum((moved - omega) ** 2) / length
            return moved, after, fallen

        def again(carry: Any) -> Any:
            length, count, _ = carry
            return length / 2, count + 1, tried(length / 2)

        first = 2 * state.length
        length, _, (moved, after, fallen) = jax.lax.while_loop(
            lambda carry: ~carry[2][2] & (carry[1] < HALVINGS), again, (first, 0, tried(first))
        )
        # What no length lowers, as at a minimiser in rounding, stays.
        kept = State(jnp.where(fallen, moved, omega), x, jnp.where(fallen, length, state.length))
        return kept, jnp.where(fallen, after, before)

    return Method(init, step)


def tightness(omega: Rows) -> Float[Array, ""]:
    """||Omega^T Omega - I||^2, 0 for a Parseval frame; to be weighted.

    >>> print(single_level.tightness(2 * jnp.eye(2)))
    18.0
    """
    return jnp.sum((omega.T @ omega - jnp.eye(omega.shape[1])) ** 2)


def coherence(omega: Rows, beside: Rows | None = None) -> Float[Array, ""]:
    """-sum_{k < l} log(1 - cos^2) of the angles between rows: infinite where one repeats.

    beside: rows that are given and stay, such as handcrafted filters, from which the others are
    kept apart too.

    >>> omega = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    >>> print(single_level.coherence(omega), single_level.coherence(omega[:1], omega[1:]))
    0.6931472 0.6931472
    """
    rows = unit_rows(omega if beside is None else jnp.concatenate((omega, beside)))
    cosines = (rows @ rows.T)[: len(omega)]
    own, other = jnp.arange(len(omega))[:, None], jnp.arange(len(rows))
    # Left out before the logarithm: of a row and itself it is infinite, and its gradient NaN.
    return -jnp.sum(jnp.log1p(-jnp.where(own < other, cosines**2, 0)))
