"""Parallel-beam computed tomography (CT): line integrals of an image, for angles and detector bins.

Joseph's method: a ray steps through the columns of the image, or through its rows where it is
steeper, and interpolates linearly between the two nearest pixels. With the distance d of a pixel
from a ray and m = max(|cos|, |sin|) of the angle the weight of the pixel in the ray is

    w(d) = max(m - d, 0) / m^2

so that the adjoint, which collects for each pixel the two nearest rays of an angle, is exactly the
transpose. Neither scatters, no matrix is kept, and a program is as long for any number of angles.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.checks import pixels, whole
from deqbilevel.operators.base import sized
from deqbilevel.types import pytree


@pytree
@dataclass(frozen=True)
class ParallelBeam:
    """K u = the line integrals of u, `[angles, bins]` flattened, in units of pixels.

    At the angle 0 a ray sums a column, as `skimage.transform.radon` does, whose angles, in degrees,
    these are. Bins are a pixel wide, their middle goes through the middle of the image.
    Raises: ValueError for angles that are none, no bins, a scale that is not above 0, and for
    images and data of another size.

    >>> K = operators.ParallelBeam((0.0, 90.0), 3, (3, 3))
    >>> u = jnp.array([[0.0, 1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0]])
    >>> print(K.apply(u).reshape(2, 3))  # sums of columns, and of rows from below
    [[0. 2. 2.]
     [0. 3. 1.]]
    """

    angles: tuple[float, ...] = field(metadata={"static": True})
    bins: int = field(metadata={"static": True})
    shape: tuple[int, int] = field(metadata={"static": True})
    scale: float = field(default=1.0, metadata={"static": True})
    """What the line integrals are divided by."""

    def __post_init__(self) -> None:
        if not isinstance(self.angles, tuple) or not self.angles:
            raise ValueError(f"angles={self.angles!r}: expected one or more, in degrees")
        for angle in self.angles:
            checks.one("angles", angle)
        whole("bins", self.bins)
        pixels(self.shape)
        checks.one("scale", self.scale, above=0)

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch data"]:
        height, width = self.shape
        images = sized("u", u, height * width).reshape(-1, height, width)
        parts = [self._project(images, steep) for steep in (False, True)]
        order = np.argsort(np.argsort(self._steep, kind="stable"), kind="stable")
        data = jnp.concatenate(parts, axis=1)[:, order] / self.scale
        return data.reshape(*u.shape[:-1], -1)

    def adjoint(self, v: Float[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        """For each pixel, the rays next to it: as `apply`, by their weights."""
        cosines, sines = np.abs(self._directions())
        return self._collected(v, np.maximum(cosines, sines)) / self.scale

    def _collected(self, v: Float[Array, "*batch data"], m: Any) -> Float[Array, "*batch pixels"]:
        """For each pixel the two nearest rays of each angle, by the weights w of its m."""
        data = sized("v", v, len(self.angles) * self.bins).reshape(-1, len(self.angles), self.bins)
        x, y = self._grid(v.dtype)

        def collect(total: Array, angle: tuple[Array, ...]) -> tuple[Array, None]:
            cosine, sine, m, rays = angle
            place = x * cosine - y * sine + (self.bins - 1) / 2
            first = jnp.floor(place)
            for bin_ in (first, first + 1):
                weight = jnp.maximum(m - jnp.abs(place - bin_), 0) / m**2
                total = total + _inside(bin_, self.bins, weight) * _taken(rays, bin_)
            return total, None

        cosines, sines, m = (jnp.asarray(c, v.dtype) for c in (*self._directions(), m))
        start = jnp.zeros((len(data), *self.shape), v.dtype)
        total, _ = jax.lax.scan(collect, start, (cosines, sines, m, data.swapaxes(0, 1)))
        return total.reshape(*v.shape[:-1], -1)

    def bound(self) -> Float[Array, ""]:
        """The root of the largest sum of a row times that of a column: all weights are positive."""
        image = jnp.ones(self.shape[0] * self.shape[1])
        rows, columns = self.apply(image), self.adjoint(jnp.ones(len(self.angles) * self.bins))
        return jnp.sqrt(jnp.max(rows) * jnp.max(columns))

    @property
    def _steep(self) -> Any:
        """Whether rays of an angle step through rows: the image is then transposed."""
        cosines, sines = self._directions()
        return np.abs(cosines) > np.abs(sines)

    def _directions(self) -> tuple[Any, Any]:
        """Of the axis of the bins."""
        angles = np.deg2rad(np.array(self.angles))
        return np.cos(angles), np.sin(angles)

    def _grid(self, dtype: Any) -> tuple[Array, Array]:
        """x and y of the pixels, 0 in the middle, y downwards."""
        axes = [jnp.arange(n, dtype=dtype) - (n - 1) / 2 for n in self.shape]
        y, x = jnp.meshgrid(*axes, indexing="ij")
        return x, y

    def _project(
        self, images: Float[Array, "batch height width"], steep: bool
    ) -> Float[Array, "batch angles bins"]:
        """The integrals of the angles that step through rows, or through columns."""
        cosines, sines = (c[self._steep == steep] for c in self._directions())
        # The ray is along * step + across * place = bin, and steps are taken along the columns.
        along, across = (-sines, cosines) if steep else (cosines, -sines)
        images = images.swapaxes(1, 2) if steep else images
        rows, columns = images.shape[1:]
        dtype = images.dtype
        t = jnp.arange(self.bins, dtype=dtype) - (self.bins - 1) / 2
        steps = jnp.arange(columns, dtype=dtype) - (columns - 1) / 2
        flat = images.reshape(len(images), -1)

        def integrals(angle: tuple[Array, Array]) -> Array:
            along, across = angle
            place = (t[:, None] - along * steps) / across + (rows - 1) / 2
            first = jnp.floor(place)
            total = jnp.zeros((), dtype)
            for row in (first, first + 1):
                weight = _inside(row, rows, jnp.maximum(1 - jnp.abs(place - row), 0))
                pixel = row.astype(int) * columns + jnp.arange(columns)
                total = total + weight * _taken(flat, pixel)
            return jnp.sum(total, axis=-1) / jnp.abs(across)

        angles = (jnp.asarray(along, dtype), jnp.asarray(across, dtype))
        return jax.lax.map(integrals, angles).swapaxes(0, 1)


def _inside(index: Array, count: int, weight: Array) -> Array:
    """The weight where the index is one, else 0."""
    return jnp.where((index >= 0) & (index < count), weight, 0)


def _taken(x: Float[Array, "batch n"], index: Array) -> Array:
    """x at the index, which counts only where it is inside."""
    return jnp.take(x, jnp.clip(index.astype(int), 0, x.shape[1] - 1), axis=1)


def parallel_beam(
    shape: tuple[int, int], angles: int | tuple[float, ...] = 60, bins: int | None = None
) -> ParallelBeam:
    """Parallel-beam CT, divided by the root of the number of angles times the larger side: about
    the norm of the line integrals, so that ||K|| is about 1.

    angles: in degrees, or how many, equally spaced over half a turn. bins: of the detector, each a
    pixel wide; None: as many as the diagonal is long.
    Raises: ValueError for fewer angles or bins than one, and angles that are no numbers.

    >>> K = operators.parallel_beam((8, 8), angles=4)
    >>> print(K.apply(jnp.ones((1, 64))).shape, K.angles)  # 4 x 12
    (1, 48) (0.0, 45.0, 90.0, 135.0)
    """
    pixels(shape)
    if not isinstance(angles, tuple):
        angles = tuple(180.0 * i / angles for i in range(whole("angles", angles)))
    bins = int(np.ceil(np.hypot(*shape))) if bins is None else bins
    return ParallelBeam(angles, bins, shape, float(np.sqrt(max(len(angles), 1) * max(shape))))


def filtered_back_projection(
    K: ParallelBeam, f: Float[Array, "*batch data"], *, cutoff: Any = 1.0, smooth: bool = True
) -> Float[Array, "*batch pixels"]:
    """The classical reconstruction, of data at angles equally spaced over half a turn: each
    projection filtered by |frequency| and collected at the pixels with linear interpolation,

        u(x) = pi / angles sum_i (h * f_i)(x cos_i - y sin_i)

    h: the filter of Ramachandran and Lakshminarayanan, 1/4 in the middle, -1 / (pi n)^2 at odd
    distances n, 0 at even ones. cutoff: of the frequencies, the part that is kept; if `smooth`,
    these fall to 0 there by Hann's window.
    Raises: ValueError for a cutoff that is not in (0, 1], data of another size, and angles that are
    not equally spaced.

    >>> K = operators.parallel_beam((9, 9), angles=30)
    >>> u = jnp.zeros((9, 9)).at[2:7, 2:7].set(1.0).reshape(1, -1)
    >>> print(operators.filtered_back_projection(K, K.apply(u), smooth=False)[0, 40].round(1))
    1.0
    """
    checks.one("cutoff", cutoff, above=0, most=1)
    checks.switch("smooth", smooth)
    bins, angles = K.bins, len(K.angles)
    turned = np.sort(np.mod(K.angles, 180))
    if not np.allclose(np.diff(turned, append=turned[0] + 180), 180 / angles, atol=1e-3):
        raise ValueError(
            f"angles={K.angles}: expected some equally spaced over half a turn, which filtered "
            "back-projection needs; give their number, or reconstruct by a model"
        )
    length = 2 * bins
    n = np.minimum(np.arange(length), length - np.arange(length))
    kernel = np.where(n % 2 == 1, -1 / (np.pi * np.maximum(n, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    part = jnp.fft.rfftfreq(length, dtype=f.dtype) / (0.5 * cutoff)
    window = (0.5 + 0.5 * jnp.cos(np.pi * part) if smooth else 1.0) * (part <= 1)
    transfer = jnp.asarray(np.fft.rfft(kernel).real, f.dtype) * window
    rays = sized("f", f, angles * bins).reshape(-1, bins) * K.scale
    filtered = jnp.fft.irfft(jnp.fft.rfft(rays, length) * transfer, length)[:, :bins]
    return np.pi / angles * K._collected(filtered.reshape(f.shape), np.ones(angles))
