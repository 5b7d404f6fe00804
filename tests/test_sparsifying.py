"""`experiments.sparsifying` at its smallest budget: every part, its files, and going on."""

import dataclasses
import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from deqbilevel import recipes
from experiments.sparsifying import Sparsifying, finding, main, tasks

SMALL = Sparsifying(
    size=(2, 2),
    data="photographs",
    shape=(16, 16),
    train_size=2,
    test_size=2,
    batch_size=2,
    starts=("experts_contrastive", "conditional_field"),
    single_steps=4,
    steps=2,
    model="natural",
    samples=4,
    chains=2,
)


def test_every_part_is_found_kept_and_gone_on_with(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(finding, "WAYS", {"signals-2": ("random",)})
    monkeypatch.setattr(tasks, "SIGNALS", {"signals-2": (1, 2)})
    sets = ("none, no constant", "uniform_tight_frame")
    monkeypatch.setattr(finding, "SETS", {name: finding.SETS[name] for name in sets})
    out = tmp_path / "run"
    config = dataclasses.replace(SMALL, out=out)
    found = main(config)
    assert found["pictures"]["experts_contrastive"]["filters_db"] > found["pictures"]["measured"]
    assert found["samples"]["unadjusted"]["accepted"] == 1
    assert found["sets"]["none, no constant"]["largest_rise"] <= 1e-6
    assert len((out / "rows.jsonl").read_text().splitlines()) == 1 + 2 + 2 + 1
    learned = recipes.load(out, "pictures-experts_contrastive")
    assert learned.model((8, 8)).R.tied and learned.params["filters"].shape == (3, 2, 2)
    assert json.loads((out / "result.json").read_text())["samples"]
    drawn = {path.name for path in out.glob("*.png")}
    assert drawn == {
        *("signals-2.png", "pictures.png", "filters.png", "sets.png"),
        *("samples.png", "deviations.png"),
    }
    assert main(config) == found


def test_signals_are_piecewise_constant() -> None:
    task = tasks.signals(0)
    jumps = np.sum(np.diff(np.asarray(task.train), axis=1, append=task.train[:, :1]) != 0, axis=1)
    assert np.all(jumps <= tasks.JUMPS) and np.all(jumps >= 2)
    assert float(task.test.min()) >= 0 and float(task.test.max()) <= 1


def test_pictures_smaller_than_their_middles_are_refused(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", np.zeros((12, 20), np.uint8))
    config = dataclasses.replace(SMALL, parts=("samples",), test=tmp_path, middle=13)
    with pytest.raises(SystemExit, match="a: 12x20 is smaller than 13x13; use a smaller --middle"):
        main(config)
