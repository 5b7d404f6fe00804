"""Potentials phi: R -> R of the analysis regulariser 1' phi(A u + b), applied entry by entry.

What each of them has is in `potentials.base`.
"""

from collections.abc import Callable

from deqbilevel.checks import Registry
from deqbilevel.potentials.base import LEAST_WIDTH, MOST_WIDTH, Potential
from deqbilevel.potentials.power_sum import PowerSum
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

__all__ = [
    "LEAST_WIDTH",
    "MOST_WIDTH",
    "POTENTIALS",
    "CornerRounded",
    "Fair",
    "GemanMcClure",
    "LogCosh",
    "LogRoot",
    "LogSum",
    "PiecewiseQuadratic",
    "Potential",
    "PowerSum",
    "Quadratic",
    "RoundedPower",
    "Welsch",
    "clipping",
    "identity",
    "relu",
    "softshrink",
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
