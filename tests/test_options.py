"""Options of every command: declared ranges, refusals before any work, --help and the exit."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from experiments import command, options

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Sample:
    """Options of every kind."""

    task: Literal["a", "b"] = "a"
    names: Annotated[tuple[str, ...], options.among(["x", "y"])] = ("x",)
    tau: Annotated[float, options.number(above=0, most=100)] = 0.9
    noises: Annotated[tuple[float, ...], options.noise] = (0.1,)
    count: Annotated[int | None, options.count, options.default("the task's")] = None
    seed: Annotated[int, options.seed] = 0
    widths: tuple[int, ...] = ()
    blur: Annotated[int, options.only("with --task b", lambda c: c.task == "b")] = 5
    out: Annotated[Path | None, options.output] = None
    start: Annotated[Path | None, options.folder("a run")] = None
    data: Annotated[str, options.data] = "sample"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tau": 1e39}, r"--tau 1e\+39: expected above 0, at most 100$"),
        ({"tau": float("nan")}, "--tau nan: expected above 0"),
        ({"tau": 0.0}, "--tau 0.0: expected above 0"),
        ({"tau": 1e-40}, "--tau 1e-40: zero in single precision"),
        ({"tau": "1"}, "--tau 1: expected a number"),
        ({"count": 0}, "--count 0: expected 1 or more"),
        ({"count": 2.5}, "--count 2.5: expected a whole number"),
        ({"count": 10**30}, "--count 10{30}: expected 1 or more, at most 1000000"),
        ({"seed": 2**32}, "--seed 4294967296: expected 0 or more, at most 4294967295"),
        ({"seed": True}, "--seed True: expected a whole number"),
        ({"noises": ()}, "--noises: expected one value or more"),
        ({"noises": (0.1, 0.1000000001)}, "--noises 0.1 0.1000000001: the same value twice"),
        ({"noises": (0.1, -1.0)}, "--noises -1.0: expected 0 or more"),
        ({"names": ("x", "z")}, "--names z: expected one of x, y"),
        ({"names": ("x", "x")}, "--names x x: the same value twice"),
        ({"task": "c"}, "--task c: expected one of a, b"),
        ({"blur": 7}, "--blur 7: has no effect here, only with --task b"),
        ({"start": Path("nowhere")}, "--start nowhere: not there; expected a folder: a run"),
        ({"out": Path(__file__)}, "--out .*: a folder is needed, this is a file"),
        ({"out": Path(__file__) / "x"}, "--out .* is a file; expected a folder that can be made"),
        ({"data": "images:nowhere"}, "--data images:nowhere: not there; expected a folder"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_was_expected(given, message):
    with pytest.raises(ValueError, match=message):
        options.check(Sample(**given))


def test_what_is_well_is_let_through(tmp_path):
    options.check(Sample())
    given = {"task": "b", "blur": 7, "noises": (0.0, 0.1), "names": ("y", "x"), "count": 3}
    paths = {"out": tmp_path / "new" / "run", "start": tmp_path, "data": f"idx:{tmp_path}"}
    options.check(Sample(**given, **paths, seed=2**32 - 1, tau=1e-30))


def test_an_empty_text_is_no_value(capsys):
    for arguments in (["--out", ""], ["--out="], ["--data", ""]):
        with pytest.raises(SystemExit, match=r"error: --(out|data) '': empty"):
            command.parse(Sample, arguments)
    assert command.parse(Sample, ["--widths", "--tau", "2"]) == Sample(tau=2.0)


COMMANDS = {
    "train": "Train",
    "compare": "Compare",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_is_there(name, capsys):
    kind = getattr(importlib.import_module(f"experiments.{name}"), COMMANDS[name])
    with pytest.raises(SystemExit) as end:
        command.parse(kind, ["--help"])
    text = capsys.readouterr().out
    assert end.value.code in (0, None)
    for mark in ("type:", "valid-type", "default: None", "noqa", "Annotated"):
        assert mark not in text, mark
    for option in options.of(kind):
        said = option.get(options.Default) or option.get(options.Only)
        assert option.default is not None or said, f"{option.flag}: what is its default?"


def test_every_command_checks_its_options():
    found = {
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if "__main__" in path.read_text() and path.stem != "command"
    }
    assert found == set(COMMANDS)
