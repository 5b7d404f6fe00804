"""A run's folder: nothing of a user's is lost, and nothing of two runs is mixed up."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deqbilevel import data
from deqbilevel.commands import common, folders, listing
from deqbilevel.disk.files import FileError
from experiments import train

FILES = ("result.json", "latest/<checkpoint>", "results.zarr/<zarr>", "states/<lanes>")
OURS = (
    *("result.json", "latest/3/default/_METADATA", "latest/3/commit_success.txt"),
    "latest/4.orbax-checkpoint-tmp/default/d/0123456789abcdef0123456789abcdef",
    *("results.zarr/.zattrs", "results.zarr/loss/.zarray", "results.zarr/loss/0.0.12"),
    *("states/denoising-0.1-01abcd.npz", "states/denoising-0.1-01abcd.npz.partial"),
    ".losses.png.123.part",
)
THEIRS = ("photo.png", "notes.json", "mine.jsonl", "deep/er/summary.md", "options.txt")


def claimed(out: Path, options: Any = None, *, fresh: bool = False, **given: Any) -> Any:
    files = given.pop("files", FILES)
    options = {"tau": 0.5} if options is None else options
    return folders.claim(out, "run", options, files=files, fresh=fresh, **given)


def filled(out: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)


def run(out: Path, names: tuple[str, ...] = OURS) -> Path:
    """The folder of a run that has written those files."""
    with claimed(out) as folder:
        listing.will_write(folder, ["losses.png"])
        filled(folder, names)
    return out


def files_in(out: Path) -> set[str]:
    return set(listing.found(out))


def test_fresh_removes_what_the_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    out = run(tmp_path / "run")
    assert folders.strangers(out) == []
    filled(out, THEIRS)
    assert folders.strangers(out) == sorted(THEIRS)
    with claimed(out, {"tau": 1.0}, fresh=True):
        assert files_in(out) == {*THEIRS, "options.json", "inputs.json", "files.txt"}
    assert folders.stored_options(out) == {"tau": 1.0}
    assert all((out / name).read_text() == name for name in THEIRS)


@pytest.mark.parametrize(
    "name",
    ["latest/photo.png", "latest/3/notes.txt", "results.zarr/a.png", "states/mine.npz",
     "latest/7", "results.zarr/loss/readme.md"],
)  # fmt: skip
def test_what_lies_in_a_folder_of_the_run_is_named_and_stays(tmp_path: Path, name: str) -> None:
    out = run(tmp_path / "run")
    filled(out, (name,))
    before = files_in(out)
    with pytest.raises(ValueError, match=f"holds {name}, which no run wrote"):
        claimed(out, fresh=True).__enter__()
    assert files_in(out) == before
    with claimed(out):
        pass


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "names",
    [("photo.png",), ("options.json", "package.json"), ("files.txt",), ("result.json", "a/b.png"),
     (".hidden",)],
)  # fmt: skip
def test_a_folder_of_what_no_run_wrote_is_refused(
    tmp_path: Path, names: tuple[str, ...], fresh: bool
) -> None:
    """A user's, or an old run's, which kept no list."""
    filled(tmp_path, names)
    with pytest.raises(ValueError, match=rf"holds {sorted(names)[0]}.*, which no run wrote"):
        claimed(tmp_path, fresh=fresh).__enter__()
    assert files_in(tmp_path) == set(names) and not (tmp_path / ".lock").exists()


def test_a_run_never_begins_to_write_where_something_is(tmp_path: Path) -> None:
    out = run(tmp_path / "run")
    filled(out, ("curve.png",))
    with pytest.raises(ValueError, match=r"holds curve\.png, which is to be written"):
        listing.will_write(out, ["curve.png"])
    assert "curve.png" in folders.strangers(out)


def test_an_interrupted_fresh_shows_nothing_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options go first: what is left without them is refused, until --fresh removes it."""
    unlink, count = Path.unlink, 0
    for limit in range(1, len(OURS) + 3):
        out = run(tmp_path / str(limit))
        filled(out, ("photo.png",))
        count = 0

        def killed(path: Path, missing_ok: bool = False, most: int = limit) -> None:
            nonlocal count
            count += 1
            if count > most:
                raise KeyboardInterrupt
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Path, "unlink", killed)
            with claimed(out, {"tau": 1.0}, fresh=True):
                raise KeyboardInterrupt
        assert not (out / "options.json").exists() or limit >= len(OURS) + 2
        left = set(OURS) & files_in(out)
        if left:
            with pytest.raises(ValueError, match=r"of a run without its options\.json.*--fresh"):
                claimed(out, {"tau": 1.0}).__enter__()
        with claimed(out, {"tau": 1.0}, fresh=bool(left)):
            assert not set(OURS) & files_in(out)
        assert (out / "photo.png").exists()


def test_records_without_options_are_refused(tmp_path: Path) -> None:
    out = run(tmp_path / "run")
    (out / "options.json").unlink()
    with pytest.raises(
        ValueError,
        match=r"holds \.losses.*, latest, result\.json, results\.zarr, states of a run without",
    ):
        claimed(out).__enter__()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"3"])
@pytest.mark.parametrize("name", ["options.json", "inputs.json"])
def test_broken_options_are_named(tmp_path: Path, name: str, text: bytes) -> None:
    out = run(tmp_path / "run")
    (out / name).write_bytes(text)
    with pytest.raises(ValueError, match=rf"{name}: .*--fresh"):
        claimed(out).__enter__()
    with claimed(out, fresh=True):
        assert folders.stored_options(out) == {"tau": 0.5}


def test_links_in_a_runs_folder_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    filled(outside, ("precious.txt",))
    for name in ("options.json.partial", "result.json", ".lock", "states", "latest/3/default"):
        out = run(tmp_path / name.replace("/", "-"), OURS[1:2])
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(outside if "." not in name else outside / "precious.txt")
        for fresh in (False, True):
            with pytest.raises(ValueError, match=f"{name} is a link"):
                claimed(out, fresh=fresh).__enter__()
    assert (outside / "precious.txt").read_text() == "precious.txt"


def test_a_link_that_is_planted_while_a_run_writes_leads_nowhere(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "result.json.partial").symlink_to(target)
    with pytest.raises(OSError):
        folders.write(tmp_path / "result.json", "{}")
    assert target.read_text() == "precious"


def test_the_folder_is_apart_from_what_is_read(tmp_path: Path) -> None:
    read = tmp_path / "pictures"
    filled(read, ("a.png", "deep/b.png"))
    sources = {"--data": data.place(f"images:{read}"), "--image": None}
    for out in (read, read / "run", read / "deep" / "run", tmp_path):
        with pytest.raises(ValueError, match="which --data reads"):
            claimed(out, sources=sources).__enter__()
    assert files_in(tmp_path) == {"pictures/a.png", "pictures/deep/b.png"}
    with claimed(tmp_path / "pictures-run", sources=sources):
        pass


def test_another_input_is_refused_with_what_differs(tmp_path: Path) -> None:
    a, b = ({"w": np.arange(3.0)}, {"w": np.arange(3.0) + 1})
    out = tmp_path / "run"
    with claimed(out, inputs=folders.given({"kernels": a, "none": None})):
        pass
    with claimed(out, inputs=folders.given({"kernels": a})):
        pass
    for other in (b, {"v": a["w"]}, {"w": a["w"].astype(np.float32)}, {"w": a["w"][None]}, None):
        with pytest.raises(ValueError, match=r"holds a run over other data \(kernels was"):
            claimed(out, inputs=folders.given({"kernels": other})).__enter__()
    with claimed(out, inputs=folders.given({"kernels": b}), fresh=True):
        pass


def test_a_run_has_a_mark_of_its_options_and_inputs(tmp_path: Path) -> None:
    marks = set()
    for i, (options, inputs) in enumerate([({"a": 1}, {}), ({"a": 2}, {}), ({"a": 1}, {"b": "c"})]):
        with claimed(tmp_path / str(i), options, inputs=inputs) as out:
            assert folders.identity(out) == folders.mark(options, inputs)
            marks.add(folders.identity(out))
    assert len(marks) == 3 and folders.identity(tmp_path) == ""


def test_what_the_disk_refuses_ends_in_one_line(tmp_path: Path) -> None:
    for error in (OSError(28, "No space left on device"), FileError("x.npz: cannot be read")):
        with pytest.raises(SystemExit) as ended, claimed(tmp_path / "run"):
            raise error
        text = str(ended.value)
        assert text.startswith(f"error: {tmp_path / 'run'}: ") and "\n" not in text
        assert str(error) in text and "repeat the command" in text


def test_a_finished_run_over_other_pictures_is_refused(tmp_path: Path) -> None:
    def pictures(seed: int) -> None:
        for i in range(3):
            rng = np.random.default_rng(seed + i)
            Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).save(read / f"{i}.png")

    read, out = tmp_path / "read", tmp_path / "run"
    read.mkdir()
    pictures(0)
    config = train.Train(
        data=f"images:{read}", patch=4, train_size=8, test_size=4, batch_size=4, epochs=0, out=out
    )
    numbers = train.main(config)
    assert folders.strangers(out) == []
    assert common.plain(train.main(config))["test_loss"] == common.plain(numbers)["test_loss"]
    pictures(50)
    with pytest.raises(SystemExit, match=r"over other data .*train_sha256 was"):
        train.main(config)
    assert json.loads((out / "result.json").read_text())["test_loss"] == numbers["test_loss"]
