"""Learned regularisers: each a module of pure functions `init`, `gradient` and, tied, `energy`."""

from deqbilevel.regularizers import convolutional, dense, networks, normalised

__all__ = ["convolutional", "dense", "networks", "normalised"]
