"""Every way to a hypergradient on the same problems: error, time, evaluations and memory.

python -m experiments.hypergradients [--methods ...] [--budgets 10 50 250] [--out DIR]

The problems are deblurring with the dense models of [REB], bilevel and DEQ, and denoising with the
convolutional regulariser of [CF], small enough for the exact gradient by dense linear algebra in
float64. The lower level gets a budget of evaluations, the backward pass the same, and the error is
that of the gradient that comes out against the exact one. Then two estimates by gradient descent
are followed in its iterations: at the minimiser, and through the iterations. Repeating the command
goes on.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import hypergradients, learning, precision
from deqbilevel.commands import command, common, folders, options, sizes
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.solvers import DESCENTS, SOLVERS
from experiments.hypergradients import estimates, tables
from experiments.hypergradients.cases import (
    PROBLEMS,
    Case,
    case,
    estimate,
    exact,
    quadratic,
    relative_error,
)

FILES = ("rows.jsonl", "estimates.jsonl", "summary.md", "result.json")
"""What a run writes beside its figures, see `folders`."""


ROW = {"problem": "", "method": "", "budget": 0} | dict.fromkeys(tables.MEASURED, ANY)
"""A record."""


@dataclass(frozen=True)
class Hypergradients:
    """Compare ways to a hypergradient."""

    problems: Annotated[tuple[str, ...], options.among(PROBLEMS)] = PROBLEMS
    """Lower levels."""
    methods: Annotated[tuple[str, ...], options.among(hypergradients.METHODS)] = tuple(
        hypergradients.METHODS
    )
    """Of deqbilevel.hypergradients.METHODS."""
    budgets: Annotated[tuple[int, ...], options.whole(1, 100_000)] = (10, 50, 250)
    """Evaluations of the lower level, and products of the backward pass, at most."""
    solver: Annotated[str, options.among([*SOLVERS, *DESCENTS])] = "picard"
    """Of the lower level; those from gradient_descent on are for filters alone."""
    iterations: Annotated[tuple[int, ...], options.whole(1, 100_000), options.may_be_empty] = (
        *(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
    )
    """Of gradient descent, after which two estimates are compared; none: they are not."""
    size: Annotated[int, options.whole(5, 28)] = 9
    """Height and width of the images, which are means of digits."""
    images: Annotated[int, options.whole(1, 1000)] = 4
    """How many of them."""
    features: Annotated[
        int,
        options.whole(1, 1000),
        options.only("with a dense one of --problems", lambda c: set(c.problems) != {"filters"}),
    ] = 24
    """Rows of A, and of the DEQ's C."""
    rounds: Annotated[int, options.whole(1, 10_000)] = 3
    """Of which the median time is taken."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Hypergradients) -> dict[str, Any]:
    """Measure what is not yet measured, draw it, and return {model: {method: numbers}}."""
    with precision.float64(), contextlib.ExitStack() as stack:
        with common.clear_errors():
            _check(config)
            learning.measures_compiled()
            options = common.options_of(config)
            name = f"hypergradients-{common.digest(options)}"
            names = ("size", "images", "features", "seed")
            own = {option: getattr(config, option) for option in names}
            cases = {problem: case(problem, **own) for problem in config.problems}
            read = {problem: (c.params, c.f, c.truth) for problem, c in cases.items()}
            claimed = folders.claim(
                config.out,
                name,
                options,
                files=FILES,
                inputs=folders.given(read),
                fresh=config.fresh,
            )
            out = stack.enter_context(claimed)
        return _compare(config, cases, out)


def _check(config: Hypergradients) -> None:
    """Raises ValueError for a request that cannot be met."""
    if config.solver not in SOLVERS and set(config.problems) != {"filters"}:
        raise ValueError(
            f"--solver {config.solver}: expected one of {', '.join(SOLVERS)}; others are for "
            "--problems filters alone"
        )
    for problem in config.problems:
        asymmetric = problem == "dense-deq"
        if asymmetric and set(config.methods) <= set(hypergradients.SYMMETRIC):
            raise ValueError(
                f"--problems {problem} --methods {' '.join(config.methods)}: nothing to measure, "
                "as these need a symmetric dG/du, which a deq does not have; add another method"
            )
        factors = {"filters": 0, "dense-bilevel": 1, "dense-deq": 2}[problem]
        pixels = config.size**2
        for method in config.methods:
            sizes.hypergradient(
                method,
                parameters=config.features * (pixels * factors + 1) if factors else 4 * 10,
                images=config.images,
                pixels=pixels,
            )
    kept = 8 * max(config.budgets) * config.images * config.size**2
    if "unrolled" in config.methods:
        sizes.fits(
            2 * kept,
            f"--methods unrolled with --budgets {max(config.budgets)}",
            "take less, or checkpointed",
        )


def measure(case: Case, best: Array, method: str, config: Any, budget: int) -> dict[str, Any]:
    """The numbers of a method at a budget."""
    run = estimate(case, method, config.solver, budget)
    compiled = jax.jit(run).lower(case.weights, case.f).compile()
    seconds = []
    for _ in range(config.rounds):
        begin = time.perf_counter()
        gradient, info, adjoint = jax.block_until_ready(compiled(case.weights, case.f))
        seconds.append(time.perf_counter() - begin)
    found, _ = ravel_pytree(gradient)
    memory: Any = compiled.memory_analysis()
    cosine = found @ best / jnp.linalg.norm(found) / jnp.linalg.norm(best)
    return {
        "relative_error": float(relative_error(gradient, best)),
        "angle_deg": float(jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))),
        "seconds": float(np.median(seconds)),
        "peak_mb": memory.temp_size_in_bytes / 1e6,
        "evaluations": float(info.evaluations + adjoint.evaluations),
        "forward_residual": float(info.residual),
        "adjoint_residual": float(adjoint.residual),
    }


def _compare(config: Hypergradients, cases: dict[str, Case], out: Path) -> dict[str, Any]:
    log = Log.of(out / "rows.jsonl", ROW)
    rows = log.read()
    done = {(row["problem"], row["method"], row["budget"]) for row in rows}
    total = len(config.problems) * len(config.methods) * len(config.budgets)
    with tqdm(total=total, initial=len(rows), unit="gradient") as bar:
        for problem, given in cases.items():
            valid = [
                m for m in config.methods if given.symmetric or m not in hypergradients.SYMMETRIC
            ]
            todo = [(method, budget) for method in valid for budget in config.budgets]
            bar.total -= (len(config.methods) - len(valid)) * len(config.budgets)
            todo = [x for x in todo if (problem, *x) not in done]
            with common.clear_errors():
                best = exact(given).gradient if todo else given.f
            for method, budget in todo:
                bar.set_postfix_str(f"{problem}, {method}, {budget}")
                numbers = measure(given, best, method, config, budget)
                row = {"problem": problem, "method": method, "budget": budget} | numbers
                rows.append(common.plain(row))
                log.append(rows[-1])
                bar.update(1)
    followed = []
    if config.iterations:
        minimised = {name: given for name, given in cases.items() if given.symmetric}
        minimised = minimised | {"quadratic": quadratic()}
        log = out / "estimates.jsonl"
        followed = estimates.measured(minimised, config.iterations, log)
    return tables.report(config, rows, followed, out)
