"""Two smooth stand-ins for soft thresholding: Figure 4.1 of [CF].

python -m experiments.smooth_proximal [--evaluations 5 10 20 50] [--out DIR]

(a) T steps of the primal-dual algorithm with a Bregman divergence (4.20) to (4.22), whose iterates
depend smoothly on y, against soft thresholding, where they end. (b) the proximal map of
beta |z| + 2 beta_tilde |z|^p / p (4.23), which is zero where soft thresholding is and yet
continuously differentiable.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import hypergradients, operators, plots, potentials
from deqbilevel.commands import command, common, listing, options
from deqbilevel.commands.drawing import draw


@dataclass(frozen=True)
class SmoothProximal:
    """Draw both panels of Figure 4.1."""

    evaluations: Annotated[tuple[int, ...], options.whole(1, 100_000)] = (5, 10, 20, 50)
    """Numbers of primal-dual steps."""
    weight: Annotated[float, options.number(above=0, most=1e3)] = 1.0
    """Of the 1-norm in (a)."""
    step: Annotated[float, options.number(above=0, most=1e3)] = 0.9
    """Of the algorithm, at most 1 / weight; alpha of [CF]."""
    beta: Annotated[float, options.number(above=0, most=1e3)] = 0.5
    """Of (4.23)."""
    beta_tilde: Annotated[tuple[float, ...], options.number(0, 1e3)] = (0.0, 0.1, 0.3, 1.0)
    """Of (4.23), each a curve."""
    power: Annotated[float, options.number(above=1, most=2)] = 1.5
    """p of (4.23)."""
    most: Annotated[float, options.number(1e-3, 1e3)] = 3.0
    """The largest y; the least is its negative."""
    out: Annotated[Path, options.output] = Path("runs/smooth-proximal")
    """Folder of the figure."""


@command.checked
def main(config: SmoothProximal) -> dict[str, Any]:
    """Draw, and return the largest distance of (a) to soft thresholding for each T."""
    with common.clear_errors():
        if not 0 < config.step * config.weight <= 1:
            raise ValueError(
                f"--step {config.step} --weight {config.weight}: their product is "
                f"{config.step * config.weight:g}; expected above 0, at most 1"
            )
        listing.will_write(config.out, ["figure_4_1.png"])
    y = jnp.linspace(-config.most, config.most, 601)
    exact = soft_threshold(y, config.weight)
    left = {
        f"T = {count}": primal_dual(y, config.weight, config.step, count)
        for count in config.evaluations
    }
    kinds = {x: potentials.PowerSum(config.beta, x, config.power) for x in config.beta_tilde}
    right = {rf"$\tilde\beta$ = {value:g}": phi.prox(y, 1.0) for value, phi in kinds.items()}
    panels = {
        f"(a) primal-dual steps, weight {config.weight:g}": left | {"soft thresholding": exact},
        rf"(b) $p$ = {config.power:g}, $\beta$ = {config.beta:g}": right,
    }
    curves = {
        title: {label: np.asarray(x) for label, x in lines.items()}
        for title, lines in panels.items()
    }
    path, axes = config.out / "figure_4_1.png", ("y", "minimiser")
    draw(path, plots.function_figure, np.asarray(y), curves, axes, "")
    errors = {label: float(jnp.abs(x - exact).max()) for label, x in left.items()}
    return {"largest_error": errors, "out": str(config.out)}


def soft_threshold(y: Array, weight: float) -> Array:
    """sign(y) max(|y| - weight, 0)."""
    return jnp.sign(y) * jnp.maximum(jnp.abs(y) - weight, 0)


def primal_dual(y: Array, weight: float, step_size: float, count: int) -> Array:
    """x of `count` steps for min_x 1/2 (x - y)^2 + weight |x|, from x = y, each y on its own."""
    scalars = {"tau": step_size, "lam": 1.0, "gamma": weight}
    params = {name: jnp.asarray(value) for name, value in scalars.items()}
    step = hypergradients.primal_dual_step(operators.Identity(), lambda x, params: x)
    f = y[:, None]
    start = hypergradients.primal_dual_start(f, params, lambda x, params: x)
    state = jax.lax.fori_loop(0, count, lambda _, u: step(u, params, f), start)
    return state[:, 0]


if __name__ == "__main__":
    command.run(SmoothProximal, main)
