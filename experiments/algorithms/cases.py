"""The problems that upper-level algorithms are compared on, seeds as lanes, and their settings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from deqbilevel import algorithms, data, losses, models
from deqbilevel.algorithms import Algorithm, Posed, cleaning
from deqbilevel.algorithms.base import Gamma
from deqbilevel.algorithms.judging import Accuracy, Scores
from deqbilevel.commands import algorithm_options, folders
from deqbilevel.commands.schema import ANY
from deqbilevel.losses import half_squared_error
from deqbilevel.types import Params
from experiments import filters
from experiments.filters import lanes as filter_lanes
from experiments.filters import tasks

DIGITS = 100
"""That are deblurred."""

OPTIMISERS: dict[str, Callable[[Any, int], optax.GradientTransformation]] = {
    "sgd": lambda rate, N: optax.sgd(rate),
    "adam": lambda rate, N: optax.adam(rate),
    "nesterov": lambda rate, N: optax.sgd(rate, momentum=0.9, nesterov=True),
    "decaying_sgd": lambda rate, N: optax.sgd(lambda u: rate * 100 / (100 + u)),
    "dimension_normalised": algorithms.steps.dimension_normalised,
    "armijo": lambda rate, N: algorithms.steps.armijo(rate),
    "barzilai_borwein": lambda rate, N: algorithms.steps.barzilai_borwein(rate),
    "hoag_adaptive": lambda rate, N: algorithms.steps.hoag_adaptive(1 / rate),
}
"""What moves the upper level, made from the rate that is searched and the dimension N of x, that of
the data in all of our problems but the cleaning."""


SEARCH = {"method": "", "rate": 0.0, "rates": [0.0]}
"""A record of the search of a step size."""

POINT = {"method": "", "rates": [0.0], "step": 0, "seconds": 0.0, "calls": [0.0], "last": False}
POINT |= {"loss": [ANY], "gradient_norm": [ANY], "diverged": [False]}
"""A record of a point of a course."""


class Case(NamedTuple):
    """A problem for each seed."""

    pose: Callable[[Any], Posed]
    """The problem made of one entry of `lanes`, under `vmap`."""
    lanes: Any
    """A pytree with a leading axis of seeds."""
    about: str
    scores: Scores
    """Names of `plots.algorithms.HEIGHTS`."""
    accuracy: Accuracy
    inputs: Mapping[str, Any] = MappingProxyType({})
    """What tells the images that were read from others."""


class Kind(NamedTuple):
    """How a problem is made, and what is used where an option is not given."""

    build: Callable[[dict[str, Any]], Case]
    methods: Mapping[str, dict[str, Any]]
    """The methods that it is not too large for, with their options; `rate` is the middle of the
    step sizes that are searched."""
    options: dict[str, Any]
    float64: bool = False
    together: bool = True
    """Whether lanes are vmapped; else they run one after the other."""
    close: float = 0.05
    """A method has arrived where this part of the way from the start to the best loss of all is
    left."""


def algorithm(options: dict[str, Any], method: str, posed: Posed, rate: Any) -> Algorithm:
    """A method with its options for the problem, and a rate that may be traced."""
    own = dict(CASES[options["problem"]].methods[method])
    del own["rate"]
    if method == "maid":
        return algorithms.maid(posed.problem, step_size=rate, **own)
    chosen = "sgd" if method in algorithms.OWN_STEPS else options["optimiser"]
    moved_by = own.pop("optimiser", lambda rate: OPTIMISERS[chosen](rate, posed.x.size))
    return algorithms.METHODS[method](posed.problem, moved_by(rate), **own)


# ---- small problems with known answers


def _probe(make: Callable[[], Posed], about: str) -> Callable[[dict[str, Any]], Case]:
    def build(options: dict[str, Any]) -> Case:
        accuracy = Accuracy("barzilai_borwein", 2000, 50, 1e-12)
        seeds = jnp.arange(options["seeds"])
        return Case(lambda seed: make(), seeds, about, lambda gamma, x, posed: {}, accuracy)

    return build


# ---- filters


def _filters(name: Literal["vertical-bars", "cameraman"]) -> Callable[[dict[str, Any]], Case]:
    """The experiment of that name of `experiments.filters`, beta_0 searched, the seeds as lanes."""

    def build(options: dict[str, Any]) -> Case:
        image = options["image"] and Path(options["image"])
        config = filters.Filters(name, image=image, seeds=options["seeds"], seed=options["seed"])
        settings = config.resolved()
        task = tasks.task(name, image, None, settings["images"], settings["patch"], 0)
        lanes = filter_lanes.searched(settings, filter_lanes.lanes_of(settings, task))
        (model,), truth = lanes.learner.models, lanes.truth[0]

        def pose(lane: Any) -> Posed:
            return algorithms.posed(model, lane[0], truth, lane[1], loss=half_squared_error)

        def scores(gamma: Gamma, x: Array, posed: Posed) -> dict[str, Array]:
            return {"snr_db": jnp.mean(losses.snr(x, truth))}

        about = f"{task.source}: {settings['filters']} filters, noise {settings['noise']:.3f}"
        accuracy = Accuracy("limited_memory_bfgs", 500, 300, 1e-4)
        inputs = tasks.inputs_of(task, config.start)
        return Case(pose, (lanes.params, lanes.f[0]), about, scores, accuracy, inputs)

    return build


def _deblurring(options: dict[str, Any]) -> Case:
    """A and b of the dense bilevel model of [REB], on digits whose noise stays the same."""
    images = data.load(options["data"], train_size=DIGITS, test_size=1)
    truth = jnp.asarray(images.train)
    model = models.build("deblurring", "bilevel", images.shape)
    scalars = models.hyperparameters(tau=0.9, gamma=0.5, activation="relu", noise=0.05)

    def lane(seed: Array) -> tuple[Params, Array]:
        keys = jax.random.split(jax.random.key(seed))
        return model.init(keys[0]), model.measure(scalars, truth, keys[1])

    def pose(lane: tuple[Params, Array]) -> Posed:
        return algorithms.posed(model, lane[0] | scalars, truth, lane[1], smooth=False)

    def scores(gamma: Gamma, x: Array, posed: Posed) -> dict[str, Array]:
        return {"psnr_db": jnp.mean(losses.psnr(x, truth, data_range=2.0))}

    seeds = options["seed"] + jnp.arange(options["seeds"])
    about = f"deblurring {DIGITS} digits ({images.source}) by the dense bilevel model of [REB]"
    accuracy = Accuracy("limited_memory_bfgs", 500, 300, 1e-3)
    inputs = data.fingerprint(images)
    return Case(pose, jax.jit(jax.vmap(lane))(seeds), about, scores, accuracy, inputs)


def _cleaning(options: dict[str, Any]) -> Case:
    """Weights for digits of which half have wrong labels; each seed draws its own samples."""
    corpus = cleaning.digits(options["data"], seed=options["seed"])
    posed = cleaning.pose(corpus)
    test = jnp.asarray(corpus.test.images), jnp.asarray(corpus.test.labels)

    def scores(gamma: Gamma, x: Array, posed: Posed) -> dict[str, Array]:
        return {"accuracy": cleaning.accuracy(x, *test)}

    sizes = f"{len(corpus.train.labels)} + {len(corpus.validation.labels)} digits"
    about = f"data cleaning, {sizes} ({options['data']}), half of the training labels wrong"
    accuracy = Accuracy("limited_memory_bfgs", 300, 100, 1e-4)
    lanes, inputs = jnp.arange(options["seeds"]), folders.given({"digits": corpus})
    return Case(lambda seed: posed, lanes, about, scores, accuracy, inputs)


CASES: dict[str, Kind] = {
    "q1": Kind(
        _probe(algorithms.quadratic, "quadratic costs of 3 and 2 unknowns (Q1), in float64"),
        algorithm_options.Q1,
        {"optimiser": "sgd", "seeds": 1, "calls": 20_000, "seconds": 20.0},
        float64=True,
        close=1e-9,
    ),
    "q1-stochastic": Kind(
        _probe(
            lambda: algorithms.stochastic_quadratic(algorithms.quadratic()),
            "Q1 from batches of 2 of 8 samples, in float64",
        ),
        algorithm_options.Q1_STOCHASTIC,
        {"optimiser": "decaying_sgd", "seeds": 20, "calls": 100_000, "seconds": 30.0},
        float64=True,
        close=1e-4,
    ),
    "q2": Kind(
        _probe(algorithms.coupled, "a lower level that is not linear in gamma (Q2), in float64"),
        algorithm_options.Q2,
        {"optimiser": "sgd", "seeds": 1, "calls": 10_000, "seconds": 20.0},
        float64=True,
        close=1e-9,
    ),
    "vertical-bars": Kind(
        _filters("vertical-bars"),
        algorithm_options.FILTERS,
        {"optimiser": "adam", "seeds": 3, "calls": 10_000_000, "seconds": 30.0},
        close=0.01,
    ),
    "cameraman": Kind(
        _filters("cameraman"),
        algorithm_options.FILTERS,
        {"optimiser": "adam", "seeds": 1, "calls": 10_000_000, "seconds": 120.0},
        close=0.01,
    ),
    "deblurring": Kind(
        _deblurring,
        algorithm_options.DEBLURRING,
        {"optimiser": "adam", "seeds": 1, "calls": 10_000_000, "seconds": 60.0},
        together=False,
    ),
    "cleaning": Kind(
        _cleaning,
        algorithm_options.CLEANING,
        {"optimiser": "sgd", "seeds": 1, "calls": 10_000_000, "seconds": 20.0},
        together=False,
    ),
}
"""Every problem by name."""
