"""Search without gradients: the baselines that every hypergradient has to beat, [CF] 3.2.

    box = search.Box({"alpha": 1e-4}, {"alpha": 1.0}, logarithmic=("alpha",))
    evaluate = search.evaluator(posed, box, residuals=search.row_errors(posed))
    records = list(search.run(search.SEARCHES["trust_region"](box.size), evaluate, candidates=20))
    point, loss = search.best(records)
    gamma = box.value(point)

A search is a record of pure functions (init, ask, tell) over the unit cube. Any problem of
`algorithms` is judged, candidates side by side, its lower levels to an accuracy that the search
asks for and with the bound that they have.
"""

from collections.abc import Callable
from typing import Any

from deqbilevel.checks import Registry
from deqbilevel.search.base import Box, Outcome, Request, Search
from deqbilevel.search.bayesian import bayesian
from deqbilevel.search.evaluating import Evaluated, Residuals, evaluator, row_errors
from deqbilevel.search.evolution import cma_es
from deqbilevel.search.posing import through, within
from deqbilevel.search.running import best, run
from deqbilevel.search.sampled import grid, poisson_disk, random, sobol
from deqbilevel.search.trust_region import trust_region

__all__ = [
    "LISTED",
    "SEARCHES",
    "Box",
    "Evaluated",
    "Outcome",
    "Request",
    "Residuals",
    "Search",
    "bayesian",
    "best",
    "cma_es",
    "evaluator",
    "grid",
    "poisson_disk",
    "random",
    "row_errors",
    "run",
    "sized",
    "sobol",
    "through",
    "trust_region",
    "within",
]

SEARCHES: Registry[Callable[..., Search]] = Registry(
    "search",
    {
        "grid": grid,
        "random": random,
        "sobol": sobol,
        "poisson_disk": poisson_disk,
        "cma_es": cma_es,
        "bayesian": bayesian,
        "trust_region": trust_region,
    },
)
"""Every search, built for a number of parameters and with options of its own."""

LISTED = ("grid", "random", "sobol", "poisson_disk")
"""Those whose points are laid out for the number of candidates."""


def sized(name: str, R: int, *, candidates: int, seed: int, **options: Any) -> Search:
    """A search over R parameters with at most so many candidates.

    Raises: ValueError for an unknown one, and for one that needs a package that is not there.

    >>> first, _ = search.sized("sobol", 2, candidates=4, seed=0).ask(0)
    >>> print(first.points.shape)
    (4, 2)
    """
    listed = {"count": candidates} if name in LISTED else {}
    try:
        return SEARCHES[name](R, seed=seed, **listed, **options)
    except ImportError as error:
        raise ValueError(f"{name}: {error}") from error
