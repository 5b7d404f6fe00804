"""What doing nothing gives, against NumPy and against what an operator is known to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqbilevel import baselines, losses, models

TRAIN = np.random.default_rng(0).uniform(-1, 1, (7, 36)).astype(np.float32)
TEST = np.random.default_rng(1).uniform(-1, 1, (5, 36)).astype(np.float32)


@pytest.mark.parametrize("task", models.TASKS)
def test_losses_of_what_is_not_learned(task):
    K, key = models.build(task, "bilevel", (6, 6)).K, jax.random.key(2)
    known = baselines.baselines(K, TRAIN, TEST, 0.3, key)
    f = models.measure(K, jnp.asarray(TEST), jnp.float32(0.3), key)
    expected = {"measurement": f, "adjoint": K.adjoint(f), "mean_image": TRAIN.mean(axis=0)}
    assert list(known) == list(baselines.NAMES)
    for name, u in expected.items():
        assert known[name] == pytest.approx(np.mean((np.asarray(u) - TEST) ** 2), rel=1e-5)


def test_of_a_loss_that_is_a_sum_over_images_their_mean():
    K, key = models.build("denoising", "bilevel", (6, 6)).K, jax.random.key(2)
    mean = baselines.baselines(K, TRAIN, TEST, 0.3, key)
    half = baselines.baselines(K, TRAIN, TEST, 0.3, key, losses.half_squared_error)
    assert half == pytest.approx({name: 36 / 2 * loss for name, loss in mean.items()}, rel=1e-5)


def test_the_measurement_of_a_denoising_problem_has_the_variance_of_the_noise():
    K, test = models.build("denoising", "deq", (20, 20)).K, np.zeros((500, 400), np.float32)
    known = baselines.baselines(K, test, test, 0.5, jax.random.key(0))
    assert known["measurement"] == known["adjoint"] == pytest.approx(0.25, rel=0.02)
    assert known["mean_image"] == 0 and baselines.best(known) == ("mean_image", 0)


def test_a_loss_that_is_no_better_says_so():
    known = {"measurement": 0.383, "adjoint": 0.5, "mean_image": 0.41}
    assert baselines.warning(0.38, known) is None
    for loss in (0.478, 0.383):
        said = baselines.warning(loss, known)
        assert said == f"test loss {loss} is no better than 0.383, that of the measurement f"
    assert baselines.warning(float("nan"), known)
