"""The experiment with magnetic resonance images, at its smallest."""

import json

import pytest

from experiments.mri import Mri, main

SMALL = {"side": 16, "shape": (16, 16), "strengths": (-6.0, -3.0, 1.0), "rate": 0.5}
SMALL |= {"data": "phantoms:piecewise_constant", "train_size": 2, "test_size": 1, "epochs": 6}


def test_it_draws_and_learns_and_does_nothing_twice(tmp_path, capfd):
    asked = Mri(**SMALL, ways=("weights",), out=tmp_path / "run")
    numbers = main(asked)
    snr = numbers["figure_3_1_snr_db"]
    assert list(snr) == ["zero filling", "beta = -6", "beta = -3", "beta = 1"]
    assert snr["beta = -3"] > max(snr["beta = 1"], snr["zero filling"])
    assert numbers["weights"]["psnr_db"] > numbers["zero filling"]["psnr_db"]
    there = {path.name for path in asked.out.iterdir()}
    assert there >= {"figure_3_1.png", "reconstructions.png", "summary.md", "weights"}
    stored = json.loads((asked.out / "result.json").read_text())
    assert stored == {k: x for k, x in numbers.items() if k != "out"}
    said = (asked.out / "weights" / "metrics.jsonl").read_bytes()
    assert main(asked) == numbers
    assert (asked.out / "weights" / "metrics.jsonl").read_bytes() == said
    assert "| weights |" in capfd.readouterr().out


def test_what_cannot_be_learned_is_refused_before_anything_is_written(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=r"filters of 17x17 .*larger than the image of 16x16"):
        main(Mri(**SMALL, ways=("filters",), filters=(4, 17, 17), out=out))
    assert not out.exists()
    with pytest.raises(SystemExit, match=r"--filters-rate 0.1: has no effect here"):
        main(Mri(**SMALL, filters_rate=0.1, out=out))
