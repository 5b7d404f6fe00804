"""Phantoms: closed forms, scikit-image's, the same on every grid, and as data by their names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.data

from deqbilevel.data import DataError, load, phantoms
from deqbilevel.data.phantoms import PHANTOMS, SHEPP_LOGAN, drawn_on, shepp_logan


def disc(*, a: float, b: float, x: float = 0.0, y: float = 0.0, angle: float = 0.0):
    return phantoms.Ellipses(*(jnp.array([value]) for value in (1.0, a, b, x, y, angle)))


def test_shepp_logan_is_that_of_scikit_image() -> None:
    """Which has 8 bits, and pixels that an edge crosses wholly on one side."""
    known = skimage.data.shepp_logan_phantom()
    off = abs(np.asarray(drawn_on(shepp_logan(), known.shape)) - known)
    edges = scipy.ndimage.morphological_gradient(known, size=3) > 0
    assert off[~edges].max() < 3e-3 and off.mean() < 5e-3


def test_light_is_the_area_of_the_ellipses() -> None:
    """Whatever the grid: a mean over a pixel loses nothing."""
    for shape in ((16, 16), (25, 40)):
        unit = (2 / min(shape)) ** 2
        areas = [np.pi * value * a * b for value, a, b, *_ in SHEPP_LOGAN]
        assert float(jnp.sum(drawn_on(shepp_logan(), shape))) * unit == pytest.approx(
            sum(areas), abs=2e-3
        )


def test_ellipses_turn_anticlockwise_and_y_is_upwards() -> None:
    image = np.asarray(drawn_on(disc(a=0.8, b=0.1, angle=45.0), (32, 32)))
    assert image[4:12, 20:28].sum() > 10 > 1e-3 > image[4:12, 4:12].sum()
    above = np.asarray(drawn_on(disc(a=0.2, b=0.2, x=0.5, y=0.5), (32, 32)))
    assert above[:16, 16:].sum() == pytest.approx(above.sum(), abs=1e-4)


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_finer_grid_has_the_same_phantom(name: str) -> None:
    keys = jax.random.split(jax.random.key(3), 1)
    coarse, fine = (np.asarray(phantoms.draw(name, keys, (n, n + n // 2)))[0] for n in (20, 60))
    assert coarse.min() >= 0 and coarse.max() <= 1 and coarse.std() > 0.05
    means = fine.reshape(20, 3, 30, 3).mean(axis=(1, 3))
    assert abs(means - coarse).mean() < 3e-3


def test_planes_bend_only_at_edges() -> None:
    """Second differences vanish inside the cells, first ones of constant cells too."""
    keys = jax.random.split(jax.random.key(5), 1)
    for name, order in (("piecewise_constant", 1), ("piecewise_linear", 2)):
        image = np.asarray(phantoms.draw(name, keys, (64, 64)))[0]
        assert (abs(np.diff(image, order, axis=0)) < 1e-5).mean() > 0.75


def test_phantoms_are_data() -> None:
    asked = {"train_size": 3, "test_size": 2, "shape": (12, 16), "value_range": (0, 1)}
    images = load("phantoms:ellipses", **asked)
    assert images.train.shape == (3, 192) and images.test.shape == (2, 192)
    assert images.shape == (12, 16) and images.range == (0, 1)
    assert images.source == "3 + 2 phantoms, ellipses, 12x16"
    fewer = load("phantoms:ellipses", **asked | {"train_size": 2, "test_size": 1})
    np.testing.assert_array_equal(fewer.train, images.train[:2])
    np.testing.assert_array_equal(fewer.test, images.test[:1])
    assert (load("phantoms:ellipses", seed=1, **asked).train != images.train).any()
    heads = load("phantoms:shepp_logan", **asked)
    known = np.asarray(drawn_on(shepp_logan(), (12, 16))).ravel()
    np.testing.assert_allclose(heads.test[0], known, atol=1e-6)
    assert all(abs(x - known).max() > 0.05 for x in (*heads.train, heads.test[1]))


@pytest.mark.parametrize(
    ("spec", "asked", "said"),
    [
        ("phantoms:heads", {}, "phantoms:heads: expected phantoms of one of shepp_logan, ellipses"),
        ("phantoms", {}, "the name is missing, write phantoms:NAME"),
        ("phantoms:ellipses", {"patch": 8}, "patch=8: phantoms have no patches"),
        ("phantoms:ellipses", {"train_size": 0}, "train_size=0: ask for at least 1"),
        ("phantoms:ellipses", {"shape": (0, 8)}, "give a height and a width, each at least 1"),
        ("phantoms:ellipses", {"shape": (10**6, 10**6)}, "GiB"),
    ],
)
def test_what_is_no_phantom_is_refused_by_name(spec: str, asked: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(spec, **asked)
