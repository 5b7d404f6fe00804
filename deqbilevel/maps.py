"""Fixed-point maps G(u, params, f), assembled from a forward operator K and a regulariser N.

`params` holds the weights of N and the scalars tau (step size), gamma (weight of the regulariser)
and lam (weight of the data fidelity). u: [batch, pixels], f: [batch, data]. A fixed point of the
gradient, proximal and preconditioned steps solves, whatever their step size,

    lam K^T (K u - f) + gamma N(u) = 0

Each raises ValueError for what is no operator or no function, and for params without its scalars.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.checks import Registry
from deqbilevel.operators import Operator
from deqbilevel.solvers.base import Map
from deqbilevel.types import FixedPointMap, Images, Params

Regularizer = Callable[[Images, Params], Images]


def stationarity(K: Operator, N: Regularizer) -> FixedPointMap:
    """What vanishes at a fixed point: lam K^T (K u - f) + gamma N(u)."""

    _check(K, N)

    def F(u: Images, params: Params, f: Array) -> Images:
        checks.entries("params", params, ("lam", "gamma"))
        return params["lam"] * K.adjoint(K.apply(u) - f) + params["gamma"] * N(u, params)

    return F


def gradient_step(K: Operator, N: Regularizer) -> FixedPointMap:
    """u - tau (lam K^T (K u - f) + gamma N(u)): [REB] (12), (18) for a DEQ, (14) for bilevel."""
    F = stationarity(K, N)

    def G(u: Images, params: Params, f: Array) -> Images:
        checks.entries("params", params, ("tau",))
        return u - params["tau"] * F(u, params, f)

    return G


def proximal_step(K: Operator, N: Regularizer) -> FixedPointMap:
    """(I + tau lam K^T K)^{-1} (u - tau gamma N(u) + tau lam K^T f).

    A gradient step on the regulariser, then the proximal map of the data fidelity, exactly. It is
    not in [REB], whose proximal map (10) is of the regulariser: that is `plug_and_play_step`.
    """

    _check(K, N)

    def G(u: Images, params: Params, f: Array) -> Images:
        checks.entries("params", params, ("tau", "lam", "gamma"))
        tau, lam = params["tau"], params["lam"]
        z = u - tau * (params["gamma"] * N(u, params) - lam * K.adjoint(f))
        return K.resolvent(z, tau * lam)

    return G


def preconditioned_step(K: Operator, N: Regularizer) -> FixedPointMap:
    """u - P^{-1} (lam K^T (K u - f) + gamma N(u)), with P^{-1} given as `params["inverse"]`.

    The fixed points are those of the gradient step, and P^{-1} is common to the batch; see
    `models` for its choice. It is a constant of the differentiation: at a fixed point its
    derivative is multiplied by zero.
    """
    F = stationarity(K, N)

    def G(u: Images, params: Params, f: Array) -> Images:
        checks.entries("params", params, ("inverse",))
        return u - F(u, params, f) @ jax.lax.stop_gradient(params["inverse"]).T

    return G


def plug_and_play_step(K: Operator, D: Regularizer) -> FixedPointMap:
    """D(u - tau lam K^T (K u - f)): [REB] (10), plug-and-play with a denoiser D(u, params).

    D takes the place of the proximal map of a regulariser, and is no regulariser's gradient: so
    this map is not of the table below. Where D is the proximal map of tau gamma R, the fixed points
    are those of the other steps with N = grad R; any other D has fixed points that depend on tau.
    Learned through the fixed point, this map is the DeProx of [REB] and of Gilton, Ongie and
    Willett (2021), "Deep Equilibrium Architectures for Inverse Problems in Imaging"; with D learned
    beforehand, from noisy images alone, it is plug-and-play proximal gradient.
    """

    _check(K, D)

    def G(u: Images, params: Params, f: Array) -> Images:
        checks.entries("params", params, ("tau", "lam"))
        step = params["tau"] * params["lam"] * K.adjoint(K.apply(u) - f)
        return D(u - step, params)

    return G


def naive_objective(G: FixedPointMap) -> Callable[[Params, Images, Array], Float[Array, ""]]:
    """mean (G(truth, params, f) - truth)^2: [REB] (16), and (17), which is the same rewritten.

    It asks the true image to be a fixed point and solves nothing. Where K loses information, as in
    the masked rows of inpainting, it asks the regulariser to vanish there, and so cannot fill them.
    """

    checks.function("G", G)

    def objective(params: Params, truth: Images, f: Array) -> Float[Array, ""]:
        checks.rows("truth", truth)
        return jnp.mean((Map(lambda u: G(u, params, f))(truth) - truth) ** 2)

    return objective


def _check(K: Any, N: Any) -> None:
    """Raises: ValueError for what is no operator, or no function."""
    for name in ("apply", "adjoint"):
        checks.function(f"K.{name}", getattr(K, name, None))
    checks.function("N", N)


MAPS: Registry[Callable[[Operator, Regularizer], FixedPointMap]] = Registry(
    "map",
    {
        "gradient_step": gradient_step,
        "proximal_step": proximal_step,
        "preconditioned_step": preconditioned_step,
    },
)
"""Every map. The shared property tests walk this table."""
