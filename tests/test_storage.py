"""A study on disk: what a kill, a damaged file or a full disk costs, and what it does not."""

from pathlib import Path

import numpy as np
import pytest
from test_results import AXES, LANES, stored

from deqbilevel import results, storage


def state(store: storage.Storage, lane: dict, epoch: int) -> Path:
    path = store.path("states", lane)
    storage.write_state(path, epoch, [np.arange(3.0), np.asarray(True)])
    return path


def test_a_state_comes_back_and_a_broken_file_is_named(tmp_path: Path) -> None:
    store = stored(tmp_path, epochs=1)
    path = state(store, LANES[0], 1)
    epoch, leaves = storage.read_state(path)
    assert epoch == 1 and leaves[0].tolist() == [0, 1, 2] and bool(leaves[1])
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.stem}.*cannot be read"):
        storage.read_state(path)


def test_lanes_go_on_where_their_state_is(tmp_path: Path) -> None:
    """Epoch 1 is recorded of all. Lane 0 has its state, lane 1 was killed before it was written,
    lane 2's is broken, lane 3's is of an epoch whose record is lost."""
    store = stored(tmp_path, epochs=1)
    state(store, LANES[0], 1)
    state(store, LANES[2], 1).write_bytes(b"PK broken")
    state(store, LANES[3], 2)
    progress, problems = store.recover(LANES)
    assert [progress.done[store.key(lane)] for lane in LANES[:4]] == [1, 0, 0, 0]
    assert len(problems) == 1 and store.path("states", LANES[2]).name in problems[0]
    dataset = results.read(tmp_path)
    epochs = dataset.test_loss.notnull().sum("epoch")
    assert [int(epochs.sel(lane)) for lane in LANES[:4]] == [2, 1, 1, 1]


def test_a_lane_killed_between_its_last_record_and_the_end_leaves_no_state(tmp_path: Path) -> None:
    store = stored(tmp_path)
    left = state(store, LANES[0], 1)
    progress, problems = store.look(LANES)
    assert left.exists() and progress.done[store.key(LANES[0])] == 2 and not problems
    store.recover(LANES)
    assert not left.exists()


def test_a_torn_line_is_cut_off_and_a_broken_one_named(tmp_path: Path) -> None:
    store = stored(tmp_path, epochs=0)
    lines = store.log.read_bytes().splitlines(keepends=True)
    lines[1] = b"broken\n"
    store.log.write_bytes(b"".join(lines) + b'{"lane": {"task"')
    progress, problems = store.recover(LANES)
    assert [progress.done[store.key(lane)] for lane in LANES[:3]] == [0, -1, 0]
    assert len(problems) == 1 and "line 2" in problems[0]
    assert store.log.read_bytes().endswith(b"}\n")
    store.append(LANES[1:2], 0, {"test_loss": np.ones(1), "diverged": np.zeros(1, bool)})
    assert store.recover(LANES)[0].done[store.key(LANES[1])] == 0


def test_records_that_cannot_be_read_come_back_from_the_log(tmp_path: Path) -> None:
    store = stored(tmp_path)
    before = results.read(tmp_path).load()
    for path in (store.results / "test_loss").glob("0.*"):
        path.write_bytes(b"broken")
    progress, problems = store.recover(LANES)
    assert set(progress.done.values()) == {2} and not problems
    assert results.read(tmp_path).identical(before)


def test_unreadable_pictures_are_named_and_cost_their_own_runs_alone(tmp_path: Path) -> None:
    store = stored(tmp_path)
    [path] = (store.results / "reconstruction").glob("0.1.0.*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    progress, problems = store.recover(LANES)
    assert len(problems) == 1 and "reconstruction of denoising, deq, 0.1" in problems[0]
    cell = ("denoising", "deq", 0.1)
    for lane in LANES:
        lost = (lane["task"], lane["model"], lane["noise"]) == cell
        assert progress.done[store.key(lane)] == (-1 if lost else 2)
    again = store.recover(LANES)
    assert not again[1], "named once"


def test_files_have_names_of_their_own(tmp_path: Path) -> None:
    store = storage.Storage(tmp_path, AXES, 2, (), {})
    names = {store.path("states", lane).name for lane in LANES}
    assert len(names) == len(LANES)
    assert any(name.startswith("denoising-bilevel-0.1-0.1-1.0-relu-7") for name in names)
