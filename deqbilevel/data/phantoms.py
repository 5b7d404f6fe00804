"""Phantoms: images in [0, 1] that a key draws, on a grid of any shape.

A phantom is a function of the plane, on coordinates from -1 to 1 along the shorter side of the
image, x to the right and y upwards, and a pixel is its mean over the pixel's square. So the same
key gives the same phantom on a finer grid, see [CF] 7.5 for why that is wanted.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from deqbilevel import checks
from deqbilevel.checks import Registry, known
from deqbilevel.data.base import DataError, Images, check_memory, from_pictures, positive

SHAPE = (128, 128)
TRAIN_SIZE, TEST_SIZE = 40, 10

ROWS = 8
"""Lines on which the mean over a pixel is taken: along each it is exact for ellipses."""

POINTS = 4
"""In both directions, on which that of cells is."""

CELLS = 12

INSIDE = 10
"""Ellipses in the one that bounds a random phantom."""


class Ellipses(NamedTuple):
    """Ellipses one after the other, each an array with an entry for each ellipse.

    >>> disc = data.phantoms.Ellipses(*(jnp.array([x]) for x in (1.0, 0.5, 0.5, 0.0, 0.0, 0.0)))
    >>> print(data.phantoms.drawn_on(disc, (4, 4)).round(2))
    [[0.   0.   0.   0.  ]
     [0.   0.79 0.79 0.  ]
     [0.   0.79 0.79 0.  ]
     [0.   0.   0.   0.  ]]
    """

    value: Float[Array, " n"]
    a: Float[Array, " n"]
    """Half the axis that lies along x at the angle 0, above 0."""
    b: Float[Array, " n"]
    x: Float[Array, " n"]
    y: Float[Array, " n"]
    """Of the centre."""
    angle: Float[Array, " n"]
    """In degrees, anticlockwise."""


SHEPP_LOGAN = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)
"""The head of Shepp and Logan (IEEE Trans. Nucl. Sci. 21, 1974) with the values of Toft (The Radon
Transform, 1996, table B.3), of more contrast: the fields of `Ellipses`, whose values add up."""


def shepp_logan() -> Ellipses:
    """The ten ellipses of `SHEPP_LOGAN`.

    >>> head = data.phantoms.shepp_logan()
    >>> print(head.value.shape, data.phantoms.drawn_on(head, (64, 64)).max())
    (10,) 1.0
    """
    return Ellipses(*(jnp.array(column) for column in zip(*SHEPP_LOGAN, strict=True)))


def heads(key: Key[Array, ""]) -> Ellipses:
    """Shepp-Logan with its ellipses inside the skull turned, moved, and of other sizes and values.

    Raises: ValueError for what is no key.

    >>> head = data.phantoms.heads(jax.random.key(0))
    >>> print(head.a[:2])  # the skull stays
    [0.69   0.6624]
    """
    head, keys = shepp_logan(), jax.random.split(checks.key("key", key), 6)
    inside = jnp.arange(len(SHEPP_LOGAN)) >= 2

    def between(i: int, low: float, high: float) -> Array:
        return jax.random.uniform(keys[i], inside.shape, minval=low, maxval=high)

    def scaled(i: int) -> Array:
        return jnp.where(inside, between(i, 0.7, 1.2), 1)

    return Ellipses(
        head.value * jnp.where(inside, between(0, 0.5, 1.0), 1),
        head.a * scaled(1),
        head.b * scaled(2),
        head.x + jnp.where(inside, between(3, -0.04, 0.04), 0),
        head.y + jnp.where(inside, between(4, -0.04, 0.04), 0),
        head.angle + jnp.where(inside, between(5, -20.0, 20.0), 0),
    )


def random_ellipses(key: Key[Array, ""]) -> Ellipses:
    """A large ellipse with others on top of it, whose value is that of the last at a place.

    Raises: ValueError for what is no key.

    >>> print(data.phantoms.random_ellipses(jax.random.key(0)).value.shape)
    (11,)
    """
    keys = jax.random.split(checks.key("key", key), 6)
    n = INSIDE + 1

    def between(i: int, low: float, high: float) -> Array:
        return jax.random.uniform(keys[i], (n,), minval=low, maxval=high)

    first = jnp.arange(n) == 0
    a, b = (jnp.where(first, between(i, 0.7, 0.9), between(i, 0.04, 0.3)) for i in (0, 1))
    radius = jnp.where(first, 0, 0.65 * jnp.sqrt(between(2, 0.0, 1.0)))
    turn = between(3, 0.0, 2 * np.pi)
    return Ellipses(
        between(4, 0.1, 1.0),
        a,
        b,
        radius * a[0] * jnp.cos(turn),
        radius * b[0] * jnp.sin(turn),
        jnp.where(first, 0, between(5, 0.0, 180.0)),
    )


def drawn_on(
    ellipses: Ellipses, shape: tuple[int, int], *, opaque: bool = False
) -> Float[Array, "height width"]:
    """The image of ellipses whose values add up; if `opaque`, each covers those before it.

    Raises: ValueError for a shape that is none.

    >>> two = data.phantoms.Ellipses(*(jnp.array([x, x]) for x in (0.4, 9.0, 9.0, 0.0, 0.0, 0.0)))
    >>> print(data.phantoms.drawn_on(two, (1, 1)), data.phantoms.drawn_on(two, (1, 1), opaque=True))
    [[0.8]] [[0.4]]
    """
    checks.pixels(shape)
    height, width = shape
    unit = 2 / min(shape)
    y = -unit * ((jnp.arange(ROWS * height) + 0.5) / ROWS - height / 2)[:, None]
    left = unit * (jnp.arange(width) - width / 2)

    def add(total: Array, ellipse: Ellipses) -> tuple[Array, None]:
        value, a, b, x0, y0, angle = ellipse
        cosine, sine = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
        # The ellipse is A x^2 + 2 B x y + C y^2 <= 1 around its centre, with A C - B^2 = 1/(ab)^2.
        A = (cosine / a) ** 2 + (sine / b) ** 2
        B = cosine * sine * (1 / a**2 - 1 / b**2)
        middle = x0 - B / A * (y - y0)
        half = jnp.sqrt(jnp.maximum(A - ((y - y0) / (a * b)) ** 2, 0)) / A
        ends = jnp.minimum(left + unit, middle + half), jnp.maximum(left, middle - half)
        covered = jnp.maximum(ends[0] - ends[1], 0) / unit
        return total * (1 - covered * opaque) + value * covered, None

    total, _ = jax.lax.scan(add, jnp.zeros((ROWS * height, width)), ellipses)
    return jnp.mean(total.reshape(height, ROWS, width), axis=1)


def cells(
    key: Key[Array, ""], shape: tuple[int, int], *, linear: bool
) -> Float[Array, "height width"]:
    """The cells of the points of a plane that are nearest to one of some random ones: in each the
    image is constant, or if `linear` a plane of its own.

    Raises: ValueError for what is no key or no shape.

    >>> image = data.phantoms.cells(jax.random.key(0), (16, 16), linear=False)
    >>> print(bool(jnp.all((image >= 0) & (image <= 1))), image.shape)
    True (16, 16)
    """
    checks.pixels(shape)
    keys = jax.random.split(checks.key("key", key), 4)
    reach = jnp.array(shape)[:, None] / min(shape)
    sites = reach * jax.random.uniform(keys[0], (2, CELLS), minval=-1.0, maxval=1.0)
    axes = [((jnp.arange(POINTS * n) + 0.5) / POINTS - n / 2) * 2 / min(shape) for n in shape]
    y, x = jnp.meshgrid(*axes, indexing="ij")
    distance = (y[..., None] - sites[0]) ** 2 + (x[..., None] - sites[1]) ** 2
    nearest = jnp.argmin(distance, axis=-1)
    value = jax.random.uniform(keys[1], (CELLS,))[nearest]
    if linear:
        # A plane that stays in [0, 1] on the whole image.
        turn = jax.random.uniform(keys[2], (CELLS,), maxval=2 * np.pi)
        across = jnp.abs(jnp.sin(turn)) * reach[0] + jnp.abs(jnp.cos(turn)) * reach[1]
        slope = jnp.minimum(value, 1 - value) / across[nearest]
        value += slope * (y * jnp.sin(turn)[nearest] + x * jnp.cos(turn)[nearest])
    return jnp.mean(value.reshape(shape[0], POINTS, shape[1], POINTS), axis=(1, 3))


Draw = Callable[[Key[Array, ""], tuple[int, int]], Float[Array, "height width"]]

PHANTOMS: Registry[Draw] = Registry(
    "phantoms",
    {
        "shepp_logan": lambda key, shape: drawn_on(heads(key), shape),
        "ellipses": lambda key, shape: drawn_on(random_ellipses(key), shape, opaque=True),
        "piecewise_constant": partial(cells, linear=False),
        "piecewise_linear": partial(cells, linear=True),
    },
)
"""Each draws an image of a shape by a key, in [0, 1] but for rounding."""


def draw(
    name: str, keys: Key[Array, " count"], shape: tuple[int, int]
) -> Float[Array, "count height width"]:
    """The phantoms of that name by these keys.

    Raises: ValueError for a name that is none of `PHANTOMS`, and a shape that is none.

    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> print(data.phantoms.draw("ellipses", keys, (8, 8)).shape)
    (3, 8, 8)
    """
    known("phantoms", name, PHANTOMS)
    checks.pixels(shape)
    return jnp.stack([_one(name, key, tuple(shape)) for key in keys])


@partial(jax.jit, static_argnames=("name", "shape"))
def _one(name: str, key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "height width"]:
    return jnp.clip(PHANTOMS[name](key, shape), 0, 1)


def keys(seed: int, train_size: int, test_size: int) -> list[Key[Array, " count"]]:
    """Those of training and of test phantoms of a seed; neither changes with the number of others.

    >>> train, test = data.phantoms.keys(0, 2, 1)
    >>> print(train.shape, test.shape)
    (2,) (1,)
    """
    streams = jax.random.split(jax.random.key(seed))
    counts = (train_size, test_size)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return [fold(key, jnp.arange(n)) for key, n in zip(streams, counts, strict=True)]


def load_phantoms(
    name: str,
    train_size: int | None = None,
    test_size: int | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
) -> Images:
    """Phantoms of a name. The first test image of `shepp_logan` is that of Shepp and Logan, all
    others of it are heads like it.

    Args:

        name: one of `PHANTOMS`.
        train_size: number of training phantoms; None: 40.
        test_size: number of test phantoms; None: 10.
        shape: (height, width); None: 128x128.
        seed: at least 0.

    Raises:

        DataError: a name that is none, fewer than one asked for, or more than memory holds.

    >>> options = {"train_size": 2, "test_size": 1, "shape": (8, 8)}
    >>> print(data.phantoms.load_phantoms("piecewise_linear", **options).source)
    2 + 1 phantoms, piecewise linear, 8x8
    """
    if name not in PHANTOMS:
        raise DataError(f"phantoms:{name}: expected phantoms of one of {', '.join(PHANTOMS)}")
    train_size = positive(TRAIN_SIZE if train_size is None else train_size, "train")
    test_size = positive(TEST_SIZE if test_size is None else test_size, "test")
    shape = SHAPE if shape is None else shape
    check_memory(train_size + test_size, shape, "shape")
    train, test = (np.array(draw(name, k, shape)) for k in keys(seed, train_size, test_size))
    if name == "shepp_logan":
        test[0] = jnp.clip(drawn_on(shepp_logan(), shape), 0, 1)
    source = f"phantoms, {name.replace('_', ' ')}"
    return from_pictures(list(train), list(test), source)._replace(range=(0.0, 1.0))
