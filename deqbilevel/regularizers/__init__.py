r"""Learned regularisers, each a `Regularizer`: a record of pure functions, for an image shape.

$$ N(u) = \sum_k w_k\, C_k^T \sigma(A_k u + b_k) $$

with dense matrices or convolutions. Tied (C = A) with sigma = phi' it is the gradient of the energy
sum_k w_k 1' phi(A_k u + b_k): bilevel learning; untied it is no gradient in general: a DEQ.

    R = REGULARIZERS["convolutional"]((28, 28), filters=(24, 5, 5))
    N = R.gradient(u, R.init(key))

u: [batch, pixels]. One of your own is made by `function`, `flax_module` or `equinox_module`: what
it returns is N(u), like u, for a DEQ; or, with energy=True, R(u), a number for each image, for
bilevel learning. Without a Lipschitz constant of N, `params` need a step size `tau`.
"""

from collections.abc import Callable

from deqbilevel.checks import Registry
from deqbilevel.regularizers import (
    convolutional,
    dense,
    input_convex,
    multiscale,
    networks,
    normalised,
    predicted,
    ridge,
    spline_ridge,
    total_deep_variation,
    variation,
)
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.regularizers.own import equinox_module, flax_module, function

__all__ = [
    "REGULARIZERS",
    "Regularizer",
    "convolutional",
    "dense",
    "equinox_module",
    "flax_module",
    "function",
    "input_convex",
    "multiscale",
    "networks",
    "normalised",
    "predicted",
    "ridge",
    "spline_ridge",
    "total_deep_variation",
    "variation",
]

REGULARIZERS: Registry[Callable[..., Regularizer]] = Registry(
    "regularizer",
    {
        "dense": dense.dense,
        "convolutional": convolutional.convolutional,
        "normalised": normalised.normalised,
        **networks.NETWORKS,
        "ridge": ridge.ridge,
        "weakly_convex_ridge": ridge.weakly_convex_ridge,
        "spline_ridge": spline_ridge.spline_ridge,
        "multiscale_ridge": multiscale.multiscale_ridge,
        "input_convex": input_convex.input_convex,
        "difference_of_convex": input_convex.difference_of_convex,
        "total_deep_variation": total_deep_variation.total_deep_variation,
        "total_variation": variation.total_variation,
    },
)
"""Every regulariser, built for an image shape and with options of its own. The shared property
tests walk this table."""
