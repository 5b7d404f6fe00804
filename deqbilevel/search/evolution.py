"""Evolution: a normal distribution of candidates adapts its mean and covariance to the best."""

import copy
from typing import Any, NamedTuple

import numpy as np

from deqbilevel import checks
from deqbilevel.search.base import Outcome, Request, Search

DRAWS, MANY = 100, 100
"""How often a candidate is drawn until it is in the box, before it is clipped; of more than `MANY`
parameters once, as hardly any draw is there, and one costs as much as a product of matrices."""


class State(NamedTuple):
    """The library's own state, never changed here, and the generation that it has asked for."""

    found: Any
    drawn: np.ndarray | None = None


def cma_es(R: int, *, spread: float = 0.3, population: int | None = None, seed: int = 0) -> Search:
    """Covariance matrix adaptation, [CF] 3.2, by the library `cmaes`, from the middle of the box.

    spread: the standard deviation at the start, in parts of the box. population: candidates of a
    generation; None: 4 + 3 log(R) of them. It ends where the distribution has shrunk to a point.
    Raises: ImportError without `cmaes`.

    >>> asked, _ = (evolve := search.cma_es(2, population=5)).ask(evolve.init())
    >>> print(asked.points.shape)
    (5, 2)
    """
    checks.whole("R", R)
    checks.one("spread", spread, above=0, most=1)
    library = checks.needed("cmaes", "search 'cma_es'", "search")
    own = max(R, 2)  # the library wants two parameters or more: a second that changes nothing

    def init() -> State:
        options = {"n_max_resampling": DRAWS if own <= MANY else 1}
        options |= {} if population is None else {"population_size": population}
        bounds = np.array([[0.0, 1.0]] * own)
        return State(library.CMA(np.full(own, 0.5), spread, bounds=bounds, seed=seed, **options))

    def ask(state: State) -> tuple[Request | None, State]:
        if state.found.should_stop():
            return None, state
        found = copy.deepcopy(state.found)
        # A copy has no random numbers of its own; those of a generation follow from its number.
        sequence = np.random.SeedSequence([seed, found.generation])
        found.reseed_rng(int(sequence.generate_state(1)[0]))
        drawn = np.stack([found.ask() for _ in range(found.population_size)])
        return Request(drawn[:, :R]), State(found, drawn)

    def tell(state: State, request: Request, outcome: Outcome) -> State:
        assert state.drawn is not None
        found = copy.deepcopy(state.found)
        # Of the losses their order alone counts, and so nothing infinite is added up.
        ranks = np.argsort(np.argsort(outcome.comparable(), kind="stable"), kind="stable")
        found.tell([(x, float(rank)) for x, rank in zip(state.drawn, ranks, strict=True)])
        return State(found)

    return Search(init, ask, tell)
