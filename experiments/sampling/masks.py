"""Samplings of frequencies: with weights in [0, 1] that are learned, and of a number of samples.

Frequencies stand as `numpy.fft.fft2` has them. Images are real, so that the data at a frequency and
at its opposite are conjugates, and in pairs both are sampled or neither, as of complex images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from deqbilevel import operators
from deqbilevel.types import pytree

Weights = Float[Array, "height columns"]
"""Of points, [height, width], or of lines of them, [height, 1]."""
Values = Float[np.ndarray, "height columns"]
Pattern = Bool[np.ndarray, "height width"]

FALL = 3
"""Of the variable density: nearness^FALL."""


@pytree
@dataclass(frozen=True)
class Sampled:
    """K u = s F u, where s is the weight of a frequency, in pairs the mean with that of the
    opposite one."""

    weights: Weights
    shape: tuple[int, int] = field(metadata={"static": True})
    paired: bool = field(metadata={"static": True})

    @property
    def s(self) -> Float[Array, "height width"]:
        both = (self.weights + opposite(self.weights)) / 2 if self.paired else self.weights
        return jnp.broadcast_to(both, self.shape)

    def apply(self, u: Float[Array, "*batch pixels"]) -> Complex[Array, "*batch data"]:
        return self._fourier().apply(u)

    def adjoint(self, v: Complex[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        return self._fourier().adjoint(v)

    def bound(self) -> Float[Array, ""]:
        return self._fourier().bound()

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        return self._fourier().resolvent(z, a)

    def _fourier(self) -> operators.Fourier:
        return operators.Fourier(self.s.reshape(-1), self.shape)


def opposite(x: Any) -> Any:
    """x at the opposite of each frequency."""
    np_ = np if isinstance(x, np.ndarray) else jnp
    return np_.roll(x[::-1, ::-1], (1, 1), (0, 1))


class Grid(NamedTuple):
    """Frequencies, and what of them is sampled together."""

    shape: tuple[int, int]
    lines: bool
    paired: bool

    @property
    def places(self) -> tuple[int, int]:
        """The shape of the weights."""
        return self.shape[0], 1 if self.lines else self.shape[1]

    def start(self, s: float, seed: int) -> Values:
        """s everywhere; but for pairs up to a tenth more or less, or a frequency and its
        opposite would go on alike."""
        drawn = np.random.default_rng(seed).uniform(0.9, 1.1, self.places)
        return s * (np.ones(self.places) if self.paired else drawn)

    def nearness(self) -> Values:
        """1 - (distance from the mean / the largest)."""
        axes = [np.fft.fftfreq(n) for n in self.places]
        distance = np.hypot(*np.meshgrid(*axes, indexing="ij"))
        return 1 - distance / max(float(distance.max()), 1e-9)

    def thresholded(self, s: Values, part: float) -> Pattern:
        """A part of all samples: those above one half, the lowest of them first, then those of the
        largest s. Of a strong sample s need not be 1, and a single low one that is missed costs
        more than many high ones."""
        above, near = s > 0.5, self.nearness()
        return self.largest([above.astype(float), np.where(above, near, s), near], part)

    def largest(self, values: Sequence[Values], part: float) -> Pattern:
        """A part of all samples, or one or two less: the mean, or its line, and the points, lines
        or pairs of the largest values; among equal ones those of the largest in the next array."""
        index = np.arange(values[0].size).reshape(self.places)
        pairs = np.minimum(index, opposite(index)) if self.paired else index
        firsts, sizes = np.unique(pairs, return_counts=True)
        order = np.lexsort([*(-x.ravel()[firsts] for x in reversed(values)), firsts > 0])
        samples = np.cumsum(sizes[order] * (self.shape[1] // self.places[1]))
        kept = firsts[order][samples <= round(part * self.shape[0] * self.shape[1])]
        return np.broadcast_to(np.isin(pairs, kept), self.shape)


# ---- masks that are not learned


def uniform(grid: Grid, part: float, seed: int) -> Pattern:
    """Drawn alike."""
    return grid.largest([np.random.default_rng(seed).random(grid.places)], part)


def variable_density(grid: Grid, part: float, seed: int) -> Pattern:
    """Drawn one after the other with probabilities that are nearness^FALL."""
    gumbel = np.random.default_rng(seed).gumbel(size=grid.places)
    return grid.largest([FALL * np.log(grid.nearness() + 1e-2) + gumbel], part)


def dense_middle(grid: Grid, part: float, seed: int) -> Pattern:
    """The same, but for a quarter of the samples, which are the lowest."""
    near = grid.nearness()
    middle = grid.largest([near], part / 4)[:, : grid.places[1]]
    gumbel = np.random.default_rng(seed).gumbel(size=grid.places)
    return grid.largest([middle.astype(float), FALL * np.log(near + 1e-2) + gumbel], part)


def radial(grid: Grid, part: float, seed: int) -> Pattern:
    """Spokes, as many as there is room for, and the lowest frequencies beside; by lines none."""
    rng = np.random.default_rng(seed)
    spokes = np.fft.ifftshift(operators.PATTERNS["radial"](grid.shape, part, rng)).astype(float)
    return grid.largest([spokes + opposite(spokes), grid.nearness()], part)


def low(grid: Grid, part: float, seed: int) -> Pattern:
    """The lowest frequencies."""
    return grid.largest([grid.nearness()], part)


FIXED: dict[str, Callable[[Grid, float, int], Pattern]] = {
    "uniform": uniform,
    "variable density": variable_density,
    "dense middle": dense_middle,
    "radial": radial,
    "low": low,
}
"""(grid, part, seed) -> a mask."""
