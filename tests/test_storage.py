"""A study on disk: what a kill, a damaged file or a full disk costs, and what it does not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from test_results import AXES, LANES, NOTHING, PICTURES, RECORDS, stored, write

from deqbilevel import results
from deqbilevel.disk import archives, files
from deqbilevel.disk.files import FileError
from deqbilevel.studies import storage


def state(store: storage.Storage, lane: dict, epoch: int) -> Path:
    path = store.path("states", lane)
    archives.write_state(path, epoch, [np.arange(3.0), np.asarray(True)])
    return path


def test_a_state_comes_back_and_a_broken_file_is_named(tmp_path: Path) -> None:
    store = stored(tmp_path, epochs=1)
    path = state(store, LANES[0], 1)
    epoch, leaves = archives.read_state(path)
    assert epoch == 1 and leaves[0].tolist() == [0, 1, 2] and bool(leaves[1])
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.stem}.*cannot be read"):
        archives.read_state(path)


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
    assert [int(epochs.sel(lane)) for lane in LANES[:4]] == [2, 2, 2, 2], "no record is lost"


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


def test_a_record_that_is_none_of_this_study_is_named_and_its_run_goes_again(
    tmp_path: Path,
) -> None:
    store = stored(tmp_path)
    lines = store.log.read_text().splitlines()
    first = json.loads(lines[0])
    for change in (
        {"epoch": "one"}, {"epoch": 0.5}, {"epoch": 9}, {"epoch": True}, {"test_loss": None},
        {"test_loss": "a"}, {"test_loss": float("nan")}, {"diverged": 0}, {"run": "0123abcd"},
        {"lane": first["lane"] | {"tau": [1]}}, {"lane": first["lane"] | {"tau": 7.0}},
        {"lane": None}, {"lane": {}},
    ):  # fmt: skip
        store.log.write_text("\n".join([json.dumps(first | change), *lines[1:]]) + "\n")
        progress, problems = store.recover(LANES)
        assert len(problems) == 1 and "metrics.jsonl, line 1: not a record" in problems[0]
        assert [progress.done[store.key(lane)] for lane in LANES[:2]] == [-1, 2]


def test_records_and_states_of_another_study_are_not_taken(tmp_path: Path) -> None:
    with files.marked("0123abcd"):
        store = storage.Storage(tmp_path, AXES, 2, RECORDS, PICTURES)
        write(store, 1, len(LANES), NOTHING)
        path = state(store, LANES[0], 1)
        assert store.look(LANES)[0].done[store.key(LANES[0])] == 1
    with files.marked("dcba3210"):
        progress, problems = store.look(LANES)
        assert set(progress.done.values()) == {-1} and "of another study" in problems[0]
        with pytest.raises(FileError, match="the state of another study"):
            archives.read_state(path)


def test_a_state_is_like_that_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "states" / "a.npz"
    leaves = [np.arange(3, dtype=np.float32), np.asarray(True)]
    archives.write_state(path, 1, leaves)
    assert len(archives.read_state(path, leaves)[1]) == 2
    for like in ([leaves[0]], [*leaves, leaves[0]], [leaves[0][:2], leaves[1]],
                 [leaves[0].astype(np.float64), leaves[1]]):  # fmt: skip
        with pytest.raises(FileError, match=r"a\.npz.*remove the file"):
            archives.read_state(path, like)
    np.savez(path, epoch=1, run="", **{"0": np.array([np.nan])})
    with pytest.raises(FileError, match="finite"):
        archives.read_state(path)
    for broken in ({"run": "", "0": 1.0}, {"epoch": 1, "run": ""}, {"epoch": 1, "run": "", "1": 1}):
        np.savez(path, **broken)
        with pytest.raises(FileError, match=r"a\.npz"):
            archives.read_state(path)
    np.save(path.with_suffix(".npy"), leaves[0])
    path.with_suffix(".npy").rename(path)
    with pytest.raises(FileError, match=r"a\.npz"):
        archives.read_state(path)


EXTRA = xr.Dataset(
    {"truth": (("picture", "pixel"), np.arange(8, dtype=np.float32).reshape(2, 4))},
    attrs={"caption": "made up"},
)


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGE: dict[str, Any] = {
    ".zgroup": Path.unlink,
    ".zattrs": Path.unlink,
    ".zmetadata": lambda path: path.write_text("{"),
    "test_loss/.zarray": Path.unlink,
    "tau/.zarray": lambda path: path.write_text('{"shape"'),
    "tau/0": Path.unlink,
    "truth": shutil.rmtree,
    "truth/0.0": spoil,
    "diverged": shutil.rmtree,
    "test_loss/0.0.0.0.0.0.0.0": Path.unlink,
    "test_loss/0.0.0.0.0.0.0.1": spoil,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_results_are_made_anew_bit_for_bit(tmp_path: Path, name: str) -> None:
    store = stored(tmp_path, extra=EXTRA)
    before = results.read(tmp_path).load()
    DAMAGE[name](store.results / name)
    restored = store.ready(EXTRA)
    assert restored or name.startswith("test_loss/0"), "named, but for what the log rewrites"
    progress, problems = store.recover(LANES)
    assert set(progress.done.values()) == {2} and not problems
    assert results.read(tmp_path).identical(before)
    assert store.ready(EXTRA) == []


@pytest.mark.parametrize("name", ["reconstruction", "reconstruction/0.1.0.0.0.0.0.0.0"])
def test_missing_pictures_are_named_and_their_runs_go_again(tmp_path: Path, name: str) -> None:
    store = stored(tmp_path, extra=EXTRA)
    path = store.results / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    store.ready(EXTRA)
    progress, problems = store.recover(LANES)
    assert problems and "missing" in problems[0]
    again = {key[:3] for key, last in progress.done.items() if last == -1}
    assert again == (
        {("denoising", "deq", 0.1)} if "/" in name else {store.key(x)[:3] for x in LANES}
    )


def test_what_is_a_users_in_the_results_is_never_removed(tmp_path: Path) -> None:
    store = stored(tmp_path, extra=EXTRA)
    (store.results / "photo.png").write_text("mine")
    (store.results / ".zgroup").unlink()
    with pytest.raises(FileError, match=r"holds photo\.png, which no study wrote"):
        store.ready(EXTRA)
    assert (store.results / "photo.png").read_text() == "mine"


@pytest.mark.parametrize("where", ["test_loss/.zarray", ".zmetadata"])
@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"filters": [{"id": "pickle", "protocol": 5}]}, "codec 'pickle'"),
        ({"compressor": {"id": "gzip"}}, "codec 'gzip'"),
        ({"filters": "pickle"}, "codec 'pickle'"),
        ({"dtype": "|O"}, "type object"),
        ({"dtype": None, "chunks": None}, "no type and chunks"),
        ({"chunks": [2**40]}, "chunks of"),
    ],
)
def test_a_codec_that_we_do_not_write_is_refused_before_it_is_made(
    tmp_path: Path, where: str, change: dict[str, Any], wrong: str
) -> None:
    store = stored(tmp_path)
    path = store.results / where
    found = json.loads(path.read_text())
    array = found["metadata"]["test_loss/.zarray"] if where == ".zmetadata" else found
    array |= change
    path.write_text(json.dumps(found))
    for read in (results.read, lambda folder: store.look(LANES)):
        with pytest.raises(FileError, match=f"test_loss: {wrong}"):
            read(tmp_path)


@pytest.mark.parametrize(
    "name", [".zattrs", "truth", "test_loss", "truth/0.0", "tau/0", "test_loss/0.0.0.0.0.0.0.1"]
)
def test_results_that_lost_a_part_are_not_shown(tmp_path: Path, name: str) -> None:
    store = stored(tmp_path, extra=EXTRA, records=("test_loss", "diverged", "needed_evaluations"))
    results.read(tmp_path)
    path = store.results / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileError, match=r"results\.zarr.*repeat the study's command"):
        results.read(tmp_path)
