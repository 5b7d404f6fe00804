"""A method on a case: its candidates, one after the other, each a record on disk."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deqbilevel import algorithms, search
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.disk import checkpoints
from experiments.search.problems import Case

RECORD: dict[str, Any] = {"method": "", "parameters": "", "points": [[0.0]], "losses": [ANY]}
RECORD |= {"bounds": [ANY], "evaluations": [0.0], "seconds": 0.0}
"""One request of a search, or one step of `hypergradient`; what a search is told is beside it."""

HYPERGRADIENT = "hypergradient"
"""The name of Adam on the implicit gradient, beside those of `search.SEARCHES`."""


def of(config: Any, case: Case, name: str) -> search.Search | None:
    """The search with its options; None: the hypergradient. Raises: ValueError for what it cannot
    do, or lacks."""
    if name not in search.SEARCHES:
        return None
    how = {"accuracy": None} if name == "trust_region" and not config.dynamic else {}
    try:
        return search.sized(
            name, case.box.size, candidates=config.candidates, seed=config.seed, **how
        )
    except ValueError as error:
        raise ValueError(f"--methods {error}") from error


def state(case: Case, name: str) -> str:
    """The folder of the state of a method, below that of the command."""
    return f"states/{name}-{case.label}"


def files_of(runs: Sequence[tuple[Case, str]]) -> list[str]:
    """What methods write, see `folders`."""
    steps = [(case, name) for case, name in runs if name not in search.SEARCHES]
    return ["candidates.jsonl", *(f"{state(case, name)}/<checkpoint>" for case, name in steps)]


def run(
    config: Any, case: Case, method: search.Search | None, log: Log, states: Path
) -> list[dict[str, Any]]:
    """The records of a method; what is on disk is not made again."""
    evaluate = search.evaluator(
        case.posed,
        case.box,
        residuals=case.residuals,
        accuracy=config.accuracy,
        max_evaluations=config.lower_evaluations,
    )
    known = log.read()
    if method is None:
        records = _steps(config, case, evaluate, known, log, states)
    else:
        records = search.run(method, evaluate, candidates=config.candidates, known=known)
    rows = []
    for i, record in enumerate(records):
        rows.append({**log.part, **record})
        if i >= len(known):
            log.append(rows[-1])
    return rows


def _steps(
    config: Any,
    case: Case,
    evaluate: Callable[[search.Request], search.Evaluated],
    known: list[dict[str, Any]],
    log: Log,
    states: Path,
) -> Iterator[dict[str, Any]]:
    """The steps of Adam on the hypergradient, from the middle of the box. A loss is that of the
    step's point, judged apart as accurately as those of the searches, and not counted."""
    posed = search.within(case.posed, case.box, jnp.full(case.box.size, 0.5))
    method = algorithms.aid(
        posed.problem,
        optax.adam(config.learning_rate),
        lower_iterations=config.step_evaluations,
        adjoint_iterations=config.step_products,
        lower_solver="optimized_gradient",
    )
    now = method.init(posed.gamma, posed.x)
    done = checkpoints.latest_step(states) or 0
    if done:
        now = checkpoints.restore(states, now)
    if len(known) > done:  # the state after them was not stored
        del known[done:]
        log.keep(known)
    yield from known
    key, step = jax.random.key(config.seed), jax.jit(method.step)
    if done < config.candidates:
        jax.block_until_ready(step(now, posed.data, key))  # compiled, and not timed
    for i in range(done, config.candidates):
        begin, point = time.perf_counter(), np.asarray(now.gamma, float)
        now, info = jax.block_until_ready(step(now, posed.data, key))
        seconds = time.perf_counter() - begin
        judged = evaluate(search.Request(point[None])).outcome
        yield {
            "points": [point.tolist()],
            "losses": judged.losses.tolist(),
            "bounds": judged.bounds.tolist(),
            "evaluations": [float(info.calls.total())],
            "seconds": seconds,
        }
        checkpoints.save(states, i + 1, now)
