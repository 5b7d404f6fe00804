"""The models of the networks by their words, and the conditions that they have to meet."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import contraction, learning, models, operators, recipes, settings
from deqbilevel.contraction import Finding
from deqbilevel.data import Images
from deqbilevel.models import Model
from deqbilevel.recipes import Recipe
from deqbilevel.types import Params

TASKS: dict[str, dict[str, Any]] = {
    "inpainting": {"noise": 0.1, "gamma": 1.0, "activation": "softshrink"},
    "deblurring": {"noise": 0.05, "gamma": 0.5, "activation": "relu"},
}
"""Points of the grid of [REB] where its models do well; the activation is the dense ones'."""

STEPS: dict[str, str] = {"deprox": "plug_and_play_step", "plug_and_play": "plug_and_play_step"}
"""The maps of those that are no gradient step."""

ENFORCED = (
    contraction.STEP_SIZE,
    contraction.STEP_SIZE_WITH_N,
    contraction.NONEXPANSIVE,
    contraction.NONEXPANSIVE_MEASURED,
)
"""What a network has to meet; a dense model the first only, as in [REB]."""


class Run(NamedTuple):
    """A model on a task, ready to be trained."""

    task: str
    name: str
    model: Model
    taught: Model
    """The model that is trained: the same, but for plug-and-play a denoiser."""
    recipe: Recipe
    params: Params
    """At the start."""
    taught_noise: float

    @property
    def label(self) -> str:
        """Of its files."""
        return f"{self.task}-{self.name}"

    @property
    def pictures(self) -> str:
        """The file of its reconstructions."""
        return f"states/{self.label}.npz"


def build(config: Any, task: str, name: str, images: Images) -> Run:
    """A model of a task, and its parameters at the start."""
    case, shape = TASKS[task], images.shape
    rate = config.learning_rate
    scalars = models.hyperparameters(
        tau=config.tau,
        gamma=case["gamma"] if config.gamma is None else config.gamma,
        lam=config.lam,
        activation=case["activation"] if name in models.MODELS else None,
        noise=case["noise"] if config.noise is None else config.noise,
        learning_rate=settings.SETTINGS[config.setting].learning_rate if rate is None else rate,
    )
    recipe = recipe_of(config, task, name)
    model = recipe.model(shape)
    taught = _denoising(model) if name == "plug_and_play" else model
    key, _, _ = learning.keys(config.seed)
    noise = config.denoiser_noise if name == "plug_and_play" else float(scalars["noise"])
    return Run(task, name, model, taught, recipe, model.init(key) | scalars, noise)


def recipe_of(config: Any, task: str, name: str) -> Recipe:
    """The model by its words."""
    if name in models.MODELS:
        return recipes.dense(task, name, TASKS[task]["activation"], config.tau)
    own: dict[str, Any] = {"channels": config.channels}
    if name != "convex":
        own |= {"layers": config.layers, "normalised": config.normalise}
    network, step = "convex" if name == "convex" else "denoiser", STEPS.get(name, "gradient_step")
    return Recipe(models.TASKS[task], {}, network, own, step=step, start="zero")


def _denoising(model: Model) -> Model:
    """The denoiser D = I - N as a model of its own: of Gaussian noise, and of no fixed point."""

    def denoise(u: Array, params: Params, f: Array) -> Array:
        """Depends on no u, so that its fixed point is D(f)."""
        return f - model.N(f, params)

    return model._replace(K=operators.Identity(), G=denoise)


def check(runs: list[Run], images: Images, *, anyway: bool) -> None:
    """Raises ValueError, naming what does not hold, unless it is to be trained anyway."""
    broken = []
    for run in runs:
        truth = jnp.asarray(images.test[:4])
        found = findings(run, run.params, truth, truth)
        print(f"\n{run.task}, {run.name}, before training\n{contraction.text(found)}", flush=True)
        names = ENFORCED[:1] if run.name in models.MODELS else ENFORCED
        broken += [
            f"{run.task}, {run.name}: {x.name} ({x.meaning}) is {x.value:.4g} of {x.bound:.4g}"
            for x in found
            if x.name in names and not x.holds
        ]
    if broken and not anyway:
        raise ValueError("; ".join(broken) + "; change it, or train --anyway")


def findings(run: Run, params: Params, truth: Array, u: Array) -> list[Finding]:
    """The conditions of [REB] 2.2 at images u, with measurements of the true ones."""
    keys, R = jax.random.split(jax.random.key(1)), run.model.R
    assert R.lipschitz is not None
    return contraction.report(
        run.model,
        params,
        run.model.measure(params, truth, keys[0]),
        u,
        keys[1],
        step=STEPS.get(run.name, "gradient_step"),
        bound=float(R.lipschitz(params)),
        cocoercive=R.firm or R.tied,
    )
