"""The problems that searches are compared on, each with the box that is searched."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import algorithms, data, models, operators, search
from deqbilevel.algorithms import Posed
from deqbilevel.algorithms.imaging import Measured
from deqbilevel.checks import Registry
from deqbilevel.regularizers import REGULARIZERS
from deqbilevel.search import Box, Residuals

FILTERS = (24, 5, 5)
"""Cosines, all but the constant one."""

CONDITIONING = 1e-6
"""Of the squared condition number in the loss of `tv1d`, as Ehrhardt and Roberts have it."""


class Case(NamedTuple):
    """A problem with so many parameters."""

    label: str
    posed: Posed
    box: Box
    residuals: Residuals
    about: str


def tv1d(config: Any) -> list[Case]:
    """Piecewise constant signals, [images, size], with smoothed total variation:

    Phi = sum_i 1/2 ||x_i - f_i||^2 + alpha sum_j sqrt((x_{i,j+1} - x_{i,j})^2 + nu^2)
          + xi/2 ||x_i||^2
    l   = 1/images sum_i ||x_i - u_i||^2 + 1e-6 (L / mu)^2
    """
    rng = np.random.default_rng(config.seed)
    first, last = (rng.uniform(a, b, config.images) for a, b in ((0.125, 0.4), (0.6, 0.875)))
    place = (np.arange(config.size) + 0.5) / config.size
    inside = (place > first[:, None]) & (place < last[:, None])
    u = np.where(inside, rng.uniform(0.5, 1.5, config.images)[:, None], 0.0)
    truth = jnp.asarray(u, jnp.float32)
    f = truth + config.noise * jax.random.normal(jax.random.key(config.seed), truth.shape)

    def constant(gamma: Any) -> Array:
        return 1 + gamma["xi"] + 4 * gamma["alpha"] / gamma["nu"]

    def residuals(gamma: Any, x: Array, data: Measured) -> Float[Array, " m"]:
        errors = jnp.linalg.norm(x - data.truth, axis=1) / len(x) ** 0.5
        condition = CONDITIONING**0.5 * constant(gamma) / (1 + gamma["xi"])
        return jnp.append(errors, condition)

    def upper(gamma: Any, x: Array, data: Measured) -> Float[Array, ""]:
        condition = constant(gamma) / (1 + gamma["xi"])
        return jnp.sum((x - data.truth) ** 2) / len(x) + CONDITIONING * condition**2

    def lower(x: Array, gamma: Any, data: Measured) -> Float[Array, ""]:
        roots = jnp.sqrt(jnp.diff(x, axis=1) ** 2 + gamma["nu"] ** 2)
        of_x = jnp.sum((x - data.f) ** 2) / 2 + gamma["xi"] / 2 * jnp.sum(x**2)
        return of_x + gamma["alpha"] * jnp.sum(roots)

    problem = algorithms.from_cost(
        upper, lower, lambda gamma: 1 / constant(gamma), strong_convexity=1.0
    )
    start = {"alpha": jnp.array(1.0), "nu": jnp.array(1e-2), "xi": jnp.array(1e-2)}
    posed = Posed(problem, Measured(truth, f), start, f)
    box = Box(
        {"alpha": 1e-7, "nu": 1e-7, "xi": 1e-7}, {"alpha": 1e7, "nu": 1.0, "xi": 1.0}, tuple(start)
    )
    about = f"{config.images} piecewise constant signals of {config.size}, noise {config.noise:g}"
    return [Case("3", posed, box, Residuals(residuals, len(f) ** -0.5), about)]


def filters(config: Any) -> list[Case]:
    """beta of the cosines, R of which are free: the filters in order of their frequencies have them
    in turn, equal parts of the list each."""
    shape = (config.size, config.size)
    images = data.load(
        "phantoms:piecewise_constant",
        shape=shape,
        train_size=config.images,
        test_size=1,
        seed=config.seed,
        value_range=(0.0, 1.0),
    )
    truth = jnp.asarray(images.train)
    R = REGULARIZERS["convolutional"](shape, filters=FILTERS, basis="cosines")
    model = models.assemble(operators.identity(shape), R)
    params = R.init(jax.random.key(config.seed)) | {"noise": jnp.asarray(config.noise)}
    f = model.measure(params, truth, jax.random.key(config.seed))
    posed = algorithms.posed(model, params, truth, f, learned=("beta", "beta_0"))
    return [_shared(posed, R, count, images.source, config) for count in config.parameters]


def _shared(posed: Posed, R: Any, count: int, source: str, config: Any) -> Case:
    which = jnp.asarray(np.arange(FILTERS[0]) * count // FILTERS[0])
    start = {"weights": jnp.full(count, -5.0)}

    def make(gamma: Any) -> Any:
        return {"beta": gamma["weights"][which], "beta_0": jnp.zeros(())}

    own = search.through(posed, make, start)
    box = Box({"weights": np.full(count, -10.0)}, {"weights": np.zeros(count)})
    about = f"Weights of 24 filters; {config.images} of {source}, noise {config.noise:g}"
    return Case(str(count), own, box, search.row_errors(own), about)


PROBLEMS: Registry[Callable[[Any], list[Case]]] = Registry(
    "problem", {"tv1d": tv1d, "filters": filters}
)
"""Each makes a case for every number of parameters that is asked for."""


def build(config: Any) -> list[Case]:
    """The cases of the options."""
    return PROBLEMS[config.problem](config)
