"""A clone of benchopt's bilevel benchmark: its solvers, and the options it holds best."""

import contextlib
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

GET = "git clone https://github.com/benchopt/benchmark_bilevel"

PUBLISHED = ("datacleaning0_5_021424_best_params.yml", "datacleaning0_5_best_params.yml")
"""Files of their folder `config` with the options that they found best for half of the labels
wrong; where both name a solver, the second holds."""

UTILITIES = "benchmark_utils"
"""Their package."""


def solvers(folder: Path) -> dict[str, type]:
    """Their stochastic JAX solvers by the names of their files, from a clone of the benchmark.

    What cannot be imported is named on standard error and left out; templates are left out.
    Raises: ValueError where there is no such folder, no benchmark in it, or no benchopt.
    """
    base = folder / UTILITIES / "stochastic_jax_solver.py"
    if not folder.is_dir():
        raise ValueError(f"--peers {folder}: no such folder; {GET}")
    if not base.is_file() or not (folder / "solvers").is_dir():
        raise ValueError(f"--peers {folder}: not a clone of benchopt's bilevel benchmark; {GET}")
    if importlib.util.find_spec("benchopt") is None:
        raise ValueError("--peers: benchopt is not installed; pip install benchopt")
    found = {}
    with _importable(folder), contextlib.redirect_stdout(sys.stderr):
        parent = importlib.import_module(f"{UTILITIES}.{base.stem}").StochasticJaxSolver
        for path in sorted((folder / "solvers").glob("*.py")):
            if path.stem.startswith("template"):
                continue
            try:
                solver = getattr(_loaded(path), "Solver", None)
            except Exception as error:
                say(path.stem, "cannot be imported", error)
                continue
            if isinstance(solver, type) and issubclass(solver, parent):
                found[path.stem] = solver
    return found


def inputs(folder: Path | None) -> dict[str, str]:
    """A digest of the solvers of a clone, for a run to tell that they changed."""
    if folder is None:
        return {}
    found = hashlib.sha256()
    for path in sorted((folder / "solvers").glob("*.py")):
        found.update(path.name.encode() + path.read_bytes())
    return {"--peers": found.hexdigest()}


def say(name: str, what: str, error: Exception) -> None:
    print(f"peer {name} {what}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_bilevel_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Their package `benchmark_utils` can be imported meanwhile, and nothing of it remains."""

    def theirs() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == UTILITIES]

    paths = list(sys.path)
    before = {name: sys.modules.pop(name) for name in theirs()}
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = paths
        for name in theirs():
            del sys.modules[name]
        sys.modules.update(before)


def published(folder: Path) -> dict[str, dict[str, Any]]:
    """The options that the benchmark holds best for data cleaning, by the solver's own name.

    Lists and words after `framework` are left out. {} where the clone has none of the files.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in PUBLISHED:
        path = folder / "config" / name
        text = path.read_text() if path.is_file() else ""
        for solver, options in re.findall(r"^\s*- (\w+)\[(.*)$", text, re.MULTILINE):
            pairs = re.findall(r"(\w+)=([^\[\],]+)", options)
            found[solver] = {key: _value(value) for key, value in pairs if key != "framework"}
    return found


def _value(text: str) -> float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
