"""Every Python block of README runs as it stands, each by itself."""

import re
from pathlib import Path

import pytest

from experiments import compare

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
OPENING, STUDY, PICTURE, ALGORITHM, OWN = range(5)
"""What the blocks are about, in order."""


def said_by(block: int, capsys: pytest.CaptureFixture[str]) -> str:
    exec(compile(BLOCKS[block], f"README.md, block {block + 1}", "exec"), {})
    return capsys.readouterr().out


def test_there_is_a_test_for_every_block() -> None:
    assert len(BLOCKS) == 5


def test_the_opening_learns_both_ways_and_is_better_than_the_measurement(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [line.split() for line in said_by(OPENING, capsys).splitlines()]
    for name in ("bilevel", "deq"):
        [measurement] = [float(line[-1]) for line in lines if line[:2] == [name, "measurement"]]
        losses = [float(line[-1]) for line in lines if line[0] == name and line[1].isdigit()]
        assert len(losses) == 3 and losses[-1] < 0.5 * min(losses[0], measurement)


def test_a_study_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reader has made it with the first command of README; here with a smaller one."""
    small = {"train_size": 20, "test_size": 10, "batch_size": 10, "epochs": 1}
    monkeypatch.chdir(tmp_path)
    compare.main(
        compare.Compare(tasks=("inpainting",), noises=(0.1,), activations=("relu",), **small)
    )
    assert "(model: 2, activation: 1)" in said_by(STUDY, capsys)


def test_a_picture_is_denoised(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said_by(PICTURE, capsys).splitlines()
    before, after = (float(line.split()[-2]) for line in lines)
    assert after > before + 2


def test_an_algorithm_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert float(said_by(ALGORITHM, capsys).split()[-1]) < 1e-3


def test_a_problem_of_ones_own_is_learned(capsys: pytest.CaptureFixture[str]) -> None:
    losses = [float(line.split()[-1]) for line in said_by(OWN, capsys).splitlines()]
    assert len(losses) == 3 and losses[-1] < 0.8 * losses[0]
    lines = [line for line in BLOCKS[OWN].splitlines() if line and "import" not in line]
    assert len(lines) <= 15
