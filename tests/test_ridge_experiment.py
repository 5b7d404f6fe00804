"""The experiment with ridge regularisers, at its smallest."""

import json

import imageio.v3 as iio
import numpy as np

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
    assert there >= {"filters.png", "potential.png", "learned", "test", "result.json"}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 6
    again = main(config)
    assert again["psnr_db_learned"] == found["psnr_db_learned"]
