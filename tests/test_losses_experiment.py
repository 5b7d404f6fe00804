"""The experiment with upper-level losses, at its smallest."""

import imageio.v3 as iio
import jax
import numpy as np
import pytest

from deqbilevel.commands import ways
from experiments.losses import Losses, figures, main, tables


def test_distortions_have_one_error_and_losses_tell_them_apart(tmp_path):
    truth = np.random.default_rng(0).uniform(0, 1, (24, 24))
    shown = figures.distorted(truth, 0.1, jax.random.key(0))
    assert list(shown) == ["blur", "white noise", "salt and pepper", "offset"]
    for u in shown.values():
        assert np.linalg.norm(u - truth) / np.linalg.norm(truth) == pytest.approx(0.1)
    assert np.ptp(shown["offset"] - truth) < 1e-9
    assert 0 < np.mean(shown["salt and pepper"] != truth) < 0.1
    with pytest.raises(ValueError, match=r"--error 0.9: more than a blur has; take less"):
        figures.distorted(truth, 0.9, jax.random.key(0))


def test_it_draws_and_learns_by_several_losses(tmp_path):
    small = {"side": 32, "shape": (16, 16), "train_size": 2, "test_size": 1, "epochs": 2}
    (tmp_path / "in").mkdir()
    for name, shape in {"a": (14, 19), "b": (24, 16), "c": (99, 99)}.items():
        grey = np.add.outer(*(np.linspace(0, 120, n) for n in shape))
        iio.imwrite(tmp_path / "in" / f"{name}.png", grey.astype(np.uint8))
    chosen = {"losses": ("monte_carlo_sure:probes=2",), "judge": tmp_path / "in", "judged": 2}
    found = main(Losses(**small, **chosen, out=tmp_path / "run"))
    seen = found["figure_3_2"]
    squared = list(seen["mean_squared_error"].values())
    np.testing.assert_allclose(squared, squared[0], rtol=1e-4)
    assert seen["high_frequency_error"]["offset"] < 1e-9 < seen["high_frequency_error"]["blur"]
    assert seen["ssim"]["offset"] < seen["ssim"]["white noise"]
    learned = found["learned"]
    assert list(learned) == ["measurement", "monte_carlo_sure-probes2"]
    row = learned["monte_carlo_sure-probes2"]
    assert row["psnr_db"] > learned["measurement"]["psnr_db"] and row["lost_db"] == 0
    assert 0 < row["ms_ssim"] < 1 and row["step_ms"] > 0 and row["train_loss"] > 0
    judges = tables.judges(tmp_path / "in", 2)
    assert judges.shape == (14, 14) and judges.test.shape == (2, 196)
    np.testing.assert_allclose(judges.test[0, 0], np.floor(2 * 120 / 18) / 255, atol=1e-6)
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert there >= {"figure_3_2.png", "figure_6_4.png", "reconstructions.png", "summary.md"}


def test_tables_are_made_once(tmp_path, capfd):
    """At their smallest: those that are no plain runs of `learn`."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    iio.imwrite(tmp_path / "in" / "a.png", (255 * rng.random((12, 12))).astype(np.uint8))
    asked = Losses(
        **{"side": 32, "shape": (12, 12), "train_size": 2, "test_size": 1, "epochs": 2},
        losses=(),
        tables=("adapted", "corners"),
        pictures=tmp_path / "in",
        adapt=("discrepancy",),
        out=tmp_path / "run",
    )
    found = main(asked)
    assert list(found["adapted"]) == ["as learned", "discrepancy"]
    assert found["adapted"]["as learned"]["lost_db"] == 0
    assert list(found["corners"]) == ["fixed", "falling"]
    assert all(row["loss at the end"] > 0 for row in found["corners"].values())
    reached = [row["evaluations until then"] for row in found["corners"].values()]
    assert any(count is not None and count > 0 for count in reached)
    before = (tmp_path / "run" / "corners" / "rows.jsonl").read_bytes()
    assert main(asked) == found
    assert (tmp_path / "run" / "corners" / "rows.jsonl").read_bytes() == before
    assert "Weights tuned to each picture" in capfd.readouterr().out


def test_tables_are_of_problems_that_learn_takes(tmp_path):
    """Their options: runs are tested above and with `learn`."""
    small = {"shape": (16, 16), "train_size": 2, "test_size": 1, "tolerances": (1e-2,)}
    asked = Losses(tables=("counts", "mri", "accuracy"), **small)
    every = [way for name in asked.tables for way in tables.of(asked, name)]
    runs = ways.configs(every, tables.shared(asked), tmp_path)
    assert runs["counts/noise_corridor"].fidelity == "poisson"
    assert runs["mri/monte_carlo_sure"].data == "phantoms:shepp_logan"
    assert runs["accuracy/0.01"].lower_tolerance == 0.01 and not runs["accuracy/0.01"].warm
    assert len(runs) == len(tables.COUNTS) + len(tables.MRI) + len(asked.tolerances)


def test_a_lower_level_that_is_solved_better_ends_at_a_smaller_gradient(tmp_path):
    small = {"shape": (16, 16), "train_size": 2, "test_size": 1, "epochs": 1}
    found = main(
        Losses(losses=(), tables=("accuracy",), tolerances=(1e-4, 1e-2), **small, out=tmp_path)
    )
    rows = found["accuracy"]
    assert 0 < 20 * rows["0.0001"]["lower_gradient"] < rows["0.01"]["lower_gradient"]


def test_words_that_are_no_loss_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(SystemExit, match=r"loss 'mse': expected one of"):
        main(Losses(losses=("mse",), out=tmp_path / "run"))
    with pytest.raises(SystemExit, match=r"has to be|expected|more than"):
        main(Losses(error=2.0, out=tmp_path / "run"))
    with pytest.raises(SystemExit, match=r"--tables adapted: of which pictures\?"):
        main(Losses(losses=(), tables=("adapted",), out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
