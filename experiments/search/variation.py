"""Total variation and its kin, rounded at the corner: one, two and three parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import algorithms, models, operators, search, variational
from deqbilevel.algorithms import Posed
from deqbilevel.algorithms.imaging import Measured
from deqbilevel.potentials import CornerRounded
from deqbilevel.regularizers import REGULARIZERS
from deqbilevel.search import Box, Residuals
from experiments.search.cases import Case, Noisy, pictures, signals

CONDITIONING = 1e-6
"""Of the squared condition number in the loss of `tv1d` and `tv2d`, as Ehrhardt and Roberts have
it."""

ROUNDED = 0.02
"""Where the corner is rounded, if that is no parameter."""

SPAN = (-9.0, 0.0)
"""Of the logarithms of weights."""


def tv(config: Any) -> list[Case]:
    """The weight e^beta_0 of total variation, for piecewise constant images."""
    shape, noisy = (config.size, config.size), pictures(config, "piecewise_constant")
    R = REGULARIZERS["total_variation"](shape, eps=ROUNDED)
    model = models.assemble(operators.identity(shape), R)
    params = R.init(jax.random.key(config.seed))
    posed = algorithms.posed(model, params, noisy.truth, noisy.f, learned=("beta_0",))
    box = Box({"beta_0": SPAN[0]}, {"beta_0": SPAN[1]})
    about = f"The weight of total variation; {noisy.about}"
    return [Case("tv", posed, box, search.row_errors(posed), about)]


def tgv(config: Any) -> list[Case]:
    """Both weights of the total generalised variation of second order, for piecewise linear images:

    Phi(u, z) = 1/2 ||u - f||^2 + w_1 sum phi(|grad u - z|) + w_2 sum phi(|E z|)
    """
    shape, noisy = (config.size, config.size), pictures(config, "piecewise_linear")
    omega = variational.generalised_variation(shape)
    problem = variational.Problem(operators.identity(shape), omega)
    slope = variational.rounded_slope(problem)
    norms = jnp.square(jnp.asarray(omega.norms))

    def lower_gradient(x: Array, gamma: Any, data: Measured) -> Array:
        w = jnp.exp(gamma["weights"])
        return slope(x, {"weights": (w[0], w[1]), "phi": CornerRounded(ROUNDED)}, data.f)

    def lower_step(gamma: Any) -> Array:
        return 1 / (1 + jnp.sum(norms * jnp.exp(gamma["weights"])) / ROUNDED)

    def errors(gamma: Any, x: Array, data: Measured) -> Float[Array, " m"]:
        squares = jnp.sum((x[:, : omega.pixels] - data.truth) ** 2, axis=1)
        return jnp.sqrt(squares / data.truth.size)

    def upper(gamma: Any, x: Array, data: Measured) -> Float[Array, ""]:
        return jnp.mean((x[:, : omega.pixels] - data.truth) ** 2)

    own = algorithms.Problem(upper, lower_gradient, lower_step)
    start = {"weights": jnp.full(2, np.mean(SPAN))}
    posed = Posed(own, Measured(noisy.truth, noisy.f), start, omega.start(noisy.f))
    box = Box({"weights": np.full(2, SPAN[0])}, {"weights": np.full(2, SPAN[1])})
    about = f"Weights of total generalised variation; {noisy.about}"
    return [Case("tgv", posed, box, Residuals(errors, noisy.truth.size**-0.5), about)]


def tv1d(config: Any) -> list[Case]:
    """Weight, rounding of the corner and strong convexity, for signals, see `_three`."""
    return [_three("tv1d", signals(config), (1, config.size), 4.0)]


def tv2d(config: Any) -> list[Case]:
    """The same for images."""
    noisy = pictures(config, "piecewise_constant")
    return [_three("tv2d", noisy, (config.size, config.size), 8.0)]


def _three(name: str, noisy: Noisy, shape: tuple[int, int], norm: float) -> Case:
    """The parameters of Ehrhardt and Roberts:

    Phi = sum_i 1/2 ||x_i - f_i||^2 + alpha sum_p sqrt(|(grad x_i)[p]|^2 + nu^2) + xi/2 ||x_i||^2
    l   = 1/images sum_i ||x_i - u_i||^2 + 1e-6 (L / mu)^2,    L = 1 + xi + norm alpha / nu,
                                                               mu = 1 + xi

    norm: a bound of ||grad||^2.
    """
    omega = variational.total_variation(shape)

    def constant(gamma: Any) -> Array:
        return 1 + gamma["xi"] + norm * gamma["alpha"] / gamma["nu"]

    def residuals(gamma: Any, x: Array, data: Measured) -> Float[Array, " m"]:
        errors = jnp.linalg.norm(x - data.truth, axis=1) / len(x) ** 0.5
        condition = CONDITIONING**0.5 * constant(gamma) / (1 + gamma["xi"])
        return jnp.append(errors, condition)

    def upper(gamma: Any, x: Array, data: Measured) -> Float[Array, ""]:
        condition = constant(gamma) / (1 + gamma["xi"])
        return jnp.sum((x - data.truth) ** 2) / len(x) + CONDITIONING * condition**2

    def lower(x: Array, gamma: Any, data: Measured) -> Float[Array, ""]:
        (z,) = omega.apply(x)
        roots = jnp.sqrt(jnp.sum(z**2, axis=1) + gamma["nu"] ** 2)
        of_x = jnp.sum((x - data.f) ** 2) / 2 + gamma["xi"] / 2 * jnp.sum(x**2)
        return of_x + gamma["alpha"] * jnp.sum(roots)

    problem = algorithms.from_cost(
        upper, lower, lambda gamma: 1 / constant(gamma), strong_convexity=1.0
    )
    start = {"alpha": jnp.array(1.0), "nu": jnp.array(1e-2), "xi": jnp.array(1e-2)}
    posed = Posed(problem, Measured(noisy.truth, noisy.f), start, noisy.f)
    box = Box(
        {"alpha": 1e-7, "nu": 1e-7, "xi": 1e-7}, {"alpha": 1e7, "nu": 1.0, "xi": 1.0}, tuple(start)
    )
    about = f"Total variation with three parameters; {noisy.about}"
    return Case(name, posed, box, Residuals(residuals, len(noisy.f) ** -0.5), about)
