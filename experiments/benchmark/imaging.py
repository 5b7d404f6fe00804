"""Operators of imaging against their floor, and the learning steps of the presets of imaging.

One evaluation of an operator is K^T K u of one picture. That of `fourier` is two transforms, so its
floor is two of scipy's. `parallel_beam` keeps no matrix and passes over picture and detector for
each angle, so that its floor is to copy both so many times, there and back.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from deqbilevel import learning, operators
from deqbilevel.commands import learn, running, ways
from deqbilevel.learning import Trainer
from deqbilevel.types import Params
from experiments import ct, mri, poisson, sampling
from experiments.benchmark.peers import Evaluations, Step
from experiments.benchmark.timing import rounds

SLICE, HEAD, ANGLES = (224, 192), (128, 128), 60
"""Shapes of pictures of MRI and CT, and the angles of the latter."""


def measured(name: str, warm_up: int, timed: int) -> dict[str, dict[str, Any]]:
    """The cost of each part of a case, of an operator beside its floor."""
    costs = rounds(IMAGING[name](), warm_up=warm_up, timed=timed, label=name)
    found = {part: cost._asdict() for part, cost in costs.items()}
    if "floor" in found:
        least = found.pop("floor")["step_ms"]
        for record in found.values():
            record |= {"floor_ms": least, "fraction_of_floor": least / record["step_ms"]}
    return found


# ---- operators


def _fourier() -> dict[str, Step]:
    picture = np.random.default_rng(0).random(SLICE, np.float32)

    def transforms() -> None:
        found = scipy.fft.fft2(picture.astype(np.complex64), workers=os.cpu_count())
        scipy.fft.ifft2(found, workers=os.cpu_count())

    return _against(operators.fourier(SLICE), picture, transforms)


def _parallel_beam() -> dict[str, Step]:
    K, picture = operators.parallel_beam(HEAD, ANGLES), np.ones(HEAD, np.float32)
    bins = np.ones(K.bins, np.float32)
    copies = np.empty_like(picture), np.empty_like(bins)

    def passes() -> None:
        for _ in range(2 * ANGLES):
            np.copyto(copies[0], picture)
            np.copyto(copies[1], bins)

    return _against(K, picture, passes)


def _against(K: Any, picture: np.ndarray, floor: Callable[[], None]) -> dict[str, Step]:
    """One evaluation of an operator, and its floor."""
    u = jnp.asarray(picture.reshape(1, -1))
    evaluate = jax.jit(lambda u: K.adjoint(K.apply(u)))

    def evaluated(i: int) -> Evaluations:
        evaluate(u).block_until_ready()
        return 1, 1

    def least(i: int) -> Evaluations:
        floor()
        return 1, 1

    return {"K^T K u": evaluated, "floor": least}


# ---- presets


def _mri() -> dict[str, Step]:
    asked = mri.Mri(
        ways=("weights", "filters"),
        data="phantoms:ellipses",
        shape=SLICE,
        train_size=12,
        test_size=1,
        batch_size=6,
    )
    with tempfile.TemporaryDirectory() as folder:
        configs = ways.configs(mri.ways_of(asked), mri.shared(asked), Path(folder))
    found = {}
    for name, config in configs.items():
        images = learn.images_of(config)
        _, _, _, params, trainer, _ = learn.posed(config, images)
        found[name] = _learning(trainer, params, images.train, config.batch_size)
    return found


def _sampling() -> dict[str, Step]:
    asked = sampling.Sampling(data="phantoms:ellipses", shape=SLICE, train_size=12, test_size=1)
    images = running.images_of(asked, value_range=(0.0, 1.0), whole=True)
    problem, key = sampling.training.posed(asked, images), jax.random.key(0)
    state = sampling.training.start(problem, key, evaluations=0)
    following = jax.jit(
        lambda state, key: learning.step(problem.learner, state, problem.truth, key=key)
    )

    def step(i: int) -> Evaluations:
        nonlocal state
        state, metrics = following(state, jax.random.fold_in(key, i))
        jax.block_until_ready(state)
        return float(metrics.forward_evaluations), float(metrics.adjoint_evaluations)

    return {"points": step}


def _ct() -> dict[str, Step]:
    asked = ct.CT(judged_side=12)
    train, _ = ct.scanning.scans(asked)
    found = {}
    for kind in ct.LEARNED:
        trainer, _, _ = ct.learning.trainer_of(asked, kind, train)
        params = ct.learning.start(asked, kind, -7.5, train)
        found[kind] = _learning(trainer, params, train.truth, asked.batch_size)
    return found


def _poisson() -> dict[str, Step]:
    asked = poisson.Poisson(tasks=("denoising",), peaks=(10.0,), methods=("poisson", "squares"))
    images = running.images_of(asked, value_range=(0.0, 1.0))
    found = {}
    for run in poisson.assembling.runs(asked, images):
        trainer, _, _ = poisson.assembling.trainer_of(asked, run, len(images.train))
        found[run.method] = _learning(trainer, run.params, images.train, asked.batch_size)
    return found


def _learning(trainer: Trainer, params: Params, images: Any, batch_size: int | None) -> Step:
    """Steps of a trainer, with measurements that stay."""
    truth, key = jnp.asarray(images), jax.random.key(0)
    f = trainer.learner.models[0].measure(params, truth, key)
    state, batch = trainer.init(params, f), batch_size or len(truth)
    order = jnp.arange(len(truth) // batch * batch).reshape(-1, batch)

    def step(i: int) -> Evaluations:
        nonlocal state
        place = i % len(order)
        keys = jax.random.split(jax.random.fold_in(key, i), 1)
        state, metrics = trainer.steps(state, truth, order[place : place + 1], keys, f)
        jax.block_until_ready(state)
        return float(metrics.forward_evaluations[0]), float(metrics.adjoint_evaluations[0])

    return step


IMAGING: dict[str, Callable[[], dict[str, Step]]] = {
    "fourier": _fourier,
    "parallel_beam": _parallel_beam,
    "mri": _mri,
    "sampling": _sampling,
    "ct": _ct,
    "poisson": _poisson,
}
"""What is timed, by name: parts that take turns, of an operator its floor among them."""
