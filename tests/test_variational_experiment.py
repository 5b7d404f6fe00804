"""The experiment of TV, TGV and ICTV at its smallest budget."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deqbilevel import precision
from experiments import variational
from experiments.variational import corners


def test_weights_by_every_way(tmp_path: Path) -> None:
    tiny = {"side": 16, "train_size": 1, "test_size": 1, "steps": 1, "weights": (0.05, 0.1)}
    config = variational.Variational(
        sets=("piecewise_constant",),
        models=("tv",),
        tolerance=1e-2,
        out=tmp_path / "run",
        **tiny,
    )
    found = variational.main(config)
    numbers = json.loads((tmp_path / "run" / "result.json").read_text())["piecewise_constant"]
    assert numbers["tv"]["grid"]["psnr_db"] > numbers["measured"]["psnr_db"]
    # Of an image whose truth is known the field is no worse than where it started.
    assert numbers["tv"]["field"]["psnr_db"] >= numbers["tv"]["learned"]["psnr_db"] - 1e-6
    assert numbers["tv"]["learned"]["relative_gap"] <= 1e-2
    for name in ("piecewise_constant.png", "ramp.png"):
        picture = Image.open(tmp_path / "run" / name).convert("L")
        assert np.asarray(picture).std() > 5
    with pytest.raises(SystemExit, match="nothing to denoise"):
        variational.main(variational.Variational(sets=(), out=tmp_path / "none"))
    assert variational.main(config) == found


def test_pictures_to_test_on_are_the_first_of_their_folder(tmp_path: Path) -> None:
    for folder, levels in (("learn", (10, 20, 30)), ("test", (200, 100, 150))):
        (tmp_path / folder).mkdir()
        for i, level in enumerate(levels):
            rows = np.repeat(np.arange(18, dtype=np.uint8)[:, None] + level, 20, axis=1)
            Image.fromarray(rows).save(tmp_path / folder / f"{i}.png")
    config = variational.Variational(
        sets=(), pictures=tmp_path / "learn", test=tmp_path / "test", side=16, test_size=2
    )
    (images,) = variational.learning.sets_of(replace(config, train_size=1)).values()
    rows = np.repeat(np.arange(1, 17), 16)  # of the middle
    np.testing.assert_allclose(images.test, np.add(rows, [[200], [100]]) / 255, atol=1e-6)
    assert float(images.train.max()) < 0.2
    with pytest.raises(ValueError, match="18x20 is smaller than 19x19"):
        variational.learning.sets_of(replace(config, train_size=1, side=19))


def test_tables_of_smoothing_and_of_solvers(tmp_path: Path) -> None:
    config = variational.Variational(
        tables=("smoothing", "solvers"),
        eps=(1e-2, 1e-4),
        solvers=("chambolle_pock", "scikit_image"),
        denoising_side=16,
        tomography_side=16,
        gap=1e-3,
        out=tmp_path / "run",
    )
    found = variational.main(config)
    exact = found["smoothing"].pop("exact")
    errors = [abs(found["smoothing"][eps] / exact - 1) for eps in ("0.01", "0.0001")]
    assert errors[1] < 1e-2 < errors[0]
    assert found["solvers"]["denoising"].keys() == {"chambolle_pock", "scikit_image"}
    assert found["solvers"]["tomography"].keys() == {"chambolle_pock"}
    rows = (tmp_path / "run" / "solvers.jsonl").read_text().splitlines()
    assert all(json.loads(row)["relative_gap"] <= 1e-3 for row in rows)
    assert "semismooth" not in (tmp_path / "run" / "summary.md").read_text()
    found["smoothing"]["exact"] = exact
    assert variational.main(config) == found


@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_hypergradients_of_filters_against_differences(eps: float) -> None:
    with precision.float64():
        truth, f = (x[:3] for x in corners.signals(0, 0.1))
        (c, V), h = 0.2 * jax.random.normal(jax.random.key(0), (2, 2, 3)), 1e-6
        begin = jnp.concatenate((f, jnp.zeros((3, 60))), axis=1)

        @jax.jit
        @jax.value_and_grad
        def loss(c: jax.Array) -> jax.Array:
            if eps:
                x, _ = corners.rounded(eps, c, f, begin, 40)
            else:
                x, _ = corners.exact(c, f, begin[:, 32:], 20_000)
            return jnp.mean((x - truth) ** 2)

        expected = (loss(c + h * V)[0] - loss(c - h * V)[0]) / (2 * h)
        np.testing.assert_allclose(jnp.vdot(loss(c)[1], V), expected, rtol=1e-4)


def test_a_table_of_corners(tmp_path: Path) -> None:
    config = variational.Variational(
        tables=("corners",), eps=(1e-2,), filter_steps=0, out=tmp_path / "run"
    )
    found = variational.main(config)
    assert found["corners"].keys() == {"0.01", "exact", "tv"}
    assert found["corners"]["tv"] > found["corners"]["exact"]  # before anything is learned
    assert np.asarray(Image.open(tmp_path / "run" / "corners.png").convert("L")).std() > 5


def test_tables_of_dictionaries_and_of_plug_and_play(tmp_path: Path) -> None:
    config = variational.Variational(
        tables=("dictionary", "plug"),
        tasks=("inpainting", "deblurring"),
        denoisers=("network",),
        patch=4,
        patches=20,
        frequencies=5,
        dictionary_steps=1,
        network_steps=1,
        side=16,
        train_size=1,
        test_size=1,
        steps=1,
        tolerance=1e-3,
        out=tmp_path / "run",
    )
    found = variational.main(config)
    (numbers,) = found["dictionary"].values()
    assert list(numbers) == ["measured", "tv", "dct", "scikit_learn", "learned"]
    assert min(numbers.values()) == numbers["measured"]
    (numbers,) = found["plug"].values()
    ways = [f"network, {way}" for way in ("grid", "learned", "scheduled")]
    assert list(numbers) == ["measured", "variational tv", *ways]
    rows = [json.loads(x) for x in (tmp_path / "run" / "plug.jsonl").read_text().splitlines()]
    assert all(0 < row["contraction"] < 1 <= row["rate"] for row in rows[1:3])
    for name in ("dictionary", "plug-deblurring"):
        picture = Image.open(tmp_path / "run" / f"{name}.png").convert("L")
        assert np.asarray(picture).std() > 5
    assert variational.main(config) == found


def test_a_denoiser_whose_library_is_not_there_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    config = variational.Variational(
        tables=("plug",), denoisers=("bm3d",), side=16, out=tmp_path / "run"
    )
    with pytest.raises(SystemExit, match=r"--denoisers bm3d: .*bm3d.* is not installed"):
        variational.main(config)
