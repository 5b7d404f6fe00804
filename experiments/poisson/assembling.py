"""The models for counts, and the scale that Anscombe's transform takes them to."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import fidelities, learning, losses, models, operators, settings
from deqbilevel.data import Images
from deqbilevel.fidelities import Fidelity
from deqbilevel.learning import Learner, Trainer
from deqbilevel.losses import Loss
from deqbilevel.models import Model
from deqbilevel.recipes import Recipe
from deqbilevel.settings import MINIMISER, Budget, Setting
from deqbilevel.types import Params

OPERATORS = {"denoising": "identity", "deblurring": "gaussian_blur"}

BUDGET = Budget(30, 40)
"""Of a learning step, whose lower level goes on where that of the last ended."""

SEARCHED = 20
"""Training images on which the weight to start from is sought."""


class Run(NamedTuple):
    """A method on a task, ready to learn."""

    task: str
    peak: float
    method: str
    model: Model
    recipe: Recipe
    params: Params
    """At the start, but for beta_0."""
    repeat: int
    """0 of the first with these words."""

    @property
    def label(self) -> str:
        """Of its files."""
        return f"{self.task}-{self.peak:g}-{self.method}" + (
            f"-{self.repeat}" if self.repeat else ""
        )

    def image(self, u: Array) -> Array:
        """The image of a reconstruction of the model."""
        return unbiased_inverse(u, self.peak) if self.method == "anscombe" else u

    def counts(self, f: Array) -> Array:
        """Counts over the peak of a measurement."""
        return (
            f**2 * (1 + 0.375 / self.peak) - 0.375 / self.peak if self.method == "anscombe" else f
        )

    @property
    def loss(self) -> Loss:
        """The squared error of the images."""
        return lambda u, truth: losses.mean_squared_error(self.image(u), truth)

    @property
    def pictures(self) -> str:
        """The file of its reconstructions."""
        return f"states/{self.label}.npz"


def runs(config: Any, images: Images) -> list[Run]:
    """Of every task, peak and method that go together. Raises: ValueError for options that cannot
    be met."""
    found = [
        build(config, task, peak, method, images)._replace(repeat=repeat)
        for task in config.tasks
        for peak in config.peaks
        for method in config.methods
        for repeat in range(config.repeats)
        if not (task == "deblurring" and method == "anscombe")
    ]
    if not found:
        raise ValueError("--methods anscombe: is for denoising; add poisson or squares")
    return found


def build(config: Any, task: str, peak: float, method: str, images: Images) -> Run:
    """A method on a task. The weight of the regulariser is the variance of the noise over the
    curvature of D, so that the same prior is as good for every peak and method."""
    options = {"sigma": config.sigma} if task == "deblurring" else {}
    K = operators.OPERATORS[OPERATORS[task]](images.shape, **options)
    counts = fidelities.poisson(peak=peak)
    own: dict[str, Any] = {"fidelity": "squares", "nonnegative": method != "anscombe"}
    if method == "poisson":
        D, variance = counts, 1 / peak
        own |= {"fidelity": "poisson", "fidelity_options": {"peak": peak}}
    elif method == "squares":
        D = fidelities.squares._replace(measure=counts.measure, counts=True)
        variance = float(np.mean(K.apply(jnp.asarray(images.train)))) / peak
    else:
        D, variance = stabilised(peak), 1 / (4 * peak + 1.5)
    recipe = Recipe(
        OPERATORS[task],
        options,
        "convolutional",
        {"filters": config.filters, "eps": config.eps, "beta_0": config.beta_0[0]},
        **own,
    )
    R = recipe.model(images.shape).R
    model = models.assemble(K, R, D=D, nonnegative=recipe.nonnegative)
    params = recipe.init(model, learning.keys(config.seed)[0])
    scalars = {"gamma": variance, "lam": 1.0, "noise": 0.0, "learning_rate": config.learning_rate}
    params |= {name: jnp.asarray(value, float) for name, value in scalars.items()}
    return Run(task, peak, method, model, recipe, params, repeat=0)


def setting(run: Run) -> Setting:
    """How lower level and adjoint are solved."""
    return settings.check(
        settings.SETTINGS["accurate"]._replace(
            forward_tolerance=1e-4,
            adjoint_tolerance=1e-2,
            budget=BUDGET,
            limit=BUDGET,
            evaluation_tolerance=1e-5,
            evaluation_budget=500,
            preconditioned=False,
            solver=run.model.descent,
            hypergradient=MINIMISER,
            warm=True,
        )
    )


def trainer_of(config: Any, run: Run, count: int) -> tuple[Trainer, Setting, int]:
    """What learns from so many images, how it solves, and its steps of an epoch."""
    steps, own = learning.steps_per_epoch(count, config.batch_size), setting(run)
    trainer = learning.trainer(
        run.model,
        own,
        total_steps=max(config.epochs, 1) * steps,
        batch_size=config.batch_size,
        loss_function=run.loss,
    )
    return trainer, own, steps


def started(config: Any, run: Run, learner: Learner, train: Array, f: Array) -> tuple[Params, bool]:
    """The params with the best beta_0 of those that are tried, and whether it is at their edge."""
    some = slice(min(SEARCHED, len(train)))
    values = sorted(config.beta_0)
    found = learning.search(learner, run.params, train[some], f[some], "beta_0", values)
    return run.params | {"beta_0": found.best}, bool(found.at_edge)


# ---- Anscombe's transform


def stabilised(peak: float) -> Fidelity:
    """Squares of counts c as f = sqrt((c + 3/8) / (peak + 3/8)), whose noise has a deviation of
    about 1 / (2 sqrt(peak + 3/8)) whatever their mean: Anscombe, Biometrika 35 (1948)."""
    counts = fidelities.poisson(peak=peak)

    def measure(v: Array, noise: Any, key: Array) -> Array:
        return stabilise(counts.measure(v, noise, key), peak)

    return fidelities.squares._replace(measure=measure, counts=True)


def stabilise(f: Array, peak: float) -> Array:
    """Counts over the peak -> their stabilised ones."""
    return jnp.sqrt((peak * f + 0.375) / (peak + 0.375))


def unbiased_inverse(u: Array, peak: float) -> Array:
    """A mean of stabilised counts -> the mean of the counts, over the peak, and not the counts that
    it would be of: the closed form of Makitalo and Foi, IEEE Trans. Image Process. 20 (2011)."""
    d = jnp.maximum(2 * (peak + 0.375) ** 0.5 * u, 2 * 0.375**0.5)
    half = 1.5**0.5
    mean = d**2 / 4 + half / (4 * d) - 11 / (8 * d**2) + 5 * half / (8 * d**3) - 0.125
    return mean / peak
