"""What is a hypergradient worth? Searches without gradients on the same problems: [CF] 3.2.

python -m experiments.search --problem tv tgv tv2d filters
python -m experiments.search --problem filters --support 7 --parameters 1 2 3 5 10 20 48

Problems, with their numbers of parameters: `tv` (1), the weight of total variation; `tgv` (2), the
weights of the total generalised variation; `tv1d` and `tv2d` (3), the denoising of piecewise
constant signals or images by Ehrhardt and Roberts, with weight, rounding of the corner and strong
convexity; `filters`, the weights of cosine filters, and `sampling1d`, how well each frequency is
sampled, which R parameters share (--parameters); `dense`, all entries of a dense regulariser.

Each method has the same number of candidates: the searches, `fixed_trust_region` (the trust region
with all lower levels as accurate as the others' are), and as steps `adam`, `armijo`, `hoag` and
`maid`, which have a hypergradient and the last three a line search or step size of their own. Shown
are evaluations of the lower level's gradient (with a hypergradient also all products) and seconds,
until the loss is within --close of the best of all. What is on disk is not done again.
"""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm

from deqbilevel.commands import command, common, folders, options
from experiments.search import methods, problems, report
from experiments.search.methods import METHODS


@dataclass(frozen=True)
class Search:
    """Compare searches without gradients with a hypergradient."""

    problem: Annotated[tuple[str, ...], options.among(problems.PROBLEMS)] = ("tv1d",)
    """What is solved, one after the other."""
    methods: Annotated[tuple[str, ...], options.among(METHODS)] = METHODS
    """Those that cannot do a problem are left out there."""
    parameters: Annotated[
        tuple[int, ...] | None,
        options.count,
        options.default("as many as there are filters or frequencies"),
        options.only(
            f"with --problem {' or '.join(problems.SHARED)}",
            lambda config: bool(set(config.problem) & set(problems.SHARED)),
        ),
    ] = None
    """Numbers of parameters, each a comparison of its own."""
    support: Annotated[
        int,
        options.whole(2, 13),
        options.only("with --problem filters", lambda config: "filters" in config.problem),
    ] = 5
    """Height and width of the filters, of which there are one less than pixels."""
    candidates: Annotated[int, options.whole(1, 10**6)] = 100
    """That each method may judge."""
    images: Annotated[int, options.whole(1, 10_000)] = 10
    """Signals or images that are learned from."""
    size: Annotated[int, options.whole(8, 4096)] = 64
    """Of a signal, or the height and width of an image."""
    noise: Annotated[float, options.noise] = 0.1
    """Standard deviation of the noise."""
    accuracy: Annotated[float, options.number(1e-12, 1e3)] = 1e-2
    """||x - x*|| of lower levels whose accuracy a method leaves open, and the first of `hoag` and
    `maid`; of `tgv` the norm of the gradient."""
    lower_evaluations: Annotated[int, options.whole(1, 10**6)] = 3000
    """Of a lower level, at most."""
    close: Annotated[float, options.number(above=0, most=10)] = 0.01
    """How far above the least loss of all a method has arrived, as a part of it."""
    products: Annotated[int, options.count] = 100
    """Of conjugate gradients in a step of `armijo`, `hoag` and `maid`, at most."""
    learning_rate: Annotated[float, options.rate] = 0.05
    """Of `adam`, in parts of the box."""
    step_evaluations: Annotated[int, options.count] = 100
    """Of the lower level in a step of `adam`, and in each solve of `maid` at most, from where the
    last left it."""
    step_products: Annotated[int, options.count] = 20
    """Of conjugate gradients in a step of `adam`, likewise."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Search) -> dict[str, Any]:
    """Run what has not run, draw it; returns {case: {method: numbers}}."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            cases = problems.build(config)
            found, left_out = _possible(config, cases)
            chosen = common.options_of(config)
            runs = [(case, name) for case, name, _ in found]
            claimed = folders.claim(
                config.out,
                f"search-{'-'.join(config.problem)}-{common.digest(chosen)}",
                chosen,
                files=[*methods.files_of(runs), *report.FILES],
                fresh=config.fresh,
            )
            out = stack.enter_context(claimed)
        for why in left_out:
            print(f"left out: {why}", file=sys.stderr)
        rows = []
        judges = {case.label: methods.judge(config, case) for case in cases}
        for case, name, method in tqdm(found, "methods", unit="method"):
            rows += methods.run(config, case, name, method, judges[case.label], out)
        return report.show(config, cases, rows, left_out, out)


def _possible(config: Search, cases: Any) -> tuple[list[Any], list[str]]:
    """Every method for every case, and why some are left out. Raises: ValueError for a method that
    is for none of them."""
    found, left_out = [], []
    for name in config.methods:
        refused = []
        for case in cases:
            try:
                found.append((case, name, methods.of(config, case, name)))
            except ValueError as error:
                refused.append(f"{case.label}: {error}")
        if len(refused) == len(cases):
            raise ValueError(f"--methods {name}: {refused[0]}")
        left_out += refused
    return found, left_out
