"""The experiment of TV, TGV and ICTV at its smallest budget."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import variational


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
