"""What searches are compared on: a problem with so many parameters, and the box of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import data
from deqbilevel.algorithms import Posed
from deqbilevel.search import Box, Residuals


class Case(NamedTuple):
    """A problem with so many parameters."""

    problem: str
    posed: Posed
    box: Box
    residuals: Residuals
    about: str

    @property
    def label(self) -> str:
        """Of its files, and in tables."""
        return f"{self.problem}-{self.box.size}"


class Noisy(NamedTuple):
    """Signals or images, their noisy copies, and what they are."""

    truth: Float[Array, "images pixels"]
    f: Float[Array, "images pixels"]
    about: str


def signals(config: Any) -> Noisy:
    """Piecewise constant ones of Ehrhardt and Roberts: one part of each is above 0."""
    rng = np.random.default_rng(config.seed)
    first, last = (rng.uniform(a, b, config.images) for a, b in ((0.125, 0.4), (0.6, 0.875)))
    place = (np.arange(config.size) + 0.5) / config.size
    inside = (place > first[:, None]) & (place < last[:, None])
    u = np.where(inside, rng.uniform(0.5, 1.5, config.images)[:, None], 0.0)
    about = f"{config.images} piecewise constant signals of {config.size}"
    return _noisy(config, jnp.asarray(u, jnp.float32), about)


def pictures(config: Any, phantoms: str) -> Noisy:
    """Phantoms of that name, in [0, 1]."""
    images = data.load(
        f"phantoms:{phantoms}",
        shape=(config.size, config.size),
        train_size=config.images,
        test_size=1,
        seed=config.seed,
        value_range=(0.0, 1.0),
    )
    kind = phantoms.replace("_", " ")
    about = f"{config.images} {kind} phantoms, {config.size}x{config.size}"
    return _noisy(config, jnp.asarray(images.train), about)


def _noisy(config: Any, truth: Array, about: str) -> Noisy:
    f = truth + config.noise * jax.random.normal(jax.random.key(config.seed), truth.shape)
    return Noisy(truth, f, f"{about}, noise {config.noise:g}")


def group(count: int, things: int, what: str) -> np.ndarray:
    """Which of so many parameters each thing has: equal parts of the list each.

    Raises: ValueError for more parameters than things.
    """
    if count > things:
        raise ValueError(f"--parameters {count}: expected at most {things}, as many as {what}")
    return np.arange(things) * count // things
