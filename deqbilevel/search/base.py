"""What a search without gradients is: what it asks for, what it is told, over a box of parameters.

    state = search.init()
    request, state = search.ask(state)
    state = search.tell(state, request, outcome)

Points lie in the unit cube, `[candidates, R]` with R the number of parameters; `Box` makes the
upper-level variable of one. A State is a value: ask and tell return a new one, and a search that is
told the same goes the same way.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.algorithms.base import Gamma


class Box(NamedTuple):
    """Between which values each parameter is sought.

    >>> box = search.Box({"alpha": 1e-4, "eps": 0.0}, {"alpha": 1.0, "eps": 2.0}, ("alpha",))
    >>> print(box.names, box.value(jnp.array([0.5, 0.5])))
    ('alpha', 'eps') {'alpha': Array(0.01, dtype=float32), 'eps': Array(1., dtype=float32)}
    """

    low: dict[str, Any]
    """Numbers or arrays by the names of the parameters."""
    high: dict[str, Any]
    """The same, above `low` everywhere."""
    logarithmic: tuple[str, ...] = ()
    """The parameters whose logarithms are evenly spread, rather than they themselves."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of each entry: `beta[3]` of an array, `lam` of a number."""
        return tuple(
            f"{name}[{i}]" if np.ndim(self.low[name]) else name
            for name in sorted(self.low)
            for i in range(np.size(self.low[name]))
        )

    @property
    def size(self) -> int:
        """R."""
        return len(self.names)

    def check(self) -> "Box":
        """The box. Raises: ValueError for one that is empty, or has no logarithm."""
        checks.entries("box", self.low, ())
        if not self.low or self.low.keys() != self.high.keys():
            raise ValueError(
                f"box: from {sorted(self.low)} to {sorted(self.high)}; expected the same "
                "parameters, one or more"
            )
        for name in self.logarithmic:
            checks.known("logarithmic", name, self.low)
        for name, low in self.low.items():
            high = self.high[name]
            checks.alike(**{f"low {name}": low, f"high {name}": high})
            checks.number(f"low {name}", low, above=0 if name in self.logarithmic else None)
            checks.number(f"high {name}", high)
            if not np.all(np.asarray(low) < np.asarray(high)):
                raise ValueError(f"box: {name} from {low} to {high}; expected low below high")
        return self

    def value(self, point: Float[Array, " R"]) -> Gamma:
        """The parameters of a point of the unit cube."""
        like = jax.tree.map(jax.numpy.asarray, self.low)
        _, unravel = ravel_pytree(jax.tree.map(lambda x: x.astype(point.dtype), like))
        parts = unravel(point)
        return {name: self._between(name, part) for name, part in parts.items()}

    def point(self, gamma: Gamma) -> np.ndarray:
        """Of the unit cube, where parameters lie; within it where they lie outside of the box."""
        parts = [self._part(name, gamma[name]) for name in sorted(self.low)]
        return np.clip(np.concatenate(parts), 0.0, 1.0)

    def _between(self, name: str, part: Array) -> Array:
        low, high = self.low[name], self.high[name]
        if name in self.logarithmic:
            first, last = np.log(low), np.log(high)
            return jax.numpy.exp(first + part * (last - first))
        return low + part * (np.asarray(high) - np.asarray(low))

    def _part(self, name: str, value: Any) -> np.ndarray:
        low, high, value = (np.asarray(x, float) for x in (self.low[name], self.high[name], value))
        if name in self.logarithmic:
            low, high = np.log(low), np.log(high)
            value = np.log(np.maximum(value, np.finfo(float).tiny))
        return np.ravel((value - low) / (high - low))


class Request(NamedTuple):
    """What a search wants to know."""

    points: np.ndarray
    """[candidates, R], in the unit cube."""
    accuracy: float | None = None
    """A bound on ||x - x*|| that the lower levels are to meet; None: that of the evaluation."""


class Outcome(NamedTuple):
    """What it is told: the upper level at each candidate."""

    losses: np.ndarray
    """[candidates]"""
    bounds: np.ndarray
    """[candidates], of ||x - x*|| where Phi is known to be strongly convex; else NaN."""
    residuals: np.ndarray | None = None
    """[candidates, m], whose squares add up to the loss; None: not known."""
    lipschitz: float = math.nan
    """Of the residuals in x, in 2-norms."""

    def comparable(self) -> np.ndarray:
        """The losses, with infinity for what is no number."""
        return np.where(np.isnan(self.losses), np.inf, self.losses)


class Search(NamedTuple):
    """A search over R parameters, as pure functions."""

    init: Callable[[], Any]
    """() -> State."""
    ask: Callable[[Any], tuple[Request | None, Any]]
    """State -> what to evaluate next, and State; None: it has ended."""
    tell: Callable[[Any, Request, Outcome], Any]
    """(State, request, outcome) -> State."""
    of_residuals: bool = False
    """Whether it has to be told the residuals."""
