"""Measurements that are simulated on a finer grid than the one that is reconstructed on.

A simulation that uses the operator of the reconstruction itself commits an inverse crime: it leaves
out what the pixels do not resolve, [CF] 7.5. Here an image is interpolated on a grid so many times
finer, measured there by the operator of that grid, and its data brought to that of the coarse one.

    model = model._replace(simulation=simulation.finer("parallel_beam", model.shape, 3))
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from deqbilevel import checks, operators
from deqbilevel.checks import Registry

Measured = Callable[[Float[Array, "batch fine"]], Inexact[Array, "batch data"]]
"""Images on the finer grid -> the data of the coarse operator."""


class Finer(NamedTuple):
    """An operator as it is simulated, for `models.Model.simulation`.

    >>> K = simulation.finer("gaussian_blur", (12, 12), 2, {"sigma": 1.0})
    >>> print(K.apply(jnp.ones((1, 144))).shape, K.of_fine(jnp.ones((1, 576))).shape)
    (1, 144) (1, 144)
    """

    of_fine: Measured
    shape: tuple[int, int]
    factor: int

    def apply(self, u: Float[Array, "batch pixels"]) -> Inexact[Array, "batch data"]:
        """The data of images on the coarse grid, interpolated."""
        return self.of_fine(interpolated(u, self.shape, self.factor))

    def adjoint(self, v: Inexact[Array, "batch data"]) -> Float[Array, "batch pixels"]:
        """The transpose of `apply`."""
        kind = (len(v), checks.pixels(self.shape)), jnp.finfo(v.dtype).dtype
        (u,) = jax.linear_transpose(self.apply, jax.ShapeDtypeStruct(*kind))(jnp.conj(v))
        return u


def finer(
    operator: str, shape: tuple[int, int], factor: int, options: Mapping[str, Any] | None = None
) -> Finer:
    """An operator of `operators.OPERATORS` as it is simulated on a grid `factor` times finer.

    shape, options: of the coarse one.
    Raises: ValueError for an operator whose data would be the same, a factor below 2, and what the
    operator refuses.

    >>> blur = simulation.finer("gaussian_blur", (12, 12), 2, {"sigma": 1.0})
    >>> print(blur.factor, blur.apply(jnp.ones((1, 144)))[0, 0].round(4))
    2 1.0
    """
    checks.whole("finer", factor, least=2)
    checks.pixels(shape)
    if operator not in SIMULATED:
        raise ValueError(
            f"operator {operator}: of no other data on a finer grid; expected one of "
            f"{', '.join(SIMULATED)}"
        )
    operators.OPERATORS[operator](shape, **(options or {}))  # for its refusals
    return Finer(SIMULATED[operator](shape, factor, **(options or {})), shape, factor)


def interpolated(
    u: Float[Array, "batch pixels"], shape: tuple[int, int], factor: int
) -> Float[Array, "batch fine"]:
    """Images by cubic interpolation on a grid so many times finer, with what is missing added so
    that each pixel is the mean of its finer ones.

    >>> u = jnp.arange(12.0).reshape(1, 12)
    >>> fine = simulation.interpolated(u, (3, 4), 3)
    >>> print(bool(jnp.allclose(simulation.means(fine, (3, 4), 3), u, atol=1e-5)))
    True
    """
    fine = (shape[0] * factor, shape[1] * factor)
    x = u.reshape(-1, *shape)
    smooth = jax.image.resize(x, (len(x), *fine), "cubic").reshape(len(x), -1)
    missing = (u - means(smooth, shape, factor)).reshape(x.shape)
    spread = missing.repeat(factor, axis=1).repeat(factor, axis=2)
    return smooth + spread.reshape(smooth.shape)


def means(
    fine: Float[Array, "batch fine"], shape: tuple[int, int], factor: int
) -> Float[Array, "batch pixels"]:
    """The pixels of a shape as the means of their finer ones.

    >>> print(simulation.means(jnp.array([[1.0, 3.0, 5.0, 9.0]]), (1, 1), 2))
    [[4.5]]
    """
    return operators.downsampling((shape[0] * factor, shape[1] * factor), factor).apply(fine)


def _parallel_beam(shape: tuple[int, int], factor: int, **options: Any) -> Measured:
    """Rays through the finer grid, so many in each bin, which has their mean."""
    K = operators.parallel_beam(shape, **options)
    fine = operators.ParallelBeam(
        K.angles, factor * K.bins, (factor * shape[0], factor * shape[1]), factor * K.scale
    )

    def measured(u: Float[Array, "batch fine"]) -> Float[Array, "batch data"]:
        rays = fine.apply(u).reshape(len(u), len(K.angles) * K.bins, factor)
        return jnp.mean(rays, axis=-1)

    return measured


def _fourier(shape: tuple[int, int], factor: int, coils: int = 1, **options: Any) -> Measured:
    """The low frequencies of the finer grid, whose pixels lie around the coarse one's middle."""
    if coils != 1:
        raise ValueError(f"coils={coils}: on a finer grid simulated with one coil alone; take 1")
    mask = operators.fourier(shape, coils=1, **options).mask
    fine = (factor * shape[0], factor * shape[1])
    frequencies = [np.fft.fftfreq(n, 1 / n).astype(int) for n in shape]
    rows, columns = (k % m for k, m in zip(frequencies, fine, strict=True))
    middle = (factor - 1) / (2 * factor)
    turns = [np.exp(2j * np.pi * middle * k / n) for k, n in zip(frequencies, shape, strict=True)]
    phase = np.outer(*turns) / factor

    def measured(u: Float[Array, "batch fine"]) -> Inexact[Array, "batch data"]:
        spectrum = jnp.fft.fft2(u.reshape(-1, *fine), norm="ortho")
        low = spectrum[:, rows[:, None], columns] * jnp.asarray(phase, spectrum.dtype)
        return mask * low.reshape(len(u), -1)

    return measured


def _gaussian_blur(shape: tuple[int, int], factor: int, sigma: float = 1.0, **options: Any) -> Any:
    """The same Gaussian on the finer grid, and the means over pixels."""
    fine = (factor * shape[0], factor * shape[1])
    K = operators.gaussian_blur(fine, factor * sigma, **options)
    return lambda u: means(K.apply(u), shape, factor)


def _diagonal_blur(shape: tuple[int, int], factor: int, size: int = 5, **options: Any) -> Any:
    """The same diagonal on the finer grid, with its middle where it was."""
    if factor % 2 == 0:
        raise ValueError(
            f"finer={factor}: a diagonal of an even number of finer pixels has no middle one; "
            "take an odd number"
        )
    n, centre = factor * size, factor * ((size - 1) // 2) + factor // 2
    boundary = options.get("boundary", "circular")
    fine = (factor * shape[0], factor * shape[1])
    K = operators.CONVOLUTIONS[boundary](np.eye(n) / n, fine, (centre, centre))
    return lambda u: means(K.apply(u), shape, factor)


SIMULATED: Registry[Callable[..., Measured]] = Registry(
    "operator",
    {
        "parallel_beam": _parallel_beam,
        "fourier": _fourier,
        "gaussian_blur": _gaussian_blur,
        "diagonal_blur": _diagonal_blur,
        "diagonal_blur_zero": lambda shape, factor, **options: _diagonal_blur(
            shape, factor, boundary="zero", **options
        ),
    },
)
"""How operators are simulated on a finer grid; those that are not here have the same data."""
