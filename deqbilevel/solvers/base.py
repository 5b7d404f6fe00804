"""What the iterative solvers share: the loop, its stopping rule, and its lanes.

A solver runs one map on a whole batch. Under `vmap` each lane keeps its own stopping rule: it is
frozen when it has converged, when its budget is spent or when it is no longer finite, and the
loop ends with the last of them. A frozen lane never touches its neighbours, and returns bit for
bit what it returns alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int

from deqbilevel.types import Info

OFFSET = 1e-5
"""Added to the norm in the denominator of the residual, as in [REB]'s published settings."""


@custom_vmap
def any_lane(active: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether any lane is active.

    JAX selects between the old and the new value of everything that a vmapped `while_loop`
    carries as soon as its condition differs between lanes; for Anderson acceleration that is the
    whole history, every iteration. With a condition that is common to all lanes it does not, and
    freezing is left to `Progress`, which selects one image instead.
    """
    return active


@any_lane.def_vmap
def _any_lane_vmap(axis_size: int, in_batched: list[bool], active: Array) -> tuple[Array, bool]:
    return any_lane(jnp.any(active) if in_batched[0] else active), False


Rows = Float[Array, "batch n"]
"""Each image of a batch as a row."""

PerImage = Float[Array, "batch 1"]


def dot(x: Rows, y: Rows) -> PerImage:
    """The inner product of each image."""
    return jnp.sum(x * y, axis=1, keepdims=True)


def relative_residual(new: Array, old: Array) -> Float[Array, ""]:
    """norm(new - old) / (1e-5 + norm(new)) over the whole batch, where new = G(old)."""
    return quotient(jnp.linalg.norm((new - old).ravel()), jnp.linalg.norm(new.ravel()))


def quotient(change: Float[Array, ""], size: Float[Array, ""]) -> Float[Array, ""]:
    """change / (1e-5 + size), but infinite where the size overflows: that is no convergence."""
    return jnp.where(jnp.isfinite(size), change / (OFFSET + size), jnp.inf)


def floor_tolerance(tolerance: Any, dtype: Any) -> Any:
    """The tolerance, but no less than rounding in this dtype allows (2e-6 for float32).

    None is met by nothing: the budget is spent. A map with a small step may go further than that.
    """
    if tolerance is None:
        return jnp.asarray(-1, dtype)
    return jnp.maximum(jnp.asarray(tolerance, dtype), 16 * jnp.finfo(dtype).eps)


class Progress(NamedTuple):
    """The best known state of a solve: the result, how far it got and whether it goes on."""

    u: Array
    evaluations: Int[Array, ""]
    residual: Float[Array, ""]
    active: Bool[Array, ""]

    def advance(self, u: Array, residual: Array, tolerance: Any, budget: Any) -> "Progress":
        """Take the next iterate, unless the lane is frozen or the iterate is not finite."""
        accept = self.active & jnp.isfinite(residual)
        return Progress(
            u=jnp.where(accept, u, self.u),
            evaluations=self.evaluations + self.active,
            residual=jnp.where(accept, residual, self.residual),
            active=accept & (residual > tolerance) & (self.evaluations + 1 < budget),
        )


Step = Callable[[Int[Array, ""], Any], tuple[Any, Array, Array]]
"""`step(k, state) -> (state, u, residual)`: one evaluation of the map, the k-th from 0."""

Scheme = Callable[[Callable[[Array], Array], Array], tuple[Step, Any]]
"""`scheme(G, u0) -> (step, state)`: what a method does, without saying when it stops."""


@dataclass(frozen=True, eq=False)
class Iteration:
    """A `Solver`: a scheme, and when it stops. Who unrolls a solver takes its scheme."""

    scheme: Scheme
    tolerance: Any
    max_evaluations: Any

    def __call__(self, G: Callable[[Array], Array], u0: Array) -> tuple[Array, Info]:
        step, state = self.scheme(G, u0)
        return iterate(
            step, state, u0, tolerance=self.tolerance, max_evaluations=self.max_evaluations
        )


def iterate(
    step: Step,
    state: Any,
    u0: Array,
    *,
    tolerance: Any,
    max_evaluations: int | Int[Array, ""],
) -> tuple[Array, Info]:
    """Repeat `step(k, state) -> (state, u, residual)` until the residual meets the tolerance.

    Each step is one evaluation; k counts from 0. Returns the last finite u: [batch, ...] and its
    Info; u0 if there was none. The budget may be traced, and may differ between lanes.
    """
    if isinstance(max_evaluations, int) and max_evaluations < 1:
        raise ValueError(f"max_evaluations={max_evaluations}: expected 1 or more evaluations")
    tolerance = floor_tolerance(tolerance, u0.dtype)
    start = Progress(u0, jnp.array(0), jnp.array(jnp.inf, u0.dtype), jnp.array(True))

    def unfinished(carry: tuple[Array, Any, Progress]) -> Array:
        return any_lane(carry[2].active)

    def body(carry: tuple[Array, Any, Progress]) -> tuple[Array, Any, Progress]:
        k, state, progress = carry
        state, u, residual = step(k, state)
        return k + 1, state, progress.advance(u, residual, tolerance, max_evaluations)

    _, _, end = jax.lax.while_loop(unfinished, body, (jnp.array(0), state, start))
    return end.u, Info(end.evaluations, end.residual, end.residual <= tolerance)


def zeros_of(function: Callable[[], Any]) -> Any:
    """Zeros in the form of what the function returns, which is not computed."""
    # The structure apart: classes whose fields are checked to be arrays cannot hold mere shapes.
    structures = []

    def leaves() -> list[Array]:
        found, structure = jax.tree.flatten(function())
        structures.append(structure)
        return found

    shapes = jax.eval_shape(leaves)
    return jax.tree.unflatten(structures[0], [jnp.zeros(x.shape, x.dtype) for x in shapes])
