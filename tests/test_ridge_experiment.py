"""The experiment with ridge regularisers, at its smallest."""

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from deqbilevel import recipes
from experiments.ridge import Ridge, main


def test_it_learns_draws_and_denoises_and_goes_on(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    grey = np.add.outer(np.arange(24), 3 * np.arange(20)) % 90 + 80
    iio.imwrite(pictures / "a.png", grey.astype(np.uint8))
    config = Ridge(
        channels=(2, 2, 3),
        size=3,
        shape=(24, 24),
        train_size=2,
        test_size=2,
        batch_size=2,
        epochs=6,
        evaluations=10,
        products=5,
        test=pictures,
        out=tmp_path / "run",
    )
    found = main(config)
    assert found["epochs"] == 6 and not found["diverged"] and found["test_pictures"] == 1
    assert found["psnr_db_learned"] > found["psnr_db_measured"]
    assert found["test_psnr_db"] > found["test_psnr_measured_db"]
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert there >= {"filters.png", "potential.png", "learned", "model", "test", "result.json"}
    assert "decibels.png" in there
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 6
    again = main(config)
    assert again["psnr_db_learned"] == found["psnr_db_learned"]


def test_one_spline_model_learns_further_levels_of_noise_by_their_scales(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    grey = np.add.outer(np.arange(16), 3 * np.arange(16)) % 90 + 80
    iio.imwrite(pictures / "a.png", grey.astype(np.uint8))
    small = {"channels": (2, 2, 3), "size": 3, "shape": (16, 16), "train_size": 2, "test_size": 2}
    found = main(
        Ridge(
            **{"model": "spline", "sigma": (25.0, 9.0), "batch_size": 2, "epochs": 2, **small},
            loss="snr",
            evaluations=10,
            products=5,
            test=pictures,
            out=tmp_path / "run",
        )
    )
    first, last = (recipes.load(tmp_path / "run" / name) for name in ("learned", "learned-9"))
    assert found["test_9_psnr_measured_db"] > found["test_psnr_measured_db"] + 8
    whole = recipes.load(tmp_path / "run" / "model")
    np.testing.assert_allclose(whole.params["levels"][3], last.params["levels"][3], rtol=1e-6)
    assert np.all(np.asarray(whole.params["levels"] != last.params["levels"])[[0, 1, 2]])
    changed = np.any(np.asarray(first.params["levels"] != last.params["levels"]), axis=1)
    assert list(np.flatnonzero(changed)) == [3]  # sigma = 9 is that of the fourth knot
    for name in ("scales", "convex", "concave"):
        np.testing.assert_array_equal(first.params[name], last.params[name])
    # its weight follows the noise by itself
    assert found["test_9_psnr_db"] > found["test_psnr_db"]


def test_several_levels_of_noise_are_for_the_model_of_all():
    with pytest.raises(SystemExit, match="--model convex --sigma 25 15: is of one level of noise"):
        main(Ridge(model="convex", sigma=(25.0, 15.0)))
    with pytest.raises(SystemExit, match="--sigma 40: its levels end at 30"):
        main(Ridge(model="spline", sigma=(25.0, 40.0)))


def test_it_goes_on_from_what_ships_with_the_options_that_this_has():
    with pytest.raises(SystemExit, match="weakly-convex-ridge: learned with channels"):
        main(Ridge(initial=Path("weakly-convex-ridge"), channels=(2, 2, 3)))


@pytest.mark.parametrize(
    ("model", "hypergradient"),
    [("multiscale", "jacobian_free"), ("idcnn", "truncated")],
)
def test_other_models_and_ways_to_a_hypergradient(tmp_path, model, hypergradient):
    small = {"channels": (2, 2, 3), "size": 3, "shape": (16, 16), "train_size": 2, "test_size": 2}
    config = Ridge(
        **{"model": model, "hypergradient": hypergradient, "batch_size": 2, "epochs": 3, **small},
        evaluations=40,
        products=3,
        out=tmp_path / "run",
    )
    found = main(config)
    course = (tmp_path / "run" / "learned" / "metrics.jsonl").read_text().splitlines()
    start, first, *_, last = (json.loads(line)["train_loss"] for line in course)
    assert not found["diverged"] and last < max(start, first)
    assert (tmp_path / "run" / "filters.png").exists()
    assert not (tmp_path / "run" / "potential.png").exists()
