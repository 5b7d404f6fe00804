"""Every data fidelity, of real and of complex data: value, gradient, curvature, proximal map and
noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal, untyped

from deqbilevel import fidelities
from deqbilevel.fidelities import FIDELITIES

KINDS = ("real", "complex")


@pytest.fixture(params=FIDELITIES)
def D(request):
    return FIDELITIES[request.param]


@pytest.fixture(params=KINDS)
def pair(request):
    """Predicted and measured data, four by seven, in double precision."""

    def draw(seed: int) -> jax.Array:
        with jax.enable_x64(True):
            real, imaginary = normal(seed, 4, 7), normal(seed + 1, 4, 7)
            return real + 1j * imaginary if request.param == "complex" else real

    return draw


def inner(x: jax.Array, y: jax.Array) -> np.ndarray:
    """<x, y> = Re x^H y of each image."""
    return np.sum(np.asarray(jnp.conj(x) * y).real, axis=-1)


@float64
def test_the_gradient_is_that_of_the_value(D, pair):
    v, f, way, h = pair(0), pair(2), pair(4), 1e-5
    difference = (D.value(v + h * way, f) - D.value(v - h * way, f)) / (2 * h)
    assert D.value(v, f).shape == (4,) and D.value(v, f).dtype == jnp.float64
    gradient = D.gradient(v, f)
    assert (gradient.shape, gradient.dtype) == (v.shape, v.dtype)
    np.testing.assert_allclose(inner(gradient, way), difference, rtol=1e-7, atol=1e-8)
    assert (D.value(v - 1e-3 * gradient, f) < D.value(v, f)).all()


@float64
def test_it_is_convex_and_its_curvature_bounds_and_is_the_least_that_does(D, pair):
    v, w, f = pair(0), pair(2), pair(4)
    change = D.gradient(v, f) - D.gradient(w, f)
    assert (inner(change, v - w) >= 0).all()
    ratio = np.sqrt(inner(change, change) / inner(v - w, v - w))
    assert (ratio <= D.curvature * (1 + 1e-12)).all()
    middle = D.value((v + w) / 2, f)
    assert (middle <= (D.value(v, f) + D.value(w, f)) / 2 + 1e-12).all()


@float64
def test_the_proximal_map_meets_its_optimality_condition(D, pair):
    """x - v + a D'(x; f) = 0, where the map is known."""
    assert D is not fidelities.squares or D.proximal is not None
    if D.proximal is None:
        return
    v, f = pair(0), pair(2)
    for a in (0.0, 0.3, 20.0):
        x = D.proximal(v, f, a)
        assert (x.shape, x.dtype) == (v.shape, v.dtype)
        np.testing.assert_allclose(x - v + a * D.gradient(x, f), 0, atol=1e-12)
    with pytest.raises(ValueError, match=r"a=-1.0: expected a finite number, 0 or more"):
        D.proximal(v, f, -1.0)


@float64
def test_squares_are_half_the_squared_distance(pair):
    v, f = pair(0), pair(2)
    found = fidelities.squares.value(v, f)
    np.testing.assert_allclose(found, 0.5 * np.linalg.norm(v - f, axis=1) ** 2, rtol=1e-12)
    np.testing.assert_array_equal(fidelities.squares.gradient(v, f), v - f)
    assert fidelities.squares.curvature == 1


@pytest.mark.parametrize("kind", KINDS)
def test_normal_noise_has_its_deviation_in_every_part(kind):
    v = jnp.zeros((50, 200), jnp.complex64 if kind == "complex" else jnp.float32)
    f = fidelities.squares.measure(v + 2, 0.3, jax.random.key(0))
    assert (f.shape, f.dtype) == (v.shape, v.dtype)
    noise = np.asarray(f - 2)
    parts = (noise.real, noise.imag) if kind == "complex" else (noise,)
    for part in parts:
        # Standard errors of the deviation and the mean of n numbers; five of them.
        assert abs(part.std() / 0.3 - 1) < 5 / np.sqrt(2 * part.size)
        assert abs(part.mean() / 0.3) < 5 / np.sqrt(part.size)
    if kind == "complex":
        assert abs(np.corrcoef(noise.real.ravel(), noise.imag.ravel())[0, 1]) < 0.05


def test_a_measurement_follows_from_its_key_and_without_noise_is_the_data(D):
    v = jnp.linspace(0.5, 2.0, 12).reshape(3, 4)
    one, same, other = (D.measure(v, 0.2, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_without_noise_squares_measure_the_data():
    v = jnp.linspace(-1.0, 2.0, 12).reshape(3, 4)
    np.testing.assert_array_equal(fidelities.squares.measure(v, 0.0, jax.random.key(0)), v)


@pytest.mark.parametrize(
    ("noise", "key", "message"),
    [
        (-1.0, jax.random.key(0), "noise=-1.0: expected a finite number, 0 or more"),
        (np.ones(3), jax.random.key(0), r"noise of shape \[3\]: expected one number"),
        (0.1, 3, "key: .*expected a random key"),
    ],
)
def test_noise_and_keys_that_are_none_are_refused(noise, key, message):
    with untyped(), pytest.raises(ValueError, match=message):
        fidelities.squares.measure(jnp.ones((2, 4)), noise, key)
