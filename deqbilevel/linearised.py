"""Solvers for a map that puts its Jacobian together: of its linear systems, and Newton's method.

For u = G(u) with A(u) = I - dG/du, a step solves A(u) s = G(u) - u by a preconditioned
Krylov method up to a part of its right-hand side (inexact Newton: Dembo, Eisenstat and Steihaug,
SIAM J. Numer. Anal. 19, 1982), and goes to u + t s, with t = 1 or as much less as it takes for the
residual to fall (Eisenstat and Walker, SIAM J. Optim. 4, 1994). Far from the fixed point of a map
that saturates, such as one with sigma = tanh, steps are too long and go in circles; the way there
is left to a gradient method with momentum, which alone does not do for a DEQ: there it may turn
away from a fixed point that it has come near to.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from deqbilevel import checks
from deqbilevel.solvers import (
    bicgstab,
    optimized_gradient,
    preconditioned_anderson,
    symmetric_solve,
)
from deqbilevel.solvers.base import Map, any_lane, floor_tolerance, relative_residual, zeros_of
from deqbilevel.types import FixedPointMap, Info, Params, Solver

START, AGAIN = 0.05, 0.1
"""Momentum hands over to Newton where the residual is this part of what it began with; measured on
faces, where 0.15 is too early for kernels that have learned to deblur. The second after a step that
was refused."""

LEAST = 0.25
"""The least t: a step that needs less is refused."""

FORCING = 0.02
"""Newton's systems are solved to this part of their right-hand side; 0.1 takes more steps, 0.001
more products."""


@runtime_checkable
class Jacobian(Protocol):
    """A = I - dG/du at some u, a pytree; all of its parts for a batch v: [batch, pixels]."""

    symmetric: bool

    def apply(self, v: Array) -> Array: ...

    @property
    def transpose(self) -> "Jacobian": ...

    def preconditioner(self) -> Callable[[Array], Array]:
        """r -> about A^{-1} r; symmetric and positive definite if A is."""
        ...


@runtime_checkable
class LinearisedMap(FixedPointMap, Protocol):
    """A map that puts its Jacobian together."""

    def linearised(self, u: Array, params: Params, f: Array) -> tuple[Array, Jacobian]:
        """G(u) and I - dG/du."""
        ...


@runtime_checkable
class Linearised(Protocol):
    """u -> G(u), and G(u) with A(u): a `types.At` of a `LinearisedMap`."""

    def __call__(self, u: Array) -> Array: ...

    def linearised(self, u: Array) -> tuple[Array, Jacobian]: ...


def linear_solve(
    A: Jacobian, b: Array, *, tolerance: Any, max_evaluations: Any, checked: bool = True
) -> tuple[Array, Info]:
    """A x = b with the preconditioner of A.

    By conjugate gradients if A is symmetric (and then positive semidefinite), else by stabilised
    bi-conjugate gradients. The residual is relative to b, or in the latter case to that and what
    the product with A is; it is that of a product of its own if `checked`.

    >>> R = regularizers.REGULARIZERS["normalised"]((1, 2), kernels=(1, 1))
    >>> G = models.assemble(operators.identity((1, 2)), R).G
    >>> params = R.init(jax.random.key(0)) | {"tau": 0.5, "lam": 1.0, "gamma": 0.0}
    >>> _, A = G.linearised(jnp.zeros((1, 2)), params, jnp.ones((1, 2)))  # 0.5 I without gamma
    >>> print(linearised.linear_solve(A, jnp.ones((1, 2)), tolerance=1e-5, max_evaluations=9)[0])
    [[2. 2.]]
    """
    precondition = A.preconditioner()
    limits = {"tolerance": tolerance, "max_evaluations": max_evaluations, "checked": checked}
    if A.symmetric:
        return symmetric_solve(A.apply, b, **limits, precondition=precondition)
    y, info = bicgstab(**limits)(lambda y: y - A.apply(precondition(y)), b)
    return precondition(y), info


MOMENTUM, NEWTON, SHORTER = range(3)
"""What is done next: a descent, a step, or the same step with half its t."""


class _State(NamedTuple):
    u: Array
    image: Array
    A: Any
    residual: Float[Array, ""]
    s: Array
    t: Float[Array, ""]
    way: Int[Array, ""]
    goal: Float[Array, ""]
    """Of the descent, as a part of the residual that it begins with."""
    evaluations: Int[Array, ""]
    active: Bool[Array, ""]


def newton(*, tolerance: Any = 1e-3, max_evaluations: Any = 300) -> Solver:
    """`newton_solve` as a `Solver`, of a `Linearised`.

    Raises: ValueError for a budget or a tolerance that is none, and for a map that is no
    `Linearised`.

    >>> R = regularizers.REGULARIZERS["normalised"]((1, 2), kernels=(1, 1))
    >>> model, f = models.assemble(operators.identity((1, 2)), R), jnp.array([[1.0, 2.0]])
    >>> params = R.init(jax.random.key(0)) | {"gamma": 0.1}
    >>> u, info = model.reconstruct(linearised.newton(tolerance=1e-5), params, f)
    >>> print(bool(jnp.all(jnp.abs(model.stationarity()(u, params, f)) < 1e-3)))
    True
    """

    checks.limits(tolerance, max_evaluations)

    def solve(G: Any, u0: Any) -> tuple[Array, Info]:
        return newton_solve(G, u0, tolerance=tolerance, max_evaluations=max_evaluations)

    return solve


def newton_solve(
    G: Any, u0: Any, *, tolerance: Any = 1e-3, max_evaluations: Any = 300
) -> tuple[Array, Info]:
    """u = G(u) from u0: [batch, pixels]: `(u, info)`.

    `optimized_gradient` goes on until the residual is `START` of what it was, Newton's steps until
    it meets the tolerance. A step is taken with the first t of 1, 1/2 and 1/4 by which the residual
    falls by t/2 of what it is; with none, momentum goes on from where it began. So G should be a
    gradient step or close to one. Evaluations are those of G, linearised or not, and products with
    A; the budget may be passed by the last of them. Residual and tolerance are as in `iterate`.
    Raises ValueError for a budget below 1.

    >>> R = regularizers.REGULARIZERS["normalised"]((1, 2), kernels=(1, 1))
    >>> model, f = models.assemble(operators.identity((1, 2)), R), jnp.array([[1.0, 2.0]])
    >>> params = model.completed(R.init(jax.random.key(0)) | {"gamma": jnp.array(0.0)})
    >>> print(linearised.newton_solve(types.At(model.G, params, f), 0 * f)[0])  # f without gamma
    [[1. 2.]]
    """
    checks.limits(tolerance, max_evaluations)
    checks.batch(u0=u0)
    G = Map(G)
    tolerance = floor_tolerance(tolerance, u0.dtype)

    momentum = optimized_gradient()

    def descend(state: _State) -> tuple[Array, Array, Int[Array, ""]]:
        """On from u by momentum."""
        left = max_evaluations - state.evaluations - 1
        step, start = momentum.scheme(G, state.u)
        unknown = jnp.asarray(jnp.inf, u0.dtype)

        def unfinished(carry: Any) -> Array:
            k, _, _, residual, goal = carry
            return (k == 0) | ((residual > jnp.maximum(goal, tolerance)) & (k < left))

        def body(carry: Any) -> Any:
            k, inner, _, residual, goal = carry
            inner, u, residual = step(k, inner)
            return k + 1, inner, u, residual, jnp.where(k == 0, state.goal * residual, goal)

        k, _, u, _, _ = jax.lax.while_loop(
            unfinished, body, (jnp.array(0), start, state.u, unknown, unknown)
        )
        return u, state.s, k

    def newton_step(state: _State) -> tuple[Array, Array, Int[Array, ""]]:
        left = max_evaluations - state.evaluations - 1
        s, info = linear_solve(
            *(state.A, state.image - state.u),
            tolerance=FORCING,
            max_evaluations=left,
            checked=False,  # the next evaluation shows what the step is worth
        )
        return state.u + s, s, info.evaluations

    def shorter(state: _State) -> tuple[Array, Array, Int[Array, ""]]:
        return state.u + state.t * state.s, state.s, jnp.array(0)

    def body(state: _State) -> _State:
        u, s, spent = jax.lax.switch(state.way, (descend, newton_step, shorter), state)
        image, A = G.linearised(u)
        residual = relative_residual(image, u)
        falls = residual <= (1 - 0.5 * state.t) * state.residual
        accepted = jnp.isfinite(residual) & ((state.way == MOMENTUM) | falls)
        evaluations = state.evaluations + spent + 1
        left = evaluations + 1 < max_evaluations
        one = jnp.ones_like(state.t)
        found = _State(
            *(u, image, A, residual, s, one),
            way=jnp.array(NEWTON),
            goal=AGAIN * one,
            evaluations=evaluations,
            active=left & (residual > tolerance),
        )
        refused = 0.5 * state.t < LEAST
        back = state._replace(
            s=s,
            t=jnp.where(refused, one, 0.5 * state.t),
            way=jnp.where(refused, MOMENTUM, SHORTER),
            evaluations=evaluations,
            active=left & (state.way != MOMENTUM),
        )
        # Conditionals, as a selection would read both Jacobians.
        found = jax.lax.cond(accepted, lambda: found, lambda: back)
        return jax.lax.cond(state.active, lambda: found, lambda: state)

    one = jnp.ones((), u0.dtype)
    start = _State(
        u=u0,
        image=u0,
        A=zeros_of(lambda: G.linearised(u0)[1]),
        residual=jnp.inf * one,
        s=jnp.zeros_like(u0),
        t=one,
        way=jnp.array(MOMENTUM),
        goal=START * one,
        evaluations=jnp.array(0),
        active=jnp.array(True),
    )
    end = jax.lax.while_loop(lambda state: any_lane(state.active), body, start)
    info = Info(end.evaluations, end.residual, end.residual <= tolerance)
    return end.u, info


SOLVERS: Mapping[str, Callable[..., Solver]] = checks.Registry(
    "solver", {"newton": newton, "preconditioned_anderson": preconditioned_anderson}
)
"""Those of a `Linearised`; each takes at least `tolerance` and `max_evaluations`."""
