"""Every experiment at its smallest budget, as a user runs it."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr
from PIL import Image

from deqbilevel import (
    baselines,
    learning,
    models,
    plots,
    pretrained,
    recipes,
    results,
    settings,
    studies,
)
from deqbilevel.commands import common, folders
from deqbilevel.data import groups
from deqbilevel.disk import checkpoints
from deqbilevel.regularizers import convolutional
from deqbilevel.studies import grids
from experiments import (
    compare,
    filters,
    gradient_accuracy,
    hypergradients,
    smooth_proximal,
    throughput,
    train,
    watch,
)
from experiments.compare import captions, study
from experiments.filters import lanes, outcome
from experiments.hypergradients import tables

ROOT = Path(__file__).parents[1]
TINY = {"train_size": 20, "test_size": 10, "batch_size": 10, "epochs": 1}
KEYS = {
    "test_loss_initial", "train_loss", "test_loss", "forward_evaluations", "adjoint_evaluations",
    "forward_residual", "adjoint_residual", "step_ms", "diverged", "test_loss_converged",
}  # fmt: skip


@pytest.fixture(autouse=True)
def judged_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters, at the end of a run."""
    monkeypatch.setattr(outcome, "FINAL_EVALUATIONS", 60)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the numbers of the smallest run; copy the folder to go on in it."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return out, train.main(train.Train(out=out, **TINY))


@pytest.mark.parametrize(
    ("task", "model", "activation", "setting"),
    [
        ("denoising", "bilevel", "relu", "paper"),
        ("inpainting", "deq", "softshrink", "fast"),
        ("deblurring", "bilevel", "identity", "accurate"),
    ],
)
def test_train_writes_its_numbers_and_pictures(
    task: str,
    model: str,
    activation: str,
    setting: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = train.Train(task, model, activation, setting=setting, out=tmp_path / "run", **TINY)
    numbers = common.plain(train.main(config))
    assert set(numbers) >= KEYS
    assert all(value is not None for value in numbers.values())
    assert 1 <= numbers["forward_evaluations"] <= settings.SETTINGS[setting].budget.forward
    assert 1 <= numbers["adjoint_evaluations"] <= settings.SETTINGS[setting].budget.adjoint
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == numbers
    known = [numbers[f"test_loss_{name}"] for name in baselines.NAMES]
    warned = "warning: test loss" in capsys.readouterr().err
    assert warned == (numbers["test_loss"] >= min(known))
    for name in ("reconstructions.png", "losses.png"):
        assert np.asarray(Image.open(tmp_path / "run" / name).convert("L")).std() > 10


def test_options_that_are_not_given_are_the_tasks(trained: tuple[Path, dict[str, Any]]) -> None:
    stored = json.loads((trained[0] / "options.json").read_text())
    stored = stored.get("options", stored)
    assert {name: stored[name] for name in train.OF_TASK["denoising"]} == {
        "activation": "identity",
        "gamma": 1.0,
        "noise": 0.5,
    }


def test_an_interrupted_run_goes_on_and_ends_bit_for_bit_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TINY | {"epochs": 3, "setting": "fast", "task": "deblurring", "noise": 0.05}
    whole = train.main(train.Train(out=tmp_path / "whole", **options))
    save = checkpoints.save

    def killed(folder: Path, step: int, tree: object) -> None:
        if step == 2 and folder.name == "latest":
            raise KeyboardInterrupt
        save(folder, step, tree)

    monkeypatch.setattr(checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train.main(train.Train(out=tmp_path / "parts", **options))
    monkeypatch.undo()
    assert checkpoints.latest_step(tmp_path / "parts" / "latest") == 1
    parts = train.main(train.Train(out=tmp_path / "parts", **options))
    timed = {"seconds", "evaluation_seconds", "step_ms", "out"}
    assert {k: v for k, v in common.plain(parts).items() if k not in timed} == {
        k: v for k, v in common.plain(whole).items() if k not in timed
    }
    records = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    for a, b in zip(*records, strict=True):
        assert {k: a[k] for k in a if k not in timed} == {k: b[k] for k in b if k not in timed}
    model = models.build("deblurring", "bilevel", (28, 28))
    setting = settings.SETTINGS["fast"]
    trainer = learning.trainer(model, setting, total_steps=6, batch_size=10)
    scalars = models.hyperparameters(tau=0.9, gamma=0.1, activation="relu")
    like = trainer.init(model.init(jax.random.key(5)) | scalars)
    ends = [checkpoints.restore(tmp_path / name / "latest", like) for name in ("whole", "parts")]
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_of_other_options_is_refused_with_the_difference_and_fresh_starts_anew(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(trained[0], tmp_path / "run"))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"tau: 0\.9 there, 0\.1 asked for"):
        train.main(train.Train(out=out, tau=0.1, **TINY))
    again = train.main(train.Train(out=out, tau=0.1, fresh=True, **TINY))
    assert again["epoch"] == 1
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, r"--tau 0\.0: expected 1e-06 or more"),
        ({"gamma": -1.0}, r"--gamma -1\.0: expected 0 or more"),
        ({"epochs": -1}, "--epochs -1: expected 0 or more"),
        ({"batch_size": 0}, "--batch-size 0: expected 1 or more"),
        ({"data": "mnist"}, "unknown data"),
        ({"train_size": 10**6}, "there are only 6000"),
        ({"hypergradient": "truncated"}, "take solver picard"),
        ({"model": "deq", "solver": "limited_memory_bfgs"}, "needs a gradient step on an energy"),
        ({"data": "photographs"}, "38804 pixels make a dense A of 5.6 GiB"),
    ],
)
def test_bad_options_end_with_a_clear_error(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        train.main(train.Train(out=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_own_images_train_the_same_models(tmp_path: Path) -> None:
    generator, own = np.random.default_rng(0), tmp_path / "own"
    own.mkdir()
    for index in range(3):
        picture = generator.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(picture).save(own / f"{index}.png")
    numbers = train.main(
        train.Train(data=f"images:{own}", patch=9, task="inpainting", out=tmp_path / "o", **TINY)
    )
    assert np.isfinite(numbers["test_loss"])


@pytest.mark.data
def test_idx_files_train_as_the_sample_does(
    data_dir: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, sample = trained
    idx = train.main(train.Train(out=tmp_path / "idx", data=f"idx:{data_dir / 'mnist'}", **TINY))
    assert idx["test_loss"] == sample["test_loss"]


def test_compare_makes_table_results_and_figures_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compare.Compare(
        tasks=("denoising", "inpainting"),
        noises=(0.1,),
        taus=(0.9,),
        gammas=(1.0,),
        activations=("relu",),
        out=tmp_path,
        lanes_at_once=2,
        **TINY,
    )
    numbers = compare.main(config)
    assert numbers["runs"] == 4
    table = capsys.readouterr().out
    assert table.count("\n") == 2 + 4 + 2 + 3 and "best setting" in table
    assert table.count("measurement f") == 2 and table.count("K^T f") == 1
    known = numbers["test_loss_without_learning"]["denoising/0.1"]
    assert known["measurement f"] == pytest.approx(0.01, rel=0.1)
    assert all(
        "inpainting" not in x or "measurement" not in x for x in numbers["no_better_than_nothing"]
    )
    dataset = xr.open_zarr(tmp_path / "results.zarr")
    assert dict(dataset.test_loss.sizes) == {
        "task": 2, "model": 2, "noise": 1, "tau": 1, "gamma": 1, "activation": 1, "epoch": 2,
    }  # fmt: skip
    assert bool(dataset.test_loss.notnull().all()) and bool(np.isfinite(dataset.test_loss).all())
    for name in ("figure_1", "figure_2", "figure_3", "figure_5", "figure_6"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).std() > 5
    assert table.splitlines()[0] in (tmp_path / "summary.md").read_text()
    monkeypatch.setattr(learning, "epoch", None)  # nothing is left to train
    assert compare.main(config)["best_test_loss"] == numbers["best_test_loss"]


def test_a_study_whose_runs_may_take_so_many_hours_goes_on_with_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"tasks": ("denoising",), "models": ("bilevel",), "noises": (0.1,), "gammas": (1.0,)}
    config = compare.Compare(
        **one, taus=(0.5,), activations=("relu",), out=tmp_path, figures=False, **TINY
    )
    assert compare.main(dataclasses.replace(config, hours=1e-9))["runs"] == 1
    dataset = results.read(tmp_path)
    assert dataset.attrs["hours"] == 1e-9
    assert dataset.test_loss.notnull().values.ravel().tolist() == [True, False]
    assert bool(dataset.best_reconstruction.notnull().all())
    seen = watch.main(watch.Watch(tmp_path))
    assert (seen["runs"], seen["finished"]) == (1, 1)
    compare.main(config)
    dataset = results.read(tmp_path)
    assert "hours" not in dataset.attrs and bool(dataset.test_loss.notnull().all())
    with pytest.raises(SystemExit, match="--hours 1: runs had no limit before; take as many"):
        compare.main(dataclasses.replace(config, hours=1.0))


def test_watch_shows_a_study_under_way_and_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compare.Compare(
        tasks=("denoising",),
        models=("bilevel",),
        noises=(0.1,),
        taus=(0.1, 0.9),
        gammas=(1.0,),
        activations=("relu",),
        axis=("seed=0,1", "lam=1,2"),
        out=tmp_path,
        figures=False,
        **TINY,
    )
    chunk_of_epoch, count = learning.epoch, 0

    def interrupted(*args: Any, **options: Any) -> learning.Epoch:
        nonlocal count
        count += 1
        if count > 6:
            raise KeyboardInterrupt
        return chunk_of_epoch(*args, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(learning, "epoch", interrupted)
        compare.main(config)
    left = compare.main(dataclasses.replace(config, dry_run=True))
    assert f"denoising/bilevel: {left['lanes']} lanes" in capsys.readouterr().out
    assert 0 < left["lanes"] <= 8 and left["seconds"] > 0 and left["memory"] > 0
    seen = watch.main(watch.Watch(tmp_path))
    assert "best setting" in capsys.readouterr().out
    assert seen["runs"] == 8 and seen["finished"] == 8 - left["lanes"]
    assert 6 <= seen["epochs"] <= 6 * jax.device_count()
    assert np.asarray(Image.open(tmp_path / "figure_1.png").convert("L")).std() > 5
    assert compare.main(config)["runs"] == 8
    again = watch.main(watch.Watch(tmp_path, every=0.1))
    assert (again["finished"], again["epochs"]) == (8, 16)
    assert re.search(r"gamma 1, seed \d, lam \d", capsys.readouterr().out)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 16 and {line["lane"]["seed"] for line in lines} == {0, 1}


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("colour=1,2", "--axis 'colour': expected one of seed"),
        ("seed=a", "--axis seed=a: expected seed=NUMBER"),
        ("seed=0..3", "--axis 'seed': expected one of tau"),
        ("tau=0.1..2:lin", r"--axis tau=0.1..2:lin: .* after the colon 'lin', not log"),
        ("tau=2..1", r"tau=2\.\.1: expected finite numbers, low < high"),
        ("window=2.5", "--axis window=2.5: expected window=NUMBER"),
        ("lam=-1", r"--axis lam=-1: -1\.0: expected 0 or more"),
        ("lam=1,1", r"--axis lam 1\.0 1\.0: the same value twice"),
    ],
)
def test_a_bad_axis_ends_with_a_clear_error(axis: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        compare.main(compare.Compare(axis=(axis,), out=tmp_path / "study"))
    with pytest.raises(SystemExit, match="study: not there; expected a folder: the --out of a st"):
        watch.main(watch.Watch(tmp_path / "study"))


def test_a_sampled_study_knows_its_points_and_refuses_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compare.Compare(
        tasks=("denoising",),
        models=("bilevel",),
        noises=(0.1,),
        gammas=(1.0,),
        activations=("relu",),
        axis=("tau=0.1..1:log", "lam=0.5..2", "window=2,5"),
        samples=3,
        keep_parameters="best",
        figures=False,
        out=tmp_path,
        **TINY,
    )
    assert compare.main(config)["runs"] == 6
    assert "best setting" in (tmp_path / "summary.md").read_text()
    assert list(tmp_path.glob("*.png")) == []
    assert re.search(r"relu, tau [\d.]+, gamma 1, window \d, sample \d, lam [\d.]+ ",
                     capsys.readouterr().out)  # fmt: skip
    dataset = results.read(tmp_path)
    assert dataset.tau.dims == dataset.lam.dims == ("sample",)
    best = dataset.squeeze()
    params = studies.parameters(tmp_path, lam=float(best.best_lam))
    assert float(params["tau"]) == np.float32(best.best_tau)
    assert "tau in [0.1, 1] (logarithmic)" in dataset.attrs["caption"]
    with pytest.raises(SystemExit, match="samples: 3 there, 4 asked for"):
        compare.main(dataclasses.replace(config, samples=4))
    with pytest.raises(SystemExit, match="--axis tau and --taus: give one of them"):
        compare.main(dataclasses.replace(config, taus=(0.1,)))


def test_filters_are_learned_and_an_interruption_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = filters.Filters(
        "vertical-bars", filters=(2, 3, 2), iterations=10, lower_iterations=5, seeds=2, block=5,
        learning_rate=1e-2, schedule="cosine", out=tmp_path / "whole",
    )  # fmt: skip
    whole = filters.main(config)
    assert whole["upper_iterations"] == 10 and whole["snr_db"] > whole["snr_noisy_db"]
    assert whole["psnr_db"] is None and len(whole["snr_db_of_lanes"]) == 2
    for name in ("filters", "reconstruction", "patches", "course"):
        assert np.asarray(Image.open(tmp_path / "whole" / f"{name}.png").convert("L")).std() > 5
    parts = dataclasses.replace(config, out=tmp_path / "parts")
    save, count = checkpoints.save, 0

    def interrupted(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        save(*args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoints, "save", interrupted)
        filters.main(parts)
    again = filters.main(parts)
    apart = ("out", "step_ms", "seconds", "images_per_second")
    assert {k: v for k, v in again.items() if k not in apart} == {
        k: v for k, v in whole.items() if k not in apart
    }
    logs = [(tmp_path / x / "metrics.jsonl").read_text().splitlines() for x in ("whole", "parts")]
    records = [[json.loads(line) | {"seconds": 0} for line in lines] for lines in logs]
    assert records[0] == records[1] and [r["iteration"] for r in records[0]] == [5, 10]


def test_filters_of_own_images_and_of_a_picture_that_a_package_ships(
    tmp_path: Path,
) -> None:
    rng, read = np.random.default_rng(0), tmp_path / "read"
    read.mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (60, 70), np.uint8)).save(read / f"{name}.png")
    small = {"filters": (3, 2, 2), "iterations": 2, "lower_iterations": 3, "block": 2}
    own = filters.Filters("own", image=read, out=tmp_path / "own", **small)
    assert filters.main(own)["psnr_db"] > 10
    camera = filters.Filters("cameraman", learn="beta", out=tmp_path / "camera", **small)
    numbers = filters.main(camera)
    assert numbers["snr_noisy_db"] == pytest.approx(15, abs=1.5)
    assert np.isfinite(numbers["snr_db"])
    report = (tmp_path / "camera" / "conditions.txt").read_text()
    assert "every condition holds there" in report and "mu 1" in report


def test_filters_of_pictures_of_several_sizes_in_minibatches(tmp_path: Path) -> None:
    """Whole pictures of two shapes, two noises of each; then on from there, by its file."""
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(60, 52), (52, 60), (52, 60), (55, 70)]):
        picture = 80 * (np.indices(shape).sum(0) // 13 % 3) + rng.integers(0, 20, shape)
        folder = tmp_path / ("test" if i == 3 else "train")
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i}.png")
    config = filters.Filters(
        "natural", image=tmp_path / "train", test_images=tmp_path / "test", images=3, patch=0,
        batch=3, realisations=2, filters=(3, 2, 2), iterations=6, block=4, beta_0=-7.5,
        out=tmp_path / "run",
    )  # fmt: skip
    numbers = filters.main(config)
    assert numbers["psnr_noisy_db"] == pytest.approx(20.17, abs=0.2)
    assert numbers["psnr_db"] > numbers["psnr_noisy_db"] + 1 and 0 < numbers["ssim"] < 1
    records = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # Two shapes with 2 and 4 images: a batch of 3 takes 1 and 2 of them.
    assert [r["images"] for r in records] == [12, 6]
    assert set(records[0]["held_out"]) == {"snr_db", "psnr_db", "ssim"}
    learned = pretrained.load(tmp_path / "run" / "filters.npz")
    assert learned.about["result"]["psnr_db"] == numbers["psnr_db"]
    again = dataclasses.replace(
        config, iterations=0, start=str(tmp_path / "run" / "filters.npz"), out=tmp_path / "again",
        filters=None, beta_0=None,
    )  # fmt: skip
    assert filters.main(again)["psnr_db"] == numbers["psnr_db"]
    redrawn = lanes.redrawn(learned.params, 0.9, np.random.default_rng(0))
    before, after = (np.asarray(convolutional.strengths(p)) for p in (learned.params, redrawn))
    np.testing.assert_allclose(after, np.maximum(before, 0.9 * before.max()), rtol=1e-5)


def test_filters_are_learned_by_a_line_search(tmp_path: Path) -> None:
    config = filters.Filters(
        "vertical-bars", filters=(2, 3, 2), iterations=15, seeds=1, optimiser="lbfgs", beta_0=-5.0,
        out=tmp_path,
    )  # fmt: skip
    numbers = filters.main(config)
    losses = json.loads((tmp_path / "metrics.jsonl").read_text())["loss"][0]
    assert numbers["lower_solves"] > 15 and losses[-1] < 0.7 * losses[0]
    assert all(after <= before * 1.001 for before, after in itertools.pairwise(losses))


def test_minibatches_take_every_image_in_every_round() -> None:
    whole = groups.minibatches([6, 3], 3, seed=1, first=0, count=9)
    assert [x.shape for x in whole] == [(9, 2), (9, 1)]
    for images, rounds in zip(whole, (3, 3), strict=True):
        for i in range(0, 9, rounds):
            assert sorted(images[i : i + rounds].ravel()) == list(range(images.size // 3))
    assert any((whole[0][:3] != whole[0][3:6]).ravel())
    later = groups.minibatches([6, 3], 3, seed=1, first=4, count=5)
    for a, b in zip(whole, later, strict=True):
        np.testing.assert_array_equal(a[4:], b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experiment": "own"}, "own: give a folder of images with --image"),
        ({"experiment": "own", "image": Path("missing")}, "missing"),
        ({"experiment": "vertical-bars", "noise": -1.0}, "--noise -1.0: expected above 0"),
        ({"experiment": "vertical-bars", "filters": (0, 4, 2)}, "--filters 0 4 2: expected"),
        ({"experiment": "vertical-bars", "filters": (1, 40, 2)}, "larger than the image of 32x32"),
        ({"experiment": "vertical-bars", "seeds": 0}, "--seeds 0: expected 1 or more"),
        ({"experiment": "natural"}, "natural: give a folder of images with --image"),
        ({"experiment": "vertical-bars", "batch": 0}, "--batch 0: expected 1 or more"),
        (
            {"experiment": "vertical-bars", "batch": 1, "optimiser": "lbfgs"},
            "--optimiser lbfgs --batch 1: a line search needs the same images",
        ),
        (
            {"experiment": "vertical-bars", "redraw": 0.1},
            "--redraw 0.1: has no effect here, only with --start",
        ),
        ({"experiment": "vertical-bars", "start": "fields"}, "fields: neither a file nor one of"),
    ],
)
def test_filters_that_cannot_be_learned_end_with_a_clear_error(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=message):
        filters.main(filters.Filters(**options, out=tmp_path / "run"))


def test_ways_to_a_hypergradient_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = hypergradients.Hypergradients(
        problems=("dense-deq", "filters"), methods=("conjugate_gradient", "unrolled"),
        budgets=(3, 60), iterations=(8, 16), size=6, images=2, features=6, rounds=1, out=tmp_path,
    )  # fmt: skip
    numbers = hypergradients.main(config)
    assert set(numbers) == {"dense-deq", "filters"}
    # A DEQ's Jacobian is not symmetric.
    assert set(numbers["dense-deq"]) == {"unrolled"}
    assert set(numbers["filters"]) == {"conjugate_gradient", "unrolled"}
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    errors = {(r["problem"], r["method"], r["budget"]): r["relative_error"] for r in rows}
    for (problem, method, budget), error in errors.items():
        assert budget == 3 or error < 0.3 * errors[problem, method, 3]
    for name in ("methods", "estimates"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).std() > 5
    result = json.loads((tmp_path / "result.json").read_text())
    estimates = result.pop("estimates")
    assert result == numbers and set(estimates) == {"quadratic", "filters"}
    for found in estimates.values():
        assert found["unrolled"]["errors"]["16"] > 2 * found["implicit"]["errors"]["16"]
    for numbers_of in estimates["quadratic"].values():
        assert numbers_of["rate"] == pytest.approx(3**-0.5, abs=0.03)
    # A kill in the middle of a line, after which all is there but what that was of.
    log = tmp_path / "estimates.jsonl"
    log.write_text(log.read_text()[:-9])
    monkeypatch.setattr(hypergradients, "measure", None)
    assert hypergradients.main(config) == numbers
    assert json.loads((tmp_path / "result.json").read_text())["estimates"] == estimates


@pytest.mark.parametrize(
    ("memory", "exponent"),
    [
        ({10: 3.0, 50: 11.0, 250: 51.0}, 1.0),
        ({10: 1 + 10**0.5, 50: 1 + 50**0.5, 250: 1 + 250**0.5}, 0.5),
        ({10: 2.0, 50: 2.0, 250: 2.0}, 0.0),
        ({10: 1.0, 50: 3.9, 250: 3.6}, 0.0),
        ({10: 1.0, 1000: 10.0}, 0.5),
        ({10: 1.0}, None),
    ],
)
def test_growth_of_memory(memory: dict[int, float], exponent: float | None) -> None:
    grown = tables.growth(memory)
    assert grown == exponent if exponent is None else grown == pytest.approx(exponent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("bfgs",)}, "--methods bfgs: expected one of picard"),
        ({"budgets": (0,)}, "--budgets 0: expected 1 or more"),
        ({"iterations": (0,)}, "--iterations 0: expected 1 or more"),
        ({"solver": "backtracking"}, "--solver backtracking: expected one of picard"),
    ],
)
def test_comparisons_that_cannot_be_made_end_with_a_clear_error(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=message):
        hypergradients.main(hypergradients.Hypergradients(**options, out=tmp_path / "run"))


def test_smooth_stand_ins_for_soft_thresholding(tmp_path: Path) -> None:
    errors = smooth_proximal.main(smooth_proximal.SmoothProximal(out=tmp_path))["largest_error"]
    assert list(errors) == ["T = 5", "T = 10", "T = 20", "T = 50"]
    # In single precision, and worst at |y| = weight, where the limit has its kink.
    assert errors["T = 50"] < errors["T = 20"] < errors["T = 10"] < errors["T = 5"] < 0.5
    assert np.asarray(Image.open(tmp_path / "figure_4_1.png").convert("L")).std() > 5
    with pytest.raises(SystemExit, match=r"--power 3\.0: expected above 1, at most 2"):
        smooth_proximal.main(smooth_proximal.SmoothProximal(power=3.0, out=tmp_path))


def test_training_by_another_hypergradient(tmp_path: Path) -> None:
    config = train.Train(
        **TINY, solver="picard", hypergradient="truncated", products=3, out=tmp_path / "a"
    )
    numbers = train.main(config)
    assert numbers["adjoint_evaluations"] == 3 and not numbers["diverged"]
    for options, message in (
        ({"hypergradient": "unrolled", "setting": "fast"}, "'unrolled': its budget is static"),
        ({"hypergradient": "minres", "model": "deq"}, "minres: needs a symmetric dG/du"),
        ({"products": 0}, "--products 0: expected 1 or more"),
    ):
        with pytest.raises(SystemExit, match=message):
            train.main(train.Train(**TINY, **options, out=tmp_path / "b"))


def test_lanes_at_once_fill_an_accelerator_that_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where that is the default."""
    monkeypatch.setattr(compare.jax, "default_backend", lambda: "gpu")
    config = compare.Compare(
        tasks=("denoising",),
        models=("deq",),
        noises=(0.1,),
        taus=(0.9,),
        gammas=(1.0,),
        activations=("relu",),
        out=tmp_path,
        **TINY,
    )
    with contextlib.ExitStack() as stack:
        assert compare.prepare(config, stack).study.lanes[1:] == (45, 45)
    monkeypatch.setattr(compare.plans, "free_memory", lambda: 250_000_000)
    with contextlib.ExitStack() as stack:
        few = compare.prepare(config, stack).study.lanes
    assert 2 <= few.each == few.width < 45
    monkeypatch.setattr(compare.plans, "free_memory", lambda: 10**6)
    with pytest.raises(SystemExit, match=r"a run of denoising/deq needs \d+ MB, and 1 MB are free"):
        compare.main(config)


def test_hypergradients_grow_accurate_with_the_lower_level(tmp_path: Path) -> None:
    config = gradient_accuracy.GradientAccuracy(
        tolerances=(0.1, 1e-3, 1e-5), points=6, length=16, out=tmp_path
    )
    numbers = gradient_accuracy.main(config)
    medians = list(numbers["angle_deg_median"].values())
    assert medians[0] > 20 * medians[1] > 400 * medians[2] > 0
    assert numbers["angle_deg_most"]["1e-05"] < 0.01
    assert np.asarray(Image.open(tmp_path / "figure_5_1.png").convert("L")).std() > 5
    assert not jax.config.read("jax_enable_x64")
    with pytest.raises(SystemExit, match=r"--tolerances 0\.0: expected above 0"):
        gradient_accuracy.main(dataclasses.replace(config, tolerances=(0.0,)))


def test_two_programs_never_write_into_one_folder(tmp_path: Path) -> None:
    with folders.alone_in(tmp_path), pytest.raises(SystemExit, match="another program writes"):
        train.main(train.Train(out=tmp_path, **TINY))
    with folders.alone_in(tmp_path), pytest.raises(SystemExit, match="another program writes"):
        compare.main(compare.Compare(out=tmp_path, **TINY))


def test_throughput_times_both_ways_and_sees_the_memory_that_was_planned(tmp_path: Path) -> None:
    """At this size the arena of the allocator hides the memory, which must only be positive."""
    options = ["--tasks", "denoising", "--models", "bilevel", "--taus", "0.9", "--steps", "2"]
    options += ["--rounds", "1", "--widths", "1", "3", "--train-size", "20", "--batch-size", "10"]
    command = [sys.executable, "-m", "experiments.throughput", *options, "--out", str(tmp_path)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [*command, "--cpu-devices", "2"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout.splitlines()[-1])
    assert numbers["devices"] == 2
    assert set(numbers["times_as_fast"]) == {"width 1", "width 3"}
    [group] = numbers["groups"].values()
    needed = [way["evaluations_per_lane_step"] for way in group.values()]
    assert needed[0] > 2 and needed == pytest.approx(3 * [needed[0]], rel=0.02)
    assert group["width 1"]["useful_work"] == 1 and 0.3 < group["width 3"]["useful_work"] <= 1
    assert numbers["memory"]["planned_mb"] > 9 * 4 * 2.4 and numbers["memory"]["seen_mb"] > 0
    assert all(way["gflops"] > 0 for way in numbers["ways"].values())
    assert json.loads((tmp_path / "throughput.json").read_text())["ways"]


def test_an_evaluation_is_counted_in_the_compiled_program(tmp_path: Path) -> None:
    """Two products of the batch with A, which each of them reads, beside Anderson's passes."""
    options = throughput.Throughput(
        tasks=("denoising",), models=("bilevel",), widths=(2,), batch_size=10, count=True
    )
    [found] = throughput.main(dataclasses.replace(options, out=tmp_path))["counted"].values()
    assert found["megaflop"] == pytest.approx(4e-6 * 10 * 784**2, rel=0.05)
    assert 2 < found["megabytes"] / (4e-6 * 784**2) < 4
    assert 20 < found["kernels"] < 60
    assert 2 * found["kernels"] / 2 < found["least_us"] < found["most_us"]
    assert json.loads((tmp_path / "throughput.json").read_text())["denoising/bilevel, 2"] == found


def test_the_paper_preset_is_the_grid_of_1350_runs() -> None:
    options = compare.Compare(preset="paper").resolved()
    axes = {name: options[f"{name}s"] for name in compare.results.AXES}
    assert len(grids.grid(axes)) == 1350 and not options["captions"]
    assert (options["epochs"], options["setting"], options["learning_rate"]) == (100, "paper", 1e-3)


def test_the_quick_preset_has_the_runs_that_the_figures_of_the_paper_show() -> None:
    options = compare.Compare().resolved()
    before, drawn = study.crossed(options)
    lanes = grids.grid(before, drawn)
    axes, grid = captions.joined(before, drawn, lanes)
    assert options["captions"] and grid[: len(lanes)] == lanes and len(grid) == 72 + 4
    assert axes["gamma"] == [0.1, 0.5, 1.0] and before["gamma"] == [0.5, 1.0]
    for task, setting in plots.CAPTIONS.items():
        for model, noise in itertools.product(before["model"], before["noise"]):
            assert grid.count({"task": task, "model": model, "noise": noise} | setting) == 1
    assert captions.joined(axes, drawn, grid) == (axes, grid)
    assert not compare.Compare(taus=(0.9,)).resolved()["captions"]


def test_the_command_ends_with_one_json_line_and_nothing_else_on_standard_output(
    tmp_path: Path,
) -> None:
    """In double precision, as JAX_ENABLE_X64 has it from the beginning."""
    command = [sys.executable, "-m", "experiments.train", "--task", "inpainting", "--model", "deq"]
    command += ["--epochs", "1", "--train-size", "10", "--test-size", "10", "--batch-size", "10"]
    environment = os.environ | {"JAX_ENABLE_X64": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    [line] = done.stdout.splitlines()
    assert json.loads(line)["step_ms"] > 0
    assert "epoch 0" in done.stderr
    with np.load(tmp_path / "run" / recipes.file()) as learned:
        assert learned["['A']"].dtype == np.float64


def test_filters_are_learned_by_a_named_algorithm(tmp_path):
    options = {"algorithm": "aid", "learning_rate": 1e-2, "iterations": 40, "seeds": 2}
    numbers = filters.main(filters.Filters("vertical-bars", out=tmp_path, block=20, **options))
    assert numbers["gain_db"] > 3
    again = filters.main(filters.Filters("vertical-bars", out=tmp_path, block=20, **options))
    assert again == numbers


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"algorithm": "stable"}, "--algorithm stable: needs dense matrices"),
        (
            {"algorithm": "ttsa", "lower_iterations": 5},
            "--algorithm ttsa --lower-iterations 5: the method has no such option",
        ),
        (
            {"algorithm": "aid", "hypergradient": "unrolled"},
            "--algorithm aid --hypergradient unrolled: an algorithm has its own",
        ),
    ],
)
def test_what_an_algorithm_does_not_have_is_named(tmp_path, options, named):
    with pytest.raises(SystemExit, match=named):
        filters.main(filters.Filters("vertical-bars", out=tmp_path, **options))
