"""What was compiled is found by the next call, and whatever is wrong with it breaks nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deqbilevel.commands import programs

ROOT = Path(__file__).parents[1]
CALL = """
import sys
from deqbilevel.commands import programs
programs.SECONDS = 0
programs.keep(True)
import jax, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("cache_hits")))
many = jax.jit(lambda x: jax.lax.fori_loop(0, 5, lambda i, u: jnp.sin(u @ x), x))
print(jax.device_get(many(jnp.linspace(0, 1, 900).reshape(30, 30))).tobytes().hex(), sum(hits))
"""


def start(home: Path) -> subprocess.Popen:
    """A process that compiles a few programs, with a cache folder of its own below `home`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return subprocess.Popen(
        [sys.executable, "-c", CALL],
        cwd=ROOT,
        env=clean | {"XDG_CACHE_HOME": str(home), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen) -> tuple[str, int, str]:
    """What it computed, how many programs it found, and what it said."""
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    bits, hits = out.split()
    return bits, int(hits), said


def kept(home: Path) -> list[Path]:
    return sorted((home / "deqbilevel" / "programs").glob("*-cache"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder that two calls at once have filled, and the bits that they computed."""
    home = tmp_path_factory.mktemp("home")
    calls = [start(home), start(home)]
    (bits, _, said), (others, _, too) = map(ended, calls)
    assert bits == others and said == too == "" and kept(home)
    return home, bits


def test_the_next_call_finds_all_programs_and_computes_the_same_bits(warm):
    home, bits = warm
    before = kept(home)
    assert ended(start(home)) == (bits, len(before), "")
    assert kept(home) == before


def test_what_a_killed_call_left_half_written_is_written_anew(warm):
    home, bits = warm
    whole = kept(home)
    for path in whole:
        path.write_bytes(path.read_bytes()[:100])
        path.with_name(path.name.replace("-cache", "-atime")).unlink()
    assert ended(start(home)) == (bits, 0, "")
    assert kept(home) == whole
    assert ended(start(home)) == (bits, len(whole), "")


def test_a_damaged_program_is_compiled_anew(warm, tmp_path):
    home, bits = warm
    shutil.copytree(home, tmp_path / "home")
    for path in kept(tmp_path / "home"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    again, hits, said = ended(start(tmp_path / "home"))
    assert (again, hits) == (bits, 0) and "Error reading persistent compilation cache" in said


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What JAX is told, in place of telling it."""
    told: dict[str, Any] = {}
    config = SimpleNamespace(jax_compilation_cache_dir=None, update=told.__setitem__)
    monkeypatch.setattr(programs, "jax", SimpleNamespace(config=config))
    return told


def test_a_folder_that_cannot_be_written_costs_one_line(told, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    programs.keep(True)
    said = capsys.readouterr().err
    assert not told and len(said.splitlines()) == 1
    assert "are not kept: " in said and "XDG_CACHE_HOME" in said


def test_who_wants_none_or_another_folder_is_heard(told, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    programs.keep(False)
    assert told == {"jax_enable_compilation_cache": False}
    told.clear()
    programs.jax.config.jax_compilation_cache_dir = "elsewhere"
    programs.keep(True)
    assert not told and not list(tmp_path.iterdir())
    programs.jax.config.jax_compilation_cache_dir = None
    programs.keep(True)
    assert told["jax_compilation_cache_dir"] == str(tmp_path / "deqbilevel" / "programs")
