"""Single-level learning: constraint sets, objectives that fall, and filters for the regulariser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqbilevel import single_level
from deqbilevel.convolutions import bank
from deqbilevel.potentials import CornerRounded
from tests.helpers import float64, normal

X = normal(0, 60, 6).at[:, 3:].multiply(0.2)


@pytest.mark.parametrize("without_constant", [False, True])
def test_projections_land_in_their_sets(without_constant):
    omega = normal(1, 9, 6)
    identity = np.eye(6) - without_constant / 6
    made = {
        name: np.asarray(single_level.constraint(name, without_constant=without_constant)(omega))
        for name in single_level.CONSTRAINTS
    }
    for name in ("unit_rows", "uniform_tight_frame"):
        np.testing.assert_allclose(np.linalg.norm(made[name], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(made["parseval"].T @ made["parseval"], identity, atol=1e-5)
    tight = made["uniform_tight_frame"]
    n = 6 - without_constant
    np.testing.assert_allclose(tight.T @ tight, 9 / n * identity, atol=1e-4)
    if without_constant:
        for found in made.values():
            np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-5)


def test_the_polar_factor_is_the_nearest_frame():
    omega = normal(2, 8, 5)
    nearest = single_level.constraint("parseval")(omega)
    for seed in range(3):
        turn, _ = jnp.linalg.qr(jnp.eye(8) + 0.1 * normal(seed, 8, 8))
        other = turn @ nearest  # a frame too
        assert jnp.sum((nearest - omega) ** 2) < jnp.sum((other - omega) ** 2)


def test_too_few_filters_for_a_frame_are_refused():
    with pytest.raises(ValueError, match="4 filters of 6 taps: a tight frame has 5 or more"):
        single_level.constraint("parseval", without_constant=True)(normal(0, 4, 6))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("none", {}),
        ("unit_rows", {"penalty": lambda omega: 0.1 * single_level.coherence(omega)}),
        ("parseval", {"beta": 0.3}),
        ("uniform_tight_frame", {}),
    ],
)
def test_analysis_operator_learning_never_rises_and_stays_in_its_set(name, options):
    project = single_level.constraint(name)
    method = single_level.analysis(project, **options)
    omega, objective = single_level.run(method, normal(3, 8, 6), X, 25)
    assert np.all(np.diff(objective) <= 1e-6 * np.abs(objective[1:]))
    assert objective[-1] < 0.98 * objective[0]
    np.testing.assert_allclose(project(omega), omega, atol=1e-3)  # alternations end there


def test_without_a_set_filters_vanish_and_with_unit_rows_they_repeat():
    """[CF] 7.4."""
    found = {}
    for name in ("none", "unit_rows", "uniform_tight_frame"):
        method = single_level.analysis(single_level.constraint(name), phi=CornerRounded(0.1))
        found[name], _ = single_level.run(method, normal(3, 8, 6), X, 100)
    assert jnp.linalg.norm(found["none"]) < 1e-2 * jnp.linalg.norm(normal(3, 8, 6))
    assert single_level.mutual_coherence(found["unit_rows"]) > 0.999
    assert single_level.mutual_coherence(found["uniform_tight_frame"]) < 0.95
    assert jnp.linalg.matrix_rank(found["unit_rows"], 1e-2) < 6
    assert jnp.linalg.matrix_rank(found["uniform_tight_frame"], 1e-2) == 6


@float64
def test_noisy_patches_are_estimated_on_the_way():
    phi, beta = CornerRounded(0.01), 0.2
    y = X + 0.1 * normal(5, *X.shape)
    method = single_level.analysis(single_level.constraint("parseval"), phi=phi, beta=beta)
    state = method.init(jnp.eye(6), y)
    for _ in range(3):
        state, value = method.step(state, y)
    sparse = jnp.sum(phi.value(state.x @ state.operator.T))
    expected = (jnp.sum((state.x - y) ** 2) / 2 + beta * sparse) / len(y)
    np.testing.assert_allclose(value, expected)
    assert jnp.any(state.x != y)


@float64
def test_convolutional_learning_never_rises_and_keeps_its_frame():
    x = jnp.cumsum(normal(4, 2, 8 * 9), axis=1)
    for without, count in ((False, 6), (True, 5)):
        method = single_level.convolutional_analysis((8, 9), 0.05, without_constant=without)
        c, objective = single_level.run(method, normal(5, count, 2, 3), x, 15)
        assert np.all(np.diff(objective) <= 1e-12) and objective[-1] < objective[0]
        rows = c.reshape(count, -1)
        np.testing.assert_allclose(rows.T @ rows, (np.eye(6) - without / 6) / 6, atol=1e-12)
    z = bank((8, 9)).apply(single_level.frame(normal(5, 6, 2, 3)), x)
    np.testing.assert_allclose(jnp.sum(z**2), jnp.sum(x**2))


@float64
def test_the_objective_of_convolutional_learning_is_that_of_the_best_codes():
    x, beta = normal(4, 1, 20), 0.1
    method = single_level.convolutional_analysis((1, 20), beta)
    state, value = method.step(method.init(normal(5, 3, 1, 3), x), x)
    responses = bank((1, 20)).apply(state.operator, x)
    z = single_level.thresholded(responses, beta)
    expected = jnp.sum((responses - z) ** 2) / 2 + beta * jnp.sum(z != 0)
    np.testing.assert_allclose(value, expected / x.size)


def test_rows_become_filters_of_the_same_responses():
    image, omega = normal(7, 1, 25), normal(8, 2, 6)
    responses = bank((5, 5)).apply(single_level.filters_of(omega, (2, 3)), image)
    patch = image.reshape(5, 5)[1:3, 1:4].ravel()
    np.testing.assert_allclose(responses[:, 0, 1, 2], omega @ patch, rtol=1e-5)


def test_patches_are_parts_of_the_images():
    images = normal(9, 3, 5 * 7)
    found = single_level.patches(images, (5, 7), (2, 3), jax.random.key(0), 4, centred=False)
    every = {
        np.asarray(picture[i : i + 2, j : j + 3]).tobytes()
        for picture in images.reshape(3, 5, 7)
        for i in range(4)
        for j in range(5)
    }
    assert {np.asarray(x).tobytes() for x in found.reshape(-1, 2, 3)} <= every
    with pytest.raises(ValueError, match="size=8"):
        single_level.patches(images, (5, 7), (2, 8), jax.random.key(0), 4)
