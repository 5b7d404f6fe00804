"""The convolutional comparison on pictures at its smallest budget, as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deqbilevel.commands import common
from deqbilevel.commands.records import Log
from deqbilevel.disk import checkpoints
from deqbilevel.regularizers import normalised
from deqbilevel.settings import Budget
from experiments import faces, faces_speed
from experiments.faces import posing, training

TINY = {
    "kernels": (2, 3), "data": "faces", "shape": (12, 10), "train_size": 3, "test_size": 2,
    "epochs": 4, "evaluate_every": 2,
}  # fmt: skip
TIMED = ("seconds_bilevel", "seconds_deq", "out")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A run with three lanes of a start, of which the middle was interrupted and repeated."""
    out = tmp_path_factory.mktemp("faces") / "run"
    config = faces.Faces(starts=("random", "first_differences", "second_differences"), out=out,
                         **TINY)  # fmt: skip
    return out, common.plain(faces.main(config))


def test_it_ends_in_the_numbers_of_both_models(learned):
    out, numbers = learned
    assert json.loads((out / "result.json").read_text()) == numbers
    for name in ("bilevel", "deq"):
        assert numbers[f"psnr_{name}_db"] > numbers[f"psnr_start_{name}_db"]
        assert numbers[f"ssim_{name}"] is None  # the pictures are below its window
        assert numbers[f"diverged_{name}"] == 0
        assert numbers[f"residual_{name}"] < 3e-6 and numbers[f"solved_{name}"] == 1
        with np.load(out / f"kernels-{name}.npz") as kernels:
            assert set(kernels) == ({"A"} if name == "bilevel" else {"A", "C"})
        assert np.asarray(Image.open(out / f"kernels-{name}.png").convert("L")).std() > 10
    # In the published settings C starts as a copy of A: one model until it learns.
    assert numbers["psnr_start_bilevel_db"] == pytest.approx(numbers["psnr_start_deq_db"], abs=0.01)
    assert "| measured |" in (out / "summary.md").read_text()


def test_an_interrupted_run_goes_on_and_ends_the_same(learned, tmp_path, monkeypatch):
    out, numbers = learned
    save = checkpoints.save

    def killed(folder: Path, step: int, tree: object) -> None:
        if step == 4 and folder.name == "deq":
            raise KeyboardInterrupt
        save(folder, step, tree)

    options = json.loads((out / "options.json").read_text())
    config = faces.Faces(models=("deq",), starts=tuple(options["starts"]), out=tmp_path, **TINY)
    monkeypatch.setattr(checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        faces.main(config)
    monkeypatch.undo()
    assert checkpoints.latest_step(tmp_path / "states" / "deq") == 2
    again = common.plain(faces.main(config))
    for name in set(again) - set(TIMED):
        assert again[name] == numbers[name]


def test_the_epoch_of_least_training_loss_is_shown(tmp_path):
    options = TINY | {"models": ("deq",), "learning_rates": (3.0, 1.0), "evaluate_every": 1}
    numbers = faces.main(faces.Faces(out=tmp_path, **options))
    courses = np.array(
        [r["train_loss"] for r in Log.of(tmp_path / "metrics-deq.jsonl", training.RECORD).read()]
    )
    epoch, lane = np.unravel_index(np.argmin(courses[1:]), (4, 2))
    assert numbers["epoch_deq"] == epoch + 1 < 4
    assert numbers["lane_deq"]["learning_rate"] == options["learning_rates"][lane]
    best = training.Best({"A": np.zeros((2, 3))}, courses[0], np.array([0, 0]))
    best = best.after({"A": np.ones((2, 3))}, 7, np.array([0.0, np.inf]))
    np.testing.assert_array_equal(best.params["A"], [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(best.epoch, [7, 0])
    np.testing.assert_array_equal(best.loss, [0, courses[0, 1]])
    again = faces.main(faces.Faces(out=tmp_path, **options))
    assert again == numbers


def test_no_step_is_taken_from_what_is_not_solved(tmp_path, monkeypatch):
    monkeypatch.setattr(posing, "Budget", lambda *counts: Budget(2, 2))
    options = TINY | {"models": ("deq",), "out": tmp_path}
    numbers = faces.main(faces.Faces(**options))
    assert numbers["solved_deq"] == 0 and numbers["diverged_deq"] == 0
    assert numbers["psnr_deq_db"] == pytest.approx(numbers["psnr_start_deq_db"], abs=1e-4)
    assert "deq: no step was taken" in (tmp_path / "summary.md").read_text()


def test_kernels_of_one_task_deblur_as_they_are(learned, tmp_path):
    out, _ = learned
    options = TINY | {"models": ("deq",), "epochs": 0, "task": "deblurring", "blur": 3}
    options |= {"padding": "zero", "kernels_from": out}
    found = faces.main(faces.Faces(out=tmp_path, **options))
    assert found["psnr_deq_db"] == found["psnr_start_deq_db"] > 10
    for letter in "AC":
        ours, theirs = (np.load(folder / "kernels-deq.npz")[letter] for folder in (out, tmp_path))
        np.testing.assert_array_equal(ours, theirs)
    (tmp_path / "kernels-bilevel.npz").write_bytes((out / "kernels-bilevel.npz").read_bytes())
    (tmp_path / "kernels-deq.npz").unlink()
    tied = posing.stored_kernels(faces.Faces(**options | {"kernels_from": tmp_path}), "deq")
    np.testing.assert_array_equal(tied["C"], tied["A"])
    with pytest.raises(SystemExit, match=r"2 kernels 3x3; --kernels 3 3 asks"):
        faces.main(faces.Faces(out=tmp_path, **options | {"kernels": (3, 3)}))


def test_the_published_iteration_reaches_the_same_reconstructions(learned, tmp_path):
    out, _ = learned
    options = TINY | {"models": ("deq",), "epochs": 0, "kernels_from": out}
    slow = faces.main(faces.Faces(setting="published", out=tmp_path / "slow", **options))
    fast = faces.main(faces.Faces(setting="fast", out=tmp_path / "fast", **options))
    assert slow["evaluations_deq"] == 1000 > 8 * fast["evaluations_deq"]
    assert fast["psnr_deq_db"] == pytest.approx(slow["psnr_deq_db"], abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": (30, 4)}, "--kernels 30 4: expected 1 or more, of an odd size"),
        ({"kernels": (5, 3), "starts": ("first_differences",)}, "differences are --kernels 2 3"),
        ({"kernels": (2, 13)}, "13x13 pixels are larger than the image of 12x10"),
        ({"epochs": 3}, "expected a multiple of --evaluate-every 2"),
        ({"learning_rates": (0.0,)}, "--learning-rates 0.0: expected 1e-09 or more"),
        ({"models": ()}, "--models: expected one value or more"),
        ({"kernels_from": Path("nowhere")}, "--kernels-from nowhere: not there; expected a folder"),
        ({"guard": 0.5}, "--guard 0.5: expected 1 or more"),
        ({"noise": -1.0}, "--noise -1.0"),
    ],
)
def test_bad_requests_end_before_any_work(options, message, tmp_path):
    with pytest.raises(SystemExit, match=message.replace("(", r"\(")):
        faces.main(faces.Faces(out=tmp_path, **TINY | options))


def test_speed_says_how_many_times_faster_at_no_larger_a_residual(tmp_path):
    options = {k: TINY[k] for k in ("kernels", "data", "shape", "train_size")}
    config = faces_speed.Speed(
        models=("bilevel",),
        evaluations=(60, 60),
        products=(60, 60),
        rounds=1,
        out=tmp_path,
        **options,
    )
    found = faces_speed.main(config)
    assert json.loads((tmp_path / "result.json").read_text()) == found
    published, fast = (found["bilevel"][name] for name in ("published", "fast"))
    assert (published["evaluations"], fast["evaluations"]) == (1000, 60)
    for name in ("residual", "adjoint_residual"):
        assert 0 < fast[name] < 3e-7 and 0 < published[name] < 3e-7
    assert found["bilevel"]["ratio"] > 1
    assert faces_speed.main(config) == found


@pytest.mark.parametrize(
    ("name", "kernels", "message"),
    [
        ("bilevel", {}, "no A; expected A"),
        ("bilevel", {"A": np.ones(3)}, r"A: of shape \(3,\); expected \[kernels, rows, columns\]"),
        ("bilevel", {"A": np.ones((2, 3, 3)), "Z": np.ones(1)}, "Z, which is unheard of"),
        ("bilevel", {"A": np.ones((2, 3, 3), int)}, "A: of type int64; expected floating"),
        ("bilevel", {"A": np.full((2, 3, 3), "a")}, "A: of type <U1"),
        ("bilevel", {"A": np.full((2, 3, 3), np.nan)}, "A: expected finite"),
        ("bilevel", {"A": np.zeros((2, 3, 3))}, "A: every kernel is zero"),
        ("deq", {"A": np.ones((2, 3, 3))}, "no C; expected A, C"),
        ("deq", {"A": np.ones((2, 3, 3)), "C": np.ones((2, 5, 5))}, "C: of shape"),
    ],
)
def test_kernels_of_another_kind_are_named(name, kernels, message, tmp_path):
    np.savez(tmp_path / f"kernels-{name}.npz", **kernels)
    config = faces.Faces(kernels_from=tmp_path, **TINY | {"models": (name,)})
    with pytest.raises(ValueError, match=message):
        model = posing.recipe_of(config, name).model((12, 10))
        stored = posing.stored_kernels(config, name)
        model.refresh(normalised.bank_of((12, 10)).start(**stored))
