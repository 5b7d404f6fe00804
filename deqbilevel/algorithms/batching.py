"""Steps in a row, on all of the data or on minibatches of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Data, Info
from deqbilevel.algorithms.checked import ALGORITHM
from deqbilevel.checks import finite, traced
from deqbilevel.rules import KEY, count, options, require


@options(algorithm=ALGORITHM)
def minibatches(algorithm: Algorithm) -> Algorithm:
    """The algorithm on data = (indices, all): its step sees the rows of all data with the indices.

    indices: [batch], no two equal. The leading axis of every leaf of the data are the rows of x.
    The State has all rows of its fields `rows`, such as x, which are warm: those of the batch are
    taken, stepped and put back, and the others stay.
    Raises: ValueError for a wrapper, whose State has no rows of its own, and for data or indices
    that are none.

    >>> upper = lambda gamma, x, data: jnp.sum((x - data) ** 2) / 2
    >>> lower = lambda x, gamma, data: jnp.sum((x - gamma) ** 2) / 2
    >>> aid = algorithms.aid(algorithms.from_cost(upper, lower, lambda gamma: 1.0), optax.sgd(1.0))
    >>> method, data = algorithms.minibatches(aid), jnp.array([[1.0], [2.0], [6.0]])
    >>> state, batch = method.init(jnp.array([0.0]), jnp.ones((3, 1))), jnp.array([2])
    >>> state, _ = method.step(state, (batch, data), jax.random.key(0))
    >>> print(state.gamma, state.x.ravel())  # to the 6 of row 2, whose x alone has moved, to 0
    [6.] [1. 1. 0.]
    """
    if not algorithm.rows:
        raise ValueError(
            "an algorithm without rows: minibatches goes around the method itself, and inside of "
            "other wrappers, as in guarded(minibatches(method))"
        )

    def fields(state: Any) -> dict[str, Any]:
        return {name: getattr(state, name) for name in algorithm.rows}

    def step(state: Any, data: Data, key: PRNGKeyArray) -> tuple[Any, Info]:
        if type(data) is not tuple or len(data) != 2:
            raise ValueError(
                f"data: a {type(data).__name__}, expected (indices, all of the data); give run the "
                "indices of each step in place of a number of steps"
            )
        indices, everything = data
        _check_indices(indices, len(state.x), 1)
        rows = fields(state)
        seen, taken = jax.tree.map(lambda x: x[indices], (everything, rows))
        part, info = algorithm.step(state._replace(**taken), seen, key)
        rows = jax.tree.map(lambda x, new: x.at[indices].set(new), rows, fields(part))
        return part._replace(**rows), info

    return algorithm._replace(step=step)


@options(algorithm=ALGORITHM, key=KEY)
def run(
    algorithm: Algorithm, state: Any, data: Data, key: PRNGKeyArray, steps: Any
) -> tuple[Any, Info]:
    """Steps, scanned: the State after them, and their Info with a leading axis of steps.

    steps: their number, or for `minibatches` the indices of each.
    Raises: ValueError for fewer than one step, and for indices of no rows of x, or twice of one.

    >>> problem, data, gamma, x, solution = algorithms.quadratic()
    >>> method = algorithms.lagrangian(problem)
    >>> state, infos = algorithms.run(method, method.init(gamma, x), data, jax.random.key(0), 2)
    >>> print(state.gamma, solution, infos.loss.shape)
    [-1.5467  1.8852] [-1.5467  1.8852] (2,)
    """
    if np.ndim(steps):
        given = steps if hasattr(steps, "dtype") else np.asarray(steps)
        _check_indices(given, len(state.x), 2)
        number, batches = len(given), jnp.asarray(given)
    else:
        require({"steps": count(1)}, {"steps": steps})
        number, batches = int(steps), None
    finite("data", data)

    def body(state: Any, at: tuple[PRNGKeyArray, Any]) -> tuple[Any, Info]:
        key, indices = at
        return algorithm.step(state, data if indices is None else (indices, data), key)

    return jax.lax.scan(body, state, (jax.random.split(key, number), batches))


def _check_indices(indices: Any, rows: int, axes: int) -> None:
    """Raises ValueError for indices of rows that there are not, or twice of one in a batch."""
    expected = "[steps, batch]" if axes == 2 else "[batch]"
    integers = hasattr(indices, "dtype") and jnp.issubdtype(indices.dtype, jnp.integer)
    if not integers or indices.ndim != axes or not indices.size:
        raise ValueError(f"indices: expected whole numbers {expected}, one for each row of a batch")
    if indices.shape[-1] > rows:
        raise ValueError(f"indices: batches of {indices.shape[-1]}, expected at most {rows} rows")
    if traced(indices):
        return
    seen = np.sort(np.asarray(indices), axis=-1)
    if seen.min() < 0 or seen.max() >= rows or (np.diff(seen) == 0).any():
        raise ValueError(
            f"indices: from {seen.min()} to {seen.max()}, expected rows 0 to {rows - 1}, none of "
            "them twice in a batch"
        )
