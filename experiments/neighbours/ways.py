"""Every way to learn the filters, as a model, how it is solved, and params to start from."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import convolutions, learning, models, operators, solvers, unrolled
from deqbilevel.data import Images
from deqbilevel.models import Model
from deqbilevel.operators import Operator
from deqbilevel.regularizers import Regularizer, convolutional, function, variation
from deqbilevel.settings import MINIMISER, SETTINGS, Budget, Setting
from deqbilevel.types import Params, Solver
from experiments.neighbours import without_task

UNROLLED = ("tied", "untied", "learned_adjoint", "network", "primal_dual", "flow")
SEARCHED = ("total_variation", "cosines", *without_task.METHODS)
STRENGTHS, FINER = tuple(float(i) for i in range(-3, 4)), 0.5
"""Of the search, beside the beta_0 of the start, and how far from the best of these it goes on."""

MOST = 300
"""Evaluations of a reconstruction whose lower level is solved."""

TOLERANCES = {"denoising": 1e-4, "deblurring": 1e-5}
"""Of the same: of a blur, whose Hessian has small eigenvalues, 1e-4 is met 0.25 dB too early."""

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

    def learned_at(self, rate: float) -> dict[str, str]:
        """What names the records of learning at a rate."""
        return self.part | {"rate": f"{rate:g}"}


def runs(config: Any, task: str, images: Images) -> Iterator[Run]:
    """The runs of a task that the options ask for."""
    noise = (config.noise if task == "denoising" else config.blur_noise) / FULL
    for name in config.ways:
        middle = config.iterations[min(1, len(config.iterations) - 1)]
        each = {"tied": config.iterations, "untied": config.iterations}
        each |= dict.fromkeys(("learned_adjoint", "network", "primal_dual"), (middle,))
        each |= {"flow": (config.steps,)}
        if name == "learned_adjoint" and task == "denoising":
            continue  # the identity has no numbers to learn
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
    if name == "primal_dual":
        return unrolled.primal_dual(K, shape, iterations=T, channels=config.filters[0])
    own: dict[str, Any] = {"tied": name == "tied", "learned_adjoint": name == "learned_adjoint"}
    return unrolled.gradient(K, tied(shape, config.filters), iterations=T, **own)


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
    if run.name == "deq":
        K = operator(run.task, images.shape, config.blur)
        tau = 1 / models.assemble(K, tied(images.shape, config.filters)).lipschitz(
            tied(images.shape, config.filters).init(key)
        )
        params |= {"tau": tau}
    if run.name in without_task.METHODS:
        params |= without_task.found(config, run.name, run.noise, images)
    if run.name == "experts":  # which has a scale of its own, and gamma
        return params
    return _at_noise(params, 2 * float(jnp.log(run.noise / NOISE)))


def _at_noise(params: Params, shift: float) -> Params:
    """With weights that go with the square of the noise, as those of a prior do."""
    if "beta_0" in params:
        return params | {"beta_0": params["beta_0"] + shift}
    if "network" not in params:  # a primal-dual one, which has no regulariser
        return params
    return params | {"network": params["network"] | {"beta": params["network"]["beta"] + shift}}


def setting(config: Any, run: Run, T: int | None = None) -> Setting:
    """How a step of learning solves the lower level."""
    if run.name in UNROLLED:
        return unrolled.setting()
    more = 1 if run.task.startswith("denoising") else ILL_POSED
    count = more * config.evaluations if T is None else T
    own = SETTINGS["accurate"]._replace(
        budget=Budget(count, count),
        limit=Budget(count, count),
        forward_tolerance=tolerance(run),
        evaluation_tolerance=tolerance(run),
        evaluation_budget=MOST,
        preconditioned=False,
        warm=True,
    )
    if run.name == "deq":
        return own._replace(guard=GUARD)
    guard = None if run.task.startswith("denoising") else GUARD
    return own._replace(solver="optimized_gradient", hypergradient=MINIMISER, guard=guard)


def tolerance(run: Run) -> float:
    """Of the lower level, of the run's task."""
    return TOLERANCES[run.task.split("-")[0]]


def _limits(run: Run) -> dict[str, Any]:
    return {"tolerance": tolerance(run), "max_evaluations": MOST}


def solver(run: Run) -> Solver:
    """Of a reconstruction."""
    if run.name in UNROLLED:
        return solvers.picard(max_evaluations=1)
    if run.name == "deq":
        return solvers.anderson(relative=True, **_limits(run))
    return solvers.optimized_gradient(**_limits(run))


def other(run: Run) -> Solver | None:
    """Another one of the same lower level; None where there is none."""
    if run.name in UNROLLED:
        return None
    if run.name == "deq":
        return solvers.picard(tolerance=1e-5, max_evaluations=500)
    return solvers.anderson(relative=True, **_limits(run))


def changed(run: Run, params: Params, count: int) -> tuple[Params, Solver]:
    """What reconstructs in so many iterations, whatever was learned for."""
    if run.name in UNROLLED:
        return unrolled.with_iterations(params, count), solver(run)
    return params, partial(solvers.picard, tolerance=None)(max_evaluations=count)
