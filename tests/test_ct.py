"""`experiments.ct`: what is scanned, what is chosen, and a run at its smallest budget."""

import dataclasses
import json
from pathlib import Path

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqbilevel import operators, recipes
from experiments.ct import CT, main, scanning

SMALL = CT(
    methods=("filtered", "filters"),
    angles=12,
    side=16,
    judged_side=16,
    filters=(3, 2, 2),
    beta_0s=(-7.0,),
    epochs=1,
    train_size=1,
    test_size=1,
    batch_size=1,
    evaluations=20,
)


def test_measurements_are_of_a_finer_grid_with_noise_in_pixels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (16, 16), dtype=np.uint16)
    iio.imwrite(tmp_path / "slice.png", values)
    train, judged = scanning.scans(dataclasses.replace(SMALL, pictures=tmp_path, noise=0.0))
    assert [scan.name for scan in judged] == ["ellipses", "shepp_logan", "slice"]
    np.testing.assert_allclose(judged[2].truth[0], values.ravel() / 65535, atol=1e-6)
    for scan in (train, *judged):
        plain = scan.K.apply(scan.truth)
        off = float(jnp.linalg.norm(scan.f - plain) / jnp.linalg.norm(plain))
        assert 1e-3 < off < 0.2
        assert scan.f.shape == (1, 12 * scan.K.bins)
    noisy = dataclasses.replace(SMALL, noise=0.5, finer=1)
    same = scanning.scan(noisy, "", jax.random.key(0), train.truth.reshape(1, 16, 16))
    spread = float(jnp.std(same.f - same.K.apply(same.truth))) * same.K.scale
    assert spread == pytest.approx(0.5, rel=0.15)


def best_error(train: scanning.Scan) -> float:
    """Written again."""
    errors = []
    for cutoff in scanning.CUTOFFS:
        for smooth in (True, False):
            own = {"cutoff": cutoff, "smooth": smooth}
            u = operators.filtered_back_projection(train.K, train.f, **own)
            errors.append(float(jnp.mean((jnp.maximum(u, 0) - train.truth) ** 2)))
    return min(errors)


def test_the_window_of_filtered_back_projection_is_the_best_on_the_training_images() -> None:
    for noise, wide in ((0.0, True), (3.0, False)):
        own = dataclasses.replace(SMALL, noise=noise, finer=1)
        image = jnp.zeros((1, 16, 16)).at[:, 4:11, 5:9].set(1.0)
        train = scanning.scan(own, "", jax.random.key(1), image)
        window = scanning.best_window(train)
        assert (window[0] > 0.6) == wide
        u = scanning.filtered(train, *window)
        assert float(jnp.mean((u - train.truth) ** 2)) == pytest.approx(best_error(train))


def test_a_run_is_whole_and_shown_again(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, out=tmp_path / "run")
    numbers = main(config)
    assert set(numbers) == {"ellipses", "shepp_logan", "out"}
    for name in ("ellipses", "shepp_logan"):
        assert set(numbers[name]) == set(config.methods)
        assert all(np.isfinite(x["psnr_db"]) and x["psnr_db"] > 10 for x in numbers[name].values())
        assert np.std(iio.imread(config.out / f"reconstructions-{name}.png")) > 5
    assert json.loads((config.out / "result.json").read_text())["ellipses"] == numbers["ellipses"]
    table = (config.out / "summary.md").read_text()
    assert all(f"| {method} |" in table for method in config.methods)
    filters = recipes.load(config.out, "filters")
    assert np.ptp(filters.params["beta"]) > 0
    assert filters.recipe.nonnegative and filters.params["filters"].shape == (3, 2, 2)
    before = (config.out / "rows.jsonl").read_bytes()
    assert main(config) == numbers and (config.out / "rows.jsonl").read_bytes() == before


def test_a_batch_of_more_images_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: --batch-size 2: more than the 1 training images"):
        main(dataclasses.replace(SMALL, out=tmp_path / "run", batch_size=2))
    assert not (tmp_path / "run").exists()
