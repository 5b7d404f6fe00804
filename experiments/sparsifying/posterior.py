"""What a learned cost leaves open: samples of its posterior, their mean beside the minimiser."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import langevin, losses, recipes, solvers
from experiments.sparsifying.learning import Task

ALGORITHMS = ("adjusted", "unadjusted")

PART = 4.0
"""Of T / (L N^(1/3)), the step of both: Metropolis takes most proposals there, and at twice of it
none, on 48x48 pixels."""

BURNED = 4
"""One part in so many of the steps comes before those that are counted."""

SIDE = 48
"""Height and width, at most, of the image whose posterior is sampled."""

NAMES = (
    *("truth", "measured", "minimiser"),
    *(f"{what}, {name}" for name in ALGORITHMS for what in ("mean", "deviation")),
)
"""Pictures that are kept."""

ACCURACY = {"tolerance": 1e-6, "max_evaluations": 2000}
"""Of the minimiser."""


def middle(task: Task) -> tuple[Array, tuple[int, int]]:
    """The middle of the first test image, [1, pixels], and its shape."""
    shape = tuple(min(n, SIDE) for n in task.test_shape)
    top, left = ((n - m) // 2 for n, m in zip(task.test_shape, shape, strict=True))
    picture = task.test[0].reshape(task.test_shape)
    part = picture[top : top + shape[0], left : left + shape[1]]
    return part.reshape(1, -1), (shape[0], shape[1])


def sampled(config: Any, truth: Array, shape: tuple[int, int]) -> dict[str, Any]:
    """Numbers of both algorithms, and the pictures that are drawn, of one image [1, pixels]."""
    found = recipes.load(config.model)
    model, params = found.model(shape), found.params
    noise = float(params["noise"])
    key, own = jax.random.split(jax.random.key(config.seed))
    f = model.measure(params, truth, own)
    solver = solvers.DESCENTS[model.descent](**ACCURACY)
    u, _ = jax.jit(lambda params, f: model.reconstruct(solver, params, f))(params, f)
    # exp(-|u - f|^2 / (2 noise^2)) is the likelihood, and its weight in the cost is lam.
    temperature = float(params["lam"]) * noise**2
    step = temperature / float(model.lipschitz(params)) / truth.size ** (1 / 3) * PART
    pictures = {"truth": truth, "measured": f, "minimiser": u}
    numbers: dict[str, Any] = {"minimiser": _decibels(u, truth, shape)}
    numbers["measured"] = _decibels(f, truth, shape)
    chains, data = (jnp.repeat(x, config.chains, axis=0) for x in (u, f))
    for name, chain_key in zip(ALGORITHMS, jax.random.split(key), strict=True):
        samples = langevin.sample(
            model.stationarity(),
            params,
            data,
            chains,
            chain_key,
            step=step,
            temperature=temperature,
            burn_in=max(1, config.samples // BURNED),
            steps=config.samples,
            energy=model.energy if name == "adjusted" else None,
        )
        mean = jnp.mean(samples.mean, axis=0, keepdims=True)
        within = jnp.mean(samples.deviation**2, axis=0, keepdims=True)
        between = jnp.var(samples.mean, axis=0, keepdims=True)
        deviation = jnp.sqrt(within + between)
        pictures |= {f"mean, {name}": mean, f"deviation, {name}": deviation}
        error = np.abs(np.asarray(mean - truth))[0]
        numbers[name] = {
            "mean_psnr_db": _decibels(mean, truth, shape),
            "accepted": float(jnp.mean(samples.accepted)),
            "deviation": float(jnp.mean(deviation)),
            # 1 where the chains have the same mean: sqrt((within + between) / within).
            "spread": float(jnp.sqrt(jnp.mean(within + between) / jnp.mean(within))),
            "error_per_deviation": float(np.sqrt(np.mean((error / np.asarray(deviation)) ** 2))),
            "correlation": float(np.corrcoef(error, np.asarray(deviation)[0])[0, 1]),
        }
    both = [numbers[name]["deviation"] for name in ALGORITHMS]
    numbers["unadjusted"]["deviation_ratio"] = both[1] / both[0]
    return {"numbers": numbers, "pictures": {k: np.asarray(x) for k, x in pictures.items()}}


def _decibels(u: Array, truth: Array, shape: tuple[int, int]) -> float:
    return float(losses.mean_scores(u, truth, shape, 1.0)["psnr_db"])
