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
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import learning, losses, models
from deqbilevel.commands import command, common, folders, options
from deqbilevel.linearised import linear_solve
from deqbilevel.models import Model
from deqbilevel.settings import Budget, Setting
from deqbilevel.solvers import ADJOINTS
from deqbilevel.types import At, Params
from experiments.faces import Faces, Problem, posing
from experiments.faces.posing import Posed


@dataclass(frozen=True)
class Speed(Problem):
    """How many times faster an epoch is."""

    evaluations: Annotated[tuple[int, int], options.whole(1, 100_000)] = (55, 60)
    """Of the fast forward solve, for bilevel and for deq; Newton's include products."""
    products: Annotated[tuple[int, int], options.whole(1, 100_000)] = (24, 34)
    """Of the fast adjoint solve."""
    rounds: Annotated[int, options.whole(1, 10_000)] = 3
    """Epochs of each, of which the median time is taken."""
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
            known = [field.name for field in fields(Problem)] + ["seed"]
            own = Faces(**{name: getattr(config, name) for name in known}, test_size=1, guard=None)
            posed, options = posing.posed(own), posing.options_of(config)
            claimed = folders.claim_over(
                posed.images,
                config,
                f"faces_speed-{common.digest(options)}",
                options,
                ["result.json"],
                read=posed.given,
                sources={"--kernels-from": config.kernels_from},
            )
            out = stack.enter_context(claimed)
        result = out / "result.json"
        if result.exists():
            return folders.stored(result, {name: {"ratio": 0.0} for name in config.models})
        numbers = {
            name: _of_model(config, own, posed, name) for name in tqdm(config.models, unit="model")
        }
        folders.write(result, json.dumps(numbers, indent=1))
        return numbers


def _of_model(config: Speed, own: Faces, posed: Posed, name: str) -> dict[str, Any]:
    """The numbers of a model: published and fast, in turns."""
    place = 0 if name == "bilevel" else 1
    budget = Budget(config.evaluations[place], config.products[place])
    published = replace(own, setting="published")
    settings = {
        "published": (published, posing.setting(published, name)),
        "fast": (
            own,
            posing.setting(own, name)._replace(
                forward_tolerance=None, adjoint_tolerance=None, budget=budget, limit=budget
            ),
        ),
    }
    model, lane = posed.models[name], posing.lanes_of(own, name)[0]
    truth = jnp.asarray(posed.images.train)
    epochs, found = {}, {}
    for label, (as_set, how) in settings.items():
        params = posing.initial(as_set, model, posed.given[name], lane)
        epochs[label] = _epoch(model, how, params, truth)
        found[label] = {"evaluations": how.budget.forward, "products": how.budget.adjoint}
        found[label] |= _residuals(model, how, params, truth)
    seconds = [{label: epoch() for label, epoch in epochs.items()} for _ in range(config.rounds)]
    for label in epochs:
        found[label]["seconds"] = float(np.median([each[label] for each in seconds]))
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
