"""The records of a run: what a kill leaves of them, and what is no record of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY, fault
from deqbilevel.disk.files import FileError

SCHEMA = {"epoch": 0, "loss": 0.0, "residual": ANY, "name": "", "last": False, "of_lanes": [0.0]}
SCHEMA |= {"held_out": {"snr": [ANY]}}
WHOLE: dict[str, Any] = {"epoch": 3, "loss": 1, "residual": None, "name": "a", "last": True}
WHOLE |= {"of_lanes": [1.5, 2], "held_out": {"snr": [float("nan")]}, "more": [None]}


def test_records_end_where_a_kill_left_them(tmp_path: Path) -> None:
    log = Log(tmp_path / "rows.jsonl", {"a": 0.0}, "")
    assert log.read() == []
    whole = [{"a": 1}, {"a": 2.5, "b": [None, "x"]}]
    for torn in ("", '{"a": 3, "b"', '{"a": 3, "b"\n', "\0\0\0", '{"a": 3'):
        log.keep(whole)
        with log.path.open("a") as file:
            file.write(torn)
        assert log.read() == whole
        log.append({"a": 4})
        assert log.read() == [*whole, {"a": 4}]
    log.path.write_text(log.path.read_text().rstrip("\n"))
    assert len(log.read()) == 3
    log.append({"a": 5})
    assert log.read() == [*whole, {"a": 4}, {"a": 5}]
    log.path.write_text('{"a": 1}\n{"a":\n{"a": 3}\n')
    before = log.path.read_text()
    with pytest.raises(FileError, match=r"rows.jsonl, line 2: .*mend the line, or .*--fresh"):
        log.read()
    assert log.path.read_text() == before


def test_a_record_of_another_run_is_refused(tmp_path: Path) -> None:
    mine, other = (Log(tmp_path / "rows.jsonl", {"a": 0}, run) for run in ("0123abcd", "dcba3210"))
    mine.append({"a": 1})
    assert mine.read() == [{"a": 1}]
    assert json.loads(mine.path.read_text()) == {"a": 1, "run": "0123abcd"}
    with pytest.raises(FileError, match=r"line 1: a record of another run \('0123abcd', this is"):
        other.read()
    mine.path.write_text('{"a": 1}\n')
    with pytest.raises(FileError, match="a record of another run"):
        mine.read()


def test_a_course_has_every_record_once(tmp_path: Path) -> None:
    log = Log(tmp_path / "metrics.jsonl", {"epoch": 0}, "")
    log.keep({"epoch": epoch} for epoch in (0, 2, 4, 6))
    assert [r["epoch"] for r in log.course("epoch", range(0, 5, 2))] == [0, 2, 4]
    assert log.course("epoch", ()) == []
    for expected in (range(8), range(0, 9, 2)):
        with pytest.raises(FileError, match=r"metrics.jsonl: a record for each epoch from 0 to"):
            log.course("epoch", expected)
    log.path.unlink()
    with pytest.raises(FileError, match="there are 0 for 3"):
        log.course("epoch", range(3))


def test_parts_of_a_file_leave_each_other_alone(tmp_path: Path) -> None:
    logs = [Log(tmp_path / "rows.jsonl", {"a": 0}, "", {"model": name}) for name in ("b", "c")]
    kept = [[{"model": log.part["model"], "a": i} for i in range(2)] for log in logs]
    for log, records in zip(logs, kept, strict=True):
        log.keep(records)
    logs[0].keep(kept[0][:1])
    with logs[0].path.open("a") as file:
        file.write('{"model": "c", "a')
    assert [log.read() for log in logs] == [kept[0][:1], kept[1]]
    assert logs[0].path.read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, ""),
        ({"epoch": "one"}, 'epoch is "one", not a whole number'),
        ({"epoch": 0.5}, "epoch is 0.5, not a whole number"),
        ({"epoch": -1}, "epoch is -1, not a whole number"),
        ({"epoch": True}, "epoch is true, not a whole number"),
        ({"loss": None}, "loss is null, not a finite number"),
        ({"loss": float("inf")}, "loss is Infinity, not a finite number"),
        ({"residual": [1]}, "residual is [1], not a number"),
        ({"name": None}, "name is null, not a text"),
        ({"last": 1}, "last is 1, not true or false"),
        ({"of_lanes": [1, "a"]}, 'an entry of of_lanes is "a", not a finite number'),
        ({"of_lanes": 1}, "of_lanes is 1, not a list"),
        ({"held_out": {}}, "held_out has no snr"),
        ({"held_out": {"snr": 1}}, "held_out.snr is 1, not a list"),
    ],
)
def test_records_have_one_schema(change: dict[str, Any], wrong: str) -> None:
    found = fault(WHOLE | change, SCHEMA)
    assert wrong in found if wrong else not found


def test_what_is_no_object_is_no_record() -> None:
    assert fault([1], SCHEMA) == "the record is [1], not an object"
    assert fault({}, {"a": 0, "b": 0}) == "the record has no a, b"
