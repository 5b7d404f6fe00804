"""The experiment with upper-level losses, at its smallest."""

import jax
import numpy as np
import pytest

from experiments.losses import Losses, figures, main


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
    found = main(Losses(**small, losses=("monte_carlo_sure:probes=2",), out=tmp_path / "run"))
    seen = found["figure_3_2"]
    squared = list(seen["mean_squared_error"].values())
    np.testing.assert_allclose(squared, squared[0], rtol=1e-4)
    assert seen["high_frequency_error"]["offset"] < 1e-9 < seen["high_frequency_error"]["blur"]
    assert seen["ssim"]["offset"] < seen["ssim"]["white noise"]
    learned = found["learned"]
    assert list(learned) == ["measurement", "monte_carlo_sure-probes2"]
    assert learned["monte_carlo_sure-probes2"]["psnr_db"] > learned["measurement"]["psnr_db"]
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert there >= {"figure_3_2.png", "figure_6_4.png", "reconstructions.png", "summary.md"}


def test_words_that_are_no_loss_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(SystemExit, match=r"loss 'mse': expected one of"):
        main(Losses(losses=("mse",), out=tmp_path / "run"))
    with pytest.raises(SystemExit, match=r"has to be|expected|more than"):
        main(Losses(error=2.0, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
