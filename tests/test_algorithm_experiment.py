"""The comparison of upper-level algorithms, at its smallest budget."""

import json
from pathlib import Path

import numpy as np
import pytest

from deqbilevel.algorithms import arrivals
from deqbilevel.commands.records import Log
from experiments import algorithms
from experiments.algorithms import running
from experiments.algorithms.cases import POINT, SEARCH

SMALL = {"methods": ("aid",), "calls": 600, "search": 2}


def small(out: Path, **options) -> algorithms.Algorithms:
    return algorithms.Algorithms(out=out, **SMALL | options)


def test_a_comparison_finds_the_solution_and_is_not_done_again(tmp_path, capsys) -> None:
    numbers = algorithms.main(small(tmp_path))["q1"]["aid"]
    assert numbers["loss"] == pytest.approx(12599 / 7002, abs=1e-9)
    assert numbers["gradient_norm"] < 1e-6 and numbers["diverged"] == 0
    assert 600 <= numbers["calls"] < 700 and numbers["calls_to_target"] < 600
    assert (tmp_path / "courses.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "result.json").read_text())["q1"]["aid"] == numbers
    assert "| aid | two | 1 |" in capsys.readouterr().out
    assert algorithms.main(small(tmp_path))["q1"]["aid"] == numbers


def test_an_interrupted_course_goes_on_from_its_last_stored_state(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(running, "SAVE_SECONDS", 0.0)
    whole = tmp_path / "whole"
    numbers = algorithms.main(small(whole, search=1))["q1"]["aid"]
    cut = tmp_path / "cut"
    append = Log.append

    def stop(log: Log, record: dict) -> None:
        if record.get("step", 0) > 10:
            raise KeyboardInterrupt
        append(log, record)

    monkeypatch.setattr(Log, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        algorithms.main(small(cut, search=1))
    before = Log.of(cut / "courses.jsonl", POINT).read()
    assert 0 < before[-1]["step"] <= 10 and not before[-1]["last"]
    monkeypatch.setattr(Log, "append", append)
    again = algorithms.main(small(cut, search=1))["q1"]["aid"]
    assert Log.of(cut / "courses.jsonl", POINT).read()[: len(before)] == before
    assert again["loss"] == numbers["loss"] and again["calls"] == numbers["calls"]


def test_a_step_size_that_diverges_is_recorded_and_not_taken(tmp_path) -> None:
    # The largest eigenvalue of the upper Hessian is 0.87: a step of 4 diverges, one of 1 does not.
    numbers = algorithms.main(small(tmp_path, rate=1.0, search=3, calls=6000))["q1"]["aid"]
    (search,) = Log.of(tmp_path / "searches.jsonl", SEARCH).read()
    assert search["rates"] == [0.25, 1.0, 4.0] and search["diverged"] == [False, False, True]
    assert np.isfinite(search["loss"]).all()
    assert numbers["rate"] == 1.0 and numbers["diverged"] == 0
    one = algorithms.main(small(tmp_path / "one", rate=4.0, search=1, calls=6000))["q1"]["aid"]
    assert one["diverged"] == 1 and np.isfinite(one["loss"])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"methods": ("adi",)}, "--methods adi: expected one of hoag, ba"),
        ({"seconds": 0.0}, "--seconds 0.0: expected above 0"),
        ({"search": 0}, "--search 0: expected 1 or more"),
        ({"rate": -1.0}, "--rate -1.0: expected above 0"),
    ],
)
def test_a_bad_request_is_named(tmp_path, options, named) -> None:
    with pytest.raises(SystemExit, match=named):
        algorithms.main(small(tmp_path, **options))


def test_orders_are_fitted_to_the_calls() -> None:
    # calls = 10 / epsilon with epsilon = gradient_norm^2
    course = [
        {"gradient_norm": [10.0 ** (-k / 2)], "calls": [10.0 ** (k + 1), 0, 0, 10.0 ** (k + 1)]}
        for k in range(4)
    ]
    assert arrivals.order(course, "lower_gradients") == pytest.approx(1.0)
    assert arrivals.order(course[:2], "lower_gradients") is None
