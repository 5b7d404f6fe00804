"""A weakly convex ridge regulariser for every level of noise, with a learned spline for psi:

    R(u) = sum_c s_c(sigma)^-2 1' psi(s_c(sigma) W_c u)

W is that of `regularizers.ridge`, and everything said there of convexity holds. psi, one for all
filters, is a difference of two sums of Huber functions whose knots and heights are learned, the
heights of the second adding up to at most rho. log s_c is a number, the same for all levels, plus a
spline of degree 1 over the standard deviation sigma of the noise, with knots equally spaced from 0
to the largest: what is learned at one level moves all of them.

`params` holds `kernels`, `scales`: [channels] and `levels`: [levels, channels], log s_c and what is
added to it at the knots over sigma, and of psi `convex`: [knots, 2] and `concave`: [knots, 2]:
logarithms of where each Huber function ends, and of its height; those of `concave` are relative to
one another and to what is left of rho. sigma is `params["noise"]`, unless it is given to the
regulariser itself.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.convolutions import Boundary
from deqbilevel.potentials import Hubers, Profile
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.regularizers.ridge import functions
from deqbilevel.types import Params

FIRST = 2.0
"""s_c sigma before learning, as that of `ridge` is for sigma = 0.1."""

ENDS = (-5.0, 0.0)
"""Logarithms of the first and last knot of psi before learning."""

ROUNDING = 1e-5
"""Of the distance between two knots."""


def spline_ridge(
    shape: tuple[int, int],
    *,
    channels: tuple[int, int, int] = (4, 8, 16),
    size: int = 5,
    boundary: Boundary = "reflecting",
    rho: float = 1.0,
    knots: int = 6,
    levels: int = 11,
    most_noise: float = 30 / 255,
    noise: float | None = None,
) -> Regularizer:
    """The regulariser of images of a shape.

    channels, size, boundary, rho: as for `ridge`; knots: Huber functions in either part of psi;
    levels: knots over the noise, up to most_noise, beyond which nothing changes; noise: that of the
    measurement, None: that of params, and where these have none the most.
    Raises: ValueError as `ridge` does, for fewer than two knots or levels, and for a noise below 0.

    >>> R = regularizers.REGULARIZERS["spline_ridge"]((8, 8), channels=(2, 2, 3), levels=4)
    >>> params = R.init(jax.random.key(0))
    >>> print(params["scales"].shape, params["levels"].shape, params["convex"].shape)
    (3,) (4, 3) (6, 2)
    """
    checks.number("rho", rho, least=0)
    checks.number("most_noise", most_noise, above=0)
    checks.whole("knots", knots, least=2)
    checks.whole("levels", levels, least=2)
    if noise is not None:
        checks.number("noise", noise, least=0)

    def scales(params: Params) -> Float[Array, " channels"]:
        level = params.get("noise", most_noise) if noise is None else noise
        return params["scales"] + at_level(params["levels"], level / most_noise)

    own = functions(shape, channels, size, boundary, partial(potential, rho=rho), scales)
    start = {
        "scales": np.zeros(channels[-1]),
        "levels": np.repeat(_first_levels(levels, most_noise)[:, None], channels[-1], axis=1),
        **_first_potential(knots),
    }
    of_noise = most_noise if noise is None else None
    return own.regularizer(channels, size, start)._replace(most_noise=of_noise)


def potential(params: Params, rho: float) -> Profile:
    """psi of `params`, with a curvature of at least -rho.

    >>> params = {"convex": jnp.array([[-4.0, 4.0]]), "concave": jnp.array([[0.0, 0.0]])}
    >>> psi = regularizers.spline_ridge.potential(params, rho=1.0)
    >>> print(psi.concave.heights, psi.convex.curvature.round(2))  # half of rho is left over
    [0.5] 54.6
    """
    heights = jax.nn.softmax(jnp.append(params["concave"][:, 1], 0.0))[:-1]
    return Profile(
        Hubers(jnp.exp(params["convex"][:, 1]), jnp.exp(params["convex"][:, 0])),
        Hubers(rho * heights, jnp.exp(params["concave"][:, 0])),
    )


def at_level(
    values: Float[Array, "levels channels"], part: Float[Array, ""] | float
) -> Float[Array, " channels"]:
    """A spline of degree 1 with equally spaced knots, at a part of the way from the first to the
    last; before and beyond them it is constant.

    >>> print(regularizers.spline_ridge.at_level(jnp.array([[0.0], [2.0], [8.0]]), 0.75))
    [5.]
    """
    levels = len(values)
    place = jnp.clip(part, 0, 1) * (levels - 1)
    shares = jnp.maximum(1 - jnp.abs(place - jnp.arange(levels)), 0)
    # At a knot rounding is no share: Adam takes a full step by the smallest slope.
    return jnp.where(shares > ROUNDING, shares, 0) @ values


def filled(params: Params, noises: Sequence[float], most_noise: float) -> Params:
    """`params` learned at some levels of noise, for all: what the knots beside these levels have
    moved is interpolated at the others.

    >>> R = regularizers.REGULARIZERS["spline_ridge"]((8, 8), channels=(2, 2, 1), levels=4)
    >>> params = R.init(jax.random.key(0))
    >>> learned = params | {"levels": params["levels"] + jnp.array([[0.0], [1.0], [0.0], [3.0]])}
    >>> found = regularizers.spline_ridge.filled(learned, [10 / 255, 30 / 255], 30 / 255)
    >>> print((found["levels"] - params["levels"]).ravel())
    [1. 1. 2. 3.]
    """
    levels = params["levels"]
    knots = np.arange(len(levels))
    places = np.asarray(noises)[:, None] / most_noise * knots[-1]
    learned = np.flatnonzero(np.any(np.abs(places - knots) < 1 - ROUNDING, axis=0))
    first = _first_levels(len(levels), most_noise)[:, None]
    moved = jax.vmap(lambda x: jnp.interp(knots, learned, x[learned]), 1, 1)(levels - first)
    return {**params, "levels": first + moved}


def _first_levels(levels: int, most_noise: float) -> np.ndarray:
    sigma = np.linspace(0, most_noise, levels)
    return np.log(FIRST / np.maximum(sigma, sigma[1] / 2))


def _first_potential(knots: int) -> dict[str, np.ndarray]:
    """About h_{1/t} - rho h_1 with t = e^4, but for a tenth of either spread over the knots."""
    ends = np.linspace(*ENDS, knots)
    parts = np.full(knots, 0.1 / (knots - 1))
    steep = parts.copy()
    steep[np.argmin(np.abs(ends + 4))] = 0.9
    wide = parts.copy()
    wide[-1] = 0.9
    left = 0.05  # of rho
    return {
        "convex": np.stack([ends, np.log(steep) - ends], axis=1),
        "concave": np.stack([ends, np.log(wide * (1 - left) / left)], axis=1),
    }
