"""A search run: every evaluation is a record, and what is on record is not made again."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from deqbilevel.search.base import Outcome, Request, Search
from deqbilevel.search.evaluating import Evaluated


def run(
    search: Search,
    evaluate: Callable[[Request], Evaluated],
    *,
    candidates: int,
    known: Iterable[Mapping[str, Any]] = (),
) -> Iterator[dict[str, Any]]:
    """The records of a search of at most so many candidates, one for each request, with the seconds
    that it took to ask and to judge.

    known: the records of a run that was interrupted, which come first: they are told to the search
    again, so that it ends as an undisturbed one. The last request is cut to what is left.
    Raises: ValueError for records of another search.

    >>> def evaluate(request):
    ...     losses = np.sum((request.points - 0.3) ** 2, axis=1)
    ...     return search.Evaluated(search.Outcome(losses, 0 * losses), 0 * losses)
    >>> records = list(search.run(search.grid(1, count=11), evaluate, candidates=11))
    >>> print(round(min(records[0]["losses"]), 6), len(records[0]["losses"]))
    0.0 11
    """
    left, state, stored = candidates, search.init(), iter(known)
    while left > 0:
        begin = time.perf_counter()
        request, state = search.ask(state)
        asking = time.perf_counter() - begin
        if request is None:
            return
        if len(request.points) > left:  # not told: a search may need all that it asked for
            request, state = request._replace(points=request.points[:left]), None
        record = next(stored, None)
        if record is None:
            found = evaluate(request)
            record = _record(request, found, asking + found.seconds)
        elif not np.array_equal(np.asarray(record["points"]), request.points):
            raise ValueError("known: records of another search, which asked for other points")
        yield dict(record)
        left -= len(request.points)
        if state is not None:
            state = search.tell(state, request, _outcome(record))


def _record(request: Request, found: Evaluated, seconds: float) -> dict[str, Any]:
    outcome = found.outcome
    return {
        "points": request.points.tolist(),
        "accuracy": request.accuracy,
        "losses": outcome.losses.tolist(),
        "bounds": outcome.bounds.tolist(),
        "residuals": None if outcome.residuals is None else outcome.residuals.tolist(),
        "lipschitz": float(outcome.lipschitz),
        "evaluations": found.evaluations.tolist(),
        "seconds": seconds,
    }


def _outcome(record: Mapping[str, Any]) -> Outcome:
    residuals = record["residuals"]
    return Outcome(
        np.asarray(record["losses"], float),
        np.asarray(record["bounds"], float),
        None if residuals is None else np.asarray(residuals, float),
        float(record["lipschitz"]),
    )


def best(records: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, float]:
    """The point with the least loss of all, and that loss; infinity where none is a number.

    Raises: ValueError without records.
    """
    records = list(records)
    points = [point for record in records for point in record["points"]]
    losses = [loss for record in records for loss in record["losses"]]
    if not points:
        raise ValueError("records: none; expected those of a search that has begun")
    comparable = np.where(np.isnan(losses), np.inf, losses)
    i = int(np.argmin(comparable))
    return np.asarray(points[i]), float(comparable[i])
