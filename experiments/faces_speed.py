"""Time of an epoch on faces: [REB]'s own iteration against solvers that reach the same residual.

python -m experiments.faces_speed [--data images:DIR]

Both train the same model by one epoch, in turns: [REB] with 1000 evaluations of Picard iteration
forwards and 1000 backwards, and the solvers of `experiments.faces --setting fast` with a budget.
The residuals ||G(u) - u|| / ||G(u)||, and likewise of the adjoint, are computed anew in float64.
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import data, learning, losses, models
from deqbilevel.linearised import linear_solve
from deqbilevel.models import Model
from deqbilevel.settings import Budget, Setting
from deqbilevel.solvers import ADJOINTS
from deqbilevel.types import At, Params
from experiments import command, common, faces, folders, options
from experiments.faces import Faces


@dataclass(frozen=True)
class Speed:
    """How many times faster an epoch is."""

    models: tuple[Literal["bilevel", "deq"], ...] = ("bilevel", "deq")
    """bilevel: C = A; deq: C starts as a copy of A."""
    kernels: Annotated[tuple[int, int], options.whole(1, 10_000)] = (30, 3)
    """Number, and height and width, which is odd."""
    task: Literal["denoising", "deblurring"] = "denoising"
    kernels_from: Annotated[
        Path | None,
        options.folder("the --out of a finished run of experiments.faces"),
        options.default("none, but random ones"),
    ] = None
    """The folder of a run of experiments.faces, whose learned kernels are taken."""
    evaluations: Annotated[tuple[int, int], options.whole(1, 100_000)] = (55, 60)
    """Of the fast forward solve, for bilevel and for deq; Newton's include products."""
    products: Annotated[tuple[int, int], options.whole(1, 100_000)] = (24, 34)
    """Of the fast adjoint solve."""
    rounds: Annotated[int, options.whole(1, 10_000)] = 3
    """Epochs of each, of which the median time is taken."""
    data: Annotated[str, options.data] = "photographs"
    """photographs, faces, images:DIR (whole pictures), celeb_a or celeb_a:DIR."""
    shape: options.Middle = None
    """Height and width of the middle to take of each picture."""
    train_size: Annotated[int, options.size] = 10
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of result.json."""
    fresh: bool = False
    """Measure anew instead of showing what was measured."""


@command.checked
def main(config: Speed) -> dict[str, Any]:
    """Measure, and return {model: {setting: numbers, "ratio": of seconds}}."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            options = common.options_of(config)
            options["kernels_from"] = config.kernels_from and str(config.kernels_from)
            known = ("models", "kernels", "task", "kernels_from", "data", "shape", "seed")
            own = Faces(**{name: getattr(config, name) for name in known}, test_size=1, guard=None)
            faces.check(own, own.resolved())
            images = data.load(
                config.data,
                train_size=config.train_size,
                test_size=1,
                whole=True,
                shape=config.shape,
                seed=config.seed,
            )
            given = {name: faces.stored_kernels(own, name) for name in config.models}
            name = f"faces_speed-{common.digest(options)}"
            claimed = folders.claim_over(
                images,
                config,
                name,
                options,
                ["result.json"],
                read=given,
                sources={"--kernels-from": config.kernels_from},
            )
            out = stack.enter_context(claimed)
        result = out / "result.json"
        if result.exists():
            return folders.stored(result, {name: {"ratio": 0.0} for name in config.models})
        truth = jnp.asarray(images.train)
        numbers = {
            name: _of_model(config, own, name, images.shape, given[name], truth)
            for name in tqdm(config.models, unit="model")
        }
        folders.write(result, json.dumps(numbers, indent=1))
        return numbers


def _of_model(
    config: Speed,
    own: Faces,
    name: str,
    shape: tuple[int, int],
    given: Params | None,
    truth: Array,
) -> dict[str, Any]:
    """The numbers of a model: published and fast, in turns."""
    place = 0 if name == "bilevel" else 1
    budget = Budget(config.evaluations[place], config.products[place])
    fast = faces.setting(own, name)._replace(
        forward_tolerance=None, adjoint_tolerance=None, budget=budget, limit=budget
    )
    published = replace(own, setting="published")
    lane = faces.lanes_of(own, name)[0]
    model = faces.build(own, name, shape)
    epochs, found = {}, {}
    for label, as_set, how in (
        ("published", published, faces.setting(published, name)),
        ("fast", own, fast),
    ):
        params = faces.initial(as_set, as_set.resolved(), model, given, lane)
        epochs[label] = _epoch(model, how, params, truth)
        found[label] = {"evaluations": how.budget.forward, "products": how.budget.adjoint}
        found[label] |= _residuals(model, how, params, truth)
    seconds: dict[str, list[float]] = {label: [] for label in epochs}
    for _ in range(config.rounds):
        for label, epoch in epochs.items():
            seconds[label].append(epoch())
    for label in epochs:
        found[label]["seconds"] = float(np.median(seconds[label]))
    found["ratio"] = found["published"]["seconds"] / found["fast"]["seconds"]
    return found


def _epoch(model: Model, how: Setting, params: Params, truth: Array) -> Callable[[], float]:
    """() -> the seconds of one epoch from these parameters, compiled beforehand."""
    trainer = learning.trainer(model, how, total_steps=500, batch_size=len(truth))
    key = learning.keys(0)[1]
    trainer = learning.compiled(trainer, trainer.init(params), truth, key)
    order, noise, *_ = trainer.draw(key, 1, truth)

    def run() -> float:
        state = jax.block_until_ready(trainer.init(params))
        begin = time.perf_counter()
        jax.block_until_ready(
            trainer.steps(state, truth, *learning.block(trainer, order, noise, 0))
        )
        return time.perf_counter() - begin

    return run


def _residuals(model: Model, how: Setting, params: Params, truth: Array) -> dict[str, float]:
    """Of the forward and the adjoint solve, each found in float32 and judged in float64."""
    budget = how.budget

    @jax.jit
    def solved(params: Params, truth: Array) -> tuple[Array, Array, Array, Array]:
        f = models.measure(model.K, truth, params["noise"], learning.keys(0)[2])
        at, u0 = At(model.G, params, f), model.start(f)
        u, _ = how.forward(budget)(at, u0)
        g = jax.grad(losses.mean_squared_error)(u, truth)
        limits = {"tolerance": None, "max_evaluations": budget.adjoint}
        if how.hypergradient == "preconditioned":
            _, A = at.linearised(u)
            return f, u, g, linear_solve(A.transpose, g, **limits)[0]
        _, vjp = jax.vjp(at, u)
        w, _ = ADJOINTS[how.hypergradient](**limits)(lambda w: vjp(w)[0], g)
        return f, u, g, w

    found = jax.block_until_ready(solved(params, truth))
    with jax.enable_x64(True):
        f, u, g, w = (jnp.asarray(np.asarray(x), jnp.float64) for x in found)
        exact = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)

        def relative(new: Array, old: Array) -> float:
            return float(jnp.linalg.norm(new - old) / jnp.linalg.norm(new))

        image, vjp = jax.vjp(lambda u: model.G(u, exact, f), u)
        return {
            "residual": relative(image, u),
            "adjoint_residual": relative(vjp(w)[0] + g, w),
        }


if __name__ == "__main__":
    command.run(Speed, main)
