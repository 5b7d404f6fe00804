"""Grids: axes that are crossed, axes that are sampled, and what a lane says of its run."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from test_training import TEST, TRAIN

from deqbilevel import learning, models
from deqbilevel.settings import SETTINGS, Setting
from deqbilevel.studies import grids
from deqbilevel.studies.grids import Range

AXES: dict[str, list[Any]] = {
    "task": ["denoising"],
    "model": ["bilevel", "deq"],
    "noise": [0.1],
    "tau": [0.9, 0.5],
    "gamma": [0.5],
    "activation": ["relu"],
}


def without(*names: str) -> dict[str, list[Any]]:
    return {name: values for name, values in AXES.items() if name not in names}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (AXES | {"tau": [0.1, 0.1]}, r"tau \[0.1, 0.1\]: .* each once"),
        (AXES | {"tau": []}, "tau"),
        ({"tau": [0.1]}, "expected a list of values for each of"),
        (AXES | {"colour": [1.0]}, "then any of"),
        (AXES | {"lam": [-1.0]}, r"lam=-1\.0: expected a finite number, 0"),
        (AXES | {"ridge": [0.0]}, r"ridge=0\.0: expected a finite number, above 0"),
        (AXES | {"window": [0]}, "window=0: expected a finite number, 1 or more"),
        (AXES | {"adam_b1": [1.0]}, r"adam_b1=1\.0: .* 0 or more and below 1"),
        (AXES | {"adam_eps": [float("nan")]}, "adam_eps=nan"),
        (AXES | {"sample": [0]}, "then any of"),
    ],
)
def test_bad_axes_are_named(axes: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grids.grid(axes)


@pytest.mark.parametrize("how", ["sobol", "random"])
@pytest.mark.parametrize("count", [1, 5, 64])
def test_samples_lie_in_their_ranges_and_grow_by_points_at_the_end(how: Any, count: int) -> None:
    ranges = {"tau": Range(0.01, 2.1, log=True), "lam": Range(0.5, 2.0)}
    drawn = grids.sample(ranges, count, how, seed=3)
    for name, (low, high, _) in ranges.items():
        assert len(drawn[name]) == count and all(low <= x <= high for x in drawn[name])
        assert drawn[name] == grids.sample(ranges, 100, how, seed=3)[name][:count]
        assert drawn[name] != grids.sample(ranges, count, how, seed=4)[name]


def test_sobol_points_fill_every_part_of_each_range_once() -> None:
    ranges = {"tau": Range(0.01, 1.0, log=True), "lam": Range(0.0, 1.0)}
    drawn = grids.sample(ranges, 64, "sobol", seed=0)
    parts = np.floor(64 * np.asarray(drawn["lam"])).astype(int)
    logarithms = np.floor(64 * (2 + np.log10(drawn["tau"])) / 2).astype(int)
    assert sorted(parts) == list(range(64)) and sorted(logarithms) == list(range(64))


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"noise": Range(0, 1)}, "sampled axis 'noise': expected one of tau"),
        ({"window": Range(1, 9)}, "sampled axis 'window'"),
        ({"tau": Range(2, 1)}, r"tau=2\.\.1: expected finite numbers, low < high"),
        ({"tau": Range(0, 1, log=True)}, "0 < low < high"),
    ],
)
def test_ranges_that_cannot_be_sampled_are_named(ranges: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grids.sample(ranges, 4, "random", seed=0)


@pytest.mark.parametrize(
    ("count", "how", "seed", "message"),
    [
        (0, "sobol", 0, "count=0: expected a whole number, 1 or more"),
        (-4, "random", 0, "count=-4: expected a whole number"),
        (10**8, "sobol", 0, "count=100000000: expected a whole number, 1 or more and at most"),
        (4, "sobol", -1, "seed=-1: expected a whole number, 0 or more"),
        (4, "sobol", 2**32, "seed=4294967296"),
    ],
)
def test_draws_that_cannot_be_made_are_named(count: Any, how: Any, seed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grids.sample({"tau": Range(0.1, 1)}, count, how, seed)
    with pytest.raises(ValueError, match="ranges: expected one or more"):
        grids.sample({}, 4, "sobol", 0)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ({"noise": [0.1, 0.1 + 1e-10]}, "noise .*: expected one value or more, each once"),
        ({"seed": [2**32]}, "seed=4294967296: expected"),
        ({"seed": [1.5]}, "seed=1.5: expected a whole number"),
        ({"window": [10**6]}, "window=1000000: expected"),
        ({"ridge": [1e-50]}, "ridge=1e-50"),
        ({"lam": [float("nan")]}, "lam=nan: expected a finite number"),
    ],
)
def test_values_that_no_lane_can_have_are_named(axis: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grids.grid(AXES | axis)


def test_drawn_axes_stand_beside_their_sample() -> None:
    drawn = {"tau": [0.1, 0.2, 0.3], "lam": [1.0, 2.0, 3.0]}
    found = grids.grid(without("tau") | {"seed": [0, 1], "sample": [0, 1, 2]}, drawn)
    assert len(found) == 2 * 2 * 3
    assert {(lane["sample"], lane["tau"], lane["lam"]) for lane in found} == {
        (0, 0.1, 1.0), (1, 0.2, 2.0), (2, 0.3, 3.0),
    }  # fmt: skip
    assert float(grids.scalars(found[1])["tau"]) == np.float32(0.2)
    with pytest.raises(ValueError, match="expected a list of values for each of"):
        grids.grid(without("tau"), {})


def test_each_window_is_a_group_of_its_own() -> None:
    found = grids.groups(grids.grid(AXES | {"window": [2, 5], "ridge": [1e-4, 1e-6]}))
    assert list(found) == [("denoising", m, w) for m in ("bilevel", "deq") for w in (2, 5)]
    assert all(len(group) == 4 for group in found.values())


@cache
def trained(setting: Setting = SETTINGS["paper"], **own: float) -> tuple[np.ndarray, float]:
    """The evaluations of every step of an epoch, and the test loss after it."""
    model = models.build("denoising", "bilevel", (8, 8))
    scalars = grids.scalars({"tau": 0.9, "gamma": 0.5, "activation": "relu", "noise": 0.1} | own)
    trainer = learning.trainer(model, setting, total_steps=10, batch_size=10)
    state, metrics = trainer.init(model.init(jax.random.key(0)) | scalars), []
    order, keys, _, _ = trainer.draw(jax.random.key(1), 1, TRAIN)
    for part, key in zip(order, keys, strict=True):
        state, values = trainer.steps(state, TRAIN, part, key)
        metrics.append(np.asarray(values.forward_evaluations + values.adjoint_evaluations))
    tested = trainer.evaluate(state.params, TEST, jax.random.key(2))
    return np.concatenate(metrics), float(tested["loss"])


@pytest.mark.parametrize(
    ("own", "setting"),
    [
        ({"ridge": 1e-2}, {"ridge": 1e-2}),
        ({"forward_tolerance": 1e-1}, {"forward_tolerance": 1e-1}),
        ({"adjoint_tolerance": 1e-1}, {"adjoint_tolerance": 1e-1}),
    ],
)
def test_a_lanes_own_ridge_or_tolerance_is_that_of_its_setting(own: Any, setting: Any) -> None:
    """As entries of `params` and as the setting's: the same training, and not that of another."""
    spent, loss = trained(**own)
    expected_spent, expected_loss = trained(SETTINGS["paper"]._replace(**setting))
    _, other_loss = trained()
    np.testing.assert_array_equal(spent, expected_spent)
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert abs(loss - other_loss) > 100 * abs(loss - expected_loss)


def test_adams_own_leaves_are_optaxs() -> None:
    """b1 = 0, b2 = 0 and a large eps: a plain gradient step of size rate / eps."""
    params = {"adam_b1": np.float32(0), "adam_b2": np.float32(0), "adam_eps": np.float32(1e6)}
    adam = learning.adam_direction(params)
    gradient = {"A": np.float32([1.0, -3.0])}
    direction, _ = adam.update(gradient, adam.init(gradient))
    np.testing.assert_allclose(direction["A"], gradient["A"] / 1e6, rtol=1e-5)
