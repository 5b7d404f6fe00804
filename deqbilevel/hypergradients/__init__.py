"""Ways to a hypergradient. Differentiation wraps a solver and never lives in it."""

from deqbilevel.hypergradients.implicit import fixed_point, no_info
from deqbilevel.hypergradients.minimiser import minimiser

__all__ = ["fixed_point", "minimiser", "no_info"]
