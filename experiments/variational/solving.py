"""How long every solver of the exact problem takes to a relative gap: a table.

TV denoising of a photograph and tomography of a phantom. A solver is timed compiled, the median of
three, or once where it does not get there; it stops by its own certificate. The TV denoiser of
scikit-image has none: it gets the number of iterations after which its cost is within as much of
the least, known from a solve to a hundredth of the gap, of numbers that grow by the fourth root
of 2.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import data, fidelities, operators, variational
from deqbilevel.commands import common
from deqbilevel.commands.schema import ANY
from deqbilevel.variational import Problem

REPEATED = 3
PEER = "scikit_image"

PAIR = ("case", "solver")
ROW = (
    dict.fromkeys(PAIR, "")
    | {"converged": False}
    | dict.fromkeys(("seconds", "iterations", "relative_gap"), ANY)
)
"""A record."""

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "chambolle_pock": ("chambolle_pock", {}),
    "preconditioned": ("chambolle_pock", {"preconditioned": True}),
    "accelerated": ("chambolle_pock", {"accelerated": True, "balance": 1.0}),
    "admm": ("admm", {}),
    "fista": ("fista", {}),
    "proximal_gradient": ("proximal_gradient", {}),
    "semismooth_newton": ("semismooth_newton", {}),
}
"""Solvers, and options of theirs."""

DENOISING_ONLY = ("fista", "accelerated", PEER)


class Case(NamedTuple):
    """A problem to be solved."""

    problem: Problem
    weight: float
    f: Array
    shape: tuple[int, int]


def given(config: Any) -> dict[str, Case]:
    """Both problems, by name."""
    key, found = jax.random.key(config.seed), {}
    for name, spec, side in (
        ("denoising", "photographs", config.denoising_side),
        ("tomography", "phantoms:piecewise_constant", config.tomography_side),
    ):
        shape = (side, side)
        images = data.load(
            spec, train_size=1, test_size=1, shape=shape, seed=config.seed, value_range=(0.0, 1.0)
        )
        denoising = name == "denoising"
        K = operators.identity(shape) if denoising else operators.parallel_beam(shape, angles=60)
        f = K.apply(jnp.asarray(images.test))
        f = fidelities.normal(f, config.noise if denoising else config.noise / 5, key)
        problem = Problem(K, variational.total_variation(shape))
        found[name] = Case(problem, 0.1 if denoising else 0.01, f, shape)
    return found


def cases(config: Any) -> list[tuple[str, str]]:
    """Each problem and what solves it."""
    return [
        (case, solver)
        for case in ("denoising", "tomography")
        for solver in config.solvers
        if case == "denoising" or solver not in DENOISING_ONLY
    ]


def found(
    config: Any, of: dict[str, Case], case: str, solver: str, rows: list[dict[str, Any]], out: Path
) -> dict[str, Any]:
    """A record."""
    own = of[case]
    row = _by_peer(config, own) if solver == PEER else _by_us(config, own, solver)
    return {"case": case, "solver": solver} | row


def _by_us(config: Any, of: Case, solver: str) -> dict[str, Any]:
    solve = _solver(of, solver, config.gap, config.max_iterations)
    (_, info), seconds = _timed(
        lambda: jax.block_until_ready(solve(of.f)), lambda found: bool(found[1].converged[0])
    )
    return {
        "seconds": seconds,
        "iterations": int(info.iterations[0]),
        "relative_gap": float(info.relative_gap[0]),
        "converged": bool(info.converged[0]),
    }


def _solver(of: Case, solver: str, gap: float, limit: int) -> Callable[[Array], Any]:
    name, options = WAYS[solver]
    own = partial(variational.SOLVERS[name], tolerance=gap, max_iterations=limit, **options)
    solve = jax.jit(lambda problem, f: own(problem, (of.weight,), f))
    compiled = solve.lower(of.problem, of.f).compile()
    return lambda f: compiled(of.problem, f)


def _by_peer(config: Any, of: Case) -> dict[str, Any]:
    from skimage.restoration import denoise_tv_chambolle  # slow to import, and not for --help

    reference = _solver(of, "chambolle_pock", config.gap / 100, 20 * config.max_iterations)
    _, info = reference(of.f)
    least = float(info.cost[0] - info.gap[0])
    picture = np.asarray(of.f).reshape(of.shape)

    def run(count: int) -> np.ndarray:
        return denoise_tv_chambolle(picture, of.weight, eps=0, max_num_iter=count)

    above = np.inf
    for count in _counts(config.max_iterations):
        u = jnp.asarray(run(count), of.f.dtype).reshape(1, -1)
        above = float(of.problem.cost(u, (of.weight,), of.f)[0]) / least - 1
        if above <= config.gap:
            break
    met = above <= config.gap
    _, seconds = _timed(lambda: run(count), lambda _: met)
    return {"seconds": seconds, "iterations": count, "relative_gap": above, "converged": met}


def _counts(limit: int) -> Iterator[int]:
    count = 8.0
    while count < limit:
        yield round(count)
        count *= 2**0.25
    yield limit


def _timed(run: Callable[[], Any], met: Callable[[Any], bool]) -> tuple[Any, float]:
    result, spent = None, []
    for _ in range(REPEATED):
        begin = time.perf_counter()
        result = run()
        spent.append(time.perf_counter() - begin)
        if not met(result):
            break
    return result, float(np.median(spent))


def table(config: Any, rows: list[dict[str, Any]]) -> str:
    """Of the records, as Markdown."""
    sides = f"{config.denoising_side}x{config.denoising_side} and {config.tomography_side}x"
    lines = [f"# TV to a relative gap of {config.gap:g}, {sides}{config.tomography_side}", ""]
    head = ("problem", "solver", "seconds", "iterations", "relative gap", "met")
    lines += [common.line(head), common.line(["---"] * len(head))]
    for row in rows:
        cells = [row["case"], row["solver"], f"{row['seconds']:.3f}", str(row["iterations"])]
        met = "yes" if row["converged"] else "no"
        lines.append(common.line([*cells, f"{row['relative_gap']:.1e}", met]))
    return "\n".join(lines) + "\n"


def headline(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Seconds by problem and solver, None where the gap was not met."""
    numbers: dict[str, dict[str, Any]] = {}
    for row in rows:
        seconds = round(row["seconds"], 4) if row["converged"] else None
        numbers.setdefault(row["case"], {})[row["solver"]] = seconds
    return numbers
