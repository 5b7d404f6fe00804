"""Compiled programs are kept for the next call: compilation is most of what a short command takes.

JAX's persistent cache does it, in a folder of ours below the user's. A program is found again by
what it computes, the versions of JAX and XLA, their flags and the machine; so numbers are the same
with and without. What the environment says to JAX (JAX_COMPILATION_CACHE_DIR, or
JAX_ENABLE_COMPILATION_CACHE=false) stands.
"""

import sys
from pathlib import Path
from typing import Any

import filelock
import jax
import platformdirs

BYTES = 2**27
"""At most; what was not used for longest goes first. A training is about a megabyte."""
SECONDS = 0.2
"""Of compilation, from which a program is worth a file."""


def keep(wanted: bool) -> None:
    """Keep them, or none, from the first compilation on; a folder that cannot be written costs one
    line."""
    if not wanted:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        options = ready(platformdirs.user_cache_path("deqbilevel", appauthor=False) / "programs")
    except (OSError, NotImplementedError) as error:  # some file systems cannot lock
        said = f"compiled programs are not kept: {error}; XDG_CACHE_HOME names another folder"
        print(said, file=sys.stderr)
        return
    for name, value in options.items():
        jax.config.update(name, value)


def ready(folder: Path) -> dict[str, Any]:
    """What JAX has to be told to keep programs in a folder, which then is there, without what JAX
    was writing when a call was killed: it would trip over it in every later call.

    Raises: OSError for a folder that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lockfile", timeout=10):  # JAX's own
        for program in folder.glob("*-cache"):
            used = program.with_name(f"{program.name.removesuffix('-cache')}-atime")
            if not used.exists():  # it is written last
                program.unlink()
    return {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": BYTES,
        "jax_persistent_cache_min_compile_time_secs": SECONDS,
        "jax_persistent_cache_enable_xla_caches": "none",  # they have no bound
    }
