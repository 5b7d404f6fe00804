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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
from tqdm import tqdm

from deqbilevel import algorithms, data, precision
from deqbilevel.algorithms import cleaning
from deqbilevel.commands import command, common, folders, options
from experiments.algorithms import cases, clone, peer_search, peers, running, tables
from experiments.algorithms.cases import CASES, Case

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
    with precision.float64(CASES[config.problem].float64), contextlib.ExitStack() as stack:
        with common.clear_errors():
            options = config.resolved()
            _check(options, given=config.optimiser is not None)
            if config.peers is not None:
                clone.solvers(config.peers)
            case = CASES[config.problem].build(options)
            name = f"algorithms-{config.problem}-{common.digest(options)}"
            claimed = folders.claim(
                config.out,
                name,
                options,
                files=files_of(options),
                inputs=dict(case.inputs) | clone.inputs(config.peers),
                sources={
                    "--image": config.image,
                    "--data": data.place(config.data),
                    "--peers": config.peers,
                },
                fresh=config.fresh,
            )
            out = stack.enter_context(claimed)
        return _compare(options, case, config.peers, out)


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


def _compare(options: dict[str, Any], case: Case, folder: Path | None, out: Path) -> dict[str, Any]:
    rows = []
    for method in tqdm(options["methods"], "methods", unit="method"):
        rows += running.run(options, case, method, out)
    if folder is not None:
        posed = case.pose(jax.tree.map(lambda leaf: leaf[0], case.lanes))
        rows += peer_search.compare(
            folder,
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
