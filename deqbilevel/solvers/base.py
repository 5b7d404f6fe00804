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
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from deqbilevel import checks
from deqbilevel.types import Adjoint, Info

OFFSET = 1e-5
"""Added to the norm in the denominator of the residual, as in [REB]'s published settings."""

REMEMBERED = 1000
"""Evaluations that a method may remember: arrays of the size of the batch, for each of them."""


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
"""A number for each image."""


def dot(x: Rows, y: Rows) -> PerImage:
    """The inner product of each image."""
    return jnp.sum(x * y, axis=1, keepdims=True)


def norm(x: Rows) -> PerImage:
    """The Euclidean norm of each image."""
    return jnp.linalg.norm(x, axis=1, keepdims=True)


def ratio(x: Array, y: PerImage) -> Array:
    """x / y, and 0 where y is."""
    return jnp.where(y != 0, x / jnp.where(y != 0, y, 1), 0)


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


class Map(NamedTuple):
    """A map, with the form of what it returns checked: that of what it is given."""

    G: Any

    def __call__(self, u: Array) -> Array:
        try:
            image = self.G(u)
        except TypeError as error:
            if type(error) is not TypeError:  # JAX's own, of what is traced, say more
                raise
            raise ValueError(
                f"the map fails for {u.dtype} of shape {list(u.shape)} ({error}); mend the map, or "
                "what it is applied to"
            ) from error
        checks.same_form(image, u)
        return image

    def linearised(self, u: Array) -> tuple[Array, Any]:
        """See `linearised.Linearised`. Raises ValueError for a map that is none."""
        if not hasattr(self.G, "linearised"):
            raise ValueError(
                "the map does not put its Jacobian together, which this solver needs; take a "
                "types.At of a gradient step on regularizers.normalised, or another solver such as "
                "anderson"
            )
        return self.G.linearised(u)

    def preconditioner(self, u: Array) -> Callable[[Array], Array]:
        """About (I - dG/du)^{-1} at u, a pytree; the identity of a map without one."""
        own = getattr(self.G, "preconditioner", None)
        return Partial(jnp.asarray) if own is None else own(u)


@dataclass(frozen=True, eq=False)
class Iteration:
    """A `Solver`: a scheme, and when it stops. Who unrolls a solver takes its `begin`.

    Raises ValueError for a budget or a tolerance that is none, see `checks.limits`; when called,
    for a u0 that is no batch of images or not finite, and for a map whose images have another form.
    """

    scheme: Scheme
    tolerance: Any
    max_evaluations: Any

    def __post_init__(self) -> None:
        checks.limits(self.tolerance, self.max_evaluations)

    def begin(self, G: Any, u0: Any) -> tuple[Step, Any]:
        """The scheme of a map at u0: [batch, ...], both of which are checked."""
        checks.function("map", G)
        checks.batch(u0=u0)
        checks.finite("u0", u0)
        return self.scheme(Map(G), u0)

    def __call__(self, G: Any, u0: Any) -> tuple[Array, Info]:
        step, state = self.begin(G, u0)
        return iterate(
            step, state, u0, tolerance=self.tolerance, max_evaluations=self.max_evaluations
        )


def iterate(
    step: Step,
    state: Any,
    u0: Array,
    *,
    tolerance: Any,
    max_evaluations: Any,
    enough: Callable[[Array], Bool[Array, ""]] = lambda u: jnp.array(False),
) -> tuple[Array, Info]:
    """Repeat `step(k, state) -> (state, u, residual)` until the residual meets the tolerance, or
    `enough(u)` holds.

    Each step is one evaluation; k counts from 0. Returns the last finite u: [batch, ...] and its
    Info; u0 if there was none. The budget may be traced, and may differ between lanes. Raises
    ValueError for a budget or a tolerance that is none, see `checks.limits`.
    """
    checks.limits(tolerance, max_evaluations)
    tolerance = floor_tolerance(tolerance, u0.dtype)
    start = Progress(u0, jnp.array(0), jnp.array(jnp.inf, u0.dtype), jnp.array(True))

    def unfinished(carry: tuple[Array, Any, Progress]) -> Array:
        return any_lane(carry[2].active)

    def body(carry: tuple[Array, Any, Progress]) -> tuple[Array, Any, Progress]:
        k, state, progress = carry
        state, u, residual = step(k, state)
        progress = progress.advance(u, residual, tolerance, max_evaluations)
        progress = progress._replace(active=progress.active & ~enough(progress.u))
        return k + 1, state, progress

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


# ---- linear systems A w = g


Linear = Callable[[Array], Array]
"""A linear map of a batch."""
Advance = Callable[[Array, Any], Any]
"""`advance(k, state) -> state`: one product; a state begins with w and r."""

LinearScheme = Callable[[Linear, Rows, Rows], tuple[Advance, Any]]
"""`scheme(A, w, r) -> (advance, state)`, from w with r = g - A w."""


def linear_adjoint(
    name: str, scheme: LinearScheme, tolerance: Any, max_evaluations: Any, checked: bool = True
) -> Adjoint:
    """The adjoint solver of a scheme, with A = I - J."""
    checks.limits(tolerance, max_evaluations)

    def solve(vjp: Linear, g: Array) -> tuple[Array, Info]:
        def A(p: Array) -> Array:
            return p - vjp(p)

        return linear_solve(scheme, A, g, None, _residual, tolerance, max_evaluations, checked)

    return linear(name, solve)


def linear(name: str, solve: Callable[[Linear, Array], tuple[Array, Info]]) -> Adjoint:
    """The adjoint solver of that function, with the forms of g and of what vjp returns checked."""

    def checked(vjp: Linear, g: Any) -> tuple[Array, Info]:
        checks.function("vjp", vjp)
        checks.batch(g=g)
        return solve(Map(vjp), g)

    return Adjoint(name, checked)


def linear_solve(
    scheme: LinearScheme,
    A: Linear,
    g: Array,
    w0: Array | None,
    size: Callable[[Rows, Rows], Float[Array, ""]],
    tolerance: Any,
    max_evaluations: Any,
    checked: bool,
) -> tuple[Array, Info]:
    """A w = g from w0, or from 0, by the scheme, until `size(r, w)` meets the tolerance.

    With `checked`, Info has the size of g - A w, else of the recursion's r. Evaluations are
    products with A: the scheme gets what the budget leaves beside those with w0 and for the check.
    """
    checks.limits(tolerance, max_evaluations)
    checks.batch(g=g)
    if w0 is not None:
        checks.same_form(w0, g)
    shape, rows, A = g.shape, g.reshape(len(g), -1), Map(A)

    def product(p: Rows) -> Rows:
        return A(p.reshape(shape)).reshape(p.shape)

    def step(k: Array, state: Any) -> tuple[Any, Array, Array]:
        state = advance(k, state)
        w, r = state[:2]
        return state, w.reshape(shape), size(r, w)

    w = jnp.zeros_like(rows) if w0 is None else w0.reshape(rows.shape)
    advance, state = scheme(product, w, rows if w0 is None else rows - product(w))
    others = (w0 is not None) + checked
    budget = max_evaluations - others
    budget = max(budget, 1) if isinstance(budget, int) else jnp.maximum(budget, 1)
    w, info = iterate(step, state, w.reshape(shape), tolerance=tolerance, max_evaluations=budget)
    info = info._replace(evaluations=info.evaluations + others)
    if not checked:
        return w, info
    residual = size(rows - product(w.reshape(rows.shape)), w.reshape(rows.shape))
    residual = jnp.where(jnp.isfinite(residual), residual, jnp.inf)
    converged = residual <= floor_tolerance(tolerance, g.dtype)
    return w, info._replace(residual=residual, converged=converged)


def _residual(r: Rows, w: Rows) -> Float[Array, ""]:
    """That of the fixed point: w + r = J w + g."""
    return quotient(jnp.linalg.norm(r), jnp.linalg.norm(w + r))
