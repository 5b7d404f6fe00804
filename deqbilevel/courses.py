"""Courses of an upper-level algorithm over lanes, judged at the true minimiser as they go.

A lane is a step size, a problem and a random key. `best` searches: of courses whose lanes differ
in their step sizes it takes the one that arrives first.

>>> accuracy = algorithms.judging.Accuracy("gradient_descent", 100, 100, 1e-6)
>>> method = lambda posed, rate: algorithms.aid(posed.problem, optax.sgd(rate))
>>> setup = courses.Setup(
...     lambda own: algorithms.quadratic(), method, accuracy, lambda gamma, x, posed: {}
... )
>>> some = courses.lanes(jnp.zeros(1), rates=[0.1, 0.5], places=[0, 0], first=0)
>>> course = [x for x, _ in courses.points(setup, some, setup.start(some), calls=20, seconds=60)]
>>> print(np.array(course[0]["loss"]))  # |x* - d|^2 / 2 = 2766 / 648 at gamma = 0
[4.2685 4.2685]
>>> print(some.rate[courses.best(course, close=0.1)])
0.5
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from deqbilevel import learning
from deqbilevel.algorithms import Algorithm, Posed, guarded
from deqbilevel.algorithms.judging import Accuracy, Scores, judge

SPACING = 1.15
"""Of the steps at two points of a course that follow one another, at least."""

HUGE = 1e6
"""Times the loss at the start: a loss above it counts as diverged."""


class Lanes(NamedTuple):
    """What lanes are made of, each with a leading axis of lanes."""

    rate: Float[Array, " lanes"]
    own: Any
    """A pytree, of which `Setup.pose` makes a problem."""
    key: Shaped[PRNGKeyArray, " lanes"]


class Setup(NamedTuple):
    """A method on a problem, and how its courses are judged."""

    pose: Callable[[Any], Posed]
    """The problem of one entry of `Lanes.own`, under `vmap`."""
    method: Callable[[Posed, Any], Algorithm]
    """(posed, rate) -> the method with a step size that may be traced."""
    accuracy: Accuracy
    scores: Scores
    together: bool = True
    """Whether lanes are vmapped; else they run one after the other."""

    def start(self, lanes: Lanes) -> Any:
        """The State of all lanes."""

        def init(lane: Lanes) -> Any:
            posed = self.pose(lane.own)
            return self.guarded(posed, lane).init(posed.gamma, posed.x)

        return jax.jit(jax.vmap(init))(lanes)

    def guarded(self, posed: Posed, lane: Lanes) -> Algorithm:
        """The method of one lane, which is frozen where it diverges."""
        start = posed.problem.upper(posed.gamma, posed.x, posed.data)
        return guarded(self.method(posed, lane.rate), loss=HUGE * jnp.abs(start))


def lanes(problems: Any, rates: Sequence[float], places: Sequence[int], first: int) -> Lanes:
    """A lane for each rate, with the problem of its place in `problems`, a pytree with a leading
    axis, beside it; keys by first + place."""
    place = jnp.array(places)
    own = jax.tree.map(lambda leaf: leaf[place], problems)
    return Lanes(jnp.array(rates), own, jax.vmap(jax.random.key)(first + place))


def points(
    setup: Setup,
    lanes: Lanes,
    state: Any,
    *,
    calls: float | int,
    seconds: float | int,
    last: dict[str, Any] | None = None,
) -> Iterator[tuple[dict[str, Any], Any]]:
    """The points of a course after the point `last`, None: from its start, each with the State.

    It ends with the point, marked `last`, at which all oracle calls or the seconds of the steps are
    used up, or every lane has diverged. A point holds rates, step, seconds, the mean over lanes of
    the calls of each oracle, and lists over lanes of what `algorithms.judging.judge` says and of
    diverged.
    """

    def advance(lane: Lanes, state: Any, first: Array, count: Array) -> Any:
        posed = setup.pose(lane.own)
        step = setup.guarded(posed, lane).step

        def body(t: Array, state: Any) -> Any:
            return step(state, posed.data, jax.random.fold_in(lane.key, t))[0]

        return jax.lax.fori_loop(first, first + count, body, state)

    def judged(lane: Lanes, gamma: Any, x: Array, v: Array) -> Any:
        return judge(setup.pose(lane.own), setup.accuracy, setup.scores, gamma, x, v)

    zero = jnp.array(0)
    over = jax.vmap if setup.together else _one_by_one
    run = learning.ahead(
        jax.jit(over(advance, in_axes=(0, 0, None, None))), lanes, state, zero, zero
    )
    judge_all = jax.jit(over(judged, in_axes=(0, 0, 0, 0)))
    x, v = state.x, jnp.zeros_like(state.x)
    while last is None or not last["last"]:
        step, spent = (last["step"], last["seconds"]) if last else (0, 0.0)
        count = _block(last, calls, seconds) if last else 0
        clock = time.perf_counter()
        state = jax.block_until_ready(run(lanes, state, jnp.array(step), jnp.array(count)))
        if count:
            spent += time.perf_counter() - clock
        numbers, x, v = judge_all(lanes, state.gamma, x, v)
        last = {"rates": lanes.rate.tolist(), "step": step + count, "seconds": spent}
        last["calls"] = [float(jnp.mean(n)) for n in state.calls]
        last |= {name: value.tolist() for name, value in numbers.items()}
        last["diverged"] = state.diverged.tolist()
        used = sum(last["calls"]) >= calls or spent >= seconds
        last["last"] = last["step"] > 0 and (all(last["diverged"]) or used)
        yield last, state


def best(course: Sequence[dict[str, Any]], close: float) -> int:
    """The lane that first comes close to the least loss of all, of those that end close to it; of
    none that does not diverge the first. close: the part of the way there that may be left."""
    losses = np.array([point["loss"] for point in course], float)
    losses[:, np.array(course[-1]["diverged"])] = np.inf
    losses = np.nan_to_num(losses, nan=np.inf)
    target = losses[-1].min() + close * (losses[0].min() - losses[-1].min())
    there = losses <= target
    return int(np.where(there[-1], there.argmax(axis=0), np.inf).argmin())


def _block(last: dict[str, Any], calls: float | int, seconds: float | int) -> int:
    """Steps to the next point: a part more than so far, as far as the budgets go."""
    if not last["step"]:
        return 1
    parts = [
        (calls - sum(last["calls"])) / sum(last["calls"]),
        (seconds - last["seconds"]) / max(last["seconds"], 1e-9),
        SPACING - 1,
    ]
    return max(1, math.ceil(last["step"] * min(parts)))


def _one_by_one(function: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Any:
    """As `jax.vmap`, but one lane after the other."""

    def over_lanes(*arguments: Any) -> Any:
        mapped = [x for x, axis in zip(arguments, in_axes, strict=True) if axis == 0]

        def of_lane(own: list[Any]) -> Any:
            rest = iter(own)
            pairs = zip(arguments, in_axes, strict=True)
            return function(*(next(rest) if axis == 0 else x for x, axis in pairs))

        return jax.lax.map(of_lane, mapped)

    return over_lanes
