"""Forward operators K of imaging inverse problems, see `operators.base` for what they are."""

from collections.abc import Callable
from functools import partial

from deqbilevel.checks import Registry
from deqbilevel.operators.base import Operator, norm, of, resolvent
from deqbilevel.operators.blurs import (
    CONVOLUTIONS,
    CircularConvolution,
    ZeroPaddedConvolution,
    circular_convolution,
    diagonal_blur,
    zero_padded_convolution,
)
from deqbilevel.operators.masks import Identity, Mask, identity, row_mask, upper_mask
from deqbilevel.operators.matrices import Matrix, random_matrix

__all__ = [
    "CONVOLUTIONS",
    "OPERATORS",
    "CircularConvolution",
    "Identity",
    "Mask",
    "Matrix",
    "Operator",
    "ZeroPaddedConvolution",
    "circular_convolution",
    "diagonal_blur",
    "identity",
    "norm",
    "of",
    "random_matrix",
    "resolvent",
    "row_mask",
    "upper_mask",
    "zero_padded_convolution",
]

OPERATORS: Registry[Callable[..., Operator]] = Registry(
    "operator",
    {
        "identity": identity,
        "row_mask": upper_mask,
        "diagonal_blur": diagonal_blur,
        "diagonal_blur_zero": partial(diagonal_blur, boundary="zero"),
        "random_matrix": random_matrix,
    },
)
"""Every operator, built for an image shape and with options of its own. The shared property tests
walk this table."""
