"""Learned regularisers: each a module of pure functions `init`, `gradient` and, tied, `energy`."""

from deqbilevel.regularizers import dense

__all__ = ["dense"]
