"""Filters that make the training images sparse, by methods that never see the task."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from deqbilevel import learning, potentials, single_level
from deqbilevel.data import Images
from deqbilevel.regularizers import convolutional
from deqbilevel.types import Params

METHODS = ("analysis", "transform", "convolutional_analysis", "experts")

STEPS, PATCHES = 100, 5000

RATE = 0.03
"""Adam's, of a field of experts."""

SPARSITY = 1e-3
"""beta of transforms and of convolutional analysis operator learning, of images in [0, 1]."""

DEQUANTISED = 0.02
"""Noise in the images that a field of experts is fitted to, which has no density without."""

WIDTH = 0.05
"""Where the potential of a field of experts bends."""


def found(config: Any, name: str, noise: float, images: Images) -> Params:
    """Params of the filters' number and size by one of `METHODS`."""
    key, _, _ = learning.keys(config.seed)
    train, (_, *size) = jnp.asarray(images.train), config.filters
    R = convolutional.convolutional(images.shape, filters=config.filters)
    begin = R.init(key)["filters"]
    if name == "convolutional_analysis":
        method = single_level.convolutional_analysis(images.shape, SPARSITY, without_constant=True)
        return single_level.params_of(single_level.run(method, begin, train, STEPS)[0])
    if name == "experts":
        noisy = train + DEQUANTISED * jax.random.normal(key, train.shape)
        method = single_level.score_matching(images.shape, optax.adam(RATE))
        first = single_level.params_of(begin, phi=potentials.LogSum(WIDTH))
        learned, _ = single_level.run(method, first, noisy, STEPS)
        return learned | {"gamma": jnp.float32(noise**2)}
    rows = single_level.patches(train, images.shape, tuple(size), key, PATCHES)
    if name == "transform":
        constant = jnp.full((1, *size), (size[0] * size[1]) ** -0.5)
        square = jnp.concatenate([constant, convolutional.cosines(*size)]).reshape(
            -1, rows.shape[1]
        )
        method = single_level.transform(SPARSITY, lam=SPARSITY)
        omega, _ = single_level.run(method, square, rows, STEPS)
        # Patches have no mean, so one row sees nothing: what the constant was.
        omega = jnp.delete(omega, jnp.argmin(jnp.sum((rows @ omega.T) ** 2, axis=0)), axis=0)
    else:
        enough = len(begin) >= size[0] * size[1] - 1
        constraint = "parseval" if enough else "unit_rows"
        method = single_level.analysis(single_level.constraint(constraint, without_constant=True))
        omega, _ = single_level.run(method, begin.reshape(len(begin), -1), rows, STEPS)
    return single_level.params_of(single_level.filters_of(omega, tuple(size)))
