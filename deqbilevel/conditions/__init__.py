"""What the proofs of convergence of [CF] 5.3 ask of a problem: conditions, and their constants."""

from deqbilevel.conditions.constants import (
    Constants,
    Problem,
    Region,
    constants,
    least_singular_value,
    strong_convexity,
)
from deqbilevel.conditions.report import Condition, Report, report, text

__all__ = [
    "Condition",
    "Constants",
    "Problem",
    "Region",
    "Report",
    "constants",
    "least_singular_value",
    "report",
    "strong_convexity",
    "text",
]
