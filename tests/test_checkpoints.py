"""Checkpoints: what is damaged, of another run or misplaced is named, and none is lost."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from deqbilevel.disk import checkpoints, files
from deqbilevel.disk.files import FileError

TREE = {"w": jnp.arange(12.0).reshape(3, 4), "steps": (jnp.int32(4),)}


# What orbax had begun to read when it found the damage is never awaited.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """No remains of one test in another."""
    yield
    gc.collect()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "latest"
    with files.marked("0123abcd"):
        checkpoints.save(folder, 2, TREE)
    return folder


def test_a_later_one_takes_the_place_of_one_before_and_a_course_may_begin_again(
    saved: Path,
) -> None:
    for step in (5, 1):
        checkpoints.save(saved, step, TREE | {"w": TREE["w"] + step})
        assert checkpoints.latest_step(saved) == step
        assert [path.name for path in saved.iterdir()] == [str(step)]
        np.testing.assert_array_equal(checkpoints.restore(saved, TREE)["w"], TREE["w"] + step)


def test_one_of_another_run_is_refused(saved: Path) -> None:
    with files.marked("dcba3210"), pytest.raises(FileError, match="of another run"):
        checkpoints.restore(saved, TREE)
    with files.marked("0123abcd"):
        checkpoints.restore(saved, TREE)


def test_one_under_another_number_is_refused(saved: Path) -> None:
    (saved / "2").rename(saved / "99")
    with pytest.raises(FileError, match="99: is checkpoint 2 by what it holds"):
        checkpoints.restore(saved, TREE)


@pytest.mark.parametrize(
    "like",
    [TREE | {"w": jnp.zeros((4, 4))}, {"w": TREE["w"]}, TREE | {"more": jnp.zeros(2)},
     TREE | {"steps": ()}],
)  # fmt: skip
def test_one_of_other_arrays_is_refused(saved: Path, like: Any) -> None:
    with pytest.raises(FileError, match=r"latest.2: .*--fresh"):
        checkpoints.restore(saved, like)


def test_a_damaged_one_is_named(saved: Path) -> None:
    """Each file that is read, halved and emptied: never another state."""
    refused = 0
    for path in [path for path in saved.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], b""):
            path.write_bytes(damaged)
            try:
                np.testing.assert_array_equal(checkpoints.restore(saved, TREE)["w"], TREE["w"])
            except FileError as error:
                assert f"{saved / '2'}: cannot be read" in str(error) and "\n" not in str(error)
                refused += 1
        path.write_bytes(content)
    assert refused >= 6


def test_what_is_no_checkpoint_is_named(saved: Path) -> None:
    for name, make in (("abc", Path.mkdir), ("7", Path.touch)):
        make(saved / name)
        with pytest.raises(FileError, match=f"{name}: no checkpoint, in a folder of them"):
            checkpoints.latest_step(saved)
        (saved / name).rmdir() if name == "abc" else (saved / name).unlink()
    assert checkpoints.latest_step(saved) == 2
    (saved.parent / "file").touch()
    with pytest.raises(FileError, match="file: a folder of checkpoints is needed"):
        checkpoints.latest_step(saved.parent / "file")


def test_no_room_is_said_at_once_and_the_last_one_stays(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        assert size > 48
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(saved, 3, TREE)
    assert [path.name for path in saved.iterdir()] == ["2"]
