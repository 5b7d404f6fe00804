"""The weights of a model on a set of images, by every way."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from deqbilevel import data, fidelities, losses, operators, variational
from deqbilevel.disk import archives
from deqbilevel.hypergradients import no_info
from deqbilevel.types import Info
from deqbilevel.variational import Problem, Saddle
from experiments.variational import report

MODELS = {
    "tv": variational.total_variation,
    "tgv": variational.generalised_variation,
    "ictv": variational.infimal_convolution,
}
WAYS = ("grid", "learned", "field")

BALANCE = 0.02
"""Of the preconditioned algorithm: about a difference of neighbours."""

PRODUCTS = 800
"""Of MINRES, at most, and its tolerance."""
ACCURACY = 3e-4


class Images(NamedTuple):
    """In [0, 1], and measured with noise."""

    shape: tuple[int, int]
    train: Float[Array, "train pixels"]
    f_train: Float[Array, "train pixels"]
    test: Float[Array, "test pixels"]
    f_test: Float[Array, "test pixels"]


def sets_of(config: Any) -> dict[str, Images]:
    """The images by the name of their set. Raises: ValueError for pictures that are too few."""
    specs = {
        name: "photographs" if name == "photographs" else f"phantoms:{name}" for name in config.sets
    }
    specs |= {} if config.pictures is None else {"pictures": f"images:{config.pictures}"}
    return {name: images_of(config, spec) for name, spec in specs.items()}


def images_of(config: Any, spec: str) -> Images:
    """Those of a specification. Raises: ValueError for pictures that are too few."""
    shape = (config.side, config.side)
    loaded = data.load(
        spec,
        train_size=config.train_size,
        test_size=config.test_size,
        shape=shape,
        whole=spec.startswith("images:"),
        seed=config.seed,
        value_range=(0.0, 1.0),
    )
    train, test = (jnp.asarray(x) for x in (loaded.train, loaded.test))
    if spec.startswith("images:") and config.test is not None:
        test = middles(config, shape)
    keys = jax.random.split(jax.random.key(config.seed))
    f_train, f_test = (
        fidelities.normal(x, config.noise, key) for x, key in zip((train, test), keys, strict=True)
    )
    return Images(shape, train, f_train, test, f_test)


def patches_of(config: Any, patch: int, train_size: int, test_size: int) -> data.Images:
    """Square parts of --pictures, or of the photographs that ship."""
    if config.pictures is None:
        cut: dict[str, Any] = {"spec": "photographs", "shape": (patch, patch)}
    else:
        cut = {"spec": f"images:{config.pictures}", "patch": patch}
    cut |= {"train_size": train_size, "test_size": test_size}
    return data.load(**cut, seed=config.seed, value_range=(0.0, 1.0))


def psnr(x: Float[Array, "rows size"], truth: Float[Array, "rows size"]) -> float:
    """Of the squared error of all rows together, of values in [0, 1]."""
    return float(losses.psnr(x.reshape(1, -1), truth.reshape(1, -1), data_range=1.0)[0])


def middles(config: Any, shape: tuple[int, int]) -> Float[Array, "test pixels"]:
    """Of the first pictures of --test. Raises: ValueError for one that is too small."""
    count, unit = config.test_size, (0.0, 1.0)
    found = data.middles(config.test, shape, count, option="--side", value_range=unit)
    return jnp.asarray(np.stack(found).reshape(len(found), -1))


def problem_of(model: str, shape: tuple[int, int]) -> Problem:
    """Denoising by an isotropic model."""
    return Problem(operators.identity(shape), MODELS[model](shape))


def spread(logs: Array, shape: tuple[int, int]) -> tuple[Array, ...]:
    """The weights of each term from their logarithms [batch, terms, rows, columns] at points."""
    full = jnp.exp(jax.image.resize(logs, (*logs.shape[:2], *shape), "linear"))
    return tuple(full[:, t].reshape(len(logs), -1) for t in range(logs.shape[1]))


def found(
    config: Any, images: Images, name: str, model: str, out: Path
) -> Iterator[dict[str, Any]]:
    """A record for each of `WAYS`, the first reconstructions of which are kept."""
    problem = problem_of(model, images.shape)
    solver = partial(
        variational.chambolle_pock,
        tolerance=config.tolerance,
        max_iterations=config.max_iterations,
        preconditioned=True,
        balance=BALANCE,
    )
    solve = variational.differentiable(solver, tolerance=ACCURACY, max_evaluations=PRODUCTS)

    points = [max(2, -(-n // config.spacing)) for n in images.shape]

    @jax.jit
    def error(logs: Array, f: Array, truth: Array, start: Saddle, probe: Info) -> Any:
        weights = spread(logs, images.shape)
        x, (at, info) = solve(problem, weights, f, start, probe)
        zeros = variational.pattern(problem, at, weights).cosparsity
        return losses.mean_squared_error(problem.image(x), truth), (at, info, zeros)

    derivative = jax.jit(jax.value_and_grad(error, (0, 4), has_aux=True))
    probe = no_info()

    def at_points(logs: Array, f: Array) -> Array:
        """Logarithms of each term as those of a field."""
        if logs.ndim > 1:
            return logs
        return jnp.broadcast_to(logs[:, None, None], (len(f), len(logs), *points))

    def learn(logs: Array, f: Array, truth: Array) -> tuple[Array, float]:
        """The best logarithms that Adam comes past, and the largest residual of a gradient."""
        optimiser, start, best = optax.adam(config.learning_rate), begin(problem, f), (np.inf, logs)
        state, residual = optimiser.init(logs), 0.0
        for _ in range(config.steps):
            (value, (start, _, _)), (gradient, adjoint) = derivative(
                at_points(logs, f), f, truth, start, probe
            )
            residual = max(residual, float(adjoint.residual))
            best = min(best, (float(value), logs), key=lambda pair: pair[0])
            if logs.ndim == 1:
                gradient = jnp.sum(gradient, axis=(0, 2, 3))
            updates, state = optimiser.update(gradient, state)
            logs = jnp.asarray(optax.apply_updates(logs, updates))
        value = error(at_points(logs, f), f, truth, start, probe)[0]
        return min(best, (float(value), logs), key=lambda pair: pair[0])[1], residual

    def judged(way: str, logs: Array, begun: float, residual: float = 0.0) -> dict[str, Any]:
        seconds = time.process_time() - begun
        f, truth = images.f_test, images.test
        logs = at_points(logs, f)
        _, (at, info, zeros) = error(logs, f, truth, begin(problem, f), probe)
        u = problem.image(at.x)
        kept = {"u": np.asarray(u[: report.PICTURES])}
        archives.write_arrays(out / report.file(name, model, way), kept)
        scores = losses.mean_scores(u, truth, images.shape, 1.0)
        return {
            "set": name,
            "model": model,
            "way": way,
            "weights": [float(x) for x in jnp.exp(jnp.mean(logs, axis=(0, 2, 3)))],
            "psnr_db": float(scores["psnr_db"]),
            "ssim": float(scores["ssim"]),
            "relative_gap": float(info.relative_gap.max()),
            "adjoint_residual": residual,
            "iterations": int(info.iterations.max()),
            "processor_seconds": seconds,
            "zeros": float(jnp.mean(zeros)) / (len(at.d) * f.shape[1]),
        }

    f, truth = images.f_train, images.train
    begun, values, start = time.process_time(), [], begin(problem, f)
    for ratio in (1.0,) if model == "tv" else config.ratios:
        for weight in config.weights:
            logs = jnp.log(jnp.array([weight] if model == "tv" else [weight, ratio * weight]))
            value, (start, _, _) = error(at_points(logs, f), f, truth, start, probe)
            values.append((float(value), logs))
    best = min(values, key=lambda pair: pair[0])[1]
    yield judged("grid", best, begun)
    begun = time.process_time()
    learned, residual = learn(best, f, truth)
    yield judged("learned", learned, begun, residual)
    f, truth, begun = images.f_test, images.test, time.process_time()
    field, residual = learn(at_points(learned, f), f, truth)
    yield judged("field", field, begun, residual)


def begin(problem: Problem, f: Array) -> Saddle:
    """From the measurements."""
    x = problem.omega.start(f)
    return Saddle(x, tuple(jnp.zeros_like(z) for z in problem.omega.apply(x)))


def ramp(noise: float, seed: int) -> dict[str, Float[np.ndarray, " points"]]:
    """A ramp between two plateaus, with noise, and by TV and TGV of the best of some weights."""
    points = 100
    truth = np.clip((np.arange(points) - 20) / 60, 0, 1)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    f = jnp.asarray(truth)[None] + noise * jax.random.normal(key, (1, points))
    curves = {"measured": np.asarray(f[0]), "true": truth}
    for model in ("tv", "tgv"):
        problem = problem_of(model, (1, points))
        solve = jax.jit(
            partial(
                variational.chambolle_pock,
                max_iterations=5000,
                preconditioned=True,
                balance=BALANCE,
            )
        )
        tried = []
        for weight in (0.1, 0.2, 0.3, 0.5, 0.8):
            weights = (weight,) if model == "tv" else (weight, 4 * weight)
            u = np.asarray(problem.image(solve(problem, weights, f)[0].x))[0]
            tried.append((float(np.mean((u - truth) ** 2)), u))
        curves[model.upper()] = min(tried, key=lambda pair: pair[0])[1]
    return curves
