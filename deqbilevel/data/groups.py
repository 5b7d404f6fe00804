"""Images of several shapes, in one group for each, and minibatches that take of every group."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Group(NamedTuple):
    """Images of one shape, as rows."""

    shape: tuple[int, int]
    truth: Float[np.ndarray, "images pixels"]


def by_shape(pictures: Sequence[Float[np.ndarray, "_ _"]]) -> list[Group]:
    """The pictures by their shapes, which are sorted; of one shape in the order given."""
    shapes = sorted({picture.shape for picture in pictures})
    return [Group(s, np.stack([x.ravel() for x in pictures if x.shape == s])) for s in shapes]


def minibatches(
    sizes: Sequence[int], batch: int, seed: int, first: int, count: int
) -> list[Int[np.ndarray, "count share"]]:
    """For each group of so many images the indices of those of steps first, first + 1, ...

    Every group takes its share of each batch, at least one image. Its images come in a new random
    order in every round; what does not fill a batch waits for the next.
    """

    def of_group(group: int, size: int) -> np.ndarray:
        share = min(size, max(1, round(batch * size / sum(sizes))))
        rounds = size // share

        def of_step(step: int) -> np.ndarray:
            rng = np.random.default_rng((seed, 3, group, step // rounds))
            place = step % rounds * share
            return rng.permutation(size)[place : place + share]

        return np.stack([of_step(step) for step in range(first, first + count)])

    return [of_group(group, size) for group, size in enumerate(sizes)]
