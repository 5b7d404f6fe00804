r"""Exact problems with a 1-norm, without smoothing: total variation and its kin.

$$ \min_x \tfrac12 \|K u - f\|^2 + \sum_t \sum_p w_t[p]\, |(\Omega_t x)[p]| $$

The unknowns x are the image u and whatever else is minimised over; see `Analysis`.
"""

from deqbilevel.variational.active import Pattern, differentiable, pattern
from deqbilevel.variational.base import Analysis, Terms, Unknowns, Weights
from deqbilevel.variational.dual import fista
from deqbilevel.variational.problems import Certificate, Problem, Saddle
from deqbilevel.variational.saddle import chambolle_pock, primal_dual_map
from deqbilevel.variational.transforms import fourier, wavelets
from deqbilevel.variational.variations import (
    generalised_variation,
    infimal_convolution,
    total_variation,
)

__all__ = [
    "Analysis",
    "Certificate",
    "Pattern",
    "Problem",
    "Saddle",
    "Terms",
    "Unknowns",
    "Weights",
    "chambolle_pock",
    "differentiable",
    "fista",
    "fourier",
    "generalised_variation",
    "infimal_convolution",
    "pattern",
    "primal_dual_map",
    "total_variation",
    "wavelets",
]
