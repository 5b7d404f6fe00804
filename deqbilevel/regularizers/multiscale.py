"""Ridge regularisers on an image and on what is left of it at half the size, a quarter and so on:

    R(u) = sum_l w_l R_l(D_l u),    N(u) = sum_l w_l D_l^T N_l(D_l u),    sum_l w_l = 1

R_l are those of `regularizers.ridge`, each with kernels of its own, and D_l is l times the sum of
2x2 pixels over 2, which is orthonormal: ||D_l|| = 1, and white noise stays as it is. So R is weakly
convex of modulus rho where all R_l are, and the cost of denoising is convex whatever was learned. A
filter of n pixels sees 2^l n there, [CF] 7.5, and a level takes a quarter of the time of the one
before. D_l^T is the transpose of D_l, exactly; a last row or column without another is left out.

`params` holds `level_0`, `level_1`, ..., the params of each R_l, and `shares`: [levels], log w_l
but for a constant.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.convolutions import Boundary
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.regularizers.ridge import ridge
from deqbilevel.types import Images, Params


def multiscale_ridge(
    shape: tuple[int, int],
    *,
    levels: int = 2,
    channels: tuple[int, int, int] = (4, 8, 16),
    size: int = 5,
    boundary: Boundary = "reflecting",
    rho: float = 1.0,
) -> Regularizer:
    """The regulariser of images of a shape.

    levels: how many sizes, the first that of the image; the rest as for `ridge`.
    Raises: ValueError as `ridge` does, and for levels that leave no image.

    >>> R = regularizers.REGULARIZERS["multiscale_ridge"]((8, 8), channels=(2, 2, 3), size=3)
    >>> print(R.learned, round(float(R.lipschitz(R.init(jax.random.key(0)))), 1))
    ('level_0', 'level_1', 'shares') 54.6
    """
    checks.pixels(shape)
    checks.whole("levels", levels)
    if 2 ** (levels - 1) > min(shape):
        raise ValueError(
            f"levels={levels}: nothing is left of an image of {shape[0]}x{shape[1]}; take fewer"
        )
    shapes = [tuple(n // 2**level for n in shape) for level in range(levels)]
    parts = [
        ridge((h, w), channels=channels, size=size, boundary=boundary, rho=rho) for h, w in shapes
    ]
    names = tuple(f"level_{level}" for level in range(levels))

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        keys = jax.random.split(checks.key("key", key), levels)
        drawn = {n: R.init(k) for n, R, k in zip(names, parts, keys, strict=True)}
        return drawn | {"shares": jnp.zeros(levels)}

    def pieces(u: Images, params: Params) -> list[tuple[Regularizer, Array, Params, Array]]:
        """R_l, D_l u, the params of R_l and w_l."""
        return [
            (R, reduced(u, shape, level), params[name], share)
            for level, (R, name, share) in enumerate(
                zip(parts, names, jax.nn.softmax(params["shares"]), strict=True)
            )
        ]

    def energy(u: Images, params: Params) -> Float[Array, " batch"]:
        found = [share * _energy(R, x, own) for R, x, own, share in pieces(u, params)]
        return jnp.sum(jnp.stack(found), axis=0)

    def gradient(u: Images, params: Params) -> Images:
        total = jnp.zeros_like(u)
        for level, (R, x, own, share) in enumerate(pieces(u, params)):
            _, pull = jax.vjp(lambda u, level=level: reduced(u, shape, level), u)
            total = total + share * pull(R.gradient(x, own))[0]
        return total

    def lipschitz(params: Params) -> Float[Array, ""]:
        """sum_l w_l Lip(N_l) ||D_l||^2, with ||D_l|| = 1."""
        shares = jax.nn.softmax(params["shares"])
        return shares @ jnp.stack(
            [_lipschitz(R, params[name]) for R, name in zip(parts, names, strict=True)]
        )

    return Regularizer(
        shape,
        init,
        gradient,
        (*names, "shares"),
        energy=energy,
        lipschitz=lipschitz,
        descent="preconditioned_momentum",
    )


def reduced(u: Images, shape: tuple[int, int], level: int) -> Float[Array, "batch fewer"]:
    """D_l u.

    >>> print(regularizers.multiscale.reduced(jnp.ones((1, 15)), (3, 5), 1))
    [[2. 2.]]
    """
    height, width = shape
    for _ in range(level):
        x = u.reshape(len(u), height, width)
        height, width = height // 2, width // 2
        blocks = x[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2)
        u = jnp.sum(blocks, axis=(2, 4)).reshape(len(u), -1) / 2
    return u


def _energy(R: Regularizer, u: Images, params: Params) -> Float[Array, " batch"]:
    assert R.energy is not None
    return R.energy(u, params)


def _lipschitz(R: Regularizer, params: Params) -> Float[Array, ""]:
    assert R.lipschitz is not None
    return R.lipschitz(params)
