import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal
from skimage.metrics import peak_signal_noise_ratio

from deqbilevel.losses import LOSSES, mean_squared_error, psnr


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
        np.testing.assert_allclose(psnr(u, truth, data_range), expected, rtol=1e-12)
    np.testing.assert_array_equal(psnr(u, truth), psnr(u, truth, 2.0))


def test_psnr_of_a_perfect_image_is_infinite():
    assert np.isposinf(psnr(jnp.ones((1, 4)), jnp.ones((1, 4)))).all()
