"""Shared by all tests: jaxtyping checked at run time, two devices, quick compilation, real data.

On a GPU the tests run on it; `JAX_PLATFORMS=cpu` keeps them off.
"""

import functools
import gc
import os
import pkgutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Each worker would otherwise claim most of the memory of a GPU; read when jax starts.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jaxtyping
import pytest
from jax._src.interpreters import mlir
from jaxlib.mlir import ir

import deqbilevel
from deqbilevel import plots
from deqbilevel.commands import programs
from deqbilevel.plots import style

PROGRAMS = Path(__file__).parents[1] / ".pytest_cache" / "programs"

jax.config.update("jax_num_cpu_devices", 2)


def _keep_programs() -> None:
    """For all workers, what they start, and the next run of the tests; where
    JAX_COMPILATION_CACHE_DIR is set, as it is in a worker, that stands."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    for name, value in programs.ready(PROGRAMS).items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


def _compile_quickly() -> None:
    """Leave out XLA's optimisations: compilation is most of what the tests wait for.

    For this process alone. What the tests start (commands, notebooks) compiles as for a user, and
    so does everything where XLA_FLAGS is set, if only to nothing: `XLA_FLAGS= pytest`.
    """
    if "XLA_FLAGS" in os.environ:
        return
    flags = "--xla_backend_optimization_level=1"  # where a test asks for more than none
    flags += " --xla_cpu_parallel_codegen_split_count=1"  # pieces cost, and other workers wait
    if jax.__version_info__ < (0, 11):  # a newer XLA has no other emitters, and stops at the flag
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = flags
    _start()  # reads the flags, once and for all
    del os.environ["XLA_FLAGS"]
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_traceback_in_locations_limit", 0)  # lines of Python of every operation


def _lower_in_one_context() -> None:
    """JAX makes an MLIR context for every program that it lowers, of 5 ms and a megabyte that stays
    as long as the program. One serves all, but what is lowered inside of another lowering."""
    make = getattr(mlir, "make_ir_context", None)
    if make is None:  # it is no part of JAX's interface
        return
    shared = functools.cache(make)

    def context() -> ir.Context:
        return shared() if ir.Context.current is None else make()

    mlir.make_ir_context = context


def _start() -> None:
    """Start JAX's devices. What plugins of other hardware warn of while they are looked for is
    theirs: here it is no error, and nowhere else is it ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        jax.devices()


_keep_programs()
_lower_in_one_context()
_compile_quickly()
_start()


def pytest_collection_finish() -> None:
    """Look for garbage less often, and not among what is imported: there is little of it, and what
    JAX keeps of each program makes every look longer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


WHOLE = ("commands", "studies")
"""Parts of the package that put the others together, as experiments do."""

TOGETHER = ("experiments", *(f"deqbilevel.{name}" for name in WHOLE))

PARTS = [m.name for m in pkgutil.iter_modules(deqbilevel.__path__) if m.name not in WHOLE]

_HOOK = jaxtyping.install_import_hook([f"deqbilevel.{name}" for name in PARTS], "beartype.beartype")


@pytest.fixture(scope="module", autouse=True)
def types_checked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Types are checked at run time where parts are tested, and not again where whole commands and
    the matrix put them together: an eighth of their time."""
    used = {
        x.__name__ if isinstance(x, ModuleType) else getattr(x, "__module__", None) or ""
        for x in vars(request.module).values()
    }
    whole = request.module.__name__ == "test_matrix" or any(
        name.startswith(TOGETHER) for name in used
    )
    jaxtyping.config.update("jaxtyping_disable", whole)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session", autouse=True)
def rough_figures() -> Iterator[None]:
    """What commands draw is drawn whole, but without the search for a layout and at 40 dpi: that is
    most of the time of a figure. tests/test_plots.py has the real ones."""

    def save(figure: Any, path: str | Path) -> None:
        figure.set_layout_engine("none")
        style.save(figure, path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plots, "save", save)
        patched.setattr(style, "DPI", 40)
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real files where DEQBILEVEL_DATA names them, else the embedded sample in their place."""
    named = os.environ.get("DEQBILEVEL_DATA")
    if named:
        return Path(named).resolve()
    folder = tmp_path_factory.mktemp("data")
    sample = Path(__file__).parents[1] / "deqbilevel" / "data" / "mnist"
    (folder / "mnist").symlink_to(sample)
    return folder
