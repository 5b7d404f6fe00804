"""A method on a case: its candidates, one after the other, each a record on disk."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deqbilevel import search
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.disk import checkpoints
from deqbilevel.search import Evaluated, Request
from experiments.search.cases import Case
from experiments.search.gradients import GRADIENTS, relative

RECORD: dict[str, Any] = {"method": "", "case": "", "points": [[0.0]], "losses": [ANY]}
RECORD |= {"bounds": [ANY], "evaluations": [0.0], "seconds": 0.0}
"""One request of a search, or one step with a hypergradient; what a search is told is beside it."""

FIXED = "fixed_trust_region"
"""The name of `trust_region` with every lower level as accurate as those of the others."""

METHODS = (*search.SEARCHES, FIXED, *GRADIENTS)

BLOCK = 10
"""Steps between two checkpoints, which are judged together."""

Judge = Callable[[Request], Evaluated]


def of(config: Any, case: Case, name: str) -> search.Search | None:
    """The search with its options; None: a method with hypergradients. Raises: ValueError for what
    it cannot do, or lacks."""
    if name in GRADIENTS:
        GRADIENTS[name](config, case.posed.problem, case.residuals.lipschitz)
        return None
    name, how = ("trust_region", {"accuracy": None}) if name == FIXED else (name, {})
    return search.sized(name, case.box.size, candidates=config.candidates, seed=config.seed, **how)


def state(case: Case, name: str) -> str:
    """The folder of the state of a method, below that of the command."""
    return f"states/{name}-{case.label}"


def files_of(runs: Sequence[tuple[Case, str]]) -> list[str]:
    """What methods write, see `folders`."""
    steps = [(case, name) for case, name in runs if name in GRADIENTS]
    return ["candidates.jsonl", *(f"{state(case, name)}/<checkpoint>" for case, name in steps)]


def judge(config: Any, case: Case) -> Judge:
    """Of the candidates of all methods."""
    return search.evaluator(
        case.posed,
        case.box,
        residuals=case.residuals,
        accuracy=config.accuracy,
        max_evaluations=config.lower_evaluations,
    )


def run(
    config: Any, case: Case, name: str, method: search.Search | None, judged: Judge, out: Path
) -> list[dict[str, Any]]:
    """The records of a method; what is on disk is not made again."""
    part = {"method": name, "case": case.label}
    log = Log.of(out / "candidates.jsonl", RECORD)._replace(part=part)
    known = log.read()
    if method is None:
        records = _steps(config, case, name, judged, known, log, out / state(case, name))
    else:
        records = search.run(method, judged, candidates=config.candidates, known=known)
    rows = []
    for i, record in enumerate(records):
        rows.append({**part, **record})
        if i >= len(known):
            log.append(rows[-1])
    return rows


def _steps(
    config: Any,
    case: Case,
    name: str,
    judged: Judge,
    known: list[dict[str, Any]],
    log: Log,
    states: Path,
) -> Iterator[dict[str, Any]]:
    """The steps of a method from the middle of the box. A loss is that of the step's point, judged
    apart as accurately as those of the searches, and not counted; NaN outside of the box."""
    done = checkpoints.latest_step(states) or 0
    if len(known) > done:  # the state after them was not stored
        del known[done:]
        log.keep(known)
    yield from known
    if done >= config.candidates:
        return
    start = judged(Request(np.full((1, case.box.size), 0.5))).outcome.losses[0]
    posed = relative(case, start)
    method = GRADIENTS[name](config, posed.problem, case.residuals.lipschitz / start**0.5)
    now = method.init(posed.gamma, posed.x)
    now = checkpoints.restore(states, now) if done else now
    key, step = jax.random.key(config.seed), jax.jit(method.step)
    # Compiled, and not timed: for what a first step takes, and what later ones take.
    again, _ = step(now, posed.data, key)
    jax.block_until_ready(step(again, posed.data, key))
    while done < config.candidates:
        points, costs = [], []
        for _ in range(min(BLOCK, config.candidates - done)):
            begin = time.perf_counter()
            points.append(np.asarray(now.gamma, float))
            now, info = jax.block_until_ready(step(now, posed.data, key))
            costs.append((float(info.calls.total()), time.perf_counter() - begin))
        found = judged(Request(np.stack(points))).outcome
        inside = np.all(np.abs(np.stack(points) - 0.5) < 0.5 + 1e-6, axis=1)
        losses = np.where(inside, found.losses, np.nan)
        for i, (point, (evaluations, seconds)) in enumerate(zip(points, costs, strict=True)):
            yield {
                "points": [point.tolist()],
                "losses": losses[i : i + 1].tolist(),
                "bounds": found.bounds[i : i + 1].tolist(),
                "evaluations": [evaluations],
                "seconds": seconds,
            }
        done += len(points)
        checkpoints.save(states, done, now)
