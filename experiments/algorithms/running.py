"""A method searches its step size, then runs with it; what is on disk is not done again."""

from functools import partial
from pathlib import Path
from typing import Any

from deqbilevel import courses
from deqbilevel.commands.records import Log
from deqbilevel.disk import checkpoints
from experiments.algorithms import cases
from experiments.algorithms.cases import CASES, Case

FACTOR = 4.0
"""Between two step sizes of a search."""

SAVE_SECONDS = 5.0
"""Of steps, at least, between two checkpoints."""


def run(options: dict[str, Any], case: Case, method: str, out: Path) -> list[dict[str, Any]]:
    """The points of a method's course; what is on disk is not done again."""
    log = Log.of(out / "searches.jsonl", cases.SEARCH)
    searches = {r["method"]: r for r in log.read()}
    kind = CASES[options["problem"]]
    setup = courses.Setup(
        case.pose,
        partial(cases.algorithm, options, method),
        case.accuracy,
        case.scores,
        kind.together,
    )
    if method not in searches:
        searches[method] = {"method": method} | _search(options, case, setup, kind, method)
        log.append(searches[method])
    rates = [searches[method]["rate"]] * options["seeds"]
    lanes = courses.lanes(case.lanes, rates, range(len(rates)), options["seed"])
    return _course(options, setup, lanes, method, out)


def _search(
    options: dict[str, Any], case: Case, setup: courses.Setup, kind: cases.Kind, method: str
) -> dict[str, Any]:
    """The step size that first comes close to the least loss of all, see `courses.best`, with a
    part of the budget and the first seed."""
    count, middle = options["search"], options["rate"]
    if middle is None:
        middle = kind.methods[method]["rate"]
    rates = [middle * FACTOR ** (i - (count - 1) // 2) for i in range(count)]
    if count == 1:
        return {"rate": middle, "rates": rates}
    lanes = courses.lanes(case.lanes, rates, [0] * count, options["seed"])
    calls, seconds = (options["search_part"] * options[name] for name in ("calls", "seconds"))
    found = courses.points(setup, lanes, setup.start(lanes), calls=calls, seconds=seconds)
    course = [point for point, _ in found]
    ends = {name: course[-1][name] for name in ("loss", "diverged", "calls", "seconds")}
    return {"rate": rates[courses.best(course, kind.close)], "rates": rates} | ends


def _course(
    options: dict[str, Any], setup: courses.Setup, lanes: courses.Lanes, method: str, out: Path
) -> list[dict[str, Any]]:
    """The points of a method's lanes. Each is on disk before the next begins, and what is there is
    not done again; the state is stored from time to time, and a run goes on from where that was."""
    states, log = out / "states" / method, Log.of(out / "courses.jsonl", cases.POINT)
    course, state = _resumed(method, setup.start(lanes), states, log)
    saved = last = course[-1] if course else None
    budget = {name: options[name] for name in ("calls", "seconds")}
    for point, now in courses.points(setup, lanes, state, last=last, **budget):
        course.append({"method": method} | point)
        log.append(course[-1])
        if point["seconds"] - (saved["seconds"] if saved else 0.0) > SAVE_SECONDS:
            checkpoints.save(states, point["step"], now)
            saved = point
    return course


def _resumed(method: str, state: Any, states: Path, log: Log) -> tuple[list[dict[str, Any]], Any]:
    """The stored points of a method up to its stored state, or all where it has ended."""
    rows = log.read()
    own = [row for row in rows if row["method"] == method]
    if own and own[-1]["last"]:
        return own, state
    done = checkpoints.latest_step(states)
    kept = [row for row in own if done is not None and row["step"] <= done]
    if kept:
        state = checkpoints.restore(states, state)
    log.keep([row for row in rows if row["method"] != method] + kept)
    return kept, state
