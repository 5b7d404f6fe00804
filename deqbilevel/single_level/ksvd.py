r"""Analysis K-SVD, row by row: Rubinstein, Peleg and Elad, [CF] 2.3 and its reference [57].

$$ \min_{\Omega, X} \frac1J \sum_j \tfrac12 \|x_j - y_j\|^2 \quad \text{with} \quad
\Omega_{\Lambda_j} x_j = 0,\ \mathrm{rank}\, \Omega_{\Lambda_j} = r,\ \|\omega_k\| = 1 $$

Each noisy patch y_j is projected onto what r independent rows of its cosupport annihilate; the rows
are chosen greedily, each the one that takes least of the patch away. Then each row becomes the unit
vector that the patches with it in their cosupport respond to least. A row that repeats another, or
that fewer patches have than there are taps, is replaced by one that annihilates random patches. As
rows are chosen greedily, the objective may rise.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.single_level.base import Method, Patches, Rows
from deqbilevel.single_level.constraints import unit_rows

INDEPENDENT = 1e-3
"""The part of a row outside of those that are chosen, from which on it is independent of them."""

REPEATED = 0.98
"""The cosine between two rows above which one of them is replaced."""


class State(NamedTuple):
    """Omega, the key that draws replacements, and how often."""

    operator: Rows
    key: PRNGKeyArray
    replaced: Int[Array, ""]


def cosparse(omega: Rows, y: Patches, rank: int) -> tuple[Patches, Bool[Array, "samples filters"]]:
    """The patches without what `rank` independent rows see, and which rows annihilate them.

    Raises: ValueError for a rank that is not below the number of taps.

    >>> x, zeros = single_level.cosparse(jnp.eye(3), jnp.array([[0.1, 5.0, -0.2]]), 2)
    >>> print(x, zeros)
    [[0. 5. 0.]] [[ True False  True]]
    """
    checks.whole("rank", rank, most=omega.shape[1] - 1)
    rows = jnp.broadcast_to(unit_rows(omega), (len(y), *omega.shape))

    def chosen(_: Any, carry: tuple[Patches, Array]) -> tuple[Patches, Array]:
        x, left = carry
        lengths = jnp.linalg.norm(left, axis=2)
        free = lengths > INDEPENDENT
        directions = left / jnp.where(free, lengths, 1)[..., None]
        taken = jnp.where(free, jnp.abs(jnp.einsum("jkn,jn->jk", directions, x)), jnp.inf)
        best = jnp.argmin(taken, axis=1)[:, None, None]
        q = jnp.take_along_axis(directions, best, axis=1)[:, 0]
        # Where no row is left that is independent of those before, the patch stays.
        q = jnp.where(jnp.any(free, axis=1, keepdims=True), q, 0)
        x = x - jnp.sum(q * x, axis=1, keepdims=True) * q
        return x, left - jnp.einsum("jkn,jn->jk", left, q)[..., None] * q[:, None]

    x, left = jax.lax.fori_loop(0, rank, chosen, (y, rows))
    return x, jnp.linalg.norm(left, axis=2) <= INDEPENDENT


def analysis_ksvd(rank: int, key: PRNGKeyArray) -> Method:
    """Analysis K-SVD with cosupports of a rank: patches have as many degrees of freedom less.

    Raises: ValueError for a rank that is not below the number of taps.

    >>> a, b = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, -1.0, 0.5])
    >>> truth = jnp.concatenate((jnp.stack((a, a, b), axis=1), jnp.stack((b, a, a), axis=1)))
    >>> method = single_level.analysis_ksvd(1, jax.random.key(0))
    >>> start = jnp.array([[1.0, -0.7, 0.1], [0.1, 0.7, -1.0]])
    >>> omega, objective = single_level.run(method, start, truth, 10)
    >>> print(jnp.abs(omega).round(1), objective[-1] < 1e-6)  # differences of neighbours
    [[0.7 0.7 0. ]
     [0.  0.7 0.7]] True
    """
    own = checks.key("key", key)

    def init(omega: Rows, y: Patches) -> State:
        checks.rows("data", y, omega.shape[1])
        checks.whole("rank", rank, most=omega.shape[1] - 1)
        return State(unit_rows(omega), own, jnp.array(0))

    def step(state: State, y: Patches) -> tuple[State, Float[Array, ""]]:
        omega, taps = state.operator, y.shape[1]
        _, zeros = cosparse(omega, y, rank)
        annihilated = zeros.astype(y.dtype)
        grams = jnp.einsum("jk,jn,jm->knm", annihilated, y, y)
        least = jnp.linalg.eigh(grams)[1][..., 0]
        many = jnp.sum(zeros, axis=0) >= taps
        omega = jnp.where(many[:, None], least, omega)
        key, *draws = jax.random.split(state.key, 1 + len(omega))
        replaced = state.replaced
        for k, draw in enumerate(draws):
            cosines = jnp.abs(omega[:k] @ omega[k])
            useless = jnp.any(cosines > REPEATED) | ~many[k]
            omega = omega.at[k].set(jnp.where(useless, _annihilator(y, draw), omega[k]))
            replaced = replaced + useless
        x, _ = cosparse(omega, y, rank)
        return State(omega, key, replaced), jnp.sum((x - y) ** 2) / (2 * len(y))

    return Method(init, step, monotone=False)


def _annihilator(y: Patches, key: PRNGKeyArray) -> Float[Array, " taps"]:
    """The unit vector to which taps - 1 random patches respond least."""
    some = y[jax.random.choice(key, len(y), (y.shape[1] - 1,))]
    return jnp.linalg.eigh(some.T @ some)[1][:, 0]
