r"""Potentials phi: R -> R of the analysis regulariser 1' phi(A u + b), applied entry by entry.

A potential is a pytree whose parameters are leaves, with

    value(z)               phi(z)
    derivative(z)          sigma(z) = phi'(z), the activation
    second_derivative(z)   phi''(z), almost everywhere
    prox(z, a)             argmin_x a phi(x) + (x - z)^2 / 2
    lipschitz              the Lipschitz constant of phi', sup |phi''|
    slope                  sup |phi'|
    least_curvature        inf phi''
    curvature_lipschitz    the Lipschitz constant of phi'', sup |phi'''|
    convex                 whether phi is convex
    twice_differentiable   whether phi'' is continuous

on arrays z of any shape. The prox x of a differentiable phi solves

$$ x + a \varphi'(x) = z, $$

and of one that is not convex needs $1 + a \varphi'' > 0$, which makes the minimiser unique; its
docstring says up to which a that holds. A width `eps` that is not in [1e-9, 1e9] is a ValueError.
"""

from collections.abc import Callable
from typing import Any

from deqbilevel.checks import Registry, number
from deqbilevel.potentials.base import LEAST_WIDTH, MOST_WIDTH, Potential, modulus
from deqbilevel.potentials.envelope import MoreauEnvelope
from deqbilevel.potentials.power_sum import PowerSum
from deqbilevel.potentials.profiles import Hubers, Profile
from deqbilevel.potentials.quadratic import (
    PiecewiseQuadratic,
    Quadratic,
    clipping,
    identity,
    relu,
    softshrink,
)
from deqbilevel.potentials.robust import Fair, GemanMcClure, LogCosh, Welsch
from deqbilevel.potentials.rounded import CornerRounded, LogRoot, LogSum, RoundedPower
from deqbilevel.potentials.splines import Splines, splines

__all__ = [
    "LEAST_WIDTH",
    "MOST_WIDTH",
    "POTENTIALS",
    "CornerRounded",
    "Fair",
    "GemanMcClure",
    "Hubers",
    "LogCosh",
    "LogRoot",
    "LogSum",
    "MoreauEnvelope",
    "PiecewiseQuadratic",
    "Potential",
    "PowerSum",
    "Profile",
    "Quadratic",
    "RoundedPower",
    "Splines",
    "Welsch",
    "bending",
    "clipping",
    "identity",
    "modulus",
    "relu",
    "softshrink",
    "splines",
]

POTENTIALS: Registry[Callable[[], Potential]] = Registry(
    "potential",
    {
        "identity": identity,
        "relu": relu,
        "softshrink": lambda: softshrink(0.5),
        "clipping": clipping,
        "quadratic": Quadratic,
        "corner_rounded": CornerRounded,
        "rounded_half": RoundedPower,
        "fair": Fair,
        "log_cosh": LogCosh,
        "log_sum": LogSum,
        "log_root": LogRoot,
        "geman_mcclure": GemanMcClure,
        "welsch": Welsch,
        "power_sum": PowerSum,
    },
)
"""Every potential, at example parameters. The shared property tests walk this table."""


def bending(name: str, eps: float) -> Potential:
    """One of `POTENTIALS` that bends at `eps`.

    Raises: ValueError for an eps that is not above 0, an unknown name, and a potential without one.

    >>> print(potentials.bending("log_sum", 0.5))
    LogSum(eps=0.5)
    """
    number("eps", eps, above=0)
    kind: Any = POTENTIALS[name]
    try:
        return kind(eps=eps)
    except TypeError as error:
        raise ValueError(
            f"potential {name!r}: has no eps to bend at; take a smooth one, such as "
            "corner_rounded or log_sum"
        ) from error
