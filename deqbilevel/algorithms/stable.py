"""STABLE: single-timescale stochastic bilevel optimisation, Chen, Sun, Yin (2021), [CF] (5.3).

With dense matrices H = grad_xx Phi and J = grad_xgamma Phi, and a sample xi that is the same at
both points z = (gamma, x),

    D_xx^u = P[(1 - tau) (D_xx^{u-1} - H(z^{u-1}; xi)) + H(z^u; xi)]        eigenvalues >= mu
    D_xg^u = P[(1 - tau) (D_xg^{u-1} - J(z^{u-1}; xi)) + J(z^u; xi)]        norm <= C
    gamma^{u+1} = gamma^u - alpha_l (grad_gamma l - D_xg^T D_xx^{-1} grad_x l)
    x^{u+1} = x^u - beta grad_x Phi - D_xx^{-1} D_xg (gamma^{u+1} - gamma^u)

The first matrices are those of the first sample. The last term moves x along with its minimiser,
so that both levels may have one timescale. P takes the nearest symmetric matrix with eigenvalues of
mu at least, and scales the other to a Frobenius norm of C at most. In print the last bracket of
(5.3) is another, and the inverse of the size of gamma: it is gamma^{u+1} - gamma^u, and that of x.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info, Problem, info, move
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import upper_gradients
from deqbilevel.hypergradients.stochastic import at, at_both, recursive_momentum

Hessians = Float[Array, "batch n n"]
Crosses = Float[Array, "batch n r"]
"""H and J of each row of x."""


class State(NamedTuple):
    """The point of the step before, and the matrices estimated there; u counts the steps."""

    gamma: Gamma
    x: Array
    previous_gamma: Gamma
    previous_x: Array
    hessian: Hessians
    cross: Crosses
    u: Array
    optimiser: Any


@checked()
def stable(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    momentum: Any = 0.5,
    mu: Any = None,
    cross_bound: Any = jnp.inf,
    correction: Any = 1.0,
    lower_schedule: Any = 1.0,
    largest: int = 4096,
) -> Algorithm:
    """momentum: u -> tau in [0, 1], or a number; mu: None for the problem's; cross_bound: C.

    correction: what the last term is multiplied by, 0 to leave it out. lower_schedule: u -> beta by
    the problem's own step, or a number. H costs n products a row of x, all rows at once, J as many
    as gamma has numbers, and either is evaluated twice; D_xx takes O(n^3). Small problems only.
    Raises ValueError where mu is not known, and for rows of x or a gamma of more than `largest`
    numbers.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.stable(problem, optax.sgd(1.0))
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # minus B' H^{-1} (x - d) at x = 0, (1, -1)
    [-1.  1.]
    """
    smallest = problem.strong_convexity if mu is None else mu
    if smallest is None:
        raise ValueError(
            "stable: the problem has no strong_convexity; expected a bound mu > 0 of the "
            "eigenvalues of its Hessian from below, pass mu=..."
        )

    def init(gamma: Gamma, x: Array) -> State:
        n, r = x[0].size, ravel_pytree(gamma)[0].size
        if max(n, r) > largest:
            raise ValueError(
                f"stable: rows of {n} unknowns and {r} upper-level variables, expected at most "
                f"{largest} of either, for dense matrices; take a method of products, such as mrbo"
            )
        matrices = jnp.zeros((len(x), n, n), x.dtype), jnp.zeros((len(x), n, r), x.dtype)
        return State(gamma, x, gamma, x, *matrices, jnp.zeros((), int), optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        gamma, x, previous_gamma, previous_x, _, _, u, moved = state
        for_lower, for_upper, for_matrices = jax.random.split(key, 3)
        sample = problem.draw(data, for_matrices)
        new, old = at_both(
            lambda gamma, x: dense(problem, gamma, x, sample),
            (gamma, x),
            (previous_gamma, previous_x),
        )
        tau = jnp.where(u == 0, 1, at(momentum, u, x.dtype))
        hessian, cross = recursive_momentum((state.hessian, state.cross), new, old, tau)
        values, vectors = jnp.linalg.eigh((hessian + hessian.mT) / 2)
        values = jnp.maximum(values, smallest)
        cross = cross * jnp.minimum(1, cross_bound / (jnp.linalg.norm(cross.ravel()) + 1e-30))

        def solve(b: Array) -> Array:
            """D_xx^{-1} b, row by row of b: [batch, n]."""
            return ((b[:, None] @ vectors / values[:, None]) @ vectors.mT)[:, 0]

        loss, of_gamma, of_x = upper_gradients(problem, gamma, x, problem.draw(data, for_upper))
        _, unravel = ravel_pytree(gamma)
        v = solve(of_x.reshape(len(x), -1))
        gradient = optax.tree.sub(of_gamma, unravel(jnp.einsum("bnr,bn->r", cross, v)))
        new_gamma, moved = move(optimiser, gradient, moved, gamma)

        G = problem.lower_gradient(x, gamma, problem.draw(data, for_lower))
        change, _ = ravel_pytree(optax.tree.sub(new_gamma, gamma))
        along = solve(cross @ change).reshape(x.shape)
        beta = at(lower_schedule, u, x.dtype) * problem.lower_step(gamma)
        new_x = x - beta * G - correction * along
        _, n, r = cross.shape
        calls = Calls(1, 2 * n, 2 * r, 1)
        hessian = vectors * values[:, None] @ vectors.mT
        return (
            State(new_gamma, new_x, gamma, x, hessian, cross, u + 1, moved),
            info(calls, loss, gradient, jnp.linalg.norm(G.ravel()), jnp.nan),
        )

    return Algorithm(init, step, rows=("x", "previous_x", "hessian", "cross"))


def dense(problem: Problem, gamma: Gamma, x: Array, data: Data) -> tuple[Hessians, Crosses]:
    """H and J at (gamma, x), for each row of x, which the lower level does not mix."""
    flat, unravel = ravel_pytree(gamma)
    rows = x.reshape(len(x), -1)

    def G(rows: Array, flat: Array) -> Array:
        return problem.lower_gradient(rows.reshape(x.shape), unravel(flat), data).reshape(
            rows.shape
        )

    def column(e: Array) -> Array:
        tangent = jnp.broadcast_to(e, rows.shape)
        return jax.jvp(lambda rows: G(rows, flat), (rows,), (tangent,))[1]

    hessian = jax.vmap(column, out_axes=2)(jnp.eye(rows.shape[1], dtype=x.dtype))
    return hessian, jax.jacfwd(lambda flat: G(rows, flat))(flat)
