"""A command says what it takes before anything is imported that only its work needs."""

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments"
COMMANDS = {path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text()}
COMMANDS |= {path.parent.name for path in FOLDER.glob("*/__main__.py")}
LATE = (
    "dm_pix",
    "jaxopt",
    "matplotlib",
    "orbax.checkpoint.checkpoint_manager",  # a lazy `orbax.checkpoint` is there before
    "pandas",
    "scipy.fft",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.stats",
    "skimage.color",
    "skimage.data",
    "tensorflow_datasets",
    "xarray.core",
    "zarr.core",
)
"""What only some of the work needs, and takes long to import: 1.7 s of a processor in all."""
ASK = """
import contextlib, runpy, sys
for name in {commands}:
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module(f"experiments.{{name}}", run_name="__main__")
print("imported:", *[name for name in {late} if name in sys.modules])
"""


def test_help_imports_nothing_that_only_the_work_needs():
    assert {"train", "compare", "filters"} < COMMANDS
    assert all(importlib.util.find_spec(name) for name in LATE), "what is no module is never there"
    code = ASK.format(commands=sorted(COMMANDS), late=LATE)
    call = [sys.executable, "-W", "ignore", "-c", code]  # runpy warns of a module that is there
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(COMMANDS)
    assert done.stdout.splitlines()[-1] == "imported:"
