"""Training without solving cannot inpaint: Figure 7 of the journal version of [REB].

python -m experiments.naive [--task inpainting] [--epochs 5] [--out DIR]

Both models are trained in two ways: through the fixed point, where u* = G(u*, f) is solved and
compared with the truth, and naively, [REB] (16), where nothing is solved: the loss is
mean (G(truth, f) - truth)^2. For the gradient step and f = K truth + noise that is

    tau^2 mean (gamma N(truth) - lam K^T noise)^2.

N sees the truth and not the noise, whose mean is zero, so nothing is better than N = 0 at every
true image: for a mask, the least value is tau^2 lam^2 noise^2 times the part of the pixels that is
kept. How N acts on other images, which is all that reconstructing is about, has no part in the
loss, and N = 0 everywhere will do. In masked rows, where K = 0, a step is u - tau gamma N(u), so
that such an N leaves there what it was started with, and an N that is not small away from the truth
takes it anywhere. Only a tied N that is nearly linear (identity, or Softshrink with a small
threshold) fills something in: a convex energy whose gradient vanishes on digits is least there.

The figure shows u^k = G(u^{k-1}, f) from u^0 = 0 (Picard), which may diverge also where training
solved well, and u* as the setting solves for it while it trains (Anderson). The numbers are mean
squared errors over test images, in masked and in kept rows, of u*, of each u^k and of the fixed
point to a residual of 1e-5 (or what 1000 evaluations reach). null stands for what overflowed, and
for masked rows where there are none.
"""

import contextlib
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from tqdm import tqdm

from deqbilevel import (
    archives,
    arrays,
    baselines,
    data,
    learning,
    maps,
    models,
    plots,
    precision,
    settings,
)
from deqbilevel.files import FileError
from deqbilevel.learning import Metrics, State, Trainer
from deqbilevel.models import Model
from deqbilevel.settings import Setting
from deqbilevel.types import Images, Info, Params
from experiments import command, common, folders, options, sizes
from experiments.drawing import draw

MEASURED = 1000
"""Test images that are reconstructed, at most."""


LEARNED = ("A", "b", "C")
"""The weights of a dense model, C of a DEQ."""

WAYS = ("naive", "fixed_point")

FILES = (*(f"parameters/{name}-{way}.npz" for name in models.MODELS for way in WAYS), "result.json")
"""What a run writes beside its figure, see `folders`."""


@dataclass(frozen=True)
class Naive:
    """Train bilevel and DEQ naively and through the fixed point, and draw what they iterate to."""

    task: Literal["denoising", "inpainting", "deblurring"] = "inpainting"
    models: tuple[Literal["bilevel", "deq"], ...] = ("bilevel", "deq")
    """bilevel: C = A; deq: C is learned too."""
    activation: Literal["identity", "relu", "softshrink"] = "softshrink"
    tau: Annotated[float, options.tau] = 0.9
    """Step size, and threshold of Softshrink."""
    gamma: Annotated[float, options.weight] = 0.1
    """Weight of the regulariser."""
    lam: Annotated[float, options.weight] = 1.0
    """Weight of the data fidelity."""
    noise: Annotated[float, options.noise] = 0.1
    """Standard deviation of the noise, on images in [-1, 1]."""
    setting: Literal["paper", "accurate", "fast"] = "paper"
    """How the lower level and its adjoint are solved, and the learning rate of both ways."""
    precision: options.Precision = None
    """Of products on a GPU: float32 in full, or in TF32. A CPU has one."""
    epochs: Annotated[int, options.whole(0)] = 5
    train_size: Annotated[int | None, options.size, options.default("all")] = None
    """Training images."""
    test_size: Annotated[int | None, options.size, options.default("all")] = None
    """Test images."""
    batch_size: Annotated[int, options.size] = 100
    iterates: Annotated[tuple[int, ...], options.whole(1, 100_000)] = (1, 5, 10, 50, 200)
    """The k of the Picard iterates u^k that are measured and drawn."""
    pictures: Annotated[int, options.whole(1, 1000)] = 3
    """Test images that are drawn."""
    data: Annotated[str, options.data] = "sample"
    """sample, idx:DIR, tfds, tfds:DIR or images:DIR."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


class Trained(NamedTuple):
    """What a training ends with."""

    weights: dict[str, Array]
    seconds: float
    diverged: bool


@command.checked
def main(config: Naive) -> dict[str, Any]:
    """Train what is not on disk yet, measure and draw; the numbers of each model and way."""
    with contextlib.ExitStack() as stack:
        return _main(config, stack)


def _main(config: Naive, stack: contextlib.ExitStack) -> dict[str, Any]:
    with common.clear_errors():
        setting = settings.SETTINGS[config.setting]
        if config.precision is not None:
            setting = settings.check(setting._replace(precision=config.precision))
        scalars = models.hyperparameters(
            tau=config.tau,
            gamma=config.gamma,
            lam=config.lam,
            noise=config.noise,
            activation=config.activation,
            learning_rate=setting.learning_rate,
        )
        images = data.load(
            config.data,
            train_size=config.train_size,
            test_size=config.test_size,
            seed=config.seed,
        )
        sizes.dense(config, config.models, images)
        batch_size = sizes.batch(config, len(images.train))
        if config.pictures > len(images.test):
            raise ValueError(
                f"--pictures {config.pictures}: more than the {len(images.test)} test images"
            )
        # The others may change without training anew.
        options = common.options_of(
            config, without=("out", "fresh", "models", "iterates", "pictures")
        ) | {"precision": setting.precision}
        name = f"naive-{config.task}-{config.setting}-{common.digest(options)}"
        claimed = folders.claim_over(images, config, name, options, FILES)
        out = stack.enter_context(claimed)

    params_key, _, picture_key = learning.keys(config.seed)
    steps = learning.steps_per_epoch(len(images.train), batch_size)
    total_steps = max(config.epochs, 1) * steps
    counts = sorted(set(config.iterates))
    truth = f = jnp.asarray(images.test[:MEASURED])
    numbers: dict[str, dict[str, Any]] = {}
    known: dict[str, float] = {}
    courses: dict[str, list[np.ndarray]] = {}
    for name in config.models:
        model = models.build(config.task, name, images.shape)
        f = models.measure(model.K, truth, scalars["noise"], picture_key)
        known = baselines.baselines(model.K, images.train, truth, config.noise, picture_key)
        masked = np.asarray(model.K.adjoint(jnp.ones_like(f[0])) == 0)
        start = model.init(params_key) | scalars
        course = jax.jit(partial(course_of, model, setting, counts))
        numbers[name] = {}
        for way, trainer in ways(model, setting, total_steps, batch_size).items():
            path = out / "parameters" / f"{name}-{way}.npz"
            if not path.exists():
                _keep(path, _train(config, trainer, setting, start, images, f"{name} {way}"))
            trained = _kept(path, start)
            found, infos, naive_loss = course(start | trained.weights, truth, f)
            *iterates, end, limit = [errors(u, truth, masked) for u in found]
            numbers[name][way] = (
                end
                | {"residual": _number(infos["setting"].residual)}
                | {"converged": limit | {"residual": _number(infos["converged"].residual)}}
                | {f"u^{k}": x for k, x in zip(counts, iterates, strict=True)}
                | {"naive_loss": _number(naive_loss)}
                | {"seconds": trained.seconds, "diverged": trained.diverged}
            )
            if said := baselines.warning(end["test_loss"] or float("nan"), known):
                print(f"warning: {name}, {way.replace('_', ' ')}: {said}", file=sys.stderr)
            shown = [np.asarray(u[: config.pictures]) for u in found[:-1]]
            courses[f"{name},\n{way.replace('_', ' ')}"] = shown
    numbers["without_learning"] = dict(known)
    given = {"truth $u$": truth, "data $f$": f}
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    draw(
        out / "figure_7.png",
        plots.iterate_figure,
        {label: np.asarray(x[: config.pictures]) for label, x in given.items()},
        courses,
        [*(f"$u^{{{k}}}$" for k in counts), "$u^*$"],
        images.shape,
        f"{_caption(config, images.source)}. Test loss without learning: {baselines.text(known)}",
    )
    return numbers | {"out": str(out)}


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
    """One step of Adam as `learning.step` takes it, on the naive loss: one evaluation of G."""
    weights = {name: state.params[name] for name in model.R.learned}
    _, truth = precision.as_weights(state.params, truth)
    f = model.measure(state.params, truth, key)
    objective = maps.naive_objective(model.G)
    loss, gradient = jax.value_and_grad(lambda w: objective(state.params | w, truth, f))(weights)
    adam = learning.adam(total_steps)(state.params, state.step)
    updates, optimiser = adam.update(gradient, state.optimiser, weights)
    moved: Any = optax.apply_updates(weights, updates)
    one, unknown = jnp.ones_like(loss), jnp.full_like(loss, jnp.nan)
    return state._replace(
        params=state.params | moved,
        optimiser=optimiser,
        step=state.step + 1,
        diverged=state.diverged | ~jnp.isfinite(loss),
    ), Metrics(*[unknown] * len(Metrics._fields))._replace(
        loss=loss, forward_evaluations=one, adjoint_evaluations=one
    )


def _train(
    config: Naive, trainer: Trainer, setting: Setting, start: Params, images: data.Images, name: str
) -> Trained:
    _, key, _ = learning.keys(config.seed)
    train, test = jnp.asarray(images.train), jnp.asarray(images.test)
    state = trainer.init(start)
    if config.epochs:
        trainer = learning.compiled(trainer, state, train, key)
    total = config.epochs * learning.steps_per_epoch(len(train), sizes.batch(config, len(train)))
    spent = 0.0
    with tqdm(total=total, unit="step", desc=name) as bar:

        def on_steps(count: int, metrics: Metrics, seconds: float) -> None:
            bar.set_postfix_str(f"loss {float(metrics.loss[-1]):.2e}")
            bar.update(count)

        epochs = learning.run(
            trainer, setting, state, train, test, epochs=config.epochs, key=key, on_steps=on_steps
        )
        for done in epochs:
            state, spent = done.state, spent + done.record["seconds"]
            bar.write(
                f"{name}, epoch {done.record['epoch']}: test loss {done.record['test_loss']:.4f}",
                file=sys.stderr,
            )
    weights = {name: state.params[name] for name in LEARNED if name in start}
    return Trained(weights, spent, bool(state.diverged))


def _keep(path: Path, trained: Trained) -> None:
    weights = {name: np.asarray(x) for name, x in trained.weights.items()}
    scalars = {"seconds": np.asarray(trained.seconds), "diverged": np.asarray(trained.diverged)}
    archives.write_arrays(path, weights | scalars)


def _kept(path: Path, start: Params) -> Trained:
    """What `_keep` wrote, of weights like those at the start. Raises: FileError."""
    names = [name for name in LEARNED if name in start]
    schema = {name: arrays.like(start[name], finite=False) for name in names}
    schema |= {"seconds": arrays.Array(()), "diverged": arrays.Array((), np.bool_)}
    found = archives.read_arrays(path, schema)
    weights, diverged = {name: jnp.asarray(found[name]) for name in names}, bool(found["diverged"])
    if not diverged and not all(bool(jnp.isfinite(x).all()) for x in weights.values()):
        raise FileError(
            f"{path}: weights that are not finite; remove the file: they are made again"
        )
    return Trained(weights, float(found["seconds"]), diverged)


def course_of(
    model: Model, setting: Setting, counts: list[int], params: Params, truth: Images, f: Images
) -> tuple[list[Images], dict[str, Info], Float[Array, ""]]:
    """u^k for ascending counts k, then u* as the setting solves for it and as nearly as can be; the
    infos of these two, and the naive loss."""
    u, done, images = model.start(f), 0, []
    for k in counts:
        u = jax.lax.fori_loop(done, k, lambda _, u: model.G(u, params, f), u)
        images.append(u)
        done = k
    infos = {}
    for name, solver in (("setting", setting.evaluation()), ("converged", settings.converged())):
        u, infos[name] = model.reconstruct(solver, params, f)
        images.append(u)
    return images, infos, maps.naive_objective(model.G)(params, truth, f)


def errors(
    u: Images, truth: Images, masked: Bool[np.ndarray, " pixels"]
) -> dict[str, float | None]:
    """Mean squared errors over the masked pixels, the others, and all."""
    square = (np.asarray(u, float) - np.asarray(truth, float)) ** 2
    parts = {"masked_loss": square[:, masked], "kept_loss": square[:, ~masked], "test_loss": square}
    return {name: _number(x.mean() if x.size else np.nan) for name, x in parts.items()}


def _number(x: Any) -> float | None:
    """A float for JSON; None for what is not finite."""
    return float(x) if np.isfinite(x) else None


def _caption(config: Naive, source: str) -> str:
    products = config.precision or settings.SETTINGS[config.setting].precision
    return (
        f"{config.task}, {config.activation}, tau {config.tau:g}, gamma {config.gamma:g}, lam "
        f"{config.lam:g}, noise {config.noise:g}; setting {config.setting} in "
        f"{products}, epochs: {config.epochs}; {source}; Picard iterates from zero, and u* as the "
        "setting solves for it"
    )


if __name__ == "__main__":
    command.run(Naive, main)
