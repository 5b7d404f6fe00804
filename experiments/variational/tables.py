"""The tables beside that of weights, by name: their records, and what is made of them."""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from deqbilevel.commands.records import Log
from experiments.variational import corners, dictionary, plugging, smoothing, solving

AT_ONCE: dict[str, Any] = {"smoothing": smoothing, "corners": corners}
"""Those that have a record for each eps, and one for the exact norm."""

OF_TASKS: dict[str, Any] = {"dictionary": dictionary, "plug": plugging}
"""Those of --tasks, with methods for each."""

BY_CASE: dict[str, Any] = {"solvers": solving, **OF_TASKS}
"""Those that find a record after the other, from what they are given."""

DRAWN: dict[str, Any] = {"corners": corners, **OF_TASKS}
"""Those that have a figure."""

TABLES = {**AT_ONCE, **BY_CASE}


def check(config: Any) -> None:
    """Raises: ValueError for a table that has nothing to do."""
    for name, of in OF_TASKS.items():
        if name in config.tables and not of.cases(config):
            raise ValueError(f"--tables {name}: none of --tasks is its own; expected {of.TASKS}")


def given(config: Any) -> dict[str, Any]:
    """What the tables by case are about. Raises: ValueError for pictures that do not do."""
    return {name: of.given(config) for name, of in BY_CASE.items() if name in config.tables}


def files(config: Any) -> list[str]:
    """What a run writes for them, see `folders`."""
    kept = [f"{name}.jsonl" for name in config.tables if name in TABLES]
    for name, of in DRAWN.items():
        kept += of.files(config) if name in config.tables else []
    return kept


def made(
    config: Any, given: dict[str, Any], out: Path
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Each table as Markdown, and its headline; records that are missing are found first."""
    texts, numbers = {}, {}
    for name, of in TABLES.items():
        if name not in config.tables:
            continue
        log = Log.of(out / f"{name}.jsonl", of.ROW)
        rows = (
            _by_case(config, of, given[name], log) if name in given else _at_once(config, of, log)
        )
        texts[name] = of.table(config, rows)
        numbers[name] = _by_task(rows) if name in OF_TASKS else of.headline(rows)
        if name in DRAWN:
            of.figure(config, given.get(name), rows, out)
    return texts, numbers


def _by_task(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """PSNR by task and method."""
    numbers: dict[str, dict[str, float]] = {}
    for row in rows:
        own = numbers.setdefault(row["task"], {"measured": round(row["measured_psnr_db"], 2)})
        own[row["method"]] = round(row["psnr_db"], 2)
    return numbers


def _at_once(config: Any, of: Any, log: Log) -> list[dict[str, Any]]:
    rows = log.read()
    if len(rows) <= len(config.eps):
        rows = of.found(config)
        log.keep(rows)
    return rows


def _by_case(config: Any, of: Any, given: Any, log: Log) -> list[dict[str, Any]]:
    rows = log.read()
    done = {tuple(row[name] for name in of.PAIR) for row in rows}
    pairs = of.cases(config)
    with tqdm(total=len(pairs), initial=len(done), unit="case") as bar:
        for pair in pairs:
            if pair not in done:
                bar.set_postfix_str(", ".join(pair))
                rows.append(of.found(config, given, *pair, rows, log.path.parent))
                log.append(rows[-1])
                bar.update(1)
    return rows
