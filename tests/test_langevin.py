"""The sampler on a Gaussian, whose mean and covariance are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqbilevel import langevin

PRECISION = jnp.array([1.0, 4.0, 10.0])
MEAN = jnp.array([0.0, -2.0, 1.0])
TEMPERATURE = 0.25


def slope(u, params, f):
    return params["precision"] * (u - f)


def cost(u, params, f):
    return jnp.sum(params["precision"] * (u - f) ** 2, axis=1) / 2


def moments(step, energy):
    start = jnp.broadcast_to(MEAN, (200, 3))
    found = langevin.sample(
        slope,
        {"precision": PRECISION},
        MEAN,
        start,
        jax.random.key(0),
        step=step,
        temperature=TEMPERATURE,
        burn_in=100,
        steps=3000,
        energy=energy,
    )
    # About the known mean, as that of a chain follows the chain.
    variance = jnp.mean(found.deviation**2 + (found.mean - MEAN) ** 2, axis=0)
    return found, np.asarray(variance) * np.asarray(PRECISION) / TEMPERATURE


def test_unadjusted_samples_have_the_variance_of_their_step():
    step = 0.02
    found, relative = moments(step, None)
    expected = 1 / (1 - step * np.asarray(PRECISION) / TEMPERATURE / 2)
    assert expected[-1] > 1.6
    np.testing.assert_allclose(relative, expected, rtol=0.03)
    np.testing.assert_allclose(found.mean.mean(axis=0), MEAN, atol=0.01)
    assert np.all(found.accepted == 1)


def test_adjusted_samples_have_the_variance_of_the_law():
    found, relative = moments(0.02, cost)
    np.testing.assert_allclose(relative, 1, rtol=0.03)
    np.testing.assert_allclose(found.mean.mean(axis=0), MEAN, atol=0.01)
    assert 0.5 < found.accepted.mean() < 0.99


def test_a_step_of_nothing_is_refused():
    with pytest.raises(ValueError, match="step=0"):
        langevin.sample(
            slope, {}, 0.0, jnp.zeros((1, 1)), jax.random.key(0), step=0, burn_in=1, steps=1
        )
