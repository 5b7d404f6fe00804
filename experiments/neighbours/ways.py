"""Every way to learn the filters, as a model, how it is solved, and params to start from."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from deqbilevel import (
    convolutions,
    learning,
    models,
    operators,
    potentials,
    single_level,
    solvers,
    unrolled,
)
from deqbilevel.data import Images
from deqbilevel.models import Model
from deqbilevel.operators import Operator
from deqbilevel.regularizers import Regularizer, convolutional, function, variation
from deqbilevel.settings import MINIMISER, SETTINGS, Budget, Setting
from deqbilevel.types import Params, Solver

UNROLLED = ("tied", "untied", "network", "flow")
SPARSIFYING = ("analysis", "transform", "convolutional_analysis", "experts")
SEARCHED = ("total_variation", "cosines", *SPARSIFYING)
STRENGTHS = tuple(0.5 * i for i in range(-6, 7))
"""Of the search, beside the beta_0 of the start."""

STEPS, PATCHES = 100, 5000
"""Of single-level learning."""

SPARSITY = 1e-3
"""beta of transforms and of convolutional analysis operator learning, of images in [0, 1]."""

DEQUANTISED = 0.02
"""Noise in the images that a field of experts is fitted to, which has no density without."""

WIDTH = 0.05
"""Where the potential of a field of experts bends."""

LIMITS = {"tolerance": 1e-4, "max_evaluations": 300}
"""Of a reconstruction whose lower level is solved."""

ILL_POSED = 5
"""Times the evaluations of denoising that a blur takes, whose Hessian is worse conditioned."""

GUARD = 3.0
"""Of the DEQ, see `Setting.guard`: without it learning ended below the measurement."""

FULL = 255.0
"""Grey levels of an image in [0, 1]."""

NOISE = 25 / FULL
"""For which weights start as the regularisers have them."""

Shape = tuple[int, int]


class Run(NamedTuple):
    """A way on a task."""

    task: str
    name: str
    T: int
    """Iterations it is learned for; 0: as many as it takes."""
    noise: float

    @property
    def way(self) -> str:
        return f"{self.name}-{self.T}" if self.name in ("tied", "untied") else self.name

    @property
    def part(self) -> dict[str, str]:
        """What names its records."""
        return {"task": self.task, "way": self.way}


def runs(config: Any, task: str, images: Images) -> Iterator[Run]:
    """The runs of a task that the options ask for."""
    noise = (config.noise if task == "denoising" else config.blur_noise) / FULL
    for name in config.ways:
        middle = config.iterations[min(1, len(config.iterations) - 1)]
        each = {"tied": config.iterations, "untied": config.iterations}
        each |= {"network": (middle,), "flow": (config.steps,)}
        for T in each.get(name, (0,)):
            yield Run(task, name, T, noise)


def operator(task: str, shape: Shape, blur: float) -> Operator:
    """What measures."""
    if task.startswith("denoising"):
        return operators.identity(shape)
    return operators.gaussian_blur(shape, sigma=blur)


def model(config: Any, run: Run, shape: Shape, T: int | None = None) -> Model:
    """The model of images of a shape, for a number of iterations or for that of the run."""
    K = operator(run.task, shape, config.blur)
    if run.name in UNROLLED:
        return net(config, run.name, K, shape, run.T if T is None else T).model()
    if run.name == "deq":
        return models.assemble(K, untied(shape, config.filters))
    if run.name == "total_variation":
        return models.assemble(K, variation.total_variation(shape))
    return models.assemble(K, tied(shape, config.filters))


def net(config: Any, name: str, K: Operator, shape: Shape, T: int) -> unrolled.Unrolled:
    """The iterations, or the flow in so many steps."""
    if name == "flow":
        return unrolled.flow(K, unrolled.of_splines(shape, filters=config.filters), steps=T)
    if name == "network":
        own = {"filters": config.filters, "iterations": T}
        return unrolled.variational_network(K, shape, **own)
    R = tied(shape, config.filters)
    return unrolled.gradient(K, R, iterations=T, tied=name == "tied")


def tied(shape: Shape, filters: tuple[int, int, int]) -> Regularizer:
    """sum_k w_k 1' phi(c_k * u)."""
    return convolutional.convolutional(shape, filters=filters)


def untied(shape: Shape, filters: tuple[int, int, int]) -> Regularizer:
    """N(u) = sum_k w_k C_k' phi'(A_k u) of a DEQ, which starts tied."""
    bank, R = convolutions.bank(shape), tied(shape, filters)
    fixed = R.init(jax.random.key(0))

    def apply(u: Array, own: Params) -> Array:
        w = convolutional.weights(fixed | {"beta": own["beta"]})[:, None, None, None]
        return bank.adjoint(own["C"], w * fixed["phi"].derivative(bank.apply(own["A"], u)))

    def init(key: Array) -> Params:
        params = R.init(key)
        return {"A": params["filters"], "C": params["filters"], "beta": params["beta"]}

    return function(shape, apply, init)


def start(config: Any, run: Run, images: Images) -> Params:
    """Params before learning, or of single-level learning before the search."""
    key, _, _ = learning.keys(config.seed)
    own = model(config, run, images.shape)
    params = own.init(key) | {"noise": jnp.float32(run.noise)}
    params |= {"learning_rate": jnp.float32(config.learning_rate)}
    if run.name == "deq":
        K = operator(run.task, images.shape, config.blur)
        tau = 1 / models.assemble(K, tied(images.shape, config.filters)).lipschitz(
            tied(images.shape, config.filters).init(key)
        )
        params |= {"tau": tau}
    if run.name in SPARSIFYING:
        params |= sparsifying(config, run, images)
    if run.name == "experts":  # which has a scale of its own, and gamma
        return params
    return _at_noise(params, 2 * float(jnp.log(run.noise / NOISE)))


def _at_noise(params: Params, shift: float) -> Params:
    """With weights that go with the square of the noise, as those of a prior do."""
    if "beta_0" in params:
        return params | {"beta_0": params["beta_0"] + shift}
    return params | {"network": params["network"] | {"beta": params["network"]["beta"] + shift}}


def sparsifying(config: Any, run: Run, images: Images) -> Params:
    """Filters that make the training images sparse, without a look at the task."""
    key, _, _ = learning.keys(config.seed)
    train, (_, *size) = jnp.asarray(images.train), config.filters
    begin = tied(images.shape, config.filters).init(key)["filters"]
    if run.name == "convolutional_analysis":
        method = single_level.convolutional_analysis(images.shape, SPARSITY, without_constant=True)
        return single_level.params_of(single_level.run(method, begin, train, STEPS)[0])
    if run.name == "experts":
        noisy = train + DEQUANTISED * jax.random.normal(key, train.shape)
        method = single_level.score_matching(images.shape, optax.adam(config.learning_rate))
        first = single_level.params_of(begin, phi=potentials.LogSum(WIDTH))
        found, _ = single_level.run(method, first, noisy, STEPS)
        return found | {"gamma": jnp.float32(run.noise**2)}
    rows = single_level.patches(train, images.shape, tuple(size), key, PATCHES)
    if run.name == "transform":
        constant = jnp.full((1, *size), (size[0] * size[1]) ** -0.5)
        square = jnp.concatenate([constant, convolutional.cosines(*size)]).reshape(
            -1, rows.shape[1]
        )
        method = single_level.transform(SPARSITY, lam=SPARSITY)
        omega, _ = single_level.run(method, square, rows, STEPS)
        # Patches have no mean, so one row sees nothing: what the constant was.
        omega = jnp.delete(omega, jnp.argmin(jnp.sum((rows @ omega.T) ** 2, axis=0)), axis=0)
    else:
        enough = len(begin) >= size[0] * size[1] - 1
        name = "parseval" if enough else "unit_rows"
        method = single_level.analysis(single_level.constraint(name, without_constant=True))
        omega, _ = single_level.run(method, begin.reshape(len(begin), -1), rows, STEPS)
    return single_level.params_of(single_level.filters_of(omega, tuple(size)))


def setting(config: Any, run: Run, T: int | None = None) -> Setting:
    """How a step of learning solves the lower level."""
    if run.name in UNROLLED:
        return unrolled.setting(config.learning_rate)
    more = 1 if run.task.startswith("denoising") else ILL_POSED
    count = more * config.evaluations if T is None else T
    own = SETTINGS["accurate"]._replace(
        budget=Budget(count, count),
        limit=Budget(count, count),
        evaluation_budget=LIMITS["max_evaluations"],
        preconditioned=False,
        warm=True,
        learning_rate=config.learning_rate,
    )
    if run.name == "deq":
        return own._replace(guard=GUARD)
    guard = None if run.task.startswith("denoising") else GUARD
    return own._replace(solver="optimized_gradient", hypergradient=MINIMISER, guard=guard)


def solver(run: Run) -> Solver:
    """Of a reconstruction."""
    if run.name in UNROLLED:
        return solvers.picard(max_evaluations=1)
    if run.name == "deq":
        return solvers.anderson(relative=True, **LIMITS)
    return solvers.optimized_gradient(**LIMITS)


def other(run: Run) -> Solver | None:
    """Another one of the same lower level; None where there is none."""
    if run.name in UNROLLED:
        return None
    if run.name == "deq":
        return solvers.picard(tolerance=1e-5, max_evaluations=500)
    return solvers.anderson(relative=True, **LIMITS)


def changed(run: Run, params: Params, count: int) -> tuple[Params, Solver]:
    """What reconstructs in so many iterations, whatever was learned for."""
    if run.name in UNROLLED:
        return unrolled.with_iterations(params, count), solver(run)
    return params, partial(solvers.picard, tolerance=None)(max_evaluations=count)
