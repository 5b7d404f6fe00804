"""What both ways of training end in: iterates, fixed points, and their errors."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from deqbilevel import baselines, data, learning, maps, models, plots, settings
from deqbilevel.commands import folders
from deqbilevel.commands.drawing import draw
from deqbilevel.models import Model
from deqbilevel.settings import Setting
from deqbilevel.types import Images, Info, Params
from experiments.naive.training import trained

MEASURED = 1000
"""Test images that are reconstructed, at most."""


def show(config: Any, setting: Setting, images: data.Images, out: Path) -> dict[str, Any]:
    """Train what is missing, measure and draw; the numbers of each model and way."""
    key, counts = learning.keys(config.seed)[2], sorted(set(config.iterates))
    truth = jnp.asarray(images.test[:MEASURED])
    K = models.build(config.task, config.models[0], images.shape).K
    f = models.measure(K, truth, jnp.float32(config.noise), key)
    known = baselines.baselines(K, images.train, truth, config.noise, key)
    masked = np.asarray(K.adjoint(jnp.ones_like(f[0])) == 0)
    numbers: dict[str, dict[str, Any]] = {}
    courses: dict[str, list[np.ndarray]] = {}
    residuals: dict[str, list[float]] = {}
    for name in config.models:
        model = models.build(config.task, name, images.shape)
        course = jax.jit(partial(course_of, model, setting, counts))
        numbers[name] = {}
        for way, learned in trained(config, setting, images, name, out).items():
            found, far, infos, naive_loss = course(learned.params, truth, f)
            *iterates, end, limit = [errors(u, truth, masked) for u in found]
            numbers[name][way] = (
                end
                | {"residual": _number(infos["setting"].residual)}
                | {"converged": limit | {"residual": _number(infos["converged"].residual)}}
                | {f"u^{k}": x for k, x in zip(counts, iterates, strict=True)}
                | {"naive_loss": _number(naive_loss)}
                | {k: learned.about[k] for k in ("seconds", "diverged")}
            )
            label = way.replace("_", " ")
            if said := baselines.warning(end["test_loss"] or float("nan"), known):
                print(f"warning: {name}, {label}: {said}", file=sys.stderr)
            shown = [np.asarray(u[: config.pictures]) for u in found[:-1]]
            courses[f"{name},\n{label}"] = shown
            residuals[f"{name},\n{label}"] = [float(r) for r in far]
    numbers["without_learning"] = dict(known)
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    given = {"truth $u$": truth, "data $f$": f}
    draw(
        out / "figure_7.png",
        plots.iterate_figure,
        {label: np.asarray(x[: config.pictures]) for label, x in given.items()},
        courses,
        [*(f"$u^{{{k}}}$" for k in counts), "$u^*$"],
        images.shape,
        f"{_caption(config, setting.precision, images.source)}. Test loss without learning: "
        f"{baselines.text(known)}",
        residuals,
    )
    return numbers | {"out": str(out)}


def course_of(
    model: Model, setting: Setting, counts: list[int], params: Params, truth: Images, f: Images
) -> tuple[list[Images], list[Array], dict[str, Info], Float[Array, ""]]:
    """u^k for ascending counts k, then u* as the setting solves for it and as nearly as can be;
    ||G(u) - u|| / ||G(u)|| of each; the infos of these two, and the naive loss."""
    u, done, images = model.start(f), 0, []
    for k in counts:
        u = jax.lax.fori_loop(done, k, lambda _, u: model.G(u, params, f), u)
        images.append(u)
        done = k
    infos = {}
    for name, solver in (("setting", setting.evaluation()), ("converged", settings.converged())):
        u, infos[name] = model.reconstruct(solver, params, f)
        images.append(u)
    after = [model.G(u, params, f) for u in images]
    far = [jnp.linalg.norm(v - u) / jnp.linalg.norm(v) for u, v in zip(images, after, strict=True)]
    return images, far, infos, maps.naive_objective(model.G)(params, truth, f)


def errors(
    u: Images, truth: Images, masked: Bool[np.ndarray, " pixels"]
) -> dict[str, float | None]:
    """Mean squared errors over the masked pixels, the others, and all."""
    square = (np.asarray(u, float) - np.asarray(truth, float)) ** 2
    parts = {"masked_loss": square[:, masked], "kept_loss": square[:, ~masked], "test_loss": square}
    return {name: _number(x.mean() if x.size else np.nan) for name, x in parts.items()}


def _number(x: Any) -> float | None:
    """A float for JSON; None for what is not finite."""
    return float(x) if np.isfinite(x) else None


def _caption(config: Any, products: str, source: str) -> str:
    return (
        f"{config.task}, {config.activation}, tau {config.tau:g}, gamma {config.gamma:g}, lam "
        f"{config.lam:g}, noise {config.noise:g}; setting {config.setting} in "
        f"{products}, epochs: {config.epochs}; {source}; Picard iterates from zero, and u* as the "
        "setting solves for it"
    )
