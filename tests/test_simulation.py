"""Measurements on a finer grid: what they come near to, and what they are not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal

from deqbilevel import adjoints, baselines, operators, recipes, simulation
from deqbilevel.data.phantoms import SHEPP_LOGAN, drawn_on, shepp_logan

SHAPE = (20, 24)


def sinogram(ellipses: Any, angles: Any, t: Any) -> np.ndarray:
    """The line integrals of ellipses whose values add up, in closed form."""
    total = np.zeros((len(angles), len(t)))
    theta = np.deg2rad(angles)[:, None]
    for value, a, b, x, y, angle in ellipses:
        turned = theta - np.deg2rad(angle)
        width = (a * np.cos(turned)) ** 2 + (b * np.sin(turned)) ** 2
        away = t - x * np.cos(theta) - y * np.sin(theta)
        total += 2 * value * a * b * np.sqrt(np.maximum(width - away**2, 0)) / width
    return total


@float64
def test_sinograms_of_ellipses_come_near_to_the_closed_form() -> None:
    n, angles, bins, across = 64, (0.0, 20.0, 45.0, 90.0, 130.0), 91, 9
    K = operators.parallel_beam((n, n), angles, bins)
    t = (np.arange(across * bins) + 0.5) / across - bins / 2
    known = sinogram(SHEPP_LOGAN, angles, t * 2 / n) * n / 2 / K.scale
    known = known.reshape(len(angles), bins, across).mean(axis=2)
    fine = simulation.finer("parallel_beam", (n, n), 3, {"angles": angles, "bins": bins})
    found = [
        jax.jit(K.apply)(drawn_on(shepp_logan(), (n, n)).reshape(1, -1)),
        jax.jit(fine.of_fine)(drawn_on(shepp_logan(), (3 * n, 3 * n)).reshape(1, -1)),
    ]
    off = [abs(np.asarray(x).reshape(known.shape) - known).mean() / known.mean() for x in found]
    assert off[1] < 2e-3 < off[0] < 2e-2


def blob(shape: tuple[int, int], factor: int) -> jnp.ndarray:
    """A smooth image, off the middle, on a grid so many times finer, in rows."""
    rows, columns = ((np.arange(factor * n) + 0.5) / factor - n / 2 for n in shape)
    image = np.exp(-((rows[:, None] - 2) ** 2 + (columns - 1) ** 2 / 1.5) / 18)
    return jnp.asarray(image.reshape(1, -1))


@float64
@pytest.mark.parametrize(("name", "factor"), [(x, 3) for x in simulation.SIMULATED])
def test_a_smooth_image_has_nearly_the_same_data_on_both_grids(name: str, factor: int) -> None:
    options = {"angles": 7} if name == "parallel_beam" else {}
    K: Any = operators.OPERATORS[name](SHAPE, **options)
    fine = simulation.finer(name, SHAPE, factor, options)
    apply, apply_fine, of_fine = (jax.jit(x) for x in (K.apply, fine.apply, fine.of_fine))
    u = simulation.means(blob(SHAPE, factor), SHAPE, factor)
    known = np.asarray(apply(u))
    for found in (apply_fine(u), of_fine(blob(SHAPE, factor))):
        assert found.shape == known.shape and found.dtype == known.dtype
        off = abs(np.asarray(found) - known).max() / abs(known).max()
        assert 1e-6 < off < 0.02
    adjoints.check(fine, SHAPE[0] * SHAPE[1])
    rough = normal(0, 1, SHAPE[0] * SHAPE[1])
    assert np.linalg.norm(np.asarray(apply_fine(rough)) - np.asarray(apply(rough))) > 0.02


@float64
def test_low_frequencies_are_the_sums_that_they_stand_for() -> None:
    shape, factor, fine = (4, 3), 2, normal(0, 1, 48)
    found = simulation.finer("fourier", shape, factor, {"rate": 1.0}).of_fine(fine)
    image = np.asarray(fine).reshape(8, 6)
    places = [(np.arange(factor * n) + 0.5) / factor - 0.5 for n in shape]
    waves = [
        np.exp(-2j * np.pi * np.outer(np.fft.fftfreq(n, 1 / n), at) / n)
        for n, at in zip(shape, places, strict=True)
    ]
    known = waves[0] @ image @ waves[1].T / factor**2 / np.sqrt(12)
    np.testing.assert_allclose(np.asarray(found).reshape(shape), known, atol=1e-12)


@float64
def test_pixels_are_the_means_of_what_is_interpolated() -> None:
    u = normal(3, 2, 20)
    for factor in (2, 3):
        fine = simulation.interpolated(u, (4, 5), factor)
        np.testing.assert_allclose(simulation.means(fine, (4, 5), factor), u, atol=1e-12)


def test_a_model_and_what_doing_nothing_gives_take_the_finer_measurements() -> None:
    recipe = recipes.Recipe("gaussian_blur", {}, "convolutional", {"filters": (3, 2, 2)})
    model, u, key = recipe.model((12, 12)), normal(1, 2, 144), jax.random.key(0)
    fine = model._replace(simulation=simulation.finer("gaussian_blur", (12, 12), 2))
    params = {"noise": jnp.zeros(())}
    np.testing.assert_array_equal(fine.measure(params, u, key), fine.simulation.apply(u))
    np.testing.assert_array_equal(model.measure(params, u, key), model.K.apply(u))
    known = [
        baselines.baselines(x.K, u, u, 0.0, key, simulation=x.simulation) for x in (model, fine)
    ]
    assert known[0]["measurement"] != known[1]["measurement"]


@pytest.mark.parametrize(
    ("operator", "factor", "options", "said"),
    [
        (
            "row_mask",
            2,
            {},
            "operator row_mask: of no other data on a finer grid; expected one of p",
        ),
        ("parallel_beam", 1, {}, "finer=1: expected"),
        ("parallel_beam", 2, {"angles": 0}, "angles=0: expected"),
        ("fourier", 2, {"coils": 3}, "coils=3: on a finer grid simulated with one coil"),
        ("diagonal_blur", 2, {}, "finer=2: a diagonal of an even number of finer pixels"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(
    operator: str, factor: int, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        simulation.finer(operator, SHAPE, factor, options)
