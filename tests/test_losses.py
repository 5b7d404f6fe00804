from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal, untyped
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from deqbilevel.losses import (
    LOSSES,
    Additive,
    Penalised,
    mean_scores,
    mean_squared_error,
    psnr,
    scores,
    snr,
    ssim,
    ssim_or_nan,
)


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]


@float64
def test_loss_is_smallest_at_the_truth(loss):
    truth, noise = jnp.tanh(normal(0, 3, 36)), normal(1, 3, 36)
    levels = [loss(truth + scale * noise, truth) for scale in (0.0, 0.1, 0.2, 0.4)]
    assert (np.diff(levels) > 0).all()
    np.testing.assert_allclose(jax.grad(loss)(truth, truth), 0, atol=1e-12)


@float64
def test_loss_gradient_matches_differences(loss):
    truth, u, d, h = normal(0, 3, 36), normal(1, 3, 36), normal(2, 3, 36), 1e-5
    difference = (loss(u + h * d, truth) - loss(u - h * d, truth)) / (2 * h)
    np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(u, truth), d), difference, rtol=1e-8)


@float64
def test_loss_does_not_depend_on_the_order_of_the_batch(loss):
    truth, u = normal(0, 3, 36), normal(1, 3, 36)
    np.testing.assert_allclose(loss(u[::-1], truth[::-1]), loss(u, truth), rtol=1e-12)


def test_mean_squared_error_is_a_mean_over_pixels_and_images():
    u, truth = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[0.0, 2.0], [3.0, 1.0]])
    assert mean_squared_error(u, truth) == (1 + 9) / 4


@float64
def test_psnr_is_that_of_scikit_image():
    truth = jnp.tanh(normal(0, 4, 36))
    u = truth + normal(1, 4, 36) * jnp.array([[0.01], [0.1], [0.5], [1.0]])
    for data_range in (2.0, 1.0):
        expected = [
            peak_signal_noise_ratio(np.array(t), np.array(x), data_range=data_range)
            for t, x in zip(truth, u, strict=True)
        ]
        np.testing.assert_allclose(psnr(u, truth, data_range=data_range), expected, rtol=1e-12)
    np.testing.assert_allclose(
        psnr(u, truth, data_range=2.0) - psnr(u, truth, data_range=1.0), 20 * np.log10(2), rtol=1e-9
    )


def test_psnr_of_a_perfect_image_is_infinite():
    assert np.isposinf(psnr(jnp.ones((1, 4)), jnp.ones((1, 4)), data_range=1.0)).all()


@float64
def test_psnr_without_a_range_is_that_of_the_text():
    """N ||truth||_inf^2 / ||u - truth||^2, [CF] (3.2)."""
    truth, u = normal(0, 3, 36), normal(1, 3, 36)
    expected = [
        10 * np.log10(36 * np.abs(t).max() ** 2 / np.sum((x - t) ** 2))
        for t, x in zip(np.array(truth), np.array(u), strict=True)
    ]
    np.testing.assert_allclose(psnr(u, truth, data_range=None), expected, rtol=1e-12)
    for data_range in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"data_range=.*: expected a finite number, above 0"):
            psnr(u, truth, data_range=data_range)


def test_ssim_is_that_of_scikit_image_and_refuses_pictures_below_its_window():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (2, 11 * 13)).astype(np.float32)
    u = truth + 0.3 * rng.standard_normal(truth.shape).astype(np.float32)
    expected = []
    for a, b in zip(u.reshape(2, 11, 13), truth.reshape(2, 11, 13), strict=True):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        _, full = structural_similarity(a, b, data_range=2.0, full=True, **options)
        expected.append(full[5:-5, 5:-5].mean())
    found = ssim(jnp.asarray(u), jnp.asarray(truth), (11, 13), data_range=2.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    again = ssim_or_nan(jnp.asarray(u), jnp.asarray(truth), (11, 13), data_range=2.0)
    np.testing.assert_array_equal(again, found)
    for shape in ((10, 13), (13, 10), (8, 8)):
        x = jnp.ones((2, shape[0] * shape[1]))
        with pytest.raises(ValueError, match=f"pictures of {shape[0]}x{shape[1]}: expected 11x11"):
            ssim(x, x, shape, data_range=2.0)
        assert np.isnan(ssim_or_nan(x, x, shape, data_range=2.0)).all()


def test_scores_of_reports_are_the_measures_in_the_range_that_is_said():
    truth = jnp.asarray(np.random.default_rng(1).uniform(0, 1, (2, 11 * 12)).astype(np.float32))
    u = truth.at[0].add(0.1).at[1].add(-0.2)
    found = scores(u, truth, (11, 12), 1.0)
    expected = {
        "snr_db": snr(u, truth),
        "psnr_db": psnr(u, truth, data_range=1.0),
        "ssim": ssim(u, truth, (11, 12), data_range=1.0),
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert mean_scores(u, truth, (11, 12), 1.0)[name] == pytest.approx(float(values.mean()))
    assert np.isnan(scores(u, truth, (4, 33), 1.0)["ssim"]).all()


@pytest.mark.parametrize("shapes", [((4, 1), (1, 256)), ((4, 256), (1, 256)), ((256,), (1, 256))])
def test_shapes_that_differ_are_refused(shapes):
    u, truth = (np.ones(shape, np.float32) for shape in shapes)
    square = [partial(measure, shape=(16, 16), data_range=2.0) for measure in (ssim, ssim_or_nan)]
    for measure in (*LOSSES.values(), partial(psnr, data_range=2.0), snr, *square):
        with untyped(), pytest.raises(ValueError, match=r"u \[.*\] and truth \[1, 256\]: expected"):
            measure(jnp.asarray(u), jnp.asarray(truth))


def test_whole_numbers_are_refused():
    """Differences of grey values would wrap around."""
    u, truth = jnp.zeros((1, 4), jnp.uint8), jnp.ones((1, 4), jnp.uint8)
    for measure in (*LOSSES.values(), partial(psnr, data_range=2.0), snr):
        with untyped(), pytest.raises(ValueError, match=r"u: of type uint8; expected floating"):
            measure(u, truth)


def test_the_range_has_to_be_said():
    """A default would be 6.02 dB off for images in [0, 1] or for those in [-1, 1]."""
    x = jnp.ones((1, 256))
    for measure in (psnr, partial(ssim, shape=(16, 16)), partial(ssim_or_nan, shape=(16, 16))):
        with untyped(), pytest.raises(TypeError, match="data_range"):
            measure(x, x)


def test_a_penalty_is_refused_beside_a_sum_over_images():
    with pytest.raises(ValueError, match="Penalised: of a sum over images"):
        Penalised(Additive(mean_squared_error), lambda params: jnp.zeros(()))
