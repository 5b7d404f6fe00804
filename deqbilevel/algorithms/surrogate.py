"""A proximal surrogate of the bilevel problem with the lower level linearised, [CF] 5.4, [156].

    x^u: T steps of descent on Phi(.; gamma^u) from the prediction of the step before
    D = dx*/dgamma = -H^{-1} J at (gamma^u, x^u): x*(gamma) is about x^u + D (gamma - gamma^u)
    delta: minimises  l(gamma^u + delta; x^u + D delta) + lambda ||delta||^2,  l to second order
    gamma^{u+1} = gamma^u + delta,    prediction x^u + D delta

D comes from the optimality condition of Phi, to first order in (gamma, x). This is our reading of
the review's sentence on [156], whose own text was not at hand. With

g = grad_gamma l + D^T grad_x l,    M = [I D^T] l'' [I; D]

delta solves (M + 2 lambda I) delta = -g, by K conjugate gradients; g is the hypergradient (4.8), so
that the limit is the same for any lambda >= 0. For l of least-squares type this is the method of
Levenberg and Marquardt. Nothing is formed: D p and D^T q are one solve with H each, by Q
conjugate gradients from 0, and l'' is that of l itself, which has to be convex in (gamma, x).
"""

from typing import Any, NamedTuple

import jax
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info, Problem, info, move
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import hessian, lower_level, upper_gradients
from deqbilevel.solvers import symmetric_solve


class State(NamedTuple):
    """x is the prediction that the lower level goes on from."""

    gamma: Gamma
    x: Array
    optimiser: Any


@checked()
def surrogate(
    problem: Problem,
    optimiser: optax.GradientTransformation | None = None,
    *,
    proximity: Any = 0.1,
    lower_iterations: Any = 10,
    adjoint_iterations: Any = 10,
    inner_iterations: Any = 10,
    inner_tolerance: Any = 1e-8,
    lower_solver: str = "gradient_descent",
) -> Algorithm:
    """lambda = `proximity`; T, Q and K are the three numbers of iterations, K at most: the inner
    ones stop where norm((M + 2 lambda I) delta + g) <= `inner_tolerance` norm(g).

    The optimiser is given -delta as the gradient: `optax.sgd(1.0)`, the default, takes the
    minimiser of the surrogate, a smaller rate a part of the way to it; no line search. A product
    with M is two solves of Q + 1 products with H, two products with J and one derivative of the
    gradients of l.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.surrogate(problem, proximity=0.0, lower_iterations=60)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # the solution at once, as l is quadratic
    [-1.5467  1.8852]
    """
    optimiser = optax.sgd(1.0) if optimiser is None else optimiser

    def init(gamma: Gamma, x: Array) -> State:
        return State(gamma, x, optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        gamma = state.gamma
        x, evaluations, residual = lower_level(
            problem, gamma, state.x, data, solver=lower_solver, evaluations=lower_iterations
        )
        H = hessian(problem, gamma, x, data)
        _, J = jax.linearize(lambda gamma: problem.lower_gradient(x, gamma, data), gamma)
        options = {}
        if problem.precondition is not None:
            options["precondition"] = problem.precondition(x, gamma, data)

        def inverse(g: Array) -> Any:
            return symmetric_solve(
                H,
                g,
                tolerance=None,
                max_evaluations=adjoint_iterations + 1,  # one for the residual
                **options,
            )

        def tangent(p: Gamma) -> Array:
            return -inverse(J(p))[0]

        def cotangent(g: Array) -> tuple[Gamma, Any]:
            v, found = inverse(g)
            (gradient,) = jax.linear_transpose(J, gamma)(-v)
            return gradient, found

        loss, of_gamma, of_x = upper_gradients(problem, gamma, x, data)
        through_x, adjoint = cotangent(of_x)
        gradient = optax.tree.add(of_gamma, through_x)
        flat, unravel = ravel_pytree(gradient)
        _, second = jax.linearize(
            lambda gamma, x: jax.grad(problem.upper, (0, 1))(gamma, x, data), gamma, x
        )

        def curvature(p: Array) -> Array:
            """(M + 2 lambda I) p for p: [1, R]."""
            p_gamma, p_x = second(unravel(p[0]), tangent(unravel(p[0])))
            return ravel_pytree(optax.tree.add(p_gamma, cotangent(p_x)[0]))[0] + 2 * proximity * p

        solution, inner = symmetric_solve(
            curvature, flat[None], tolerance=inner_tolerance, max_evaluations=inner_iterations + 1
        )
        new, moved = move(
            optimiser, unravel(solution[0]), state.optimiser, gamma, value=loss, grad=gradient
        )
        x = x + tangent(optax.tree.sub(new, gamma))
        products = 2 * inner.evaluations
        calls = Calls(
            evaluations, (products + 2) * adjoint.evaluations, products + 2, 1 + inner.evaluations
        )
        found = info(calls, loss, gradient, residual, adjoint.residual)
        return State(new, x, moved), found

    return Algorithm(init, step)
