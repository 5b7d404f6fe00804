"""Total deep variation at a small size: an energy that a network with skips at two scales sees.

    R(u) = 1' (v' x_3(c u)) / c^2,    x_0 = K u,    block(x) = x + B phi(A x)
    x_1 = block(x_0),    y = block(D x_1),    x_2 = x_1 + D^T y,    x_3 = block(x_2)

after Kobler, Effland, Kunisch and Pock (IEEE Trans. PAMI 44, 2022), with one macro-block of two
scales: phi(z) = log(1 + z^2) / 2, filters of K sum to zero, D is the sum of 2x2 pixels over 2,
which is orthonormal, and each block has kernels A and B of its own. R is not convex in general, and
nothing bounds it below by itself; it grows as |u| at most, and the cost is bounded by its fidelity
where K sees all of u.

The Hessian of R is sum_l J_l^T diag(g_l phi''(z_l)) J_l over the blocks, with the arguments z_l of
phi, their Jacobians J_l by u, and the slopes g_l of R by phi(z_l). With |phi''| <= 1, |phi'| <= 1/2
it is at most sum_l ||J_l||^2 max |g_l|, where norms of layers are bounded by their rows and
columns, ||A||^2 <= ||A||_1 ||A||_inf, and the slopes by ||A^T||_inf = ||A||_1 alone.

`params` holds `first`: K, [rows, columns, 1, channels], `blocks`: A and B of each of the three,
[rows, columns, channels, channels], `v`: [channels], and `scale`: log c.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.convolutions import PAD, PAD_NORM, Boundary, channels
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.types import Images, Params

BLOCKS = 3
"""Fine, coarse, fine."""

FIRST_SCALE = float(np.log(20.0))
"""log c before learning, for images in [0, 1]."""

Features = Float[Array, "batch height width channels"]
"""Images of many channels."""


def total_deep_variation(
    shape: tuple[int, int],
    *,
    channels: int = 8,
    size: int = 3,
    boundary: Boundary = "reflecting",
) -> Regularizer:
    """The regulariser of images of a shape.

    channels: of all features; size: of all kernels, `size` x `size` pixels; boundary: how u is
    continued, as zeros are where its features end.
    Raises: ValueError for counts below 1, an even size, an unknown boundary, and images of less
    than two rows or columns.

    >>> R = regularizers.REGULARIZERS["total_deep_variation"]((8, 8), channels=2)
    >>> params = R.init(jax.random.key(0))
    >>> u = jnp.linspace(0.0, 1.0, 64)[None]
    >>> print(bool(jnp.allclose(R.energy(u, params), R.energy(u + 1, params), rtol=1e-3)))
    True
    """
    checks.pixels(shape)
    checks.known("boundary", boundary, PAD)
    for name, count in (("channels", channels), ("size", size)):
        checks.whole(name, count)
    if size % 2 == 0:
        raise ValueError(f"size={size}: expected an odd one, for a pixel in the middle")
    if min(shape) < 2:
        raise ValueError(f"shape {shape}: of half its size nothing is left; take a larger image")

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        of_first, of_blocks, of_v = jax.random.split(checks.key("key", key), 3)
        taps, many = (size, size), size**2 * channels
        blocks = jax.random.normal(of_blocks, (BLOCKS, 2, *taps, channels, channels), float)
        return {
            "first": jax.random.normal(of_first, (*taps, 1, channels), float) / size,
            "blocks": [{"A": A / many**0.5, "B": 0.1 * B / many**0.5} for A, B in blocks],
            "v": 0.1 * jax.random.normal(of_v, (channels,), float),
            "scale": jnp.asarray(FIRST_SCALE, float),
        }

    def energy(u: Images, params: Params) -> Float[Array, " batch"]:
        scale = jnp.exp(params["scale"])
        x = _features(scale * u.reshape(-1, *shape, 1), params, boundary)
        return jnp.einsum("bhwk,k->b", x, params["v"]) / scale**2

    def gradient(u: Images, params: Params) -> Images:
        return jax.grad(lambda u: jnp.sum(energy(u, params)))(u)

    return Regularizer(
        shape,
        init,
        gradient,
        ("first", "blocks", "v", "scale"),
        energy=energy,
        lipschitz=lambda params: _lipschitz(params, boundary),
        descent="preconditioned_momentum",
    )


def _features(
    x: Float[Array, "batch height width 1"], params: Params, boundary: Boundary
) -> Features:
    """x_3."""
    fine, coarse, last = params["blocks"]
    seen = _block(channels.convolve(x, channels.centred(params["first"]), boundary), fine)
    half, up = jax.vjp(_halved, seen)
    (back,) = up(_block(half, coarse))
    return _block(seen + back, last)


def _block(x: Features, weights: dict[str, Any]) -> Features:
    z = channels.convolve(x, weights["A"])
    return x + channels.convolve(jnp.log1p(z**2) / 2, weights["B"])


def _halved(x: Features) -> Float[Array, "batch half_height half_width channels"]:
    """D x; a last row or column without another is left out."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    blocks = x[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2, x.shape[3])
    return jnp.sum(blocks, axis=(2, 4)) / 2


def _lipschitz(params: Params, boundary: Boundary) -> Float[Array, ""]:
    """sum_l ||J_l||^2 max |g_l|; c cancels.

    Of D and D^T the norm is 1, and the sums of rows are 2 and 1/2.
    """
    first, v = _norm(channels.centred(params["first"])), jnp.max(jnp.abs(params["v"]))
    entry = first * PAD_NORM[boundary] ** 0.5  # of x_0
    (A_1, B_1), (A_2, B_2), (A_3, B_3) = ((b["A"], b["B"]) for b in params["blocks"])
    one, two = _through(A_1, B_1), _through(A_2, B_2)
    before = [entry * _norm(A_1), entry * one * _norm(A_2), entry * one * (1 + two) * _norm(A_3)]
    at_x_2 = v * _back(A_3, B_3)
    at_y = 2 * at_x_2
    at_x_1 = at_x_2 + at_y * _back(A_2, B_2) / 2
    slopes = [at_x_1 * _columns(B_1), at_y * _columns(B_2), v * _columns(B_3)]
    return jnp.sum(jnp.stack([J**2 * g for J, g in zip(before, slopes, strict=True)]))


def _columns(kernel: Array) -> Float[Array, ""]:
    """The most that the absolute values of a column of a convolution add up to."""
    return jnp.max(jnp.sum(jnp.abs(kernel), axis=(0, 1, 3)))


def _norm(kernel: Array) -> Float[Array, ""]:
    """A bound on the norm of a convolution with zeros beyond the border."""
    rows = jnp.max(jnp.sum(jnp.abs(kernel), axis=(0, 1, 2)))
    return jnp.sqrt(rows * _columns(kernel))


def _through(A: Array, B: Array) -> Float[Array, ""]:
    """A Lipschitz constant of a block."""
    return 1 + _norm(B) * _norm(A) / 2


def _back(A: Array, B: Array) -> Float[Array, ""]:
    """How much larger slopes are before a block than after it, at most."""
    return 1 + _columns(A) * _columns(B) / 2
