"""Results: labelled arrays, the table, and runs on disk."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from deqbilevel import results, studies
from deqbilevel.results import Run

AXES = {
    "task": ["denoising", "deblurring"],
    "model": ["bilevel", "deq"],
    "noise": [0.1, 0.5],
    "tau": [0.1, 0.9, 2.1],
    "gamma": [1.0],
    "activation": ["relu", "softshrink"],
}


def run_of(lane: dict, final: float, *, diverged: bool = False) -> Run:
    records = {
        "epoch": np.arange(3),
        "test_loss": np.array([1.0, 0.7, final], np.float32),
        "diverged": np.array([False, False, diverged]),
    }
    return Run(lane, records, {"reconstruction": np.full((2, 4), final, np.float32)})


@pytest.fixture
def runs() -> list[Run]:
    lanes = studies.grid(AXES)
    losses = np.random.default_rng(0).permutation(np.linspace(0.05, 0.95, len(lanes)))
    return [
        run_of(lane, loss, diverged=lane["tau"] == 2.1)
        for lane, loss in zip(lanes, losses, strict=True)
    ]


def test_labelled_puts_every_run_where_its_setting_says(runs: list[Run]) -> None:
    dataset = results.labelled(AXES, runs[:-1], caption="made up")
    for run in runs[:-1]:
        cell = dataset.sel(run.lane)
        np.testing.assert_array_equal(cell.test_loss, run.records["test_loss"])
        np.testing.assert_array_equal(cell.diverged, run.records["diverged"])
    assert np.all(np.isnan(dataset.sel(runs[-1].lane).test_loss))
    assert dataset.attrs["caption"] == "made up"


def test_best_and_summary_against_a_plain_loop(runs: list[Run], tmp_path: Path) -> None:
    results.save(results.labelled(AXES, runs), tmp_path / "results.nc")
    dataset = xr.open_dataset(tmp_path / "results.nc")
    rows = {(row["task"], row["model"]): row for row in results.summary(dataset)}
    for task, model in itertools.product(AXES["task"], AXES["model"]):
        mine = [r for r in runs if (r.lane["task"], r.lane["model"]) == (task, model)]
        good = [r for r in mine if not r.records["diverged"][-1]]
        for noise in AXES["noise"]:
            best = min(
                (r for r in good if r.lane["noise"] == noise),
                key=lambda r: r.records["test_loss"][-1],
            )
            cell = dataset.sel(task=task, model=model, noise=noise)
            assert float(cell.best_test_loss) == best.records["test_loss"][-1]
            assert float(cell.best_tau) == pytest.approx(best.lane["tau"])
            assert str(cell.best_activation.values) == best.lane["activation"]
            np.testing.assert_array_equal(cell.reconstruction, best.pictures["reconstruction"])
        under = sorted(x for r in good if (x := r.records["test_loss"][-1]) < 0.5)
        row = rows[task, model]
        assert (row["runs"], row["under"], row["diverged"]) == (12, len(under), 4)
        assert row["median"] == pytest.approx(np.median(under))
        assert row["best"] == pytest.approx(under[0])
    table = results.table(list(rows.values()))
    assert len(table.splitlines()) == 2 + 4 and f"{rows['denoising', 'deq']['best']:.4f}" in table


def test_a_cell_without_any_good_run_is_said_to_have_none() -> None:
    axes = {name: values[:1] for name, values in AXES.items()}
    [lane] = studies.grid(axes)
    dataset = results.labelled(axes, [run_of(lane, 1e30, diverged=True)])
    [row] = results.summary(dataset)
    assert row["under"] == 0 and row["diverged"] == 1 and np.isnan(row["median"])
    assert "none" in results.table([row])
    assert np.isnan(float(dataset.best_test_loss.squeeze()))


def test_a_stored_run_comes_back_and_a_broken_file_is_named(tmp_path: Path) -> None:
    [lane] = studies.grid({name: values[:1] for name, values in AXES.items()})
    run = run_of(lane, 0.25)
    path = tmp_path / "run.npz"
    results.store(path, run)
    back = results.read(path, lane)
    for name, values in run.records.items():
        np.testing.assert_array_equal(back.records[name], values)
    np.testing.assert_array_equal(back.pictures["reconstruction"], run.pictures["reconstruction"])
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"run\.npz: not a stored run"):
        results.read(path, lane)


def test_grids_are_checked() -> None:
    assert len(studies.grid(AXES)) == 2 * 2 * 2 * 3 * 1 * 2
    with pytest.raises(ValueError, match="each once"):
        studies.grid(AXES | {"tau": [0.1, 0.1]})
    with pytest.raises(ValueError, match="expected a list of values for each of"):
        studies.grid({"tau": [0.1]})
    with pytest.raises(ValueError, match="no finished run"):
        results.labelled(AXES, [])
