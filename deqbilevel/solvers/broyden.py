"""Broyden's method on a fixed-point equation, with limited memory, on a whole batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.lax import dynamic_update_index_in_dim as put
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.solvers.base import REMEMBERED, Iteration, Rows, Step, relative_residual

Factor = Float[Array, "memory batch n"]
"""One vector of each image for each pair that is remembered."""


class Inverse(NamedTuple):
    """I + sum_i a_i b_i^T for each image: an estimate of (I - dG/du)^{-1}."""

    a: Factor
    b: Factor

    def apply(self, x: Rows) -> Rows:
        return x + jnp.einsum("mb,mbn->bn", jnp.einsum("mbn,bn->mb", self.b, x), self.a)

    @property
    def transpose(self) -> "Inverse":
        return Inverse(self.b, self.a)

    def update(self, s: Rows, y: Rows, slot: Array) -> "Inverse":
        """H + (s - H y) y^T / ||y||^2, the nearest estimate that knows (I - dG/du) s = y.

        The pair goes into the slot; in slot 0 it is the only one. An image whose y is next to none
        learns nothing: I - dG/du is singular there, and H would grow without bound.
        """
        length = jnp.linalg.norm(y, axis=1, keepdims=True)
        eps = jnp.finfo(s.dtype).eps
        learns = length > jnp.sqrt(eps) * jnp.linalg.norm(s, axis=1, keepdims=True)
        s, y = (jnp.where(learns, x / jnp.where(learns, length, 1), 0) for x in (s, y))
        kept = Inverse(*(jnp.where(slot == 0, 0, x) for x in self))
        return Inverse(put(kept.a, s - kept.apply(y), slot, 0), put(kept.b, y, slot, 0))


class State(NamedTuple):
    """Of the method, between two evaluations."""

    u: Rows
    """Where G is evaluated next."""
    u_before: Rows
    r_before: Rows
    """G(u_before) - u_before."""
    inverse: Inverse


def broyden(*, tolerance: Any = 1e-3, max_evaluations: Any = 50, memory: int = 20) -> Iteration:
    """u <- u + H r with r = G(u) - u and Broyden's estimate H of (I - dG/du)^{-1} of each image.

    H = I at first, so that the first step is Picard's. Each step changes it by Broyden's second
    formula, the one for the inverse. The first, of multiscale DEQs (Bai et al., 2020), took up to
    twice the steps on our models, and H^T from it, see SHINE, was no estimate of the transposed
    inverse where G contracts slowly. With more than `memory` pairs H begins anew from the last.
    Stops as `iterate` does, and returns the last G(u). Raises ValueError for a
    memory below 1.

    >>> solve = solvers.broyden(tolerance=1e-5)
    >>> u, info = solve(lambda u: 0.5 * u + 1, jnp.zeros((1, 2)))
    >>> print(u, info.evaluations)
    [[2. 2.]] 3
    """

    def scheme(G: Callable[[Array], Array], u0: Array) -> tuple[Step, State]:
        def step(k: Array, state: State) -> tuple[State, Array, Array]:
            image = G(state.u.reshape(u0.shape)).reshape(state.u.shape)
            residual = relative_residual(image, state.u)
            return move(k, state, image - state.u), image.reshape(u0.shape), residual

        return step, begin(u0, memory)

    return Iteration(scheme, tolerance, max_evaluations)


def begin(u0: Array, memory: int) -> State:
    """At u0, with H = I. Raises ValueError for a memory below 1 or above `base.REMEMBERED`."""
    checks.count("memory", memory, most=REMEMBERED)
    u = u0.reshape(len(u0), -1)
    none = jnp.zeros((memory, *u.shape), u.dtype)
    return State(u, u, u, Inverse(none, none))


def move(k: Array, state: State, r: Rows) -> State:
    """The state after the k-th evaluation, with r the residual at `state.u`."""
    s, y = state.u - state.u_before, state.r_before - r
    # There is no pair at k = 0, and y = 0 goes into the last slot, which is empty.
    inverse = state.inverse.update(s, jnp.where(k == 0, 0, y), (k - 1) % len(state.inverse.a))
    return State(state.u + inverse.apply(r), state.u, r, inverse)
