"""How exact a hypergradient is whose lower level was not solved exactly: Figure 5.1 of [CF].

python -m experiments.gradient_accuracy [--tolerances 1 0.1 0.01 0.001] [--points 41] [--out DIR]

One filter c = (c_0, c_1) for a signal in one dimension, with the quadratic potential phi(z) = z^2,
so that the minimiser and its hypergradient are known:

    u*(c) = argmin 1/2 ||u - f||^2 + e^beta ||c * u||^2,    (1 + 2 e^beta |c^|^2) u*^ = f^

For every c of a grid, gradient descent stops at several norms of the lower-level gradient; the
angle is that between the hypergradient (4.8) there and the exact one.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import convolutions, hypergradients, models, operators, plots, precision
from deqbilevel.commands import command, common, folders, listing, options
from deqbilevel.commands.drawing import draw
from deqbilevel.potentials import Quadratic
from deqbilevel.regularizers import convolutional
from deqbilevel.solvers import picard


@dataclass(frozen=True)
class GradientAccuracy:
    """The angle of the estimated to the exact hypergradient over a grid of filters."""

    tolerances: Annotated[tuple[float, ...], options.number(above=0, most=1e6)] = (
        *(1.0, 0.1, 0.01, 0.001),
    )
    """Norms of the lower-level gradient at which gradient descent stops."""
    beta: Annotated[float, options.number(-30, 30)] = -5.0
    """Of the weight e^beta."""
    points: Annotated[int, options.whole(2, 401)] = 41
    """Values of each coefficient."""
    most: Annotated[float, options.number(1e-3, 1e3)] = 10.0
    """The largest of them; the least is its negative."""
    length: Annotated[int, options.whole(2, 4096)] = 64
    """Of the signal, which is piecewise constant."""
    noise: Annotated[float, options.noise] = 0.1
    """Standard deviation, of a signal in [0, 1]."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path, options.output] = Path("runs/gradient-accuracy")
    """Folder of the figure and the numbers."""


@command.checked
def main(config: GradientAccuracy) -> dict[str, Any]:
    """Compute the maps, draw them, and return the medians."""
    with common.clear_errors():
        listing.will_write(config.out, ["result.json", "figure_5_1.png"])
    with precision.float64():
        return _compare(config)


def _compare(config: GradientAccuracy) -> dict[str, Any]:
    rng = np.random.default_rng(config.seed)
    pieces = rng.uniform(0, 1, 8)
    truth = jnp.asarray(pieces[np.arange(config.length) * 8 // config.length][None])
    f = truth + config.noise * rng.standard_normal(truth.shape)
    values = jnp.linspace(-config.most, config.most, config.points)
    grid = jnp.stack(jnp.meshgrid(values, values, indexing="ij"), axis=-1).reshape(-1, 2)
    R = convolutional.bank_of((1, config.length)).regularizer(lambda key: _params(f[0, :2], 0.0))
    model = models.assemble(operators.Identity(), R)

    def one(c: Float[Array, "2"], tolerance: Array) -> tuple[Array, Array, Array]:
        params = _params(c, config.beta)

        def loss(c: Array) -> Array:
            return 0.5 * jnp.sum((exact(c, f, config.beta) - truth) ** 2)

        value, best = jax.value_and_grad(loss)(c)
        size = jnp.linalg.norm(exact(c, f, config.beta))
        solver = picard(
            tolerance=tolerance / (model.lipschitz(params) * size), max_evaluations=100_000
        )
        u, info = model.reconstruct(solver, params, f)
        estimate, _, _ = hypergradients.minimiser(
            model.stationarity(),
            {"filters": params["filters"]},
            params,
            f,
            u,
            u - truth,
            jnp.zeros_like(u),
            tolerance=1e-12,
        )
        return value, angle(estimate["filters"].ravel(), best), info.evaluations

    maps, medians, most, evaluations = {}, {}, {}, {}
    run = jax.jit(lambda tolerance: jax.lax.map(lambda c: one(c, tolerance), grid, batch_size=64))
    for tolerance in config.tolerances:
        value, degrees, spent = (np.asarray(x) for x in run(jnp.asarray(tolerance)))
        name = f"{tolerance:g}"
        maps["upper-level loss"] = value.reshape(config.points, -1)
        maps[f"angle (degrees), stop at {name}"] = degrees.reshape(config.points, -1)
        medians[name] = float(np.nanmedian(degrees))
        most[name] = float(np.nanmax(degrees))
        evaluations[name] = float(spent.mean())
    caption = (
        f"phi(z) = z^2, beta {config.beta:g}, {config.length} samples, noise {config.noise:g}; "
        "angle between the hypergradient where gradient descent stops and the exact one, by the "
        "norm of the lower-level gradient at the stop"
    )
    numbers = {
        "angle_deg_median": medians,
        "angle_deg_most": most,
        "evaluations": evaluations,
        "out": str(config.out),
    }
    folders.write(config.out / "result.json", json.dumps(numbers, indent=1))
    path, labels = config.out / "figure_5_1.png", ("$c_1$", "$c_0$")
    draw(path, plots.map_figure, maps, np.asarray(values), labels, caption)
    return numbers


def _params(c: Float[Array, "2"], beta: float) -> dict[str, Any]:
    return {
        "filters": c.reshape(1, 1, 2),
        "beta_0": jnp.zeros(()),
        "beta": jnp.full((1,), beta),
        "phi": Quadratic(2.0),
        "lam": jnp.ones(()),
        "gamma": jnp.ones(()),
    }


def exact(c: Float[Array, "2"], f: Array, beta: float) -> Array:
    """The minimiser u*, diagonal in the Fourier basis; f: [1, length]."""
    power = jnp.abs(convolutions.transfer(c.reshape(1, 1, 2), f.shape)[0]) ** 2
    return jnp.fft.irfft2(jnp.fft.rfft2(f) / (1 + 2 * jnp.exp(beta) * power), f.shape)


def angle(a: Float[Array, " n"], b: Float[Array, " n"]) -> Float[Array, ""]:
    """The angle between two vectors in degrees; NaN where one of them is zero."""
    # By the tangent of the half: the cosine loses small angles.
    a, b = a / jnp.linalg.norm(a), b / jnp.linalg.norm(b)
    return 2 * jnp.degrees(jnp.arctan2(jnp.linalg.norm(a - b), jnp.linalg.norm(a + b)))


if __name__ == "__main__":
    command.run(GradientAccuracy, main)
