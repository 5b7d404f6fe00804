"""Every data fidelity, of real and complex data: value, derivatives, proximal map and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal, untyped

from deqbilevel import fidelities
from deqbilevel.fidelities import FIDELITIES

KINDS = ("real", "complex")
OPTIONS = {"huber": {"threshold": 1.0}, "poisson": {"background": 0.3}}
"""With which both of their forms are met below."""
CASES = [
    (name, kind)
    for name, build in FIDELITIES.items()
    for kind in KINDS[: 1 if build().counts else None]
]


@pytest.fixture(params=FIDELITIES)
def D(request):
    return FIDELITIES[request.param](**OPTIONS.get(request.param, {}))


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    """A fidelity, and predicted and measured data by a seed, four by seven, in double precision."""
    name, kind = request.param
    D = FIDELITIES[name](**OPTIONS.get(name, {}))

    def draw(seed: int) -> jax.Array:
        real, imaginary = normal(seed, 4, 7), normal(seed + 1, 4, 7)
        return real + 1j * imaginary if kind == "complex" else real

    def measured(seed: int) -> jax.Array:
        # Counts, of which some are zero.
        return jnp.maximum(draw(seed), 0) if D.counts else draw(seed)

    return D, draw, measured


def inner(x: jax.Array, y: jax.Array) -> np.ndarray:
    """<x, y> = Re x^H y of each image."""
    return np.sum(np.asarray(jnp.conj(x) * y).real, axis=-1)


@float64
def test_gradient_and_hessian_are_those_of_the_value(case):
    D, draw, measured = case
    v, f, way, h = draw(0), measured(2), draw(4), 1e-5
    difference = (D.value(v + h * way, f) - D.value(v - h * way, f)) / (2 * h)
    assert D.value(v, f).shape == (4,) and D.value(v, f).dtype == jnp.float64
    gradient = D.gradient(v, f)
    assert (gradient.shape, gradient.dtype) == (v.shape, v.dtype)
    np.testing.assert_allclose(inner(gradient, way), difference, rtol=1e-7, atol=1e-8)
    step = 1e-3 / D.curvature
    assert (D.value(v - step * gradient, f) < D.value(v, f)).all()
    change = (D.gradient(v + h * way, f) - D.gradient(v - h * way, f)) / (2 * h)
    product = D.hessian(v, f, way)
    assert (product.shape, product.dtype) == (v.shape, v.dtype)
    np.testing.assert_allclose(product, change, rtol=1e-6, atol=1e-7)
    of_jax = jax.grad(lambda v: D.value(v, f).sum())(v)
    np.testing.assert_allclose(jnp.conj(of_jax), gradient, rtol=1e-12, atol=1e-12)


@float64
def test_it_is_convex_and_its_curvature_bounds_the_gradients_slope(case):
    D, draw, measured = case
    v, w, f = draw(0), draw(2), measured(4)
    change = D.gradient(v, f) - D.gradient(w, f)
    assert (inner(change, v - w) >= 0).all()
    ratio = np.sqrt(inner(change, change) / inner(v - w, v - w))
    assert (ratio <= D.curvature * (1 + 1e-12)).all()
    middle = D.value((v + w) / 2, f)
    assert (middle <= (D.value(v, f) + D.value(w, f)) / 2 + 1e-12).all()
    curvature = inner(draw(6), D.hessian(v, f, draw(6))) / inner(draw(6), draw(6))
    assert (curvature >= 0).all() and (curvature <= D.curvature * (1 + 1e-12)).all()


@float64
def test_the_proximal_map_meets_its_optimality_condition(case):
    """x - v + a D'(x; f) = 0, where the map is known."""
    D, draw, measured = case
    v, f = draw(0), measured(2)
    for a in (0.0, 0.3, 20.0):
        x = D.proximal(v, f, a)
        assert (x.shape, x.dtype) == (v.shape, v.dtype)
        np.testing.assert_allclose(x - v + a * D.gradient(x, f), 0, atol=1e-11)
    with pytest.raises(ValueError, match=r"a=-1.0: expected a finite number, 0 or more"):
        D.proximal(v, f, -1.0)


@float64
def test_squares_are_half_the_squared_distance():
    v, f = normal(0, 4, 7) + 1j * normal(1, 4, 7), normal(2, 4, 7)
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
    noise = 0.0 if D.counts else 0.2
    one, same, other = (D.measure(v, noise, jax.random.key(i)) for i in (0, 0, 1))
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


# ---- counts


@float64
def test_poisson_is_the_likelihood_of_counts_where_it_is_not_continued():
    peak, r = 20.0, 0.1
    D = fidelities.poisson(peak=peak, background=r)
    counts = jnp.arange(1.0, 9.0)[None]
    v = counts / peak - r + 0.05
    by_hand = -jax.scipy.stats.poisson.logpmf(counts, peak * (v + r)) / peak
    at_best = -jax.scipy.stats.poisson.logpmf(counts, counts) / peak
    best = counts / peak - r
    found = D.value(v, counts / peak) - D.value(best, counts / peak)
    np.testing.assert_allclose(found, jnp.sum(by_hand - at_best, -1), rtol=1e-12)
    # One count or more is most probable at itself; of none, the less light the better.
    np.testing.assert_allclose(D.gradient(best, counts / peak), 0, atol=1e-12)
    np.testing.assert_array_equal(D.gradient(jnp.full((1, 2), 1.0), jnp.zeros((1, 2))), 1)
    assert D.curvature == peak and fidelities.poisson(curvature=3.0).curvature == 3


def test_counts_have_their_mean_and_variance():
    v = jnp.linspace(0.1, 1.0, 5)[:, None] * jnp.ones((5, 4000))
    f = 50 * fidelities.poisson(peak=50.0, background=0.2).measure(v, 0.0, jax.random.key(0))
    np.testing.assert_allclose(f, np.round(f), atol=1e-4)
    mean = 50 * (v[:, 0] + 0.2)
    # Five standard errors of a mean and of a variance of 4000 counts.
    assert (np.abs(f.mean(1) - mean) < 5 * np.sqrt(mean / 4000)).all()
    assert (np.abs(f.var(1) / mean - 1) < 5 * np.sqrt(3 / 4000)).all()


@pytest.mark.parametrize(
    ("f", "message"),
    [
        ([[0.1, -0.2]], r"f: from -0.2; expected counts.*0 or more.*background"),
        ([[0.0, 0.0]], r"f: zero everywhere.*a larger peak"),
        ([[1j, 0.0]], r"f: of type complex64; expected counts.*real.*squares"),
    ],
)
def test_what_are_no_counts_is_refused(f, message):
    with pytest.raises(ValueError, match=message):
        fidelities.poisson().check(jnp.asarray(f))


def test_counts_of_no_images_are_refused():
    D, key = fidelities.poisson(), jax.random.key(0)
    with pytest.raises(ValueError, match=r"v: from -1; counts have means of 0 or more.*0..1"):
        D.measure(jnp.array([[1.0, -1.0]]), 0.0, key)
    with pytest.raises(ValueError, match=r"noise=0.1: counts have the noise of their number"):
        D.measure(jnp.ones((1, 2)), 0.1, key)
    traced = jax.jit(lambda v: D.measure(v, 0.0, key))(jnp.array([[1.0, -1.0]]))
    np.testing.assert_array_equal(np.isnan(traced), [[False, True]])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("poisson", {"peak": 0.0}, "peak=0.0: expected a finite number, above 0"),
        ("poisson", {"background": -1.0}, "background=-1.0: expected"),
        ("poisson", {"curvature": np.ones(2)}, r"curvature of shape \[2\]: expected one number"),
        ("huber", {"threshold": 0.0}, "threshold=0.0: expected a finite number, above 0"),
        ("huber", {"outliers": 2.0}, "outliers=2.0: expected a finite number, 0 or more, at most"),
    ],
)
def test_options_that_are_none_are_refused(name, options, message):
    with untyped(), pytest.raises(ValueError, match=message):
        FIDELITIES[name](**options)


def test_outliers_have_their_part_and_size():
    v = jnp.zeros((50, 400))
    f = np.asarray(fidelities.huber(outliers=0.2).measure(v, 0.1, jax.random.key(0)))
    variance = 0.1**2 * (0.8 + 0.2 * 10**2)
    assert abs(f.var() / variance - 1) < 0.1
    # Beyond three deviations of the others: nearly all of the outliers but 24 %, and 0.3 % of them.
    assert abs((np.abs(f) > 0.3).mean() - (0.2 * 0.764 + 0.8 * 0.0027)) < 0.015
