"""The records of a run: a JSON object a line, with one schema, each on the disk before the next.

log = records.Log.of(out / "rows.jsonl", {"method": "", "budget": 0, "seconds": 0.0})
rows = log.read()
log.append({"method": "unrolled", "budget": 10, "seconds": 1.5})
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deqbilevel.commands import folders
from deqbilevel.commands.schema import fault
from deqbilevel.disk import files
from deqbilevel.disk.files import FileError


class Log(NamedTuple):
    """A file of records of one kind."""

    path: Path
    schema: dict[str, Any]
    """Of a record, see `deqbilevel.commands.schema`."""
    run: str
    """See `folders.identity`; stored with every record."""
    part: Mapping[str, str] = {}
    """Of several that share the file: what its records say, and no other's."""

    @classmethod
    def of(cls, path: Path, schema: dict[str, Any], part: Mapping[str, str] | None = None) -> "Log":
        """The log of the run that the folder belongs to, or of a part of it."""
        return cls(path, schema, folders.identity(path.parent), part or {})

    def read(self) -> list[dict[str, Any]]:
        """The records; none where there is no file.

        A last line that is not whole is what an interrupted program left: it is dropped, and cut
        from the file, so that the next record begins a line of its own.
        Raises: FileError for another line that is not JSON, is not of the schema, or was stored by
        another run.
        """
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        found = []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
            except ValueError as error:
                if number < len(lines):
                    raise self._broken(number, f"not a record in JSON ({error})") from error
                break
            found.append(self._checked(number, entry))
        if lines and not (len(found) == len(lines) and lines[-1].endswith(b"\n")):
            self._replace(part={}).keep(found)
        return [record for record in found if self.part.items() <= record.items()]

    def append(self, record: Mapping[str, Any]) -> None:
        """Store one record more."""
        files.append(self.path, self._line(record))

    def keep(self, kept: Iterable[Mapping[str, Any]]) -> None:
        """Make these the only records; those of other parts stay."""
        there = self._replace(part={}).read() if self.part else []
        others = [record for record in there if not self.part.items() <= record.items()]
        folders.write(self.path, "".join(self._line(record) for record in (*others, *kept)))

    def course(self, name: str, expected: Sequence[int]) -> list[dict[str, Any]]:
        """The records up to the last of the values of `name` that are expected, each once.

        Raises: FileError where some of them are missing, and see `read`.
        """
        last = expected[-1] if expected else -1
        found = [record for record in self.read() if record[name] <= last]
        if [record[name] for record in found] != list(expected):
            raise FileError(
                f"{self.path}: a record for each {name} from {expected[0]} to {last} is needed, "
                f"and there are {len(found)} for {len(expected)}; put the file back, or start anew "
                "with --fresh"
            )
        return found

    def _line(self, record: Mapping[str, Any]) -> str:
        mark = {"run": self.run} if self.run else {}
        return json.dumps({**record, **mark}) + "\n"

    def _checked(self, number: int, entry: Any) -> dict[str, Any]:
        wrong = fault(entry, self.schema)
        if wrong:
            raise self._broken(number, wrong)
        run = entry.pop("run", "") if self.run else ""
        if run != self.run:
            raise self._broken(number, f"a record of another run ({run!r}, this is {self.run!r})")
        return entry

    def _broken(self, number: int, what: str) -> FileError:
        return FileError(
            f"{self.path}, line {number}: {what}; mend the line, or start anew with --fresh"
        )
