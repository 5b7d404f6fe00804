r"""Exact problems with a 1-norm, without smoothing: total variation and its kin.

$$ \min_x \tfrac12 \|K u - f\|^2 + \sum_t \sum_p w_t[p]\, |(\Omega_t x)[p]| $$

The unknowns x are the image u and whatever else is minimised over; see `Analysis`.
"""

from collections.abc import Callable
from typing import Any

from deqbilevel.checks import Registry
from deqbilevel.variational.active import Pattern, differentiable, pattern
from deqbilevel.variational.base import Analysis, Terms, Unknowns, Weights
from deqbilevel.variational.denoisers import bm3d, outside
from deqbilevel.variational.dual import fista
from deqbilevel.variational.duality import conjugate, dual_gradient
from deqbilevel.variational.newton import semismooth_newton
from deqbilevel.variational.plug_and_play import plug_and_play_admm
from deqbilevel.variational.problems import Certificate, Problem, Saddle
from deqbilevel.variational.proximal import proximal_gradient
from deqbilevel.variational.rounded import rounded_newton, rounded_slope
from deqbilevel.variational.saddle import chambolle_pock, primal_dual_map
from deqbilevel.variational.splitting import admm
from deqbilevel.variational.synthesising import coefficients, synthesis
from deqbilevel.variational.transforms import fourier, wavelets
from deqbilevel.variational.variations import (
    generalised_variation,
    infimal_convolution,
    total_variation,
)

__all__ = [
    "SOLVERS",
    "Analysis",
    "Certificate",
    "Pattern",
    "Problem",
    "Saddle",
    "Terms",
    "Unknowns",
    "Weights",
    "admm",
    "bm3d",
    "chambolle_pock",
    "coefficients",
    "conjugate",
    "differentiable",
    "dual_gradient",
    "fista",
    "fourier",
    "generalised_variation",
    "infimal_convolution",
    "outside",
    "pattern",
    "plug_and_play_admm",
    "primal_dual_map",
    "proximal_gradient",
    "rounded_newton",
    "rounded_slope",
    "semismooth_newton",
    "synthesis",
    "total_variation",
    "wavelets",
]

SOLVERS: Registry[Callable[..., Any]] = Registry(
    "solver",
    {
        "chambolle_pock": chambolle_pock,
        "admm": admm,
        "fista": fista,
        "proximal_gradient": proximal_gradient,
        "semismooth_newton": semismooth_newton,
    },
)
"""Every solver of a `Problem`, `solve(problem, weights, f, start) -> (saddle, certificate)`.

`fista` asks for K = I and no unknowns but u; the others solve any. The property tests walk it."""
