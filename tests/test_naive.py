"""Naive training: its steps, what they end in, and the figure."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import PIXELS, SHAPE, default_precision, float64, model_params, normal, small_model
from PIL import Image

from deqbilevel import data, learning, maps, models, plots, settings
from experiments import naive
from experiments.naive import report, training


@float64
def test_naive_steps_are_adams_on_the_naive_loss_with_fresh_noise():
    model = small_model("row_mask", "deq")
    scalars = models.hyperparameters(
        tau=0.5, gamma=1.0, activation="relu", noise=0.2, learning_rate=2**-7
    )
    params = default_precision(scalars | model.init(jax.random.key(1)))
    images, order = normal(0, 6, PIXELS), jnp.array([[0, 1, 2], [5, 3, 4], [0, 3, 1]])
    keys = jax.random.split(jax.random.key(2), 3)
    trainer = training.ways(model, settings.SETTINGS["fast"], total_steps=4, batch_size=3)["naive"]
    state, metrics = trainer.steps(trainer.init(params), images, order, keys)

    weights = {key: params[key] for key in ("A", "b", "C")}
    adam = optax.adam(optax.cosine_decay_schedule(2**-7, 4, alpha=1e-6 * 2**7))
    moments = adam.init(weights)

    @jax.jit
    def step(weights, moments, truth, key):
        f = models.measure(model.K, truth, params["noise"], key)
        naive_loss = maps.naive_objective(model.G)
        loss, slope = jax.value_and_grad(lambda w: naive_loss(params | w, truth, f))(weights)
        update, moments = adam.update(slope, moments)
        return optax.apply_updates(weights, update), moments, loss

    for rows, key, loss in zip(order, keys, metrics.loss, strict=True):
        weights, moments, expected = step(weights, moments, images[rows], key)
        np.testing.assert_allclose(loss, expected, rtol=1e-9)
    for key, x in weights.items():
        np.testing.assert_allclose(state.params[key], x, rtol=1e-7, atol=1e-9)
        assert np.abs(x - params[key]).max() > 2**-7
    assert not state.diverged

    before = jax.tree.map(np.asarray, state.params)
    state, _ = trainer.steps(state, images.at[0].set(jnp.nan), order, keys)
    assert state.diverged
    for key in ("A", "b", "C"):
        np.testing.assert_array_equal(state.params[key], before[key])


@float64
def test_the_course_is_that_of_picard_from_zero_to_the_fixed_point():
    model = small_model("row_mask", "deq")
    params, truth, f = model_params(model), normal(2, 2, PIXELS), normal(3, 2, PIXELS)
    few = settings.SETTINGS["paper"]._replace(evaluation_budget=3)
    run = jax.jit(lambda *x: report.course_of(model, few, [1, 4], *x))
    course, far, infos, naive_loss = run(params, truth, f)
    G, u = jax.jit(model.G), [jnp.zeros_like(f)]
    for _ in range(4):
        u.append(G(u[-1], params, f))
    for got, expected in zip(course, (u[1], u[4]), strict=False):
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    np.testing.assert_allclose(G(course[3], params, f), course[3], atol=1e-3)
    assert infos["converged"].residual <= 1e-5 and infos["setting"].evaluations == 3
    assert np.abs(course[2] - course[3]).max() > 1e-3
    assert far[0] == pytest.approx(np.linalg.norm(u[2] - u[1]) / np.linalg.norm(u[2]), rel=1e-12)
    assert far[3] < 1.1e-5 < far[2]
    loss = np.mean((G(truth, params, f) - truth) ** 2)
    np.testing.assert_allclose(naive_loss, loss, rtol=1e-12)


def test_errors_of_each_part_are_null_where_there_is_none_or_no_number():
    u, truth = jnp.array([[1.0, 2.0, 4.0]]), jnp.zeros((1, 3))
    masked = np.array([True, False, False])
    assert report.errors(u, truth, masked) == {
        "masked_loss": 1.0,
        "kept_loss": 10.0,
        "test_loss": 7.0,
    }
    assert report.errors(u, truth, ~masked & masked)["masked_loss"] is None
    assert report.errors(u * np.inf, truth, masked)["test_loss"] is None


def halved(load: Callable[..., data.Images]) -> Callable[..., data.Images]:
    """Digits of 14x14 pixels, which a dense model learns in an eighth of the time."""

    def load_halved(*args: Any, **options: Any) -> data.Images:
        images = load(*args, **options)
        train, test = (
            x.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) for x in images[:2]
        )
        return images._replace(train=train, test=test, shape=(14, 14))

    return load_halved


def test_naive_training_cannot_fill_the_masked_rows_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load", halved(data.load))
    config = naive.Naive(
        models=("bilevel",),
        gamma=1.0,
        setting="fast",
        train_size=400,
        test_size=100,
        batch_size=10,
        epochs=1,
        iterates=(1, 20),
        out=tmp_path,
    )
    numbers = naive.main(config)
    json.dumps(numbers, allow_nan=False)
    bad, good = numbers["bilevel"]["naive"], numbers["bilevel"]["fixed_point"]
    for bad_, good_ in ((bad, good), (bad["u^20"], good["u^20"])):
        assert bad_["masked_loss"] > 2 * good_["masked_loss"] > 0
    # No loss is below that of N = 0, but for the chance of the test noise.
    floor = (config.tau * config.lam * config.noise) ** 2 * 9 / 14
    assert 0.97 * floor < bad["naive_loss"] < good["naive_loss"]
    assert np.asarray(Image.open(tmp_path / "figure_7.png").convert("L")).std() > 10

    run, trained = learning.run, []

    def counted(*args, **options):
        trained.append(args[0])
        return run(*args, **options)

    monkeypatch.setattr(learning, "run", counted)
    lost = tmp_path / "learned-bilevel-naive.npz"
    lost.unlink()
    again = naive.main(config)
    assert len(trained) == 1 and lost.exists()
    for numbers_ in (numbers, again):
        assert numbers_["bilevel"]["naive"].pop("seconds") > 0
    assert again == numbers
    with pytest.raises(SystemExit, match=r"tau: 0\.9 there, 0\.2 asked for"):
        naive.main(dataclasses.replace(config, tau=0.2))
    with pytest.raises(SystemExit, match="--iterates 0: expected 1 or more"):
        naive.main(dataclasses.replace(config, iterates=(3, 0)))


def test_iterate_figure_has_a_line_for_each_picture_and_course_beside_what_was_given():
    picture = np.random.default_rng(0).uniform(-1, 1, (7, 2, PIXELS))
    broken = picture[6].copy()
    broken[1, 0] = np.nan
    given = {"truth": picture[0], "data": picture[1]}
    courses = {"one": [picture[2], picture[3]], "other": [picture[4], broken]}
    residuals = {"one": [0.5, 0.1], "other": [0.2, float("nan")]}
    figure = plots.iterate_figure(given, courses, ["1", "5"], SHAPE, "caption", residuals)
    drawn = [[ax.get_images() for ax in figure.axes[4 * i : 4 * i + 4]] for i in range(4)]
    shown = [[bool(images) for images in line] for line in drawn]
    assert shown == [
        [True, True, True, True],
        [False, False, True, True],
        [True, True, True, True],
        [False, False, True, True],
    ]
    np.testing.assert_array_equal(drawn[2][0][0].get_array(), picture[0, 1].reshape(SHAPE))
    np.testing.assert_array_equal(drawn[3][2][0].get_array(), picture[4, 1].reshape(SHAPE))
    heads = [ax.get_title() for ax in figure.axes[:4]]
    assert heads == ["truth", "data", "1\nr 5.0e-01", "5\nr 1.0e-01"]
    assert [figure.axes[i].get_title() for i in (6, 7, 10)] == ["r 2.0e-01", "r nan", ""]
    error = np.mean((picture[2, 0] - picture[0, 0]) ** 2)
    assert figure.axes[2].get_xlabel() == f"{10 * np.log10(4 / error):.2f}"
    assert [figure.axes[i].get_ylabel() for i in (2, 6, 10, 14)] == ["one", "other"] * 2
    assert "none" in [text.get_text() for text in figure.axes[15].texts]
    assert np.ma.getmaskarray(drawn[3][3][0].get_array()).all()
    with pytest.raises(ValueError, match="0 pictures and 2 courses: there is nothing to draw"):
        plots.iterate_figure({}, courses, ["1", "5"], SHAPE, "")
