"""What is a hypergradient worth? Searches without gradients on the same problems: [CF] 3.2.

python -m experiments.search --problem tv1d --methods grid sobol bayesian trust_region
python -m experiments.search --problem filters --parameters 1 3 8 24

Problems: `tv1d`, the denoising of piecewise constant signals by Ehrhardt and Roberts, with three
parameters (weight, rounding of the corner, strong convexity); `filters`, the weights of 24 cosine
filters for images, which R parameters share (--parameters).

Each method has the same number of candidates, and `hypergradient`, Adam on the implicit gradient
in the same scales, as many steps. Shown are evaluations of the lower level's gradient (for
`hypergradient` with its products) and seconds, until the loss is within --close of the best of all.
What is on disk is not done again.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm

from deqbilevel import search
from deqbilevel.commands import command, common, folders, options
from deqbilevel.commands.records import Log
from experiments.search import methods, problems, report
from experiments.search.methods import HYPERGRADIENT


@dataclass(frozen=True)
class Search:
    """Compare searches without gradients with a hypergradient."""

    problem: Annotated[str, options.among(problems.PROBLEMS)] = "tv1d"
    """What is solved."""
    methods: Annotated[tuple[str, ...], options.among((*search.SEARCHES, HYPERGRADIENT))] = (
        *search.SEARCHES,
        HYPERGRADIENT,
    )
    """Of deqbilevel.search.SEARCHES, or hypergradient."""
    parameters: Annotated[
        tuple[int, ...],
        options.whole(1, 24),
        options.only("with --problem filters", lambda c: c.problem == "filters"),
    ] = (24,)
    """Numbers of parameters, each a comparison of its own."""
    candidates: Annotated[int, options.whole(1, 10**6)] = 100
    """That each method may judge."""
    images: Annotated[int, options.whole(1, 10_000)] = 10
    """Signals or images that are learned from."""
    size: Annotated[int, options.whole(8, 4096)] = 64
    """Of a signal, or the height and width of an image."""
    noise: Annotated[float, options.noise] = 0.1
    """Standard deviation of the noise."""
    accuracy: Annotated[float, options.number(1e-12, 1e3)] = 1e-2
    """||x - x*|| of lower levels whose accuracy a search leaves open."""
    dynamic: bool = True
    """Whether `trust_region` says how accurately each lower level is solved."""
    lower_evaluations: Annotated[int, options.whole(1, 10**6)] = 3000
    """Of a lower level, at most."""
    close: Annotated[float, options.number(above=0, most=10)] = 0.01
    """How far above the least loss of all a method has arrived, as a part of it."""
    learning_rate: Annotated[float, options.rate] = 0.05
    """Of `hypergradient`, in parts of the box."""
    step_evaluations: Annotated[int, options.whole(1, 10**6)] = 100
    """Of the lower level in a step of `hypergradient`, from where the last left it."""
    step_products: Annotated[int, options.whole(1, 10**6)] = 20
    """Of conjugate gradients in a step of `hypergradient`, likewise."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Search) -> dict[str, Any]:
    """Run what has not run, draw it; returns {parameters: {method: numbers}}."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            cases = problems.build(config)
            runs = [(case, name) for case in cases for name in config.methods]
            found = [(case, name, methods.of(config, case, name)) for case, name in runs]
            chosen = common.options_of(config)
            claimed = folders.claim(
                config.out,
                f"search-{config.problem}-{common.digest(chosen)}",
                chosen,
                files=[*methods.files_of(runs), *report.FILES],
                fresh=config.fresh,
            )
            out = stack.enter_context(claimed)
        rows = []
        for case, name, method in tqdm(found, "methods", unit="method"):
            part = {"method": name, "parameters": case.label}
            log = Log.of(out / "candidates.jsonl", methods.RECORD)._replace(part=part)
            rows += methods.run(config, case, method, log, out / methods.state(case, name))
        return report.show(config, cases, rows, out)
