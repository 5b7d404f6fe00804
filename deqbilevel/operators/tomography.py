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

from deqbilevel.checks import pixels, whole
from deqbilevel.operators.base import sized
from deqbilevel.types import pytree


@pytree
@dataclass(frozen=True)
class ParallelBeam:
    """K u = the line integrals of u, `[angles, bins]` flattened, in units of pixels.

    At the angle 0 a ray sums a column, as `skimage.transform.radon` does, whose angles, in degrees,
    these are. Bins are a pixel wide, their middle goes through the middle of the image.
    Raises: ValueError for images and data of another size.

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

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch data"]:
        height, width = self.shape
        images = sized("u", u, height * width).reshape(-1, height, width)
        parts = [self._project(images, steep) for steep in (False, True)]
        order = np.argsort(np.argsort(self._steep, kind="stable"), kind="stable")
        data = jnp.concatenate(parts, axis=1)[:, order] / self.scale
        return data.reshape(*u.shape[:-1], -1)

    def adjoint(self, v: Float[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        """For each pixel, the rays next to it: as `apply`, by their weights."""
        data = sized("v", v, len(self.angles) * self.bins).reshape(-1, len(self.angles), self.bins)
        x, y = self._grid(v.dtype)

        def collect(total: Array, angle: tuple[Array, Array, Array]) -> tuple[Array, None]:
            cosine, sine, rays = angle
            m = jnp.maximum(jnp.abs(cosine), jnp.abs(sine))
            place = x * cosine - y * sine + (self.bins - 1) / 2
            first = jnp.floor(place)
            for bin_ in (first, first + 1):
                weight = jnp.maximum(m - jnp.abs(place - bin_), 0) / m**2
                total = total + _inside(bin_, self.bins, weight) * _taken(rays, bin_)
            return total, None

        cosines, sines = (jnp.asarray(c, v.dtype) for c in self._directions())
        start = jnp.zeros((len(data), *self.shape), v.dtype)
        total, _ = jax.lax.scan(collect, start, (cosines, sines, data.swapaxes(0, 1)))
        return (total / self.scale).reshape(*v.shape[:-1], -1)

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
    shape: tuple[int, int], angles: int = 60, bins: int | None = None
) -> ParallelBeam:
    """Parallel-beam CT with equally spaced angles over half a turn, divided by the root of angles
    times the larger side: about the norm of the line integrals, so that ||K|| is about 1.

    bins: of the detector; None: as many as the diagonal is long.
    Raises: ValueError for fewer angles or bins than one.

    >>> K = operators.parallel_beam((8, 8), angles=4)
    >>> print(K.apply(jnp.ones((1, 64))).shape)  # 4 x 12
    (1, 48)
    """
    pixels(shape)
    chosen = tuple(180.0 * i / angles for i in range(whole("angles", angles)))
    bins = int(np.ceil(np.hypot(*shape))) if bins is None else whole("bins", bins)
    return ParallelBeam(chosen, bins, shape, float(np.sqrt(angles * max(shape))))
