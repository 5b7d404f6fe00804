"""Filters that no task has taught: handcrafted ones, and those of every single-level method."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from deqbilevel import potentials, single_level
from deqbilevel.regularizers import bases, convolutional
from deqbilevel.types import Images, Params

Filters = Float[Array | np.ndarray, "filters rows columns"]

PATCHES = 4000
"""That are learned from."""

ROUNDED = ("corner_rounded", 0.01)
"""The potential of all but experts, and where it bends, of images in [0, 1]."""

EXPERTS = {"experts": "score", "experts_contrastive": "contrastive"}
"""Fields of experts, and how they are fitted."""

EXPERTS_EPS = 0.05
"""Where the potential of experts bends."""

JITTER = 0.05
"""Noise of the images that experts see: without it, flat parts have a density without a bound."""

LENGTH: dict[str, Any] = {"steps": 3, "part": 8.0}
"""Of the chains of contrastive divergence: Metropolis takes half of their steps on 32x32 pixels."""

SPARSITY = 2e-4
"""beta of the codes of transforms and convolutional operators: |z| above 0.02 counts."""


def rounded() -> potentials.Potential:
    """The 1-norm with a rounded corner."""
    return potentials.bending(*ROUNDED)


class Asked(NamedTuple):
    """Clean images to learn from, the size of the filters, and for how long."""

    shape: tuple[int, int]
    train: Images
    size: tuple[int, int]
    steps: int
    key: Array

    @property
    def taps(self) -> int:
        return self.size[0] * self.size[1]

    def patches(self, *, centred: bool = True) -> Array:
        return single_level.patches(
            self.train, self.shape, self.size, self.key, PATCHES, centred=centred
        )

    def random(self, count: int) -> Array:
        """Rows to start from."""
        return jax.random.normal(jax.random.fold_in(self.key, 1), (count, self.taps)) / 4


def analysis(asked: Asked, constraint: str, *, without_constant: bool, count: int) -> Any:
    """The rows of analysis operator learning in a set, and the objective."""
    project = single_level.constraint(constraint, without_constant=without_constant)
    method = single_level.analysis(project, phi=rounded())
    run = jax.jit(lambda start, X: single_level.run(method, start, X, asked.steps))
    return run(asked.random(count), asked.patches())


def _analysis(asked: Asked, constraint: str) -> Filters:
    omega, _ = analysis(asked, constraint, without_constant=True, count=asked.taps - 1)
    return single_level.filters_of(omega, asked.size)


def _transform(asked: Asked) -> Filters:
    method = single_level.transform(SPARSITY, SPARSITY / 10)
    start = jnp.asarray(bases.cosines(*asked.size, constant=True).reshape(-1, asked.taps))
    omega, _ = single_level.run(method, start, asked.patches(), asked.steps)
    omega = omega - jnp.mean(omega, axis=1, keepdims=True)
    # Of centred patches one row is free to be the constant: what is left of it is dropped.
    kept = jnp.argsort(jnp.linalg.norm(omega, axis=1))[1:]
    return single_level.filters_of(omega[kept], asked.size)


def _convolutional(asked: Asked) -> Filters:
    method = single_level.convolutional_analysis(asked.shape, SPARSITY, without_constant=True)
    start = asked.random(asked.taps - 1).reshape(-1, *asked.size)
    run = jax.jit(lambda start, x: single_level.run(method, start, x, asked.steps))
    return run(start, asked.train)[0]


def _ksvd(asked: Asked) -> Filters:
    # Of patches with their means, so that rows have to sum to zero to annihilate any.
    rank, steps = max(1, round(0.6 * asked.taps)), min(asked.steps, 40)
    method = single_level.analysis_ksvd(rank, asked.key)
    run = jax.jit(lambda start, y: single_level.run(method, start, y, steps))
    omega, _ = run(asked.random(asked.taps - 1), asked.patches(centred=False)[: PATCHES // 2])
    return single_level.filters_of(omega, asked.size)


FILTERS: dict[str, Callable[[Asked], Filters]] = {
    "differences": lambda asked: bases.differences(*asked.size),
    "cosines": lambda asked: bases.cosines(*asked.size),
    "analysis_rows": lambda asked: _analysis(asked, "unit_rows"),
    "analysis_frame": lambda asked: _analysis(asked, "uniform_tight_frame"),
    "transform": _transform,
    "convolutional": _convolutional,
    "ksvd": _ksvd,
}
"""Filters by what they are learned by; the first two are handcrafted."""


def plain(asked: Asked, name: str) -> dict[str, Any]:
    """`params` of filters of norm 1 with the rounded 1-norm."""
    c = jnp.asarray(FILTERS[name](asked))
    norms = jnp.linalg.norm(c, axis=(1, 2), keepdims=True)
    return single_level.params_of(c / norms, phi=rounded())


def experts(asked: Asked, by: str = "score") -> Params:
    """`params` of a field of experts, whose gamma is 1 for exp(-R); by: one of `EXPERTS`."""
    adam, key = optax.adam(0.02), jax.random.fold_in(asked.key, 2)
    method = single_level.score_matching(asked.shape, adam)
    if by == "contrastive":
        method = single_level.contrastive_divergence(asked.shape, adam, key, **LENGTH)
    c = bases.cosines(*asked.size)
    start = single_level.params_of(c, phi=potentials.LogSum(EXPERTS_EPS), beta_0=-2.0)
    noise = jax.random.normal(asked.key, asked.train.shape)
    run = jax.jit(lambda start, u: single_level.run(method, start, u, asked.steps))
    found, _ = run(start, asked.train + JITTER * noise)
    return found | {"filters": convolutional.filters(found)}
