"""The experiment that learns a sampling: its gradient, its masks, and the smallest run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import default_precision, float64, normal

from deqbilevel import data, learning
from deqbilevel.settings import Budget
from experiments.sampling import Sampling, main, masks, pricing, training


@float64
@pytest.mark.parametrize("hypergradient", ["minimiser", "conjugate_gradient"])
def test_the_gradient_in_the_sampling_includes_the_measurement_and_the_penalty(hypergradient):
    config = Sampling(strength=0.3, noise=0.1, beta_0=-3.0, eps=0.3)
    shape = (3, 4)
    truth = np.asarray(normal(0, 2, 12))
    problem = training.posed(config, data.Images(truth, truth, shape, "drawn"))
    budget = Budget(3000, 300)
    setting = problem.learner.setting._replace(
        budget=budget,
        limit=budget,
        adjoint_tolerance=1e-12,
        forward_tolerance=1e-15,
        hypergradient=hypergradient,
        warm=False,
    )
    learner = problem.learner._replace(
        setting=setting, optimiser=learning.fixed(optax.sgd(1.0)), learned=("K", "beta")
    )
    params = default_precision(problem.params)
    weights = {name: params[name] for name in learner.learned}
    direction = {"K": masks.Sampled(0.3 * normal(1, 3, 4), shape, True), "beta": normal(2, 2)}

    @jax.jit
    def after(step):
        moved = jax.tree.map(lambda x, d: x + step * d, weights, direction)
        state = learning.start(learner, params | moved)
        following, metrics = learning.step(
            learner, state, jnp.asarray(truth), key=jax.random.key(3)
        )
        return metrics.loss, {name: following.params[name] for name in learner.learned}

    h = 1e-5
    difference = (after(h)[0] - after(-h)[0]) / (2 * h)
    gradient = jax.tree.map(jnp.subtract, weights, after(0.0)[1])
    slope = sum(map(jnp.vdot, *map(jax.tree.leaves, (gradient, direction))))
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("lines", [True, False])
def test_masks_have_their_samples_and_the_mean_and_pairs(lines, paired):
    grid = masks.Grid((8, 6), lines, paired)
    for name, make in masks.FIXED.items():
        if lines and name == "radial":
            continue
        mask = make(grid, 0.5, 0)
        whole = 12 if lines else 2
        assert 24 - whole < mask.sum() <= 24 and mask[0, 0]
        assert not lines or (mask == mask[:, :1]).all()
        assert not paired or (mask == masks.opposite(mask)).all()
    same = grid.largest([np.zeros(grid.places), grid.nearness()], 0.5)
    np.testing.assert_array_equal(same, masks.low(grid, 0.5, 0))
    third = np.zeros(grid.places)
    third[3] = 1.0
    kept = grid.largest([third], 0.5)
    assert kept[3].all() and kept[5].all() == paired


def test_a_run_ends_goes_on_and_is_shown_again(tmp_path, capsys):
    options = {
        "data": "faces",
        "shape": (11, 12),
        "train_size": 2,
        "test_size": 1,
        "steps": training.BLOCK,
        "learning_rate": 0.05,
        "tuning": 1,
        "curve": (),
        "final_evaluations": 3,
        "out": tmp_path,
    }
    numbers = main(Sampling(**options))
    assert numbers["learned"]["psnr_db"] > numbers["uniform"]["psnr_db"]
    assert numbers["learned"]["tuned_psnr_db"] != numbers["learned"]["psnr_db"]
    for name in ("masks", "reconstructions", "course"):
        assert (tmp_path / f"{name}.png").is_file()
    stored = np.load(tmp_path / "sampling.npz")
    assert stored["s"].min() >= 0 and stored["s"].max() <= 1
    assert np.ptp(stored["s"]) > 0.1  # ten steps of 0.05
    assert main(Sampling(**options)) == numbers
    assert json.loads((tmp_path / "result.json").read_text())["low"] == numbers["low"]


def test_as_many_weights_rise_as_are_asked_for_however_small_the_gains():
    """Also where all gains shrink to a millionth meanwhile, and of the part that changes."""
    values = np.random.default_rng(0).permutation(100).reshape(10, 10) + 1.0
    part, risen = [0.3, 0.3, 0.6], [0.1, 0.1, 0.7]  # the mean of s is 0.5
    transformation = pricing.priced(lambda step: jnp.asarray(part)[step], 0.0)
    K = masks.Sampled(jnp.full((10, 10), 0.5), (10, 10), False)
    state = transformation.init({"K": K})
    for step, size in enumerate((1.0, 1e-6, 1e-6)):
        slopes = {"K": masks.Sampled(-size * jnp.asarray(values), (10, 10), False)}
        updates, state = transformation.update(slopes, state, {"K": K})
        rising = np.asarray(updates["K"].weights) < 0
        np.testing.assert_array_equal(rising, values > 100 * (1 - risen[step]))
        assert state.price > 0


def test_filters_that_are_learned_beside_a_sampling_keep_their_part(tmp_path):
    """They have a rate of their own: at that of the samples they are lost in a step, and s is the
    same everywhere from then on."""
    options = {
        "data": "faces",
        "shape": (12, 12),
        "train_size": 4,
        "test_size": 1,
        "filters": (4, 2),
    }
    config = Sampling(**options, part=0.25, steps=30, learning_rate=0.05, tuning=0, curve=())
    images = data.load("faces", value_range=(0.0, 1.0), shape=(12, 12), train_size=4, test_size=1)
    found = training.train(config, training.posed(config, images), tmp_path)
    assert 0.2 < found.s.mean() < 0.3
    assert np.ptp(found.s) > 0.5


def test_a_lambda_of_zero_is_one_that_is_given():
    images = data.load("faces", value_range=(0.0, 1.0), shape=(8, 8), train_size=2, test_size=1)
    for strength in (None, 0.0):
        problem = training.posed(Sampling(shape=(8, 8), strength=strength), images)
        weights = {name: problem.params[name] for name in problem.learner.learned}
        optimiser = problem.learner.optimiser(problem.params, 0)
        found = optax.tree.get(optimiser.init(weights), "price")
        assert (found is None) == (strength is not None)
