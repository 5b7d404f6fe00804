"""Results: what is read of a study on disk, its best runs and its table."""

import atexit
import itertools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from deqbilevel import results
from deqbilevel.studies import grids
from deqbilevel.studies.storage import Storage

AXES = {
    "task": ["denoising", "deblurring"],
    "model": ["bilevel", "deq"],
    "noise": [0.1, 0.5],
    "tau": [0.1, 0.9, 2.1],
    "gamma": [1.0],
    "activation": ["relu", "softshrink"],
    "seed": [0, 7],
}
LANES = grids.grid(AXES)
LOSSES = np.random.default_rng(0).permutation(np.linspace(0.05, 0.95, len(LANES)))
PICTURES = {"reconstruction": (2, 4), "measured_reconstruction": (2, 4)}
RECORDS = ("test_loss", "diverged")
NOTHING = xr.Dataset(attrs={"caption": "made up"})
MADE = tempfile.TemporaryDirectory()
atexit.register(MADE.cleanup)


def stored(
    folder: Path,
    epochs: int = 2,
    count: int = len(LANES),
    extra: xr.Dataset = NOTHING,
    records: tuple[str, ...] = RECORDS,
) -> Storage:
    """A study of made-up runs, the first `count` of which are finished; tau 2.1 diverges. One of
    a kind is written once, and copied."""
    kind = f"{epochs}-{count}-{len(extra.variables)}-{'-'.join(records)}"
    made = Path(MADE.name) / kind
    if not made.exists():
        write(Storage(made, AXES, 2, records, PICTURES), epochs, count, extra)
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return Storage(folder, AXES, 2, records, PICTURES)


def write(store: Storage, epochs: int, count: int, extra: xr.Dataset) -> None:
    store.folder.mkdir(exist_ok=True)
    store.create(extra)
    for epoch in range(epochs + 1):
        lanes, losses = LANES[:count], LOSSES[:count].astype(np.float32)
        if epoch == 2:
            pictures = np.broadcast_to(losses[:, None, None], (count, 2, 4))
            store.append_pictures(lanes, dict.fromkeys(PICTURES, pictures))
        diverged = np.array([epoch == 2 and lane["tau"] == 2.1 for lane in lanes])
        record = {"test_loss": losses + np.float32(2 - epoch), "diverged": diverged}
        record["needed_evaluations"] = losses
        store.append(lanes, epoch, record)


def test_every_run_is_where_its_setting_says(tmp_path: Path) -> None:
    stored(tmp_path, count=len(LANES) - 1)
    dataset = results.read(tmp_path)
    for lane, loss in zip(LANES[:-1], LOSSES, strict=False):
        cell = dataset.sel(lane)
        np.testing.assert_array_equal(cell.test_loss, np.float32(loss) + np.float32([2, 1, 0]))
        assert cell.diverged.values.tolist() == [False, False, lane["tau"] == 2.1]
        assert np.all(cell.reconstruction == np.float32(loss))
    assert np.all(np.isnan(dataset.sel(LANES[-1]).test_loss))
    assert dataset.attrs["caption"] == "made up"
    assert results.others(dataset, "task", "noise") == ["model", *list(AXES)[3:]]


def test_best_and_summary_against_a_plain_loop(tmp_path: Path) -> None:
    stored(tmp_path)
    dataset = results.read(tmp_path)
    rows = {(row["task"], row["model"], row["noise"]): row for row in results.summary(dataset)}
    runs = [(lane, np.float32(x)) for lane, x in zip(LANES, LOSSES, strict=True)]
    for task, model in itertools.product(AXES["task"], AXES["model"]):
        mine = [(r, x) for r, x in runs if (r["task"], r["model"]) == (task, model)]
        good = [(r, x) for r, x in mine if r["tau"] != 2.1]
        for noise in AXES["noise"]:
            lane, loss = min(((r, x) for r, x in good if r["noise"] == noise), key=lambda r: r[1])
            cell = dataset.sel(task=task, model=model, noise=noise)
            assert float(cell.best_test_loss) == loss
            for name in ("tau", "gamma", "activation", "seed"):
                assert cell[f"best_{name}"].item() == lane[name]
            assert np.all(cell.best_reconstruction == loss)
            under = sorted(x for r, x in good if x < 0.5 and r["noise"] == noise)
            row = rows[task, model, noise]
            assert (row["runs"], row["under"], row["diverged"]) == (12, len(under), 4)
            assert row["median"] == pytest.approx(np.median(under))
            assert row["best"] == pytest.approx(under[0])
    table = results.table(list(rows.values()))
    assert len(table.splitlines()) == 2 + 8
    assert f"{rows['denoising', 'deq', 0.5]['best']:.4f}" in table
    assert results.warnings(list(rows.values())) == []


def test_the_table_shows_what_doing_nothing_gives_and_which_runs_are_no_better(
    tmp_path: Path,
) -> None:
    stored(tmp_path)
    dataset = results.read(tmp_path)
    known = np.array([[[0.01, 0.01, 0.3], [0.02, 0.6, 0.3]]] * 2)
    dataset["baseline_loss"] = (("task", "noise", "baseline"), known)
    dataset = dataset.assign_coords(baseline=["measurement f", "K^T f", "mean training image"])
    rows = results.summary(dataset)
    assert rows[0]["without_learning"] == {"measurement f": 0.01, "mean training image": 0.3}
    lines = [line.split("|")[1:-1] for line in results.table(rows).splitlines()[2:]]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert len(cells) == 8 + 2 * (2 + 3)
    assert cells[0] == ["denoising", "0.1", "measurement f", *[""] * 5, "0.0100", ""]
    assert [line[2] for line in cells[4:9]] == [*dataset.baseline.values, "bilevel", "deq"]
    said = results.warnings(rows)
    assert len(said) == 8
    best = rows[0]["best"]
    assert said[0] == (
        f"denoising, noise 0.1, bilevel: the best run has {best:.4f}, and the measurement f 0.0100"
    )


def test_a_study_under_way_has_a_table_of_what_there_is_and_no_best_run(tmp_path: Path) -> None:
    stored(tmp_path, epochs=1, count=3)
    dataset = results.read(tmp_path)
    assert bool(dataset.best_test_loss.isnull().all())
    assert bool(dataset.best_reconstruction.isnull().all())
    row = results.summary(dataset)[0]
    assert (row["runs"], row["under"]) == (3, 0)
    assert "none" in results.table([row])
    np.testing.assert_allclose(
        results.final(dataset, "test_loss").sel(LANES[0]), LOSSES[0] + 1, rtol=1e-6
    )


def test_a_folder_without_a_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no study"):
        results.read(tmp_path)
