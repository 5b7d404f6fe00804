"""Fourier sampling, as in magnetic resonance imaging (MRI), [CF] 6.2: K u = s F u, with the unitary
Fourier transform F and a weight s for each frequency, 0 where it is not sampled.

Frequencies stand as `numpy.fft.fft2` has them, the mean of the image first. Data is complex,
images are real: the adjoint takes the real part.
"""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from deqbilevel import checks
from deqbilevel.checks import number, pixels, whole
from deqbilevel.operators import given
from deqbilevel.operators.base import sized
from deqbilevel.operators.patterns import PATTERNS
from deqbilevel.types import pytree


@pytree
@dataclass(frozen=True)
class Fourier:
    """K u = s F u: one coil that sees all of the image alike.

    Raises: ValueError for a mask that is none, see `check_mask`, and images and data of another
    size.

    >>> K = operators.Fourier(jnp.array([1.0, 0.0]), (1, 2))  # the mean alone
    >>> print(jnp.abs(K.apply(jnp.array([[1.0, 3.0]]))).round(3), K.bound())
    [[2.828 0.   ]] 1.0
    """

    mask: Float[Array, "*lanes pixels"]
    shape: tuple[int, int] = field(metadata={"static": True})

    def __post_init__(self) -> None:
        check_mask(self.mask, self.shape)

    def apply(self, u: Float[Array, "*batch pixels"]) -> Complex[Array, "*batch data"]:
        return self.mask * _transform(jnp.fft.fft2, u, self.shape)

    def adjoint(self, v: Complex[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        return jnp.real(_transform(jnp.fft.ifft2, self.mask * v, self.shape))

    def bound(self) -> Float[Array, ""]:
        return jnp.sqrt(jnp.max(self._power()))

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        """K^T K is a circular convolution, with the transfer function `_power`."""
        symbol = 1 + number("a", a, least=0) * self._power().reshape(-1)
        spectrum = _transform(jnp.fft.fft2, z, self.shape) / symbol
        return jnp.real(_transform(jnp.fft.ifft2, spectrum, self.shape))

    def _power(self) -> Float[Array, "height width"]:
        """|s|^2, and the same at the opposite frequency, which is as good for real images."""
        power = jnp.abs(self.mask.reshape(self.shape)) ** 2
        opposite = jnp.roll(power[::-1, ::-1], (1, 1), (0, 1))
        return (power + opposite) / 2


@pytree
@dataclass(frozen=True)
class Coils:
    """K u = (s F (c_j u))_j for coils of sensitivities c_j: their data one after the other.

    Raises: ValueError for a mask that is none, see `check_mask`, for maps that are not finite or of
    other pixels, and images and data of another size.

    >>> maps = jnp.array([[1.0, 0.0], [0.0, 1.0]], complex)  # each coil sees one of two pixels
    >>> K = operators.Coils(jnp.ones(2), maps, (1, 2))
    >>> print(K.adjoint(K.apply(jnp.array([[1.0, 3.0]]))).round(3))
    [[1. 3.]]
    """

    mask: Float[Array, "*lanes pixels"]
    maps: Complex[Array, "*lanes coils pixels"]
    shape: tuple[int, int] = field(metadata={"static": True})

    def __post_init__(self) -> None:
        check_mask(self.mask, self.shape)
        sized("maps", checks.finite("maps", self.maps), pixels(self.shape))

    def apply(self, u: Float[Array, "*batch pixels"]) -> Complex[Array, "*batch data"]:
        seen = self.maps * sized("u", u, self.maps.shape[-1])[..., None, :]
        data = self.mask * _transform(jnp.fft.fft2, seen, self.shape)
        return data.reshape(*u.shape[:-1], -1)

    def adjoint(self, v: Complex[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        coils = sized("v", v, self.maps.size).reshape(*v.shape[:-1], *self.maps.shape)
        images = _transform(jnp.fft.ifft2, self.mask * coils, self.shape)
        return jnp.sum(jnp.real(jnp.conj(self.maps) * images), axis=-2)

    def bound(self) -> Float[Array, ""]:
        """max |s| times the largest root of sum_j |c_j|^2."""
        seen = jnp.max(jnp.sum(jnp.abs(self.maps) ** 2, axis=-2))
        return jnp.max(jnp.abs(self.mask)) * jnp.sqrt(seen)


def check_mask(mask: Any, shape: tuple[int, int]) -> None:
    """Raises ValueError for a mask whose weights are not real, finite and 0 or more, that is not of
    an image of the shape, or that samples nothing.

    >>> operators.check_mask(jnp.ones(4), (2, 2))  # no error
    """
    sized("mask", checks.number("mask", mask, least=0), pixels(shape))
    if not checks.traced(mask) and not np.any(mask):
        raise ValueError("mask: zero everywhere, which samples nothing; expected a weight above 0")


def _transform(transform: Any, x: Array, shape: tuple[int, int]) -> Array:
    """A unitary transform of rows of pixels."""
    grid = sized("images", x, shape[0] * shape[1]).reshape(*x.shape[:-1], *shape)
    return transform(grid, norm="ortho").reshape(x.shape)


def coil_maps(shape: tuple[int, int], coils: int) -> Complex[Array, "coils pixels"]:
    """Smooth sensitivities of coils around the image, with sum_j |c_j|^2 = 1 at every pixel.

    Raises: ValueError for a count of coils below 1.

    >>> maps = operators.coil_maps((4, 4), 3)
    >>> print(jnp.allclose(jnp.sum(jnp.abs(maps) ** 2, axis=0), 1.0))
    True
    """
    pixels(shape)
    angles = 2 * np.pi * np.arange(whole("coils", coils)) / coils
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    along = np.cos(angles)[:, None, None] * x + np.sin(angles)[:, None, None] * y
    maps = np.exp(along + 1j * (along + angles[:, None, None]))
    maps = maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))
    return jnp.asarray(maps.reshape(coils, -1), complex)


@pytree
@dataclass(frozen=True)
class ComplexCoils:
    """`Coils` of complex images, pictures [height, width] with the imaginary part below the real
    one, so that all that is real elsewhere holds: the adjoint is that of real numbers.

    Raises: ValueError as `Coils` does, and for an odd height.

    >>> K = operators.ComplexCoils(jnp.ones(1), jnp.array([[1j]]), (2, 1))
    >>> print(K.apply(jnp.array([[3.0, 4.0]])))  # i (3 + 4 i)
    [[-4.+3.j]]
    """

    mask: Float[Array, "*lanes pixels"]
    maps: Complex[Array, "*lanes coils pixels"]
    shape: tuple[int, int] = field(metadata={"static": True})
    """Of a picture of both parts."""

    def __post_init__(self) -> None:
        Coils(self.mask, self.maps, checks.part_of_pairs(self.shape))

    def apply(self, u: Float[Array, "*batch pixels"]) -> Complex[Array, "*batch data"]:
        real, imaginary = jnp.split(sized("u", u, pixels(self.shape)), 2, axis=-1)
        seen = self.maps * (real + 1j * imaginary)[..., None, :]
        data = self.mask * _transform(jnp.fft.fft2, seen, checks.part_of_pairs(self.shape))
        return data.reshape(*u.shape[:-1], -1)

    def adjoint(self, v: Complex[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        coils = sized("v", v, self.maps.size).reshape(*v.shape[:-1], *self.maps.shape)
        parts = checks.part_of_pairs(self.shape)
        images = _transform(jnp.fft.ifft2, self.mask * coils, parts)
        image = jnp.sum(jnp.conj(self.maps) * images, axis=-2)
        return jnp.concatenate([jnp.real(image), jnp.imag(image)], axis=-1)

    def bound(self) -> Float[Array, ""]:
        """max |s| times the largest root of sum_j |c_j|^2."""
        seen = jnp.max(jnp.sum(jnp.abs(self.maps) ** 2, axis=-2))
        return jnp.max(jnp.abs(self.mask)) * jnp.sqrt(seen)


def fourier(
    shape: tuple[int, int],
    pattern: str = "lines",
    rate: float = 0.25,
    coils: int = 1,
    seed: int = 0,
    complex_images: bool = False,
    mask: str | None = None,
) -> Fourier | Coils | ComplexCoils:
    """Undersampled MRI: the part `rate` of the frequencies, by one of `PATTERNS`; of complex images
    with the parts below each other, see `ComplexCoils`, whose single coil sees all alike.

    mask: a file of what is sampled, in place of pattern and rate, see `given.mask`.
    Raises: ValueError for another pattern, a rate outside (0, 1] or that leaves no sample, a count
    of coils below 1, a seed that is none, an odd height of complex images, and a file that holds no
    such mask.

    >>> K = operators.fourier((8, 8), "uniform_lines", rate=0.5)
    >>> print(K.mask.reshape(8, 8).sum(axis=1))  # whole rows: the mean's among them
    [8. 0. 8. 0. 8. 0. 8. 0.]
    """
    pixels(shape)
    picture = shape
    if checks.switch("complex_images", complex_images):
        shape = checks.part_of_pairs(shape)
    checks.number("rate", rate, above=0, most=1)
    rng = np.random.default_rng(whole("seed", seed, least=0, most=2**32 - 1))
    draw = PATTERNS[pattern]
    chosen = draw(shape, rate, rng) if mask is None else given.mask(mask, shape)
    if not chosen.any():
        raise ValueError(f"rate={rate}: no sample of {shape[0]}x{shape[1]}; take a larger rate")
    s = jnp.asarray(np.fft.ifftshift(chosen).ravel(), float)
    if whole("coils", coils) == 1 and not complex_images:
        return Fourier(s, shape)
    if complex_images:
        one = jnp.ones((1, s.size), complex)
        return ComplexCoils(s, one if coils == 1 else coil_maps(shape, coils), picture)
    return Coils(s, coil_maps(shape, coils), shape)
