"""Algorithms around algorithms: stopping and divergence, schedules, growing batches, minibatches.

    method = guarded(minibatches(aid(problem, optimiser)), calls=10_000)
    state, infos = run(method, method.init(gamma, x), data, key, indices)

Each takes an Algorithm, or what makes one, and gives an Algorithm, whose State holds the State of
the one inside as `inner`. `minibatches` is the innermost: it needs the rows of the method itself.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info
from deqbilevel.checks import finite, traced
from deqbilevel.rules import FUNCTION, KEY, Rule, count, options, real, require

ALGORITHM = Rule(lambda x: isinstance(x, Algorithm), "what a method gives, such as aid(...)")

Schedule = Callable[[Int[Array, ""]], Any]
"""The number of steps taken -> a number."""


class Guarded(NamedTuple):
    """A State, how far it got, and why it went no further."""

    inner: Any
    last: Info
    """Of the last step taken, infinite before: what a frozen lane goes on to show."""
    steps: Int[Array, ""]
    """Steps taken; where `diverged`, the one after these is the one that did."""
    calls: Calls
    """So far, those of a step that diverged included."""
    stopped: Bool[Array, ""]
    diverged: Bool[Array, ""]

    @property
    def gamma(self) -> Gamma:
        return self.inner.gamma

    @property
    def x(self) -> Array:
        return self.inner.x


LIMIT = Rule(lambda x: x == math.inf or real(least=0).holds(x), "a number of at least 0")


@options(algorithm=ALGORITHM, loss=LIMIT, gradient_norm=LIMIT, relative_change=LIMIT, calls=LIMIT)
def guarded(
    algorithm: Algorithm,
    *,
    loss: Any = jnp.inf,
    gradient_norm: Any = None,
    relative_change: Any = None,
    calls: Any = None,
) -> Algorithm:
    """The algorithm until it diverges or a stopping rule is met; there it stays, and calls nothing.

    A step diverges whose loss is above `loss` or whose loss, hypergradient, gamma, x or other row
    is not finite, or that has a NaN anywhere in its State. It is not taken: the State stays finite,
    the lane is frozen, its neighbours never see it. A step is the last one after which

        ||grad l|| <= gradient_norm, at the gamma that it started from
        ||gamma+ - gamma|| <= relative_change ||gamma||, .01 in [142] of [CF] 5.1
        the calls of all oracles are at least `calls`

    A search for a step size that finds none leaves gamma, and so meets the second. All may be
    traced. A step that is not taken shows the Info of the one before, with the calls that it made.
    Among lanes a frozen one still takes the time of the others.
    Raises: ValueError for rules that are no numbers of 0 or more.
    """

    def init(gamma: Gamma, x: Array) -> Guarded:
        inner = algorithm.init(gamma, x)
        zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
        none = Calls(zero, zero, zero, zero)
        no = jnp.zeros((), bool)
        return Guarded(inner, Info(none, inf, inf, inf, inf), jnp.zeros((), int), none, no, no)

    def step(state: Guarded, data: Data, key: PRNGKeyArray) -> tuple[Guarded, Info]:
        def take(state: Guarded) -> tuple[Any, Info]:
            inner, info = algorithm.step(state.inner, data, key)
            return inner, optax.tree.cast_like(info, state.last)

        def stay(state: Guarded) -> tuple[Any, Info]:
            return state.inner, state.last._replace(calls=Calls(*(0 * x for x in state.calls)))

        active = ~(state.stopped | state.diverged)
        inner, info = jax.lax.cond(active, take, stay, state)
        rows = [getattr(inner, name) for name in ("gamma", "x", *algorithm.rows)]
        sound = _all(jnp.isfinite, (rows, info.loss, info.gradient_norm)) & (info.loss <= loss)
        sound &= _all(lambda x: ~jnp.isnan(x), inner)
        taken = active & sound

        spent = state.calls.plus(info.calls)
        done = jnp.zeros((), bool)
        if gradient_norm is not None:
            done |= info.gradient_norm <= gradient_norm
        if relative_change is not None:
            change = optax.tree.norm(optax.tree.sub(inner.gamma, state.gamma))
            done |= change <= relative_change * optax.tree.norm(state.gamma)
        if calls is not None:
            done |= spent.total() >= calls

        inner, last = jax.tree.map(
            lambda new, old: jnp.where(taken, new, old), (inner, info), (state.inner, state.last)
        )
        state = Guarded(
            inner=inner,
            last=last,
            steps=state.steps + taken,
            calls=spent,
            stopped=state.stopped | (taken & done),
            diverged=state.diverged | (active & ~sound),
        )
        return state, last._replace(calls=info.calls)

    return Algorithm(init, step, rows=())


def _all(test: Callable[[Array], Array], tree: Any) -> Bool[Array, ""]:
    """Whether the test holds for every floating-point number of a tree."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(test(x)) for x in leaves]))


class Counted(NamedTuple):
    """A State and the number of steps taken."""

    inner: Any
    steps: Int[Array, ""]

    @property
    def gamma(self) -> Gamma:
        return self.inner.gamma

    @property
    def x(self) -> Array:
        return self.inner.x


def _counted(
    algorithm: Callable[[Array], Algorithm], see: Callable[[Data, Array], Data]
) -> Algorithm:
    """The algorithm of each step, by its number, and what it sees of the data."""

    def init(gamma: Gamma, x: Array) -> Counted:
        start = jnp.zeros((), int)
        return Counted(algorithm(start).init(gamma, x), start)

    def step(state: Counted, data: Data, key: PRNGKeyArray) -> tuple[Counted, Info]:
        u = state.steps
        inner, info = algorithm(u).step(state.inner, see(data, u), key)
        return Counted(inner, u + 1), info

    return Algorithm(init, step, rows=())


@options(factory=Rule(callable, "a method, or functools.partial of one"))
def scheduled(factory: Callable[..., Algorithm], **schedules: Any) -> Algorithm:
    """factory(option=schedule(u), ...) at the step u = 0, 1, ...: tightening accuracy, growing T.

    scheduled(partial(aid, problem, optimiser), lower_iterations=lambda u: 1 + u // 10). The options
    must be such as may be traced, and leave the State's shapes alone.
    Raises: ValueError for what is no function of u.
    """
    require(dict.fromkeys(schedules, FUNCTION), schedules)

    def algorithm(u: Array) -> Algorithm:
        return factory(**{name: schedule(u) for name, schedule in schedules.items()})

    return _counted(algorithm, lambda data, u: data)


@options(algorithm=ALGORITHM, size=FUNCTION)
def growing(algorithm: Algorithm, size: Schedule) -> Algorithm:
    """The algorithm on data._replace(size=size(u)): batches that grow with the step u, [CF] 7.6.

    For data with a leaf `size`: how many of the samples of a batch, whose shape is fixed, count.
    """
    return _counted(lambda u: algorithm, lambda data, u: _sized(data, size(u)))


class Enlarged(NamedTuple):
    """A State, how many samples it sees, and the loss of the step before."""

    inner: Any
    size: Float[Array, ""]
    loss: Float[Array, ""]

    @property
    def gamma(self) -> Gamma:
        return self.inner.gamma

    @property
    def x(self) -> Array:
        return self.inner.x


@options(
    algorithm=ALGORITHM,
    initial=count(1),
    largest=count(1),
    factor=real(above=1),
    decrease=real(least=0, below=1),
)
def enlarging(
    algorithm: Algorithm, *, initial: int, largest: int, factor: Any = 2.0, decrease: Any = 1e-3
) -> Algorithm:
    """`growing` where a step fails to lower l enough, as [11] of [CF] 7.6 does.

    The batch has `initial` samples until a step has l(gamma+) > (1 - decrease) l(gamma), both as
    Info has them, and from there on `factor` times as many, rounded down, `largest` at most. That
    the fall is relative to l, which must not be negative, is our reading.
    """

    def init(gamma: Gamma, x: Array) -> Enlarged:
        inner = algorithm.init(gamma, x)
        return Enlarged(inner, jnp.full((), initial, x.dtype), jnp.full((), jnp.inf, x.dtype))

    def step(state: Enlarged, data: Data, key: PRNGKeyArray) -> tuple[Enlarged, Info]:
        size = jnp.floor(state.size).astype(int)
        inner, info = algorithm.step(state.inner, _sized(data, size), key)
        failed = info.loss > (1 - decrease) * state.loss
        grown = jnp.minimum(jnp.where(failed, factor, 1) * state.size, largest)
        return Enlarged(inner, grown, info.loss.astype(state.loss.dtype)), info

    return Algorithm(init, step, rows=())


def _sized(data: Data, size: Any) -> Data:
    if not hasattr(data, "size") or not hasattr(data, "_replace"):
        raise ValueError(
            f"data: a {type(data).__name__} without `size`, expected one of samples, such as those "
            "of stochastic_quadratic and cleaning.pose"
        )
    return data._replace(size=size)


@options(algorithm=ALGORITHM)
def minibatches(algorithm: Algorithm) -> Algorithm:
    """The algorithm on data = (indices, all): its step sees the rows of all data with the indices.

    indices: [batch], no two equal. The leading axis of every leaf of the data are the rows of x.
    The State has all rows of its fields `rows`, such as x, which are warm: those of the batch are
    taken, stepped and put back, and the others stay.
    Raises: ValueError for a wrapper, whose State has no rows of its own, and for data or indices
    that are none.
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
    algorithm: Algorithm,
    state: Any,
    data: Data,
    key: PRNGKeyArray,
    steps: Any,
) -> tuple[Any, Info]:
    """Steps, scanned: the State after them, and their Info with a leading axis of steps.

    steps: their number, or for `minibatches` the indices of each.
    Raises: ValueError for fewer than one step, and for indices of no rows of x, or twice of one.
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
