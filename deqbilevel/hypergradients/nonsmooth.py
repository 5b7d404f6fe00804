"""Lower levels that are not smooth: the 1-norm analysis regulariser, [CF] 4.3 and 4.4.2.

    min_x  lam/2 ||K x - f||^2 + gamma ||Omega x||_1
        =  min_x max_{|d| <= 1}  lam/2 ||K x - f||^2 + gamma <d, Omega x>

There are two ways to its derivative. `primal_dual_step` is a map G([x, d], params, f) of primal and
dual variables whose iterates depend smoothly on the parameters, so that any of our methods applies
to it, `unrolled` before all: 4.4.2. `single_level` is the minimiser in closed form where the signs
of Omega x are known, the translation to a single level: 4.3. The proximal map of [CF] (4.23), a
third, is `potentials.PowerSum.prox`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import operators
from deqbilevel.operators import Operator
from deqbilevel.operators.base import require_linear
from deqbilevel.types import FixedPointMap, Images, Params

Analysis = Callable[[Images, Params], Float[Array, "batch features"]]
"""`analysis(x, params)`: Omega x of each image, linear or affine in x."""

State = Float[Array, "batch pixels_and_features"]
"""[x, d] of each image, side by side: the primal variable and the dual one, |d| < 1."""


def primal_dual_step(K: Operator, analysis: Analysis) -> FixedPointMap:
    """A step of the primal-dual algorithm with a Bregman divergence, [CF] 4.4.2, (4.20) to (4.22):

        x+ = argmin_x  lam/2 ||K x - f||^2 + gamma <d, Omega x> + ||x - x_before||^2 / (2 tau)
        d+ = argmax_d  gamma <d, Omega (2 x+ - x_before)> - D(d, d_before) / tau

    where the printed (4.20) lacks `<d, Omega x>`. D is the Bregman divergence of
    1/2 ((1 + d) log(1 + d) + (1 - d) log(1 - d)), which keeps |d| < 1 without a projection, so that

        artanh d+ = artanh d + tau gamma Omega (2 x+ - x_before)

    is smooth. Converges for tau gamma ||Omega|| <= 1. At the solution |d| = 1 where Omega x is
    not zero, and there dd+/dd is below 1 as well: G is a map that `implicit.fixed_point` can take.
    Raises: ValueError for a K that is not linear.

    >>> omega = lambda x, params: x  # min (x - f)^2 / 2 + |x| / 2: a soft threshold
    >>> G = hypergradients.primal_dual_step(operators.identity((1, 2)), omega)
    >>> params, f = {"tau": 1.0, "lam": 1.0, "gamma": 0.5}, jnp.array([[2.0, 0.25]])
    >>> u, _ = solvers.picard(tolerance=1e-6)(lambda u: G(u, params, f), jnp.zeros((1, 4)))
    >>> print(jnp.abs(u).round(2))  # x = (1.5, 0) and d = (1, 0.5)
    [[1.5 0.  1.  0.5]]
    """
    require_linear("primal_dual_step", K)

    def G(u: State, params: Params, f: Array) -> State:
        back = K.adjoint(f)
        x, d = u[:, : back.shape[1]], u[:, back.shape[1] :]
        tau, lam, gamma = params["tau"], params["lam"], params["gamma"]
        _, adjoint = jax.vjp(lambda x: analysis(x, params), x)
        z = x - tau * (gamma * adjoint(d)[0] - lam * back)
        moved = operators.resolvent(K, z, tau * lam)
        return jnp.concatenate((moved, _mirror(d, moved + (moved - x), analysis, params)), axis=1)

    return G


def primal_dual_start(x: Images, params: Params, analysis: Analysis) -> State:
    """[x, d] after the first dual step from d = 0, to start `primal_dual_step` at.

    >>> x, params = jnp.array([[9.0, 0.0]]), {"tau": 1.0, "gamma": 1.0}
    >>> print(hypergradients.primal_dual_start(x, params, lambda x, params: x))  # x, then tanh x
    [[9. 0. 1. 0.]]
    """
    none = jnp.zeros_like(analysis(x, params))
    return jnp.concatenate((x, _mirror(none, x, analysis, params)), axis=1)


def _mirror(d: Array, x: Array, analysis: Analysis, params: Params) -> Array:
    """d+ with artanh d+ = artanh d + tau gamma Omega x, by the addition theorem of tanh."""
    t = jnp.tanh(params["tau"] * params["gamma"] * analysis(x, params))
    # Rounding must not reach 1, which no step leaves again, and whose quotient may be 0/0.
    most = 1 - jnp.finfo(d.dtype).eps
    d, t = jnp.clip(d, -most, most), jnp.clip(t, -most, most)
    return (d + t) / (1 + d * t)


def signs(z: Float[Array, "*shape"], tolerance: Any = 1e-6) -> Float[Array, "*shape"]:
    """-1, 0 or 1 for each entry of z = Omega x, 0 for |z| <= tolerance. It has no gradient.

    >>> print(hypergradients.nonsmooth.signs(jnp.array([3.0, 1e-9, -2.0])))
    [ 1.  0. -1.]
    """
    return jnp.where(jnp.abs(z) > tolerance, jnp.sign(z), 0)


def single_level(
    Omega: Float[Array, "features pixels"],
    y: Images,
    weight: Any,
    pattern: Float[Array, "batch features"],
) -> Images:
    """argmin_x 1/2 ||x - y||^2 + weight ||Omega x||_1 where the signs of Omega x are known:

        x = (I - Omega_B^+ Omega_B) (y - weight Omega^T pattern)           [CF] (4.13), (4.16)

    with B the rows where the pattern is 0: x is the projection onto their kernel. It replaces the
    lower level, and its derivative with respect to Omega, y and weight is that of the minimiser,
    for as long as the signs stay. `weight` may be one number, or one for each feature.

    The pattern is `signs` of an accurate solution. Where it is wrong, so is x, and nothing here
    says so: it is right if signs(Omega x) is the pattern again and some |d| <= 1 on B has
    weight Omega_B^T d = y - weight Omega^T pattern - x. On the border |d| = 1 of a sign's change
    the minimiser has only one-sided derivatives. The derivative with respect to Omega needs
    Omega_B to keep its rank.

    >>> y, pattern = jnp.array([[2.0, 0.25]]), jnp.array([[1.0, 0.0]])
    >>> print(hypergradients.single_level(jnp.eye(2), y, 0.5, pattern))  # the soft threshold of y
    [[1.5 0. ]]
    """

    def one(y: Array, pattern: Array) -> Array:
        B = jnp.where(pattern[:, None] == 0, Omega, 0)
        z = y - (weight * pattern) @ Omega
        return z - jnp.linalg.pinv(B) @ (B @ z)

    return jax.vmap(one)(y, pattern)
