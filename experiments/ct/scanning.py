"""What is scanned: images, their simulated measurements, and filtered back-projection of these."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import data, losses, operators, simulation
from deqbilevel.data import phantoms
from deqbilevel.operators import ParallelBeam

CUTOFFS = tuple(i / 10 for i in range(2, 11))
"""Of the frequencies, to choose from."""


Pictures = Float[Array, "images height width"]


class Scan(NamedTuple):
    """Images of one shape, and their measurements."""

    name: str
    shape: tuple[int, int]
    K: ParallelBeam
    simulation: Any
    """As of `models.Model`."""
    truth: Float[Array, "images pixels"]
    f: Float[Array, "images data"]


def scans(config: Any) -> tuple[Scan, list[Scan]]:
    """The training images, and the sets that are judged: other ellipses, Shepp-Logan, pictures.

    Raises: ValueError for a folder without pictures.
    """
    keys = jax.random.split(jax.random.key(config.seed), 3)
    drawn = phantoms.keys(config.seed, config.train_size, config.test_size)
    train, test = (
        scan(
            config, name, key, *_grids(config, config.side, partial(phantoms.draw, "ellipses", own))
        )
        for name, own, key in zip(("training", "ellipses"), drawn, keys[:2], strict=True)
    )
    head = _grids(config, config.judged_side, _head)
    found = [test, scan(config, "shepp_logan", keys[2], *head)]
    if config.pictures is not None:
        for i, (name, picture) in enumerate(data.pictures(config.pictures, (0.0, 1.0))):
            key = jax.random.fold_in(keys[2], i + 1)
            found.append(scan(config, name.replace("/", "-"), key, jnp.asarray(picture)[None]))
    return train, found


def _head(shape: tuple[int, int]) -> Pictures:
    return jnp.clip(phantoms.drawn_on(phantoms.shepp_logan(), shape), 0, 1)[None]


def _grids(config: Any, side: int, draw: Callable[[tuple[int, int]], Pictures]) -> list[Pictures]:
    """Phantoms on the grid of a side, and on the finer one."""
    return [draw((side * n, side * n)) for n in (1, config.finer)]


def scan(
    config: Any, name: str, key: Array, images: Pictures, fine: Pictures | None = None
) -> Scan:
    """A set with its measurements, of what it is on the finer grid; None: interpolated."""
    shape = (images.shape[1], images.shape[2])
    options = {"angles": config.angles}
    K, truth = operators.parallel_beam(shape, **options), images.reshape(len(images), -1)
    if config.finer == 1:
        own, f = None, K.apply(truth)
    else:
        own = simulation.finer("parallel_beam", shape, config.finer, options)
        f = own.apply(truth) if fine is None else own.of_fine(fine.reshape(len(fine), -1))
    f += config.noise / K.scale * jax.random.normal(key, f.shape)
    return Scan(name, shape, K, own, truth, f)


def filtered(scan: Scan, cutoff: float, smooth: bool) -> Float[Array, "images pixels"]:
    """Filtered back-projection, with its negative values set to 0."""
    return jnp.maximum(_filtered(scan.K, scan.f, cutoff=cutoff, smooth=smooth), 0)


_filtered = jax.jit(operators.filtered_back_projection, static_argnames=("smooth",))


def best_window(train: Scan) -> tuple[float, bool]:
    """Cutoff, and whether frequencies fall to 0 there, with the least error on the training
    images."""
    windows = [(cutoff, smooth) for cutoff in CUTOFFS for smooth in (False, True)]
    return min(
        windows,
        key=lambda window: float(losses.mean_squared_error(filtered(train, *window), train.truth)),
    )


def said(cutoff: float, smooth: bool) -> str:
    """A window in words."""
    return f"{'Hann' if smooth else 'ramp'} to {cutoff:g}"
