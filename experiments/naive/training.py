"""Both ways to train, naively and through the fixed point, and what a training ends with."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from deqbilevel import data, learning, maps, models, precision, recipes
from deqbilevel.commands import running, sizes
from deqbilevel.learning import Metrics, State, Trainer
from deqbilevel.models import Model
from deqbilevel.recipes import Learned
from deqbilevel.settings import Setting
from deqbilevel.types import Images

WAYS = ("naive", "fixed_point")


def trained(
    config: Any, setting: Setting, images: data.Images, name: str, out: Path
) -> dict[str, Learned]:
    """A model trained in each way, going on where an earlier call stopped; or read where it is."""
    model = models.build(config.task, name, images.shape)
    params_key, key, _ = learning.keys(config.seed)
    scalars = {n: getattr(config, n) for n in ("tau", "gamma", "lam", "noise", "activation")}
    start = model.init(params_key) | models.hyperparameters(
        **scalars, learning_rate=setting.learning_rate
    )
    batch_size = sizes.batch(config, len(images.train))
    steps = learning.steps_per_epoch(len(images.train), batch_size)
    for way, trainer in ways(model, setting, max(config.epochs, 1) * steps, batch_size).items():
        path = out / recipes.file(f"{name}-{way}")
        if path.exists():
            continue
        done = running.course(
            out,
            trainer,
            setting,
            trainer.init(start),
            (jnp.asarray(images.train), jnp.asarray(images.test)),
            epochs=config.epochs,
            steps=steps,
            key=key,
            part={"model": name, "way": way},
        )
        about = {
            "command": "naive",
            "seconds": sum(record["seconds"] for record in done.records),
            "diverged": bool(done.state.diverged),
        }
        recipe = recipes.dense(config.task, name, config.activation, config.tau)
        recipes.save(path, Learned(recipe, images.shape, images.range, done.state.params, about))
    return {way: recipes.load(out, f"{name}-{way}") for way in WAYS}


def ways(
    model: Model, setting: Setting, total_steps: int, batch_size: int | None
) -> dict[str, Trainer]:
    """Both ways to train: the same digits in the same order with the same noise, and Adam."""
    through = learning.trainer(model, setting, total_steps=total_steps, batch_size=batch_size)

    def steps(state: State, images: Images, order: Array, keys: Array) -> tuple[State, Metrics]:
        return jax.lax.scan(
            lambda s, x: naive_step(model, total_steps, s, images[x[0]], x[1]),
            state,
            (order, keys),
        )

    return {
        "naive": through._replace(
            steps=jax.jit(precision.at(setting.precision, steps), donate_argnums=0)
        ),
        "fixed_point": through,
    }


def naive_step(
    model: Model, total_steps: int, state: State, truth: Images, key: PRNGKeyArray
) -> tuple[State, Metrics]:
    """One step of Adam as `learning.step` takes it, on the naive loss: one evaluation of G.
    A run that has diverged keeps its last finite weights."""
    weights = {name: state.params[name] for name in model.R.learned}
    _, truth = precision.as_weights(state.params, truth)
    f = model.measure(state.params, truth, key)
    objective = maps.naive_objective(model.G)
    loss, gradient = jax.value_and_grad(lambda w: objective(state.params | w, truth, f))(weights)
    adam = learning.adam(total_steps)(state.params, state.step)
    updates, optimiser = adam.update(gradient, state.optimiser, weights)
    moved: Any = optax.apply_updates(weights, updates)
    one, unknown = jnp.ones_like(loss), jnp.full_like(loss, jnp.nan)
    diverged = state.diverged | ~jnp.isfinite(loss + optax.tree.norm(gradient))
    params, optimiser = jax.tree.map(
        partial(jnp.where, diverged),
        (state.params, state.optimiser),
        (state.params | moved, optimiser),
    )
    following = state._replace(
        params=params, optimiser=optimiser, step=state.step + 1, diverged=diverged
    )
    return following, Metrics(*[unknown] * len(Metrics._fields))._replace(
        loss=loss, forward_evaluations=one, adjoint_evaluations=one
    )
