"""The step sizes of the peers, searched, and their courses with the best."""

import itertools
import math
from pathlib import Path
from typing import Any

from deqbilevel.algorithms.cleaning import Corpus
from deqbilevel.commands.records import Log
from experiments.algorithms import cases
from experiments.algorithms.clone import published, say, solvers
from experiments.algorithms.peers import Evaluate, course, prepared

OUTER_RATIO = 1e-4
"""Of the lower step to the upper for a solver without a published one; their median."""

FACTOR = 10.0
"""Between two step sizes, and two ratios, of a search: that of their own grids."""


def search(
    name: str,
    own: Any,
    evaluate: Evaluate,
    centre: tuple[float, float],
    *,
    seconds: float,
    calls: float = math.inf,
    points: int = 3,
    moves: int = 1,
) -> dict[str, Any]:
    """The (step_size, outer_ratio) with the least loss at the minimiser after those seconds.

    Tried are `points` of each, a `FACTOR` apart with the centre in their middle, then those around
    the best, `moves` times or until the best is in the middle. Runs that diverge are out; of none
    that does not, the one with the smallest steps is taken. 1 point: the centre, not tried.
    """
    step_size, outer_ratio = centre
    if points == 1:
        return {"best": list(centre), "rates": [step_size / outer_ratio]}
    reach = range(-(points // 2), points - points // 2)
    ends: dict[tuple[int, int], dict[str, Any]] = {}

    def steps(place: tuple[int, int]) -> tuple[float, float]:
        return step_size * FACTOR ** place[0], outer_ratio / FACTOR ** place[1]

    def rank(place: tuple[int, int]) -> tuple[float, tuple[int, int]]:
        end = ends[place]
        return math.inf if end["diverged"][0] else end["loss"][0], place

    middle = best = (0, 0)
    for _ in range(moves + 1):
        middle = best
        for i, j in itertools.product(reach, reach):
            place = middle[0] + i, middle[1] + j
            if place not in ends:
                step, ratio = steps(place)
                own_steps = {"step_size": step, "outer_ratio": ratio, "spacing": math.inf}
                run = course(name, own, evaluate, seconds=seconds, calls=calls, **own_steps)
                ends[place] = run[-1]
        best = min(ends, key=rank)
        if best == middle:
            break
    return {
        "best": list(steps(best)),
        "tried": [list(steps(place)) for place in ends],
        "rates": [end["rates"][0] for end in ends.values()],
        "losses": [end["loss"][0] for end in ends.values()],
        "diverged": [end["diverged"][0] for end in ends.values()],
        "seconds": [end["seconds"] for end in ends.values()],
    }


def compare(
    folder: Path,
    corpus: Corpus,
    evaluate: Evaluate,
    out: Path,
    *,
    seconds: float,
    calls: float = math.inf,
    points: int = 3,
    moves: int = 1,
    search_part: float = 0.25,
    seed: int = 0,
    names: tuple[str, ...] | None = None,
) -> list[dict[str, Any]]:
    """The rows of the courses of all `solvers` of a clone, each with its best step sizes.

    Both are written to searches.jsonl and courses.jsonl of `out`, beside those of our methods; a
    course that is there to its end is not run again, one that was interrupted begins anew. A
    solver that fails is named on standard error and left out.
    Raises: ValueError, see `solvers`, or for names that are not among them.
    """
    classes, best = solvers(folder), published(folder)
    for name in names or ():
        if name not in classes:
            raise ValueError(f"peer {name}: expected one of {', '.join(classes)}")
    rows = []
    for name in classes if names is None else names:
        method = f"peer:{name}"
        log = Log.of(out / "courses.jsonl", cases.POINT)
        stored = log.read()
        done = [row for row in stored if row["method"] == method]
        if done and done[-1]["last"]:
            rows += done
            continue
        log.keep([row for row in stored if row["method"] != method])
        options = best.get(classes[name].name, {})
        try:
            own = prepared(classes[name], corpus, seed=seed, **options)
        except Exception as error:
            say(name, "does not run", error)
            continue
        found_before = Log.of(out / "searches.jsonl", cases.SEARCH)
        searches = {record["method"]: record for record in found_before.read()}
        if method not in searches:
            centre = own.step_size, options.get("outer_ratio", OUTER_RATIO)
            part: Any = {"seconds": search_part * seconds, "calls": search_part * calls}
            found = search(name, own, evaluate, centre, **part, points=points, moves=moves)
            searches[method] = {"method": method, "rate": found["best"][0]} | found
            found_before.append(searches[method])
        step_size, outer_ratio = searches[method]["best"]
        steps = {"step_size": step_size, "outer_ratio": outer_ratio}
        own_rows = course(name, own, evaluate, seconds=seconds, calls=calls, **steps)
        for row in own_rows:
            log.append(row)
        rows += own_rows
    return rows
