"""Problems of as many parameters as are asked for: filters, frequencies, a dense matrix."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import algorithms, models, operators, search
from deqbilevel.algorithms import Posed
from deqbilevel.algorithms.imaging import Measured
from deqbilevel.potentials import CornerRounded
from deqbilevel.regularizers import REGULARIZERS
from deqbilevel.search import Box, Residuals
from experiments.search.cases import Case, Noisy, group, pictures, signals

ALPHA, NU, XI = 0.05, 0.05, 0.05
"""Weight and rounding of the corner of total variation in `sampling1d`, and strong convexity."""

PRICE = 0.01
"""Of sampling every frequency, in mean squared errors."""


def filters(config: Any) -> list[Case]:
    """beta of the cosines but for the constant one, R of which are free: the filters in order of
    their frequencies have them in turn, equal parts of the list each."""
    shape, noisy = (config.size, config.size), pictures(config, "piecewise_constant")
    count = config.support**2 - 1
    own = (count, config.support, config.support)
    R = REGULARIZERS["convolutional"](shape, filters=own, basis="cosines")
    model = models.assemble(operators.identity(shape), R)
    params = R.init(jax.random.key(config.seed))
    posed = algorithms.posed(model, params, noisy.truth, noisy.f, learned=("beta", "beta_0"))
    about = f"Weights of {count} cosine filters; {noisy.about}"

    def shared(free: int) -> Case:
        which = jnp.asarray(group(free, count, "there are filters (see --support)"))

        def make(gamma: Any) -> Any:
            return {"beta": gamma["weights"][which], "beta_0": jnp.zeros(())}

        tied = search.through(posed, make, {"weights": jnp.full(free, -5.0)})
        box = Box({"weights": np.full(free, -10.0)}, {"weights": np.zeros(free)})
        return Case("filters", tied, box, search.row_errors(tied), about)

    return [shared(free) for free in config.parameters or (count,)]


def sampling1d(config: Any) -> list[Case]:
    """How well each frequency of signals is to be sampled, after Sherry et al., [CF] 6.2:

    Phi = sum_i 1/2 sum_k s_k |F x_i - f_i|_k^2 + alpha TV(x_i) + xi/2 ||x_i||^2,    0 <= s <= 1
    l   = 1/n sum_i ||x_i - u_i||^2 + price mean(s),    f_i = F (u_i + noise)

    with TV rounded. A frequency and its opposite are one, and R of them are free: in order, equal
    parts of the list have one value each.
    """
    noisy, half = signals(config), config.size // 2 + 1
    place = np.minimum(np.arange(config.size), config.size - np.arange(config.size))
    return [
        _sampled(noisy, jnp.asarray(group(free, half, "frequencies")[place]))
        for free in config.parameters or (half,)
    ]


def _sampled(noisy: Noisy, which: Array) -> Case:
    """which: of each frequency, its parameter."""
    n, free = noisy.truth.size, int(which.max()) + 1
    parts = jnp.bincount(which, length=free) / len(which)

    def errors(x: Array, data: Measured) -> Float[Array, " images"]:
        return jnp.linalg.norm(x - data.truth, axis=1) / n**0.5

    def residuals(gamma: Any, x: Array, data: Measured) -> Float[Array, " m"]:
        return jnp.concatenate([errors(x, data), jnp.sqrt(PRICE * parts * gamma["s"])])

    def upper(gamma: Any, x: Array, data: Measured) -> Float[Array, ""]:
        return jnp.sum((x - data.truth) ** 2) / n + PRICE * jnp.sum(parts * gamma["s"])

    def lower(x: Array, gamma: Any, data: Measured) -> Float[Array, ""]:
        missed = jnp.abs(jnp.fft.fft(x - data.f, norm="ortho")) ** 2
        fit = jnp.sum(gamma["s"][which] * missed) / 2
        roots = jnp.sqrt(jnp.diff(x, axis=1) ** 2 + NU**2)
        return fit + ALPHA * jnp.sum(roots) + XI / 2 * jnp.sum(x**2)

    def lower_step(gamma: Any) -> Array:
        return 1 / (jnp.max(gamma["s"]) + XI + 4 * ALPHA / NU)

    problem = algorithms.from_cost(upper, lower, lower_step, strong_convexity=XI)
    start = {"s": jnp.full(free, 0.5)}
    posed = Posed(problem, Measured(noisy.truth, noisy.f), start, jnp.zeros_like(noisy.f))
    box = Box({"s": np.zeros(free)}, {"s": np.ones(free)})
    about = f"Samplings of frequencies; {noisy.about}"
    return Case("sampling1d", posed, box, Residuals(residuals, n**-0.5), about)


def dense(config: Any) -> list[Case]:
    """Every entry of A and b of [REB]'s dense regulariser, for signals: size (size + 1) of them,
    each within 1 of where it starts."""
    shape, noisy = (1, config.size), signals(config)
    R = REGULARIZERS["dense"](shape, activation=None)
    model = models.assemble(operators.identity(shape), R)
    params = R.init(jax.random.key(config.seed)) | {"phi": CornerRounded(NU)}
    posed = algorithms.posed(model, params, noisy.truth, noisy.f)
    low, high = ({k: np.asarray(x) + end for k, x in posed.gamma.items()} for end in (-1, 1))
    about = f"A dense regulariser; {noisy.about}"
    return [Case("dense", posed, Box(low, high), search.row_errors(posed), about)]
