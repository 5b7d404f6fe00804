"""Learned networks as regularisers N(u), by flax; images are rows of pixels of one shape.

    affine      N(u) = c * u + b
    denoiser    N(u) = 1/2 (u - S(u)),      S convolutions of norm at most 1 with ReLUs between
    convex      N(u) = grad psi(u),         psi an input-convex network

`params["network"]` holds the weights, and `params["spectral"]` the norms that they are divided by,
which are constants of a step. They are not estimates: convolutions are circular, and so the
operator norm is that of the transfer functions, exactly. (Power iteration would give a lower bound,
and then nothing is guaranteed.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.checks import Registry
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.types import Images, Params

Scalar = Float[Array, ""]
Kernel = Float[Array, "rows columns inputs outputs"]
Shape = tuple[int, int]
"""A number, the weights of a convolution, and the height and width of images."""


def transfer(kernel: Kernel, shape: Shape) -> Complex[Array, "height frequencies inputs outputs"]:
    """The transfer functions of a circular convolution of images of a shape, as of `rfft2`."""
    rows, columns = kernel.shape[:2]
    units = np.zeros((rows, columns, *shape), kernel.dtype)
    for r, c in np.ndindex(rows, columns):
        units[r, c, (r - rows // 2) % shape[0], (c - columns // 2) % shape[1]] = 1
    return jnp.einsum("rcio,rchw->hwio", kernel, np.fft.rfft2(units))


def operator_norm(kernel: Kernel, shape: Shape) -> Scalar:
    """||W|| of a circular convolution of images of a shape with many inputs and outputs.

    The largest singular value of its transfer functions, one matrix for each frequency.
    """
    return jnp.max(jnp.linalg.norm(transfer(kernel, shape), 2, axis=(2, 3)))


class Convolution(nn.Module):
    """Circular convolution with a bias, by Fourier transforms.

    In the loop of a solver on a CPU, XLA's own convolution and above all its derivative are several
    times slower.
    """

    outputs: int
    size: int
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch height width outputs"]:
        _, height, width, inputs = x.shape
        size, shape = (self.size, self.size), (height, width)
        kernel = self.param("kernel", self.kernel_init, (*size, inputs, self.outputs))
        spectrum = jnp.fft.rfft2(x, axes=(1, 2))
        spectrum = jnp.einsum("bhwi,hwio->bhwo", spectrum, transfer(kernel, shape))
        y = jnp.fft.irfft2(spectrum, shape, axes=(1, 2))
        return (
            y + self.param("bias", nn.initializers.zeros, (self.outputs,)) if self.use_bias else y
        )


def affine(shape: Shape, *, size: int = 5) -> Regularizer:
    """N(u) = c * u + b with one filter c: [size, size] and a number b.

    Its Lipschitz constant is ||c^||_inf, and nothing bounds it. Raises: ValueError, see `_check`.

    >>> print(regularizers.networks.affine((8, 8)).tied)  # of a filter no energy is known: a DEQ
    False
    """
    _check(shape, size=size)
    module = Convolution(1, size)

    def gradient(u: Images, params: Params) -> Images:
        return _flat(module.apply({"params": params["network"]}, _square(u, shape)))

    def lipschitz(params: Params) -> Scalar:
        return operator_norm(params["network"]["kernel"], shape)

    return Regularizer(
        shape,
        init=lambda key: {"network": _weights(module, key, shape)},
        gradient=gradient,
        learned=("network",),
        lipschitz=lipschitz,
    )


class Convolutions(nn.Module):
    """Convolutions with ReLUs between them, as in DnCNN, to one channel."""

    channels: int
    layers: int
    size: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width 1"]
    ) -> Float[Array, "batch height width 1"]:
        for i in range(self.layers):
            x = nn.relu(x) if i else x
            outputs = self.channels if i < self.layers - 1 else 1
            x = Convolution(outputs, self.size, kernel_init=_centred, name=f"layer_{i}")(x)
        return x


def denoiser(
    shape: Shape,
    *,
    channels: int = 8,
    layers: int = 4,
    size: int = 5,
    normalised: bool = True,
) -> Regularizer:
    """N(u) = 1/2 (u - S(u)), the residual of the denoiser D(u) = u - N(u) = 1/2 (u + S(u)).

    S has `layers` convolutions W, each taken as W / max(1, ||W||). S is then nonexpansive, because
    a ReLU is, and so N and D are firmly nonexpansive: D is the resolvent of a monotone operator.
    Not `normalised` it is as any DnCNN, and nothing bounds N.
    Raises: ValueError, see `_check`.

    >>> print(regularizers.networks.denoiser((8, 8), channels=4).firm)  # whatever is learned
    True
    """
    _check(shape, size=size, channels=channels, layers=layers)
    checks.switch("normalised", normalised)
    module = Convolutions(channels, layers, size)

    def refresh(params: Params) -> Params:
        return params | {"spectral": _norms(params["network"], shape)} if normalised else params

    def divided(params: Params) -> dict[str, Any]:
        if not normalised:
            return params["network"]
        return {
            name: layer | {"kernel": layer["kernel"] / _divisor(params["spectral"][name])}
            for name, layer in params["network"].items()
        }

    def gradient(u: Images, params: Params) -> Images:
        return (u - _flat(module.apply({"params": divided(params)}, _square(u, shape)))) / 2

    def lipschitz(params: Params) -> Scalar:
        norms = _norms(divided(params), shape)
        return (1 + jnp.prod(jnp.stack(list(norms.values())))) / 2

    return Regularizer(
        shape,
        init=lambda key: refresh({"network": _weights(module, key, shape)}),
        gradient=gradient,
        learned=("network",),
        refresh=refresh,
        lipschitz=lipschitz,
        firm=normalised,
    )


class Potential(nn.Module):
    """psi(u) = 1' s(P s(W u + b) + Q u + q), with the softplus s, convex in u where P >= 0."""

    channels: int
    size: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 1"]) -> Float[Array, " batch"]:
        conv = partial(Convolution, self.channels, self.size)
        z = nn.softplus(conv(name="W")(x))
        y = conv(name="P", use_bias=False, kernel_init=_small)(z) + conv(name="Q")(x)
        return jnp.sum(nn.softplus(y), axis=(1, 2, 3))


def convex(shape: Shape, *, channels: int = 8, size: int = 5) -> Regularizer:
    """N = grad psi / max(1, L) with psi of `Potential`, P the softplus of its weights, and L a
    Lipschitz constant of grad psi, which by s' <= 1 and s'' <= 1/4 is

        1/4 (||P|| ||W|| + ||Q||)^2 + 1/4 ||W||^2 max P' 1

    So psi is convex whatever the weights, and where L is up to date N is firmly nonexpansive, by
    the theorem of Baillon and Haddad. Raises: ValueError, see `_check`.

    >>> print(regularizers.networks.convex((8, 8), channels=4).tied)  # bilevel learning
    True
    """
    _check(shape, size=size, channels=channels)
    module = Potential(channels, size)

    def constant(weights: dict[str, Any]) -> Scalar:
        W, Q = (operator_norm(weights[name]["kernel"], shape) for name in ("W", "Q"))
        # Of entries that are not negative, the transfer function is largest at frequency zero.
        P = jnp.sum(nn.softplus(weights["P"]["kernel"]), axis=(0, 1))
        most = jnp.max(jnp.sum(P, axis=1))
        return ((jnp.linalg.norm(P, 2) * W + Q) ** 2 + W**2 * most) / 4

    def refresh(params: Params) -> Params:
        return params | {"spectral": constant(params["network"])}

    def energy(u: Images, params: Params) -> Float[Array, " batch"]:
        weights = params["network"]
        P = {"kernel": nn.softplus(weights["P"]["kernel"])}
        psi = module.apply({"params": weights | {"P": P}}, _square(u, shape))
        return jnp.asarray(psi) / _divisor(params["spectral"])

    def gradient(u: Images, params: Params) -> Images:
        return jax.grad(lambda u: jnp.sum(energy(u, params)))(u)

    return Regularizer(
        shape,
        init=lambda key: refresh({"network": _weights(module, key, shape)}),
        gradient=gradient,
        learned=("network",),
        energy=energy,
        refresh=refresh,
        lipschitz=lambda params: constant(params["network"]) / _divisor(params["spectral"]),
        firm=True,
    )


NETWORKS: Registry[Callable[..., Regularizer]] = Registry(
    "network",
    {
        "affine": affine,
        "denoiser": denoiser,
        "convex": convex,
    },
)
"""Every network, built for an image shape. The shared property tests walk this table."""


def _check(shape: Shape, *, size: int, **counts: int) -> None:
    """Raises: ValueError for a count below 1, or filters that are larger than the image."""
    checks.pixels(shape)
    for name, count in (counts | {"size": size}).items():
        checks.whole(name, count)
    if size > min(shape):
        raise ValueError(
            f"size={size}: filters are larger than the image of {shape[0]}x{shape[1]}; take "
            "smaller filters or a larger image"
        )


def _weights(module: nn.Module, key: PRNGKeyArray, shape: Shape) -> dict[str, Any]:
    """Weights to start with, all in the default precision: Flax draws them in float32."""
    weights = module.init(checks.key("key", key), jnp.zeros((1, *shape, 1)))["params"]
    return jax.tree.map(lambda x: jnp.asarray(x, float), dict(weights))


def _norms(weights: dict[str, Any], shape: Shape) -> dict[str, Scalar]:
    """The operator norm of each layer."""
    return {name: operator_norm(layer["kernel"], shape) for name, layer in weights.items()}


def _divisor(norm: Scalar) -> Scalar:
    """max(1, norm), a constant of differentiation."""
    return jax.lax.stop_gradient(jnp.maximum(norm, 1))


def _centred(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """A little noise about filters that make of a network of two layers and more 1/2 identity.

    Of u between layers half the channels keep the positive part and half the negative one. Without
    these filters every layer takes away most of u, and little of it is left to learn from.
    """
    rows, columns, inputs, outputs = shape
    channels = max(inputs, outputs)
    signs = jnp.resize(jnp.array([1.0, -1.0], dtype), (channels,)) / channels**0.5
    centre = jnp.eye(inputs, dtype=dtype) if inputs == outputs else signs.reshape(inputs, outputs)
    noise = 0.3 * nn.initializers.lecun_normal()(key, shape, dtype)
    return noise.at[rows // 2, columns // 2].add(centre)


def _small(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Weights whose softplus is about 1 / inputs."""
    count = shape[0] * shape[1] * shape[2]
    return jnp.log(jnp.expm1(1 / count)) + 0.1 * jax.random.normal(key, shape, dtype)


def _square(u: Images, shape: Shape) -> Float[Array, "batch height width 1"]:
    return u.reshape(-1, *shape, 1)


def _flat(x: Any) -> Images:
    return x.reshape(len(x), -1)
