"""Hypergradients by differentiating the iterations themselves, [CF] 4.4, 4.5 and appendix B.

A solver with a scheme, `solvers.base.Iteration`, is run for a fixed number of evaluations, its
budget, and what is differentiated is the result u_T rather than a fixed point. The stopping rule is
left out: it would make the number of terms depend on where the iterations start, and a warm start
would leave one. The tolerance only says whether Info calls the solve, or the derivative, converged.

                                   memory       products in the backward pass
    unrolled, reverse mode         O(T)         T
    unrolled, checkpoint="sqrt"    O(sqrt T)    T, and T evaluations again
    truncated to the last k        O(k)         k
    forward mode                   O(1)         T for each parameter
    piggyback                      O(1)         T, beside the iterations
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks, precision
from deqbilevel.hypergradients.base import (
    Push,
    Run,
    along_directions,
    at,
    begin,
    end,
    explicit,
    no_info,
    scanned,
    unit,
)
from deqbilevel.solvers import as_solver
from deqbilevel.solvers.base import (
    Iteration,
    Map,
    Step,
    floor_tolerance,
    iterate,
    relative_residual,
)
from deqbilevel.types import FixedPointMap, Info, Params, Solve, Solver

Carry = tuple[Any, Array, Float[Array, ""]]
"""The state of a scheme, its last result and the residual there."""


def unrolled(
    G: FixedPointMap, solver: Solver, *, checkpoint: Literal["none", "sqrt"] = "none"
) -> Solve:
    """Reverse mode through every evaluation of the solver's budget, [CF] (B.2).

    With checkpoint="sqrt" the backward pass keeps the states of about sqrt(T) evaluations, and
    evaluates the others again. Its Info has the vector-Jacobian products and those evaluations,
    and as residual what the derivative still lacks, see `base.begin`.
    Raises ValueError for a solver without a scheme or without a budget that is a plain int.

    >>> G = lambda u, params, f: 0.5 * u + params["a"] * f
    >>> solve = hypergradients.unrolled(G, solvers.picard(max_evaluations=3))
    >>> u = lambda a: solve({"a": a}, jnp.array([[4.0]]), jnp.zeros((1, 1)))[0].sum()
    >>> print(jax.grad(u)(1.0))  # 4 (1 + 1/2 + 1/4)
    7.0
    """
    checks.function("map", G)
    checks.known("checkpoint", checkpoint, ("none", "sqrt"))
    iteration, budget = _scheme(solver), _budget(solver)
    evaluations = budget if checkpoint == "none" else 2 * budget
    segment = budget if checkpoint == "none" else math.isqrt(budget)

    @precision.highest
    def solve(params: Params, f: Array, u0: Array, probe: Info | None = None) -> tuple[Array, Info]:
        probe = no_info(u0.dtype) if probe is None else probe
        tolerance = floor_tolerance(iteration.tolerance, u0.dtype)
        u0, link = begin(u0, probe, evaluations, tolerance)
        step, state = iteration.begin(at(G, params, f), u0)
        carry = _advance(step, _carry(state, u0), 0, budget, segment)
        u, info = _result(carry, budget, tolerance)
        return end(u, link), info

    return solve


def truncated(G: FixedPointMap, solver: Solver, *, last: int) -> Solve:
    """Reverse mode through `last` more evaluations after those of the solver, [CF] 4.5.

    The solver runs to its end by its own stopping rule, without derivatives and with a budget that
    may be traced. Its scheme goes on from the state where that left it, momentum and history
    included, for `last` evaluations, and the derivative is that of these alone. For Picard
    iteration at a fixed point it is the Neumann series with `last` terms: it lacks J'^last, and
    the residual of the backward pass, see `base.begin`, is the norm of what it lacks. Not for
    Anderson's method: its mixing weights divide by residuals of which the older are constants here,
    and training by it diverged, with residuals of 1e3 and more.
    Raises ValueError for a solver without a scheme, for last < 1, and for what `base.explicit`
    refuses.

    >>> G = lambda u, params, f: 0.5 * u + params["a"] * f
    >>> solve = hypergradients.truncated(G, solvers.picard(), last=2)
    >>> u = lambda a: solve({"a": a}, jnp.array([[4.0]]), jnp.zeros((1, 1)))[0].sum()
    >>> print(jax.grad(u)(1.0))  # 4 (1 + 1/2)
    6.0
    """
    iteration = _scheme(solver)
    checks.count("last", last, least=1)

    @precision.highest
    def solve(params: Params, f: Array, u0: Array, probe: Info | None = None) -> tuple[Array, Info]:
        G_of_all, closed = explicit(G, params, f, u0)
        probe = no_info(u0.dtype) if probe is None else probe
        tolerance = floor_tolerance(iteration.tolerance, u0.dtype)

        def unfinished(carry: tuple[Array, Carry]) -> Array:
            k, (_, _, residual) = carry
            return (k < iteration.max_evaluations) & (residual > tolerance)

        def body(carry: tuple[Array, Carry]) -> tuple[Array, Carry]:
            k, (state, _, _) = carry
            return k + 1, still(k, state)

        fixed, f_fixed, u0 = jax.lax.stop_gradient((params, f, u0))
        still, state = iteration.begin(lambda u: G_of_all(u, fixed, f_fixed, *closed), u0)
        start = (jnp.array(0), _carry(state, u0))
        k, (state, u, residual) = jax.lax.while_loop(unfinished, body, start)
        state, link = begin(jax.lax.stop_gradient(state), probe, last, tolerance)
        step, _ = iteration.begin(lambda u: G_of_all(u, params, f, *closed), u0)
        carry = _advance(step, (state, u, residual), k, last, last)
        u, info = _result(carry, k + last, tolerance)
        return end(u, link), info

    return solve


def forward(G: FixedPointMap, solver: Solver, *, block: int = 32) -> Solve:
    """Forward mode: the sensitivities du/dparams go along with the iterates, [CF] (B.3).

    There is one for each entry of what is differentiated, in blocks: the iterations are run anew
    for each block of parameters, and nothing is kept of them. In exact arithmetic the gradient is
    that of `unrolled`. Info of the backward pass has the Jacobian-vector products; its residual is
    that of the sensitivities, the largest relative change of one in the last evaluation.
    Raises ValueError for a solver without a scheme or without a budget that is a plain int.

    >>> G = lambda u, params, f: 0.5 * u + params["a"] * f
    >>> solve = hypergradients.forward(G, solvers.picard(max_evaluations=3))
    >>> u = lambda a: solve({"a": a}, jnp.array([[4.0]]), jnp.zeros((1, 1)))[0].sum()
    >>> print(jax.grad(u)(1.0))  # 4 (1 + 1/2 + 1/4)
    7.0
    """
    iteration, budget = _scheme(solver), _budget(solver)

    def last_two(
        G: FixedPointMap, params: Params, f: Any, u0: Array
    ) -> tuple[tuple[Array, Array], Info]:
        step, state = iteration.begin(lambda u: G(u, params, f), u0)
        before = _advance(step, _carry(state, u0), 0, budget - 1, budget)
        carry = _advance(step, before, budget - 1, 1, 1)
        u, info = _result(carry, budget, floor_tolerance(iteration.tolerance, u0.dtype))
        return (before[1], u), info

    def ways(G: FixedPointMap) -> tuple[Run, Push]:
        def run(params: Params, f: Any, u0: Array) -> tuple[Array, Info]:
            (_, u), info = last_two(G, params, f, u0)
            return u, info

        def push(place: Callable, x: Array, d: Array, tolerance: Any) -> tuple[Array, Info]:
            _, (before, du), _ = jax.jvp(lambda x: last_two(G, *place(x)), (x,), (d,), has_aux=True)
            residual = relative_residual(du, before)
            evaluations = jnp.asarray(budget)
            return du, Info(evaluations, residual, residual <= floor_tolerance(tolerance, du.dtype))

        return run, push

    return along_directions(G, ways, unit, options=iteration.tolerance, block=block)


def piggyback(
    G: FixedPointMap,
    loss: Callable[[Array, Any], Float[Array, ""]],
    *,
    tolerance: Any = 1e-3,
    max_evaluations: Any = 50,
) -> Callable[..., Any]:
    """The adjoint iterated together with the primal variables, [CF] 4.4 [68]:

        u <- G(u, params, f),    q <- (dG/du)^T q + grad_u loss(u, target)

    each at the u before, until neither changes. Both converge where G is a contraction, to the
    fixed point and its adjoint w, and there is no separate backward pass. It is no `Solve`: that
    learns of the loss only when the solve is over, and with its gradient constant the recursion is
    `implicit.fixed_point` with the adjoint solver `picard`. Hence the loss is an argument, and
    what comes back is

        run(params, f, u0, q0, target) -> ((value, u, info), (gradient, q, adjoint_info))

    with the gradient with respect to `params`; q0 are zeros at first, then the q before. A term of
    the upper-level loss that does not depend on u is the caller's to add.
    Raises: ValueError for limits that are none, and in `run` for a u0 that is no batch, a q0 of
    another form, and a map that returns one.

    >>> G, zero = lambda u, params, f: 0.5 * u + params["a"] * f, jnp.zeros((1, 1))
    >>> run = hypergradients.piggyback(G, lambda u, target: jnp.sum((u - target) ** 2) / 2)
    >>> (_, u, _), (slope, q, _) = run({"a": 1.0}, zero + 3, zero, zero, zero + 5)
    >>> print(u.round(1), q.round(1), slope["a"].round(1))  # 6, (6 - 5) / (1 - 1/2) and 3 q
    [[6.]] [[2.]] 6.0
    """

    checks.limits(tolerance, max_evaluations)

    def run(params: Params, f: Array, u0: Array, q0: Array, target: Any) -> Any:
        checks.batch(u0=u0)
        checks.same_form(q0, u0)

        def step(k: Array, state: tuple[Array, Array]) -> tuple[Any, Array, Array]:
            u, q = state
            image, pull = jax.vjp(Map(lambda u: G(u, params, f)), u)
            adjoint = pull(q)[0] + jax.grad(loss)(u, target)
            residual = jnp.maximum(relative_residual(image, u), relative_residual(adjoint, q))
            return (image, adjoint), jnp.stack((image, adjoint)), residual

        pair, info = iterate(
            step,
            (u0, q0),
            jnp.stack((u0, q0)),
            tolerance=tolerance,
            max_evaluations=max_evaluations,
        )
        u, q = pair
        # One more evaluation, for the gradient, shows the residual of each.
        value, g = jax.value_and_grad(loss)(u, target)
        image, pull = jax.vjp(lambda u, params: G(u, params, f), u, params)
        again, gradient = pull(q)

        def info_of(new: Array, old: Array) -> Info:
            residual = relative_residual(new, old)
            good = residual <= floor_tolerance(tolerance, u.dtype)
            return Info(info.evaluations + 1, residual, good)

        return (value, u, info_of(image, u)), (gradient, q, info_of(again + g, q))

    return run


# ---- running a scheme for a known number of evaluations


def _scheme(solver: Solver) -> Iteration:
    solver = as_solver(solver)
    if not isinstance(solver, Iteration):
        raise ValueError(f"{solver}: has no scheme to unroll; expected one of SOLVERS or DESCENTS")
    return solver


def _budget(solver: Any) -> int:
    if not isinstance(solver.max_evaluations, int) or solver.max_evaluations < 1:
        raise ValueError(
            f"max_evaluations={solver.max_evaluations}: expected a plain int of 1 or more, since "
            "the number of evaluations that are differentiated is static"
        )
    return solver.max_evaluations


def _carry(state: Any, u0: Array) -> Carry:
    return state, u0, jnp.array(jnp.inf, u0.dtype)


def _advance(step: Step, carry: Carry, first: Any, count: int, segment: int) -> Carry:
    """`count` evaluations, the first of them the `first`-th, kept in segments for reverse mode."""

    def body(carry: Carry, k: Array) -> Carry:
        state, u, residual = step(k, carry[0])
        # Nobody differentiates the residual, and at 0 its norm has no derivative.
        return state, u, jax.lax.stop_gradient(residual)

    return scanned(body, carry, first + jnp.arange(count), segment)


def _result(carry: Carry, evaluations: Any, tolerance: Any) -> tuple[Array, Info]:
    _, u, residual = carry
    return u, Info(jnp.asarray(evaluations), residual, residual <= tolerance)
