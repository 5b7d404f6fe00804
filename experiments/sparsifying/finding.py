"""What each part of the experiment finds: a record for every way, and what is drawn of it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from deqbilevel import losses, recipes, single_level
from deqbilevel.disk import archives
from deqbilevel.recipes import Learned, Recipe
from deqbilevel.regularizers import bases
from deqbilevel.types import Params
from experiments.sparsifying import learning, starts
from experiments.sparsifying.learning import Task
from experiments.sparsifying.starts import Asked

WAYS: dict[str, tuple[str, ...]] = {
    "signals-2": ("differences", "analysis_rows", "random"),
    "signals-5": ("cosines", "analysis_rows", "analysis_frame", "transform", "convolutional"),
}
"""Of signals, by the task: what each starts from; of pictures see `Sparsifying.starts`."""

GOES_ON: dict[str, tuple[str, ...]] = {
    "signals-2": ("random",),
    "signals-5": ("cosines", "analysis_rows", "analysis_frame"),
    "pictures": ("cosines", *starts.EXPERTS),
}
"""Those from which filters are learned by the task, after their strengths."""

SETS: dict[str, tuple[str, bool]] = {
    "none, no constant": ("none", True),
    "unit_rows": ("unit_rows", False),
    "unit_rows, no constant": ("unit_rows", True),
    "parseval": ("parseval", False),
    "uniform_tight_frame": ("uniform_tight_frame", False),
    "uniform_tight_frame, no constant": ("uniform_tight_frame", True),
}
"""Constraint sets by what they are called here: which, and whether without the constant."""

MORE = 36
"""Filters of these, where the size has 25 taps: in general 1.44 times as many as taps."""

PICTURES = 3
"""Reconstructions of each way that are kept."""

RANK = 1e-2
"""Of the largest singular value: what is below counts as zero."""

CONDITIONAL = 0.05
"""Adam's rate of the conditional field."""


def file(part: str, way: str) -> str:
    """Where arrays that are drawn are kept."""
    return f"states/{part}-{way.replace(', ', '-').replace(' ', '-')}.npz"


def of_task(config: Any, part: str, way: str, task: Task, size: tuple[int, int], out: Path) -> Any:
    """Decibels of a way: by its best weight, by strengths that are learned, by filters that are."""
    key = jax.random.key(config.seed)
    asked = Asked(task.shape, task.train, size, config.single_steps, key)
    if way == "conditional_field":
        u = _conditional(config, asked, task)
        _keep(part, way, u, out)
        scores = losses.mean_scores(u, task.test, task.test_shape, 1.0)
        return {"strengths_db": float(scores["psnr_db"])}
    params = _start(asked, way)
    row: dict[str, Any] = {}
    if way in starts.EXPERTS:
        # As a prior: of noise of the variance sigma^2, R is weighted by that.
        prior = params | {"beta_0": params["beta_0"] + 2 * jnp.log(config.noise)}
        row["prior_db"] = learning.decibels(task, prior)
    params = learning.best_weight(task, params)
    row["weight_db"] = learning.decibels(task, params)
    stages = {"strengths": ("beta",), "filters": ("beta", "filters")}
    for stage, names in stages.items():
        if stage == "strengths" or way in GOES_ON[part]:
            steps = config.steps if stage == "filters" else config.steps // 2
            params, course = learning.learned(task, params, names, steps, key)
            row[f"{stage}_db"] = learning.decibels(task, params)
            row[f"{stage}_loss"] = float(jnp.mean(course[-max(1, steps // 10) :]))
    c = params["filters"].reshape(len(params["filters"]), -1)
    row["coherence"] = float(single_level.mutual_coherence(c))
    row["sum"] = float(jnp.max(jnp.abs(jnp.sum(c, axis=1)) / jnp.linalg.norm(c, axis=1)))
    _save(config, part, way, task, params, size, row, out)
    _keep(part, way, learning.denoised(task.test_shape, params, task.f_test[:PICTURES]), out)
    return row


def _start(asked: Asked, way: str) -> Params:
    if way in starts.EXPERTS:
        return starts.experts(asked, starts.EXPERTS[way])
    if way == "random":
        c = asked.random(asked.taps - 1).reshape(-1, *asked.size)
        return single_level.params_of(c / jnp.linalg.norm(c), phi=starts.rounded())
    return starts.plain(asked, way)


def _keep(part: str, way: str, u: Array, out: Path) -> None:
    archives.write_arrays(out / file(part, way), {"u": np.asarray(u[:PICTURES])})


def _save(
    config: Any,
    part: str,
    way: str,
    task: Task,
    params: Params,
    size: tuple[int, int],
    row: dict[str, Any],
    out: Path,
) -> None:
    """As what `recipes.load` and `learn --initial` take."""
    kind, eps = ("log_sum", starts.EXPERTS_EPS) if way in starts.EXPERTS else starts.ROUNDED
    own = {"filters": (len(params["filters"]), *size), "potential": kind, "eps": eps}
    noise = config.noise if part == "pictures" else 0.1
    params = params | {"noise": jnp.float32(noise)}
    recipe = Recipe(regularizer_options=own)
    about = {"command": "sparsifying", **row}
    learned = Learned(recipe, task.shape, (0.0, 1.0), params, about)
    recipes.save(out / recipes.file(f"{part}-{way}"), learned)


def _conditional(config: Any, asked: Asked, task: Task) -> Array:
    """What a Gaussian conditional random field makes of the test images."""
    smooth, slope = np.array([1.0, 4, 6, 4, 1]) / 16, np.array([1.0, 2, 0, -2, -1]) / 8
    edges = jnp.asarray([np.outer(slope, smooth), np.outer(smooth, slope)], float)
    c = jnp.asarray(bases.cosines(3, 3), float)

    def field(shape: tuple[int, int]) -> single_level.GaussianField:
        return single_level.gaussian_field(shape, tolerance=1e-4, max_products=100)

    method = single_level.conditional_field(field(task.shape), optax.adam(CONDITIONAL))
    start = field(task.shape).start(c, edges)
    run = jax.jit(lambda start, data: single_level.run(method, start, data, asked.steps))
    params, _ = run(start, (task.train, task.f))
    return jax.jit(field(task.test_shape).estimate)(params, task.f_test)


def of_set(config: Any, way: str, task: Task, out: Path) -> dict[str, Any]:
    """What analysis operator learning makes of random rows within a set."""
    size = config.size
    asked = Asked(task.shape, task.train, size, config.single_steps, jax.random.key(config.seed))
    name, without = SETS[way]
    count = round(MORE / 25 * asked.taps)
    omega, course = starts.analysis(asked, name, without_constant=without, count=count)
    kernels = np.asarray(omega).reshape(-1, *size)
    archives.write_arrays(out / file("sets", way), {"filters": kernels})
    norms = jnp.linalg.norm(omega, axis=1)
    return {
        "largest_norm": float(jnp.max(norms)),
        "coherence": float(single_level.mutual_coherence(omega)),
        "rank": float(jnp.linalg.matrix_rank(omega, RANK)),
        "objective": float(course[-1]),
        "largest_rise": float(jnp.max(jnp.diff(course), initial=-jnp.inf)),
    }
