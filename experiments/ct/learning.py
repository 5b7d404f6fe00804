"""Choosing weights, learning weights and filters, and reconstructing by them."""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import learning, losses, settings
from deqbilevel.commands import running
from deqbilevel.learning import SCHEDULES, Trainer
from deqbilevel.models import Model
from deqbilevel.recipes import Recipe
from deqbilevel.settings import MINIMISER, Budget, Setting
from deqbilevel.types import Params
from experiments.ct.scanning import Scan

PASSES = 8
"""Over the training images in an epoch."""

LEARNED = {"weights": ("beta",), "filters": ("filters", "beta")}
"""What is learned, by the method."""

BUDGET = Budget(forward=40, adjoint=40)
"""Of the lower level, which goes on warm, and of its adjoint, in each step."""


def recipe_of(config: Any, kind: str) -> Recipe:
    """The model by its words."""
    own: dict[str, Any] = {"eps": config.eps}
    if kind == "weights":
        own |= {"filters": (2, 2, 2), "basis": "differences"}
    else:
        own |= {"filters": config.filters}
    options = {"angles": config.angles}
    return Recipe("parallel_beam", options, "convolutional", own, nonnegative=True)


def check(config: Any) -> None:
    """Raises: ValueError for filters, and a batch, that cannot be."""
    if config.batch_size > config.train_size:
        raise ValueError(
            f"--batch-size {config.batch_size}: more than the {config.train_size} training images; "
            f"take {config.train_size} or fewer"
        )
    recipe_of(config, "filters").model((config.side, config.side))


def setting_of(config: Any, model: Model) -> Setting:
    """How the lower level is solved, while learning and when it is judged."""
    return settings.check(
        Setting(
            forward_tolerance=1e-5,
            adjoint_tolerance=1e-2,
            budget=BUDGET,
            limit=BUDGET,
            evaluation_tolerance=1e-5,
            evaluation_budget=config.evaluations,
            ridge=1e-4,
            relative_ridge=True,
            preconditioned=False,
            learning_rate=config.learning_rate,
            solver=model.descent,
            hypergradient=MINIMISER,
            warm=True,
        )
    )


def start(config: Any, kind: str, beta_0: float, train: Scan) -> dict[str, Any]:
    """The params that learning starts from."""
    model = recipe_of(config, kind).model(train.shape)
    scalars = {
        "gamma": 1.0,
        "lam": 1.0,
        "noise": config.noise / train.K.scale,
        "beta_0": beta_0,
        "learning_rate": config.learning_rate * (10 if kind == "weights" else 1),
    }
    own = model.init(learning.keys(config.seed)[0])
    return own | {name: jnp.asarray(x, float) for name, x in scalars.items()}


def chosen(config: Any, train: Scan, kind: str) -> float:
    """The one weight of all filters with the least error on the training images."""
    few, solve = slice(config.batch_size), program(config, kind, train.shape)

    def error(beta_0: float) -> float:
        u, _ = solve(start(config, kind, beta_0, train), train.f[few])
        return float(losses.mean_squared_error(u, train.truth[few]))

    return min(config.beta_0s, key=error)


@lru_cache(maxsize=8)
def program(config: Any, kind: str, shape: tuple[int, int]) -> Any:
    """(params, f) -> reconstructions of images of a shape, as they are judged."""
    model = recipe_of(config, kind).model(shape)
    return jax.jit(partial(model.reconstruct, setting_of(config, model).evaluation()))


def trainer_of(config: Any, kind: str, train: Scan) -> tuple[Trainer, Setting, int]:
    """What learns from the training images, how it solves, and its steps of an epoch."""
    model = recipe_of(config, kind).model(train.shape)._replace(simulation=train.simulation)
    setting = setting_of(config, model)
    steps = learning.steps_per_epoch(len(train.truth), config.batch_size, PASSES)
    trainer = learning.trainer(
        model,
        setting,
        total_steps=max(config.epochs, 1) * steps,
        batch_size=config.batch_size,
        learned=LEARNED[kind],
        schedule=SCHEDULES["cosine"],
        evaluations=config.evaluations,
        passes=PASSES,
    )
    return trainer, setting, steps


def learned(config: Any, kind: str, params: Params, train: Scan, test: Scan, out: Path) -> Params:
    """Train from where an earlier call stopped; the params after the last epoch."""
    trainer, setting, steps = trainer_of(config, kind, train)
    done = running.course(
        out,
        trainer,
        setting,
        trainer.init(params, train.f),
        (train.truth, test.truth),
        epochs=config.epochs,
        steps=steps,
        key=learning.keys(config.seed)[1],
        f=train.f,
        part={"method": kind},
    )
    return done.state.params


def reconstructed(
    config: Any, kind: str, params: Params, train: Scan, scan: Scan
) -> tuple[Float[Array, "images pixels"], float]:
    """Reconstructions of another set by what was learned, and their residual.

    K is divided by a number that grows with the image: lam keeps the weight of a line integral.
    """
    weight = params["lam"] * (scan.K.scale / train.K.scale) ** 2
    u, info = program(config, kind, scan.shape)({**params, "lam": weight}, scan.f)
    return u, float(info.residual)
