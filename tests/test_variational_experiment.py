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
