"""Dictionaries of patches of photographs, learned with the task and without: a table.

    u = D z,  min_z 1/2 ||K D z - f||^2 + w ||z||_1,  [CF] (2.2)

without a weight of the first atom, which is constant. A task is denoising, K = I, or inpainting,
where K keeps half of the pixels. D is

    dct           cosines of more frequencies than a patch has rows
    scikit_learn  atoms that make true patches sparse, by scikit-learn, for no task
    learned       `dct`, from where it goes on by the hypergradient of the squared error of u for
                  noise drawn anew in each step; w stays, as atoms have lengths

with the weight w that is best for patches to learn from, and beside them `tv`, total variation of
the patch with its best weight. All is exact: no norm is rounded.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deqbilevel import fidelities, losses, operators, plots, variational
from deqbilevel.commands import common
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.schema import ANY
from deqbilevel.disk import archives, arrays
from deqbilevel.operators import Operator
from experiments.variational import atoms, learning
from experiments.variational.atoms import Dictionary, Rows

TASKS = ("denoising", "inpainting")
METHODS = ("tv", "dct", "scikit_learn", "learned")
MULTIPLES = (0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.2, 3.3)
"""Of the noise: the weights that are tried."""
TRIED = 500
"""Patches on which they are."""
SHOWN = 30
"""Atoms of each dictionary, those that are used most."""

PAIR = ("task", "method")
ROW = dict.fromkeys(PAIR, "") | dict.fromkeys(
    ("weight", "psnr_db", "measured_psnr_db", "nonzeros", "relative_gap", "adjoint_residual"), ANY
)
"""A record; nonzeros: coefficients of a patch that are not 0."""
STORED: arrays.Schema = {
    "D": arrays.Array(("pixels", "atoms")),
    "use": arrays.Array(("atoms",)),
}


class Patches(NamedTuple):
    """In [0, 1]."""

    shape: tuple[int, int]
    train: Rows
    test: Rows


def given(config: Any) -> Patches:
    """Patches of photographs; those of --test tile the middles of its pictures."""
    shape = (config.patch, config.patch)
    loaded = learning.patches_of(config, config.patch, config.patches, min(config.patches, TRIED))
    test = loaded.test
    if config.test is not None:
        across = max(1, config.side // config.patch)
        side = across * config.patch
        middles = np.asarray(learning.middles(config, (side, side)))
        tiles = middles.reshape(-1, across, config.patch, across, config.patch)
        test = tiles.swapaxes(2, 3).reshape(-1, config.patch**2)
    return Patches(shape, jnp.asarray(loaded.train), jnp.asarray(test))


def files(config: Any) -> list[str]:
    """What is written beside the records."""
    return [*(_file(*case) for case in cases(config) if case[1] != "tv"), FIGURE]


def cases(config: Any) -> list[tuple[str, str]]:
    """Each task and what is done for it, in the order of what needs what."""
    return [(task, method) for task in TASKS if task in config.tasks for method in METHODS]


def found(
    config: Any, of: Patches, task: str, method: str, rows: list[dict[str, Any]], out: Path
) -> dict[str, Any]:
    """A record; the dictionary is kept."""
    K = operators.identity(of.shape) if task == "denoising" else operators.pixel_mask(of.shape)
    cosines, residual = atoms.cosines(config), None
    D = None if method == "tv" else cosines
    if method == "scikit_learn":
        D = atoms.without_task(config, of.train, cosines)
    if method == "learned":
        (weight,) = (r["weight"] for r in rows if (r["task"], r["method"]) == (task, "dct"))
        D, residual = atoms.learned(config, _solver(config, True), of.train, K, cosines, weight)
    else:
        weight = _best(config, of, K, D)
    problem, weights = _posed(of.shape, K, D, weight)
    f = _measured(config, K, of.test, 1)
    at, info = _solver(config, D is not None)(problem, weights, f)
    u, nonzeros = at.x, None
    if D is not None:
        u = at.x @ D.T
        gone = jax.jit(variational.pattern)(problem, at, weights).cosparsity
        nonzeros = D.shape[1] - float(jnp.mean(gone))
        use = jnp.mean(jnp.abs(at.x), axis=0) * jnp.linalg.norm(D, axis=0)
        kept = {"D": np.asarray(D), "use": np.asarray(use)}
        archives.write_arrays(out / _file(task, method), kept)
    return {
        "task": task,
        "method": method,
        "weight": weight,
        "psnr_db": learning.psnr(u, of.test),
        "measured_psnr_db": learning.psnr(K.adjoint(f), of.test),
        "nonzeros": nonzeros,
        "relative_gap": float(info.relative_gap.max()),
        "adjoint_residual": residual,
    }


def _posed(shape: tuple[int, int], K: Operator, D: Dictionary | None, w: Any) -> tuple[Any, Any]:
    """The problem and its weights: total variation where there is no D."""
    if D is None:
        return variational.Problem(K, variational.total_variation(shape)), (w,)
    return variational.synthesis(K, D), atoms.weights(w, D)


@lru_cache
def _solver(config: Any, of_atoms: bool) -> Any:
    solver = variational.proximal_gradient if of_atoms else variational.chambolle_pock
    limits = {"tolerance": config.tolerance, "max_iterations": config.max_iterations}
    return jax.jit(partial(solver, **limits))


def _best(config: Any, of: Patches, K: Operator, D: Dictionary | None) -> float:
    """The weight of the least error of some patches to learn from."""
    truth, solve, tried = of.train[:TRIED], _solver(config, D is not None), []
    f = _measured(config, K, truth, 0)
    for weight in (m * config.noise for m in MULTIPLES):
        problem, weights = _posed(of.shape, K, D, weight)
        x = solve(problem, weights, f)[0].x
        u = x if D is None else x @ D.T
        tried.append((float(losses.mean_squared_error(u, truth)), weight))
    return min(tried)[1]


def _measured(config: Any, K: Operator, truth: Rows, number: int) -> Rows:
    """K of patches with noise; what a mask loses has none."""
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    return K.apply(fidelities.normal(truth, config.noise, key))


def _file(task: str, method: str) -> str:
    return f"states/dictionary-{task}-{method}.npz"


def table(config: Any, rows: list[dict[str, Any]]) -> str:
    """Of the records, as Markdown."""
    size, count = f"{config.patch}x{config.patch}", config.frequencies**2
    noise = f"noise {config.noise:g} of images in [0, 1]"
    lines = [f"# Patches of {size} by {count} atoms, {noise}: PSNR in dB", ""]
    head = ("task", "method", "weight", "PSNR", "coefficients", "relative gap", "adjoint")
    lines += [common.line(head), common.line(["---"] * len(head))]
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        lines.append(
            common.line([task, "K^T f", "", f"{own[0]['measured_psnr_db']:.2f}"] + 3 * [""])
        )
        for row in own:
            many = "" if row["nonzeros"] is None else f"{row['nonzeros']:.1f}"
            adjoint = "" if row["adjoint_residual"] is None else f"{row['adjoint_residual']:.1e}"
            cells = [f"{row['weight']:.3f}", f"{row['psnr_db']:.2f}", many]
            cells += [f"{row['relative_gap']:.1e}", adjoint]
            lines.append(common.line([task, row["method"], *cells]))
    return "\n".join(lines) + "\n"


FIGURE = "dictionary.png"


def figure(config: Any, of: Patches, rows: list[dict[str, Any]], out: Path) -> None:
    """The atoms that are used most, each over its largest entry."""
    tasks = [task for task in TASKS if task in config.tasks]
    kinds = {"cosines": (tasks[0], "dct"), "learned without a task": (tasks[0], "scikit_learn")}
    kinds |= {f"learned for {task}": (task, "learned") for task in tasks}
    stages = {}
    for name, case in kinds.items():
        kept = archives.read_arrays(out / _file(*case), STORED)
        order = np.argsort(kept["use"])[::-1][:SHOWN]
        shapes = kept["D"][:, order].T.reshape(-1, config.patch, config.patch)
        most = np.abs(shapes).max(axis=(1, 2), keepdims=True)
        stages[name] = shapes / np.maximum(most, np.finfo(np.float32).tiny)
    draw(out / FIGURE, plots.kernel_figure, stages, f"The {SHOWN} atoms that are used most.")
