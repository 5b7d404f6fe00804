"""`learn --search`: a search without gradients over a few scalars, before or instead of learning.

Every candidate is judged by the loss of training images at a lower level that is solved as one that
is judged; each is on disk before the next is asked for.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import checks, search
from deqbilevel.commands import common
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.learning import BATCH, Learner, upper_level
from deqbilevel.search import Box, Evaluated, Outcome, Request
from deqbilevel.types import Params

FILE = "search.jsonl"

NAMES = tuple(name for name in search.SEARCHES if name != "trust_region")
"""The searches that go by losses alone: that one models the residuals of single images."""

RECORD = {"points": [[0.0]], "accuracy": ANY, "losses": [ANY], "bounds": [ANY], "residuals": ANY}
RECORD |= {"lipschitz": ANY, "evaluations": [ANY], "seconds": 0.0}


def box_of(words: Sequence[str], params: Params) -> Box:
    """The box of --search-over NAME=LOW..HIGH[:log].

    Raises: ValueError for words that say none, and names of params that are no scalars.

    >>> from deqbilevel.commands.learn import searching
    >>> print(searching.box_of(["gamma=1e-3..1:log"], {"gamma": 1.0}).logarithmic)
    ('gamma',)
    """
    low, high, logarithmic = {}, {}, []
    scalars = sorted(name for name, x in params.items() if _scalar(x))
    for text in words:
        name, _, values = text.partition("=")
        checks.known("--search-over", name, dict.fromkeys(scalars))
        try:
            first, last, even = common.span(values)
        except ValueError as error:
            raise ValueError(
                f"--search-over {text}: expected {name}=LOW..HIGH or {name}=LOW..HIGH:log: {error}"
            ) from error
        if name in low or not first < last:
            raise ValueError(f"--search-over {text}: expected each name once, and LOW below HIGH")
        low[name], high[name] = first, last
        logarithmic += [name] if even else []
    return Box(low, high, tuple(logarithmic)).check()


def _scalar(x: Any) -> bool:
    return isinstance(x, int | float | np.ndarray | jax.Array) and np.ndim(x) == 0


def check(config: Any, params: Params) -> None:
    """Raises: ValueError for a search without a box, and for a box that is none."""
    if config.search is None:
        return
    if not config.search_over:
        raise ValueError(
            f"--search {config.search}: over what? give --search-over NAME=LOW..HIGH[:log], one "
            "or more"
        )
    _search(config, box_of(config.search_over, params))


def _search(config: Any, box: Box) -> search.Search:
    """Raises: ValueError for one that cannot be, or lacks a package."""
    try:
        return search.sized(config.search, box.size, candidates=config.candidates, seed=config.seed)
    except ValueError as error:
        raise ValueError(f"--search {error}") from error


def searched(
    config: Any, learner: Learner, params: Params, truth: Array, f: Array, out: Path
) -> tuple[Params, dict[str, Any]]:
    """The params with the best of the candidates, or as they were where none is better, and what
    was found.

    truth, f: the training images and their measurements, of which the first `BATCH` judge.
    """
    box = box_of(config.search_over, params)
    truth, f = truth[:BATCH], f[:BATCH]
    judged = jax.jit(upper_level(learner, truth, f))
    log = Log.of(out / FILE, RECORD)
    known = log.read()
    log.keep(known)
    records = []
    evaluate = _evaluator(judged, box, params)
    run = search.run(_search(config, box), evaluate, candidates=config.candidates, known=known)
    for i, record in enumerate(run):
        records.append(record)
        if i >= len(known):
            log.append(record)
    point, least = search.best(records)
    before = float(judged(params)[0])
    value = {name: jnp.asarray(x, float) for name, x in box.value(jnp.asarray(point)).items()}
    better = bool(least < before)
    found = {
        "search_candidates": sum(len(record["losses"]) for record in records),
        "search_loss_before": before,
        "search_loss": min(least, before),
        "search_at_edge": better and bool(np.any((point <= 0) | (point >= 1))),
        **{f"searched_{name}": float((value if better else params)[name]) for name in box.low},
    }
    return (params | value if better else params), found


def _evaluator(judged: Any, box: Box, params: Params) -> Callable[[Request], Evaluated]:
    """Judges the candidates of a request, one after the other."""

    def evaluate(request: Request) -> Evaluated:
        found = [judged(params | box.value(jnp.asarray(x, float))) for x in request.points]
        losses, evaluations = (np.asarray([float(x[i]) for x in found]) for i in (0, 1))
        return Evaluated(Outcome(losses, np.full_like(losses, np.nan)), evaluations)

    return evaluate
