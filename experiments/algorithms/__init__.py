"""Upper-level algorithms against each other, on one problem: [CF] section 5.

python -m experiments.algorithms --problem q1
python -m experiments.algorithms --problem vertical-bars --methods aid hoag ttsa --seeds 3
python -m experiments.algorithms --problem cleaning --seconds 60

Each method first searches its step size, candidates side by side as lanes, then runs with the best,
seeds as lanes, until it has made its share of oracle calls or used its time. What is drawn is the
upper loss at the minimiser and the norm of the true hypergradient there, solved for apart and not
timed. Repeating the same command goes on after an interruption, or shows the finished run again.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import algorithms, checkpoints, loop
from deqbilevel.algorithms import Algorithm, Posed, cleaning
from experiments import (
    command,
    common,
    folders,
    options,
)
from experiments.algorithms import cases, peers, tables
from experiments.algorithms.cases import CASES, Case
from experiments.records import Log

FACTOR = 4.0
"""Between two step sizes of a search."""

SAVE_SECONDS = 5.0
"""Of steps, at least, between two checkpoints."""

HUGE = 1e6
"""Times the loss at the start: a loss above it counts as diverged."""


BY_PROBLEM = options.default("the problem's")

NOISELESS, RANDOM = ("q1", "q2"), ("bsa", "sustain")
"""Problems of which all seeds are the same, and the methods that are random there all the same."""


@dataclass(frozen=True)
class Algorithms:
    """Compare upper-level algorithms. Unset options: those of the problem."""

    problem: Annotated[str, options.among(CASES)] = "q1"
    """What is solved."""
    methods: Annotated[
        tuple[str, ...] | None,
        options.among(algorithms.METHODS),
        options.default("all that the problem is not too large for"),
    ] = None
    """Of deqbilevel.algorithms.METHODS."""
    optimiser: Annotated[str | None, options.among(cases.OPTIMISERS), BY_PROBLEM] = None
    """Moves the upper level."""
    seeds: Annotated[int | None, options.whole(1, 1000), BY_PROBLEM] = None
    """Noises, starts and samples, as lanes of one program."""
    calls: Annotated[int | None, options.whole(1, 10**12), BY_PROBLEM] = None
    """Oracle calls of each method and seed, at most."""
    seconds: Annotated[float | None, options.number(above=0, most=1e7), BY_PROBLEM] = None
    """Of steps of each method, all seeds together, at most."""
    rate: Annotated[
        float | None,
        options.number(above=0, most=1e9),
        options.default("the problem's own for each"),
    ] = None
    """The step size in the middle of the search, for all methods."""
    search: Annotated[int, options.whole(1, 31)] = 5
    """Step sizes that are tried, a factor of 4 apart; 1: that in the middle alone."""
    search_part: Annotated[
        float,
        options.number(above=0, most=1),
        options.only("with --search above 1", lambda c: c.search > 1),
    ] = 0.25
    """Of either budget, for each step size of the search."""
    seed: Annotated[int, options.seed] = 0
    """The first of them."""
    image: Annotated[
        Path | None,
        options.file("a picture"),
        options.default("scikit-image's camera"),
        options.only("with --problem cameraman", lambda c: c.problem == "cameraman"),
    ] = None
    """An image file."""
    data: Annotated[
        str,
        options.data,
        options.only(
            "with --problem deblurring or cleaning",
            lambda c: c.problem in ("deblurring", "cleaning"),
        ),
    ] = "sample"
    """Digits, as in experiments.train."""
    peers: Annotated[
        Path | None,
        options.folder("a copy of benchopt's bilevel benchmark"),
        options.default("none"),
        options.only("with --problem cleaning", lambda c: c.problem == "cleaning"),
    ] = None
    """A folder with a copy of benchopt's bilevel benchmark, whose solvers are run as well. That
    executes the Python files in it: give one that you trust."""
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""

    def resolved(self) -> dict[str, Any]:
        """Every option that decides the numbers."""
        given = common.options_of(self)
        defaults = CASES[self.problem].options
        options = {k: defaults.get(k) if v is None else v for k, v in given.items()}
        if options["methods"] is None:
            options["methods"] = tuple(CASES[self.problem].methods)
        return options | {"image": self.image and str(self.image), "peers": bool(self.peers)}


@command.checked
def main(config: Algorithms) -> dict[str, Any]:
    """Run what has not run, draw it, return {problem: {method: numbers}}."""
    double = CASES[config.problem].float64
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", double)
    try:
        with contextlib.ExitStack() as stack:
            with common.clear_errors():
                options = config.resolved()
                _check(options, given=config.optimiser is not None)
                if config.peers is not None:
                    peers.solvers(config.peers)
                case = CASES[config.problem].build(options)
                name = f"algorithms-{config.problem}-{common.digest(options)}"
                claimed = folders.claim(
                    config.out,
                    name,
                    options,
                    files=files_of(options),
                    inputs=dict(case.inputs) | peers.inputs(config.peers),
                    sources={
                        "--image": config.image,
                        "--data": folders.source(config.data),
                        "--peers": config.peers,
                    },
                    fresh=config.fresh,
                )
                out = stack.enter_context(claimed)
            return _compare(options, case, config.peers, out)
    finally:
        jax.config.update("jax_enable_x64", before)


def files_of(options: dict[str, Any]) -> list[str]:
    """What a run writes beside its figure, see `folders`."""
    states = [f"states/{method}/<checkpoint>" for method in options["methods"]]
    return ["searches.jsonl", "courses.jsonl", *states, "summary.md", "result.json"]


def _check(options: dict[str, Any], *, given: bool) -> None:
    """Raises ValueError for a request that cannot be met; `given`: whether an optimiser was."""
    if options["seed"] + options["seeds"] > 2**32:
        raise ValueError(f"--seed {options['seed']} --seeds {options['seeds']}: beyond 32 bits")
    same = [m for m in options["methods"] if m not in RANDOM]
    if options["problem"] in NOISELESS and options["seeds"] > 1 and same:
        raise ValueError(
            f"--seeds {options['seeds']}: {', '.join(same)} would do the same for each of them on "
            f"{options['problem']}, where nothing is random; take one, or --problem q1-stochastic"
        )
    usable = CASES[options["problem"]].methods
    for method in options["methods"]:
        if method not in usable:
            raise ValueError(
                f"--methods {method}: {options['problem']} is too large for its dense matrices; "
                f"take of {', '.join(usable)}"
            )

    own = (*algorithms.OWN_STEPS, *(m for m in usable if "optimiser" in usable[m]))
    if given and set(options["methods"]) <= set(own):
        raise ValueError(
            f"--optimiser {options['optimiser']}: {', '.join(options['methods'])} move the upper "
            "level by steps of their own; leave it out"
        )


def _compare(options: dict[str, Any], case: Case, clone: Path | None, out: Path) -> dict[str, Any]:
    rows = []
    for method in tqdm(options["methods"], "methods", unit="method"):
        rows += _run(options, case, method, out)
    if clone is not None:
        posed = case.pose(jax.tree.map(lambda leaf: leaf[0], case.lanes))
        rows += peers.compare(
            clone,
            cleaning.digits(options["data"], seed=options["seed"]),
            peers.at_minimiser(case, posed),
            out,
            seconds=options["seconds"],
            calls=options["calls"],
            seed=options["seed"],
            points=3 if options["search"] > 1 else 1,
            search_part=options["search_part"],
        )
    return tables.report(options, case.about, rows, CASES[options["problem"]].close, out)


def _run(options: dict[str, Any], case: Case, method: str, out: Path) -> list[dict[str, Any]]:
    """The points of a method's course; what is on disk is not done again."""
    log = Log.of(out / "searches.jsonl", cases.SEARCH)
    searches = {r["method"]: r for r in log.read()}
    if method not in searches:
        searches[method] = {"method": method} | _search(options, case, method)
        log.append(searches[method])
    rate = searches[method]["rate"]
    count = options["seeds"]
    lanes = _lanes(case, [rate] * count, list(range(count)), options["seed"])
    return _course(options, case, method, lanes, 1.0, out)


class Lane(NamedTuple):
    """What a lane is made of, each with a leading axis of lanes."""

    rate: Array
    own: Any
    """Of the case."""
    key: Array


def _lanes(case: Case, rates: list[float], seeds: list[int], first: int) -> Lane:
    """A lane for each rate, with the problem of the seed beside it."""
    place = jnp.array(seeds)
    own = jax.tree.map(lambda leaf: leaf[place], case.lanes)
    return Lane(jnp.array(rates), own, jax.vmap(jax.random.key)(first + place))


def _search(options: dict[str, Any], case: Case, method: str) -> dict[str, Any]:
    """The step size that first comes close to the least loss of all, of those that end close to it,
    with a part of the budget and the first seed; of none that does not diverge the smallest."""
    kind, count, middle = CASES[options["problem"]], options["search"], options["rate"]
    if middle is None:
        middle = kind.methods[method]["rate"]
    rates = [middle * FACTOR ** (i - (count - 1) // 2) for i in range(count)]
    if count == 1:
        return {"rate": middle, "rates": rates}
    lanes = _lanes(case, rates, [0] * count, options["seed"])
    course = _course(options, case, method, lanes, options["search_part"], None)
    losses = np.array([row["loss"] for row in course], float)
    losses[:, np.array(course[-1]["diverged"])] = np.inf
    losses = np.nan_to_num(losses, nan=np.inf)
    target = losses[-1].min() + kind.close * (losses[0].min() - losses[-1].min())
    close = losses <= target
    arrived = np.where(close[-1], close.argmax(axis=0), np.inf)
    found = {"rate": rates[int(arrived.argmin())], "rates": rates}
    return found | {name: course[-1][name] for name in ("loss", "diverged", "calls", "seconds")}


def _course(
    options: dict[str, Any], case: Case, method: str, lanes: Lane, part: float, out: Path | None
) -> list[dict[str, Any]]:
    """The points of a method's lanes, until that part of the calls or of the time is used up.

    With `out`, each point is on disk there before the next begins, and what is there is not done
    again; the state is stored from time to time, and a run goes on from where that was.
    """

    def begin(lane: Lane) -> Any:
        posed = case.pose(lane.own)
        return _guarded(options, posed, method, lane).init(posed.gamma, posed.x)

    def advance(lane: Lane, state: Any, first: Array, count: Array) -> Any:
        posed = case.pose(lane.own)
        step = _guarded(options, posed, method, lane).step

        def body(t: Array, state: Any) -> Any:
            return step(state, posed.data, jax.random.fold_in(lane.key, t))[0]

        return jax.lax.fori_loop(first, first + count, body, state)

    def judge(lane: Lane, gamma: Any, x: Array, v: Array) -> Any:
        return cases.judge(case, case.pose(lane.own), gamma, x, v)

    state = jax.jit(jax.vmap(begin))(lanes)
    course, state = _resumed(method, state, out)
    if course and course[-1]["last"]:
        return course
    zero = jnp.array(0)
    over = jax.vmap if CASES[options["problem"]].together else _one_by_one
    steps = over(advance, in_axes=(0, 0, None, None))
    run = loop.ahead(jax.jit(steps), lanes, state, zero, zero)
    judge_all = jax.jit(over(judge, in_axes=(0, 0, 0, 0)))
    calls, seconds = (part * options[name] for name in ("calls", "seconds"))
    x, v, saved = state.x, jnp.zeros_like(state.x), 0.0
    step, spent = (course[-1]["step"], course[-1]["seconds"]) if course else (0, 0.0)
    while not (course and course[-1]["last"]):
        count = _block(course, calls, seconds) if course else 0
        clock = time.perf_counter()
        state = jax.block_until_ready(run(lanes, state, jnp.array(step), jnp.array(count)))
        if count:
            spent += time.perf_counter() - clock
            saved += time.perf_counter() - clock
        step += count
        numbers, x, v = judge_all(lanes, state.gamma, x, v)
        row: dict[str, Any] = {"method": method, "rates": lanes.rate.tolist(), "step": step}
        row |= {"seconds": spent, "calls": [float(jnp.mean(n)) for n in state.calls]}
        row |= {name: value.tolist() for name, value in numbers.items()}
        row["diverged"] = state.diverged.tolist()
        row["last"] = step > 0 and (
            all(row["diverged"]) or sum(row["calls"]) >= calls or spent >= seconds
        )
        course.append(row)
        if out is not None:
            Log.of(out / "courses.jsonl", cases.POINT).append(row)
            if saved > SAVE_SECONDS:
                checkpoints.save(out / "states" / method, step, state)
                saved = 0.0
    return course


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


def _guarded(options: dict[str, Any], posed: Posed, method: str, lane: Lane) -> Algorithm:
    """The method of a lane, which is frozen where it diverges."""
    method_of_lane = cases.algorithm(options, posed, method, lane.rate)
    start = posed.problem.upper(posed.gamma, posed.x, posed.data)
    return algorithms.guarded(method_of_lane, loss=HUGE * jnp.abs(start))


def _block(course: list[dict[str, Any]], calls: float, seconds: float) -> int:
    """Steps to the next point: a part more than so far, as far as the budgets go."""
    last = course[-1]
    if not last["step"]:
        return 1
    parts = [
        (calls - sum(last["calls"])) / sum(last["calls"]),
        (seconds - last["seconds"]) / max(last["seconds"], 1e-9),
        cases.SPACING - 1,
    ]
    return max(1, math.ceil(last["step"] * min(parts)))


def _resumed(method: str, state: Any, out: Path | None) -> tuple[list[dict[str, Any]], Any]:
    """The stored points of a method up to its stored state, or all where it has ended."""
    if out is None:
        return [], state
    log = Log.of(out / "courses.jsonl", cases.POINT)
    rows = log.read()
    own = [row for row in rows if row["method"] == method]
    if own and own[-1]["last"]:
        return own, state
    done = checkpoints.latest_step(out / "states" / method)
    kept = [row for row in own if done is not None and row["step"] <= done]
    if kept:
        state = checkpoints.restore(out / "states" / method, state)
    log.keep([row for row in rows if row["method"] != method] + kept)
    return kept, state
