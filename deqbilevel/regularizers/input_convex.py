"""Input-convex networks as regularisers, and a difference of two:

    psi(u) = 1' s(P s(W u + b) + Q u + q),    s(z) = log(1 + e^z),    P >= 0
    R(u) = t psi_1(c_1 u) / (c_1^2 L_1) - rho psi_2(c_2 u) / (c_2^2 L_2)

    rho = 0    convex                          `input_convex`
    rho = 1    weakly convex, of modulus 1     `difference_of_convex`

psi is convex as s is and does not decrease (Amos, Xu and Kolter, ICML 2017); filters of W and Q sum
to zero. With s' <= 1 and s'' <= 1/4 the gradient of psi has the Lipschitz constant

    L = 1/4 (||P|| ||W|| + ||Q||)^2 + 1/4 ||W||^2 max P' 1

for images of every size, with the bounds of `convolutions.chains` for ||W|| and ||Q||, and of the
sum of its taps for ||P||. Over L, so, curvatures are at most t and rho: the cost of denoising

    lam/2 ||u - f||^2 + gamma R(u)

is convex for lam >= gamma rho, whatever was learned, as that of `regularizers.ridge` is. (Published
differences of convex networks are not bound like that.)

`params` holds `convex` and `concave`, the weights of psi_1 and psi_2 (`W`, `Q`: [rows, columns, 1,
channels], `P`: [rows, columns, channels, channels], through a softplus, `b`, `q`: [channels] and
`scale`: log c), and `bend`: log t.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.convolutions import PAD, PAD_NORM, Boundary, chains, channels
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.types import Images, Params

FIRST_SCALE, FIRST_BEND = float(np.log(20.0)), 5.0
"""log c and log t before learning, for images in [0, 1]."""


def input_convex(
    shape: tuple[int, int],
    *,
    channels: int = 16,
    size: int = 5,
    boundary: Boundary = "reflecting",
    rho: float = 0.0,
) -> Regularizer:
    """The regulariser of images of a shape.

    channels: of both layers; size: of all kernels, `size` x `size` pixels; boundary: how u is
    continued, as zeros are where its features end; rho: the modulus of weak convexity.
    Raises: ValueError for counts below 1, an even size, an unknown boundary and a negative rho.

    >>> R = regularizers.REGULARIZERS["difference_of_convex"]((8, 8), channels=2, size=3)
    >>> print(R.learned, round(float(R.lipschitz(R.init(jax.random.key(0)))), 1))
    ('convex', 'concave', 'bend') 148.4
    """
    checks.pixels(shape)
    checks.known("boundary", boundary, PAD)
    checks.number("rho", rho, least=0)
    for name, count in (("channels", channels), ("size", size)):
        checks.whole(name, count)
    if size % 2 == 0:
        raise ValueError(f"size={size}: expected an odd one, for a pixel in the middle")
    names = ("convex", "concave") if rho else ("convex",)

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        keys = jax.random.split(checks.key("key", key), len(names))
        drawn = {n: _drawn(k, channels, size) for n, k in zip(names, keys, strict=True)}
        return drawn | {"bend": jnp.asarray(FIRST_BEND, float)}

    def energy(u: Images, params: Params) -> Float[Array, " batch"]:
        x = u.reshape(-1, *shape, 1)
        total = jnp.exp(params["bend"]) * _over_curvature(x, params["convex"], boundary)
        return total - rho * _over_curvature(x, params["concave"], boundary) if rho else total

    def gradient(u: Images, params: Params) -> Images:
        return jax.grad(lambda u: jnp.sum(energy(u, params)))(u)

    def lipschitz(params: Params) -> Float[Array, ""]:
        return jnp.maximum(jnp.exp(params["bend"]), rho)

    return Regularizer(
        shape,
        init,
        gradient,
        (*names, "bend"),
        energy=energy,
        lipschitz=lipschitz,
        descent="preconditioned_momentum",
    )


def difference_of_convex(
    shape: tuple[int, int],
    *,
    channels: int = 16,
    size: int = 5,
    boundary: Boundary = "reflecting",
) -> Regularizer:
    """`input_convex` with rho = 1.

    >>> R = regularizers.input_convex.difference_of_convex((8, 8), channels=2, size=3)
    >>> print(sorted(R.init(jax.random.key(0))["concave"]))
    ['P', 'Q', 'W', 'b', 'q', 'scale']
    """
    return input_convex(shape, channels=channels, size=size, boundary=boundary, rho=1.0)


def _over_curvature(
    x: Float[Array, "batch height width 1"], weights: dict[str, Any], boundary: Boundary
) -> Float[Array, " batch"]:
    """psi(c u) / (c^2 L)."""
    W, Q = (channels.centred(weights[name]) for name in ("W", "Q"))
    P, scale = jax.nn.softplus(weights["P"]), jnp.exp(weights["scale"])
    z = jax.nn.softplus(channels.convolve(scale * x, W, boundary) + weights["b"])
    y = channels.convolve(z, P) + channels.convolve(scale * x, Q, boundary) + weights["q"]
    psi = jnp.sum(jax.nn.softplus(y), axis=(1, 2, 3))
    return psi / (scale**2 * _curvature(W, P, Q) * PAD_NORM[boundary])


def _curvature(W: Array, P: Array, Q: Array) -> Float[Array, ""]:
    """L, with zeros beyond the border."""
    taps = jnp.sum(P, axis=(0, 1))  # of entries that are not negative, the largest transfer matrix
    W_norm, Q_norm = chains.norm([W]), chains.norm([Q])
    most = jnp.max(jnp.sum(taps, axis=1))
    return ((jnp.linalg.norm(taps, 2) * W_norm + Q_norm) ** 2 + W_norm**2 * most) / 4


def _drawn(key: PRNGKeyArray, channels: int, size: int) -> dict[str, Any]:
    of_W, of_P, of_Q = jax.random.split(key, 3)
    form = (size, size, 1, channels)
    count = size**2 * channels
    return {
        "W": jax.random.normal(of_W, form, float) / size,
        "Q": jax.random.normal(of_Q, form, float) / size,
        "P": jnp.log(jnp.expm1(1 / count))
        + 0.1 * jax.random.normal(of_P, (size, size, channels, channels), float),
        "b": jnp.zeros(channels),
        "q": jnp.zeros(channels),
        "scale": jnp.asarray(FIRST_SCALE, float),
    }
