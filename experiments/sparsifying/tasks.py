"""What is denoised: piecewise constant signals, and pictures."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import data
from deqbilevel.commands import options
from deqbilevel.data import Images
from experiments.sparsifying.learning import Task

SIGNALS = {"signals-2": (1, 2), "signals-5": (1, 5)}
"""Tasks of signals, with the size of their filters: one of 2 taps, four of 5."""

POINTS, JUMPS = 64, 4
"""Of a signal, which is periodic."""

SIGNAL_NOISE = 0.1

COUNT = 60
"""Of signals to learn from, and as many to be judged by."""


def signals(seed: int) -> Task:
    """Signals in [0, 1] with a few jumps."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((2 * COUNT, POINTS), np.float32)
    for row in drawn:
        places = np.sort(rng.choice(POINTS, JUMPS, replace=False))
        levels = rng.uniform(size=JUMPS)
        row[:] = levels[np.searchsorted(places, np.arange(POINTS), side="right") % JUMPS]
    truth = jnp.asarray(drawn)
    f = truth + SIGNAL_NOISE * jax.random.normal(jax.random.key(seed), truth.shape)
    shape = (1, POINTS)
    return Task(shape, truth[:COUNT], f[:COUNT], shape, truth[COUNT:], f[COUNT:], COUNT)


def images_of(config: Any) -> Images:
    """Parts of pictures in [0, 1]: patches of images:DIR, or of a --shape."""
    photographs = config.data == "photographs"
    how: dict[str, Any] = {"shape": config.shape or ((64, 64) if photographs else None)}
    how |= {"patch": config.patch} if options.pictures(config) else {}
    sizes = {"train_size": config.train_size, "test_size": config.test_size}
    return data.load(config.data, seed=config.seed, value_range=(0.0, 1.0), **sizes, **how)


def pictures(config: Any, images: Images) -> Task:
    """Parts of pictures to learn from, and what is judged: the middles of those of --test, or other
    parts. Raises: ValueError for pictures that are smaller than their middles."""
    train = jnp.asarray(images.train)
    if config.test is None:
        shape, test = images.shape, jnp.asarray(images.test)
    else:
        shape, test = (config.middle, config.middle), middles(config)
    keys = jax.random.split(jax.random.key(config.seed))
    f, f_test = (
        u + config.noise * jax.random.normal(key, u.shape)
        for u, key in zip((train, test), keys, strict=True)
    )
    batch = min(config.batch_size, len(train))
    return Task(images.shape, train, f, shape, test, f_test, batch)


def middles(config: Any) -> Array:
    """The middles of the first pictures of --test."""
    shape, unit = (config.middle, config.middle), (0.0, 1.0)
    found = data.middles(config.test, shape, config.pictures, option="--middle", value_range=unit)
    return jnp.asarray(np.stack(found).reshape(len(found), -1), float)
