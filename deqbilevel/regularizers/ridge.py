"""Ridge regularisers, convex and weakly convex, with a chain of convolutions for the filters:

    R(u) = sum_c s_c^-2 1' psi(s_c W_c u),    N(u) = sum_c s_c^-1 W_c^T psi'(s_c W_c u)

W = k_L * ... * k_1 / ||k_L * ... * k_1||, see `convolutions.chains`; filters of the first kernel
sum to zero. psi is a difference of sums of Huber functions, `potentials.Profile`, whose curvature
is at least -rho: psi = h_{1/t} - rho h_1 with learned t and

    rho = 0    convex                          `ridge`
    rho = 1    weakly convex, of modulus 1     `weakly_convex_ridge`

as learned by Goujon, Neumayer and Unser (SIAM J. Imaging Sci. 17, 2024); Huber functions and the
size of the chain are those of the comparison by Hertrich and others (2025). The cost

    lam/2 ||u - f||^2 + gamma R(u)

is convex for lam >= gamma rho, whatever was learned: ||W|| <= 1 is no estimate, but a bound for
images of every size, see `convolutions.chains`. It holds with zeros beyond the border and for
circular images. Of reflected ones it holds of the filters with their flips by rows, by columns and
by both; so there are four filters for each channel then, and R is the same for an image and its
flips.

`params` holds `kernels`: [rows, columns, inputs, outputs] each, `scales`: [channels], log s_c, and
what makes the potential: `bend`, log t.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.convolutions import PAD, VALID, Boundary, chains
from deqbilevel.potentials import Hubers, Profile
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.types import Images, Params

FIRST_SCALE, FIRST_BEND = float(np.log(20.0)), 4.0
"""log s_c and log t before learning, for images in [0, 1]."""


MEAN = 0.85
"""The power of the mean curvature in `Ridge.preconditioner`, the rest that of the largest: 0.6 to 1
are within a fifth of it in evaluations."""


class Ridge(NamedTuple):
    """The functions for images of one shape."""

    shape: tuple[int, int]
    boundary: Boundary
    potential: Callable[[Params], Profile]
    scales: Callable[[Params], Float[Array, " channels"]]
    """log s_c."""

    def energy(self, u: Images, params: Params) -> Float[Array, " batch"]:
        """R(u) of each image."""
        values = self.potential(params).value(self._features(u, params))
        return jnp.einsum("k,kbhw->b", jnp.exp(-2 * self._scales(params)), values)

    def gradient(self, u: Images, params: Params) -> Images:
        """N(u) of each image."""
        z, pull = jax.vjp(lambda u: self._features(u, params), u)
        slopes = self.potential(params).derivative(z)
        (N,) = pull(jnp.exp(-2 * self._scales(params))[:, None, None, None] * slopes)
        return N

    def lipschitz(self, params: Params) -> Float[Array, ""]:
        """A Lipschitz constant of N: the largest |psi''|, as ||W|| <= 1."""
        return self.potential(params).curvature

    def preconditioner(
        self, u: Images, params: Params, identity: Any
    ) -> Callable[[Images], Images]:
        """About (identity I + N'(u))^{-1}, for conjugate gradients and accelerated steps.

        psi'' of each filter is taken to be the same all over an image: its mean, at least 0, which
        errs where psi'' is large, and so multiplied by a small power of the largest over it.
        Then the Hessian is a convolution, which a division of Fourier transforms inverts: unless
        images are circular, on a grid of twice their size.
        """
        z, psi = self._features(u, params), self.potential(params)
        power = chains.power(filters(params), self._grid)
        if self.boundary == "reflecting":  # of a filter and its flips together
            power = (power + jnp.roll(power[:, ::-1], 1, axis=1)) / 2
        mean = jnp.mean(psi.second_derivative(z), axis=(2, 3))
        mean = jnp.mean(mean.reshape(-1, len(power), len(u)), axis=0)
        between = jnp.maximum(mean, 0) ** MEAN * psi.curvature ** (1 - MEAN)
        return Partial(self._divided, identity + jnp.einsum("kb,khw->bhw", between, power))

    def _divided(self, symbol: Float[Array, "batch rows frequencies"], r: Images) -> Images:
        """r, continued beyond its border, over the symbol of a convolution."""
        height, width = self.shape
        x = r.reshape(-1, height, width)
        if self.boundary == "reflecting":
            x = jnp.pad(x, ((0, 0), (0, height), (0, width)), mode="symmetric")
        found = jnp.fft.irfft2(jnp.fft.rfft2(x, self._grid) / symbol, self._grid)
        return found[:, :height, :width].reshape(r.shape)

    @property
    def _grid(self) -> tuple[int, int]:
        """Of its Fourier transforms."""
        times = 1 if self.boundary == "circular" else 2
        return times * self.shape[0], times * self.shape[1]

    def regularizer(
        self, channels: tuple[int, int, int], size: int, start: Mapping[str, Any]
    ) -> Regularizer:
        """As what everything above takes: with random kernels, and the numbers to start with."""

        def init(key: PRNGKeyArray) -> dict[str, Any]:
            inputs = (1, *channels[:-1])
            shapes = [(size, size, *ends) for ends in zip(inputs, channels, strict=True)]
            counts = [int(np.prod(shape)) for shape in shapes]
            drawn = jax.random.normal(checks.key("key", key), (sum(counts),), float)
            parts = jnp.split(drawn, np.cumsum(counts)[:-1].tolist())
            kernels = {
                f"layer_{i}": part.reshape(shape) / np.sqrt(np.prod(shape[:3]))
                for i, (part, shape) in enumerate(zip(parts, shapes, strict=True))
            }
            return {"kernels": kernels} | {n: jnp.asarray(x, float) for n, x in start.items()}

        return Regularizer(
            self.shape,
            init,
            self.gradient,
            ("kernels", *start),
            energy=self.energy,
            lipschitz=self.lipschitz,
            preconditioner=self.preconditioner,
            descent="preconditioned_momentum",
        )

    def _features(self, u: Images, params: Params) -> Float[Array, "filters batch height width"]:
        """s_c W_c u; reflected, with the filters as they are, and then with their flips."""
        c = chains.composed(filters(params))
        if self.boundary == "reflecting":
            c = jnp.concatenate([c, c[:, ::-1], c[:, :, ::-1], c[:, ::-1, ::-1]]) / 2
        c = c * jnp.exp(self._scales(params))[:, None, None]
        margin = c.shape[1] // 2
        pads = ((0, 0), (margin, margin), (margin, margin))
        x = jnp.pad(u.reshape(-1, *self.shape), pads, mode=PAD[self.boundary])
        # A convolution flips its filters, and W is a correlation.
        return VALID["patch"][0](c[:, ::-1, ::-1], x)

    def _scales(self, params: Params) -> Float[Array, " filters"]:
        """log s_c of every filter."""
        return jnp.tile(self.scales(params), 4 if self.boundary == "reflecting" else 1)


def filters(params: Params) -> list[Float[Array, "_ _ _ _"]]:
    """The chain of W: the first of filters that sum to zero, the last divided by the norm of all.

    >>> R = regularizers.REGULARIZERS["ridge"]((8, 8), channels=(2, 2, 3), size=3)
    >>> chain = regularizers.ridge.filters(R.init(jax.random.key(0)))
    >>> print(convolutions.chains.norm(chain).round(4), bool(jnp.abs(chain[0].sum()) < 1e-5))
    1.0 True
    """
    first, *others = (params["kernels"][f"layer_{i}"] for i in range(len(params["kernels"])))
    kernels = [first - jnp.mean(first, axis=(0, 1)), *others]
    return [*kernels[:-1], kernels[-1] / chains.norm(kernels)]


def ridge(
    shape: tuple[int, int],
    *,
    channels: tuple[int, int, int] = (4, 8, 16),
    size: int = 5,
    boundary: Boundary = "reflecting",
    rho: float = 0.0,
) -> Regularizer:
    """The regulariser of images of a shape, with psi = h_{1/t} - rho h_1.

    channels: of the kernels from the first to the last, each `size` x `size` pixels; rho: the
    modulus of weak convexity.
    Raises: ValueError for counts below 1, an even size, an unknown boundary and a negative rho.

    >>> R = regularizers.REGULARIZERS["weakly_convex_ridge"]((8, 8), channels=(2, 2, 3), size=3)
    >>> print(R.tied, R.learned)
    True ('kernels', 'scales', 'bend')
    """
    checks.number("rho", rho, least=0)
    own = functions(shape, channels, size, boundary, partial(potential, rho=rho), _scales)
    start = {"scales": np.full(channels[-1], FIRST_SCALE), "bend": FIRST_BEND}
    return own.regularizer(channels, size, start)


def _scales(params: Params) -> Float[Array, " channels"]:
    return params["scales"]


def potential(params: Params, rho: float) -> Profile:
    """psi = h_{1/t} - rho h_1 with t = e^bend.

    >>> psi = regularizers.ridge.potential({"bend": jnp.log(10.0)}, rho=1.0)
    >>> print(psi.second_derivative(jnp.array([0.05, 0.5, 2.0])))
    [ 9. -1.  0.]
    """
    t = jnp.exp(params["bend"])[None]
    one = jnp.ones_like(t)[: rho > 0]  # none without a concave part
    return Profile(Hubers(t, 1 / t), Hubers(rho * one, one))


def weakly_convex_ridge(
    shape: tuple[int, int],
    *,
    channels: tuple[int, int, int] = (4, 8, 16),
    size: int = 5,
    boundary: Boundary = "reflecting",
) -> Regularizer:
    """`ridge` with rho = 1.

    >>> R = regularizers.ridge.weakly_convex_ridge((8, 8), channels=(2, 2, 3), size=3)
    >>> print(sorted(R.init(jax.random.key(0))["kernels"]))
    ['layer_0', 'layer_1', 'layer_2']
    """
    return ridge(shape, channels=channels, size=size, boundary=boundary, rho=1.0)


def functions(
    shape: tuple[int, int],
    channels: tuple[int, int, int],
    size: int,
    boundary: Boundary,
    potential: Callable[[Params], Profile],
    scales: Callable[[Params], Float[Array, " channels"]],
) -> Ridge:
    """Those of a chain, a potential and scales. Raises: ValueError as `ridge` does.

    >>> psi = lambda params: regularizers.ridge.potential(params, rho=1.0)
    >>> scales = lambda params: params["scales"]
    >>> own = regularizers.ridge.functions((8, 8), (2, 2, 3), 3, "zero", psi, scales)
    >>> print(own.lipschitz({"bend": jnp.log(10.0)}).round(2))
    10.0
    """
    checks.pixels(shape)
    checks.known("boundary", boundary, PAD)
    for name, count in (*(("channels", n) for n in channels), ("size", size)):
        checks.whole(name, count)
    if size % 2 == 0:
        raise ValueError(f"size={size}: expected an odd one, for a pixel in the middle")
    return Ridge(shape, boundary, potential, scales)
