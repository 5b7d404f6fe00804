r"""Plug-and-play by alternating directions, [CF] (7.4): any denoiser D in the place of a prox.

    x  = argmin_x  lam/2 ||K x - f||^2 + 1/2 ||x - (z - v)||^2
    z+ = D(x + v),    v+ = v + x - z+

Where D is the proximal map of R a fixed point z minimises lam/2 ||K z - f||^2 + R(z). D may be any
map: solved, and differentiated through the fixed point, with state (z, v), it is the DE-ADMM of
Gilton, Ongie and Willett (IEEE Trans. Comput. Imaging 7, 2021), and lam and the strength of D are
learned like weights of a network that it may be. Where D - I has the Lipschitz constant epsilon
and K^T K >= mu > 0, iterations converge at the `rate` of Ryu et al. (ICML 2019) for

    epsilon / (1 + epsilon - 2 epsilon^2) < lam mu,    epsilon < 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks, operators
from deqbilevel.operators import Operator
from deqbilevel.operators.base import require_linear
from deqbilevel.types import FixedPointMap, Images, Params
from deqbilevel.variational.problems import Data

State = Float[Array, "batch two_pixels"]
"""[z, v] of each image, side by side."""

Denoiser = Callable[[Images, Params], Images]
"""D(x, params), with its strength and what else is learned in params."""


def plug_and_play_admm(K: Operator, denoise: Denoiser) -> FixedPointMap:
    """G([z, v], params, f), for any solver and any of `hypergradients.METHODS`; its Jacobian is not
    symmetric. params: "lam", and what the denoiser reads.

    Raises: ValueError for a K that is not linear, and params without lam.

    >>> halved = lambda x, params: x / (1 + params["strength"])  # the prox of strength/2 |x|^2
    >>> G = variational.plug_and_play_admm(operators.Identity(), halved)
    >>> params, f = {"lam": 1.0, "strength": 3.0}, jnp.array([[8.0]])
    >>> u, _ = solvers.picard(tolerance=1e-6)(lambda u: G(u, params, f), jnp.zeros((1, 2)))
    >>> print(variational.plug_and_play.image(u).round(3))  # lam f / (lam + strength)
    [[2.]]
    """
    require_linear("plug_and_play_admm", K)
    checks.function("denoise", denoise)

    def G(u: State, params: Params, f: Data) -> State:
        checks.entries("params", params, ("lam",))
        own, lam = operators.of(K, params), params["lam"]
        z, v = image(u), u[:, u.shape[1] // 2 :]
        x = operators.resolvent(own, z - v + lam * own.adjoint(f), lam)
        denoised = denoise(x + v, params)
        return jnp.concatenate((denoised, v + x - denoised), axis=1)

    return G


def image(u: State) -> Images:
    """z, which the denoiser has made.

    >>> print(variational.plug_and_play.image(jnp.array([[1.0, 2.0, 3.0, 4.0]])))
    [[1. 2.]]
    """
    return u[:, : u.shape[1] // 2]


def scheduled(
    G: FixedPointMap, params: Params, schedule: Params, f: Data, start: State
) -> tuple[State, Float[Array, "iterations batch two_pixels"]]:
    """The state after a step of G for each row of the schedule, and all states on the way.

    schedule: entries of params that have one more axis in front, of the iterations: a strength for
    each, as learned with a fixed number of them. Differentiable in all, in reverse by its memory.

    >>> G = variational.plug_and_play_admm(operators.Identity(), lambda x, p: x / (1 + p["s"]))
    >>> schedule, f = {"s": jnp.array([1.0, 3.0])}, jnp.array([[8.0]])
    >>> u, _ = variational.plug_and_play.scheduled(G, {"lam": 1.0}, schedule, f, jnp.zeros((1, 2)))
    >>> print(u)  # x = 4, z = 2, v = 2; x = 4, z = 6 / 4
    [[1.5 4.5]]
    """

    def step(u: State, own: Params) -> tuple[State, State]:
        u = G(u, params | own, f)
        return u, u

    return jax.lax.scan(step, start, schedule)


def rate(epsilon: Any, mu: Any, lam: Any = 1.0) -> Any:
    """delta, by which every iteration comes nearer to the fixed point, in the variable z - v of
    Douglas and Rachford; 1 or more: no convergence follows.

    epsilon: of D - I, below 1; mu: the least eigenvalue of K^T K.
    Raises: ValueError for an epsilon or a mu below 0.

    >>> print(variational.plug_and_play.rate(0.0, 1.0), variational.plug_and_play.rate(0.5, 0.0))
    0.5 1.5
    """
    checks.number("epsilon", epsilon, least=0)
    checks.number("mu", mu, least=0)
    a = lam * mu
    return (1 + epsilon + epsilon * a + 2 * epsilon**2 * a) / (1 + a + 2 * epsilon * a)
