"""Fixed-point maps G(u, params, f), assembled from a forward operator K, a regulariser N and a data
fidelity D.

`params` holds the weights of N and the scalars tau (step size), gamma (weight of the regulariser)
and lam (weight of the data fidelity), and K where it is learned. u: [batch, pixels],
f: [batch, data]. A fixed point of the gradient, proximal and preconditioned steps solves, whatever
their step size,

    lam K^T D'(K u; f) + gamma N(u) = 0,    D'(v; f) = v - f for squares

with K'(u)^T D'(K(u); f) for a K that is not linear. Each raises ValueError for what is no operator
or no function, and for params without its scalars.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks, operators
from deqbilevel.checks import Registry
from deqbilevel.fidelities import Fidelity, squares
from deqbilevel.operators import Operator
from deqbilevel.operators.base import require, require_linear
from deqbilevel.solvers.base import Map
from deqbilevel.types import FixedPointMap, Images, Params

Gradient = Callable[[Images, Params], Images]
"""N(u, params), the gradient of a regulariser, or in a DEQ any map."""


def stationarity(K: Operator, N: Gradient, D: Fidelity = squares) -> FixedPointMap:
    """What vanishes at a fixed point: lam K^T D'(K u; f) + gamma N(u).

    >>> F = maps.stationarity(operators.identity((1, 1)), lambda u, params: u)  # R = |u|^2 / 2
    >>> params, f = {"lam": 1.0, "gamma": 3.0}, jnp.array([[8.0]])
    >>> print(F(jnp.array([[2.0]]), params, f), F(jnp.array([[3.0]]), params, f))
    [[0.]] [[4.]]
    """

    fit = _fit(K, N, D)

    def F(u: Images, params: Params, f: Array) -> Images:
        checks.entries("params", params, ("lam", "gamma"))
        return params["lam"] * fit(u, params, f) + params["gamma"] * N(u, params)

    return F


def gradient_step(K: Operator, N: Gradient, D: Fidelity = squares) -> FixedPointMap:
    """u - tau (lam K^T D'(K u; f) + gamma N(u)): [REB] (12), (18) for a DEQ, (14) for bilevel.

    >>> G = maps.gradient_step(operators.identity((1, 1)), lambda u, params: u)
    >>> params, f = {"tau": 0.5, "lam": 1.0, "gamma": 1.0}, jnp.array([[4.0]])
    >>> print(G(jnp.array([[1.0]]), params, f), G(jnp.array([[2.0]]), params, f))  # 2 is fixed
    [[2.]] [[2.]]
    """
    F = stationarity(K, N, D)

    def G(u: Images, params: Params, f: Array) -> Images:
        checks.entries("params", params, ("tau",))
        return u - params["tau"] * F(u, params, f)

    return G


def proximal_step(K: Operator, N: Gradient, D: Fidelity = squares) -> FixedPointMap:
    """(I + tau lam K^T K)^{-1} (u - tau gamma N(u) + tau lam K^T f).

    A gradient step on the regulariser, then the proximal map of the data fidelity, exactly. It is
    not in [REB], whose proximal map (10) is of the regulariser: that is `plug_and_play_step`.
    Raises: ValueError for a fidelity other than squares, whose proximal map of u is not linear, and
    for a K that is not linear.

    >>> G = maps.proximal_step(operators.identity((1, 1)), lambda u, params: u)
    >>> params, f = {"tau": 1.0, "lam": 1.0, "gamma": 1.0}, jnp.array([[4.0]])
    >>> print(G(jnp.array([[1.0]]), params, f))  # (1 - 1 + 4) / (1 + 1), which is fixed
    [[2.]]
    """

    _fit(K, N, D)
    require_linear("proximal_step", K)
    if D is not squares:
        raise ValueError(
            "proximal_step: needs the proximal map of D(K u), which is known for squares alone; "
            "take gradient_step"
        )

    def G(u: Images, params: Params, f: Array) -> Images:
        checks.entries("params", params, ("tau", "lam", "gamma"))
        tau, lam, own = params["tau"], params["lam"], operators.of(K, params)
        z = u - tau * (params["gamma"] * N(u, params) - lam * own.adjoint(f))
        return operators.resolvent(own, z, tau * lam)

    return G


def preconditioned_step(K: Operator, N: Gradient, D: Fidelity = squares) -> FixedPointMap:
    """u - P^{-1} (lam K^T D'(K u; f) + gamma N(u)), with P^{-1} given as `params["inverse"]`.

    The fixed points are those of the gradient step, and P^{-1} is common to the batch; see
    `models` for its choice. It is a constant of the differentiation: at a fixed point its
    derivative is multiplied by zero.

    >>> G = maps.preconditioned_step(operators.identity((1, 1)), lambda u, params: u)
    >>> params = {"lam": 1.0, "gamma": 1.0, "inverse": jnp.array([[0.5]])}  # P = lam + gamma
    >>> print(G(jnp.array([[1.0]]), params, jnp.array([[4.0]])))  # one step of Newton's method
    [[2.]]
    """
    F = stationarity(K, N, D)

    def G(u: Images, params: Params, f: Array) -> Images:
        checks.entries("params", params, ("inverse",))
        return u - F(u, params, f) @ jax.lax.stop_gradient(params["inverse"]).T

    return G


def nonnegative(G: FixedPointMap) -> FixedPointMap:
    """max(G(u, params, f), 0): the step, and then the nearest u >= 0.

    Of a gradient step this is projected gradient descent, and a fixed point of it minimises over
    u >= 0: the gradient vanishes where u > 0 and is not negative where u = 0. Of another step it
    is no such thing, as a projection in the metric of that step would be.

    >>> G = maps.nonnegative(maps.gradient_step(operators.identity((1, 2)), lambda u, params: u))
    >>> params, f = {"tau": 0.5, "lam": 1.0, "gamma": 1.0}, jnp.array([[4.0, -4.0]])
    >>> print(G(jnp.array([[1.0, 1.0]]), params, f))
    [[2. 0.]]
    """
    checks.function("G", G)
    return lambda u, params, f: jax.nn.relu(G(u, params, f))


def plug_and_play_step(K: Operator, N: Gradient, D: Fidelity = squares) -> FixedPointMap:
    """(I - N)(u - tau lam K^T D'(K u; f)): [REB] (10), plug-and-play with the denoiser I - N.

    The denoiser takes the place of the proximal map of a regulariser. Where it is that of
    tau gamma R, the fixed points are those of the other steps with the gradient of R; those of any
    other denoiser depend on tau, and gamma counts for nothing: so this map is not of the table
    below. Learned through the fixed point, this map is the DeProx of [REB] and of Gilton, Ongie and
    Willett (2021), "Deep Equilibrium Architectures for Inverse Problems in Imaging"; with N learned
    beforehand, from noisy images alone, it is plug-and-play proximal gradient.

    >>> G = maps.plug_and_play_step(operators.identity((1, 1)), lambda u, params: 0.5 * u)
    >>> params, f = {"tau": 1.0, "lam": 1.0}, jnp.array([[4.0]])
    >>> print(G(jnp.array([[1.0]]), params, f))  # half of f
    [[2.]]
    """

    fit = _fit(K, N, D)

    def G(u: Images, params: Params, f: Array) -> Images:
        checks.entries("params", params, ("tau", "lam"))
        z = u - params["tau"] * params["lam"] * fit(u, params, f)
        return z - N(z, params)

    return G


def naive_objective(G: FixedPointMap) -> Callable[[Params, Images, Array], Float[Array, ""]]:
    """mean (G(truth, params, f) - truth)^2: [REB] (16), and (17), which is the same rewritten.

    It asks the true image to be a fixed point and solves nothing. Where K loses information, as in
    the masked rows of inpainting, it asks the regulariser to vanish there, and so cannot fill them.
    Raises: ValueError for truth that is no batch of images, and a map that gives others.

    >>> G = maps.gradient_step(operators.identity((1, 1)), lambda u, params: u)
    >>> params, f = {"tau": 0.5, "lam": 1.0, "gamma": 1.0}, jnp.array([[4.0]])
    >>> print(maps.naive_objective(G)(params, jnp.array([[4.0]]), f))  # (4 - 0.5 * 4 - 4)^2
    4.0
    """

    checks.function("G", G)

    def objective(params: Params, truth: Images, f: Array) -> Float[Array, ""]:
        checks.rows("truth", truth)
        return jnp.mean((Map(lambda u: G(u, params, f))(truth) - truth) ** 2)

    return objective


def _fit(K: Operator, N: Gradient, D: Fidelity) -> FixedPointMap:
    """u, params, f -> K'(u)^T D'(K u; f), the gradient of the data fidelity in u.

    Raises: ValueError for what is no operator, no function, or no fidelity.
    """
    require("K", K)
    checks.function("N", N)
    checks.function("D.gradient", getattr(D, "gradient", None))

    def fit(u: Images, params: Params, f: Array) -> Images:
        v, back = operators.pullback(operators.of(K, params), u)
        return back(D.gradient(v, f))

    return fit


MAPS: Registry[Callable[..., FixedPointMap]] = Registry(
    "map",
    {
        "gradient_step": gradient_step,
        "proximal_step": proximal_step,
        "preconditioned_step": preconditioned_step,
    },
)
"""Every map of (K, N, D). The shared property tests walk this table."""
