"""Kill a study with SIGKILL again and again, and see that its results are those of a quiet one.

    python -m tests.kill_study --kills 20 --out DIR

ends in a JSON line with the number of kills and of the variables that were compared bit for bit.
"""

import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from deqbilevel import learning, results

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Kill:
    """Which study, and how often it is killed."""

    out: Path
    """Folder for both studies."""
    kills: int = 20
    options: str = (
        "--tasks denoising --taus 0.01 0.1 0.9 1.1 2.1 --gammas 0.5 1 --noises 0.1 "
        "--train-size 200 --test-size 50 --batch-size 20 --epochs 2 --keep-parameters all "
        "--saving 0.02"
    )
    """Of `experiments.compare`; 60 lanes as it stands."""
    longest: float = 30.0
    """Seconds after which a process is killed at the latest; every second time, after it has
    trained for an epoch."""
    seed: int = 0


def main(config: Kill) -> dict[str, int]:
    """Run the undisturbed study, then the disturbed one; raises AssertionError if they differ."""
    quiet = config.out / "quiet"
    subprocess.run(_command(config, quiet), cwd=ROOT, check=True, capture_output=True)
    killed, kills = disturbed(config)
    return {"kills": kills, "runs": compare(quiet, killed)}


def disturbed(config: Kill) -> tuple[Path, int]:
    """Run a study that is killed and goes on, to its end; returns its folder and the kills."""
    killed = config.out / "killed"
    moments, kills = random.Random(config.seed), 0
    while kills < config.kills:
        process = subprocess.Popen(
            _command(config, killed), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = _records(killed)
        while process.poll() is None and kills % 2 and _records(killed) == before:
            time.sleep(0.01)
        wait = moments.uniform(0, config.longest)
        begin = time.perf_counter()
        while process.poll() is None and time.perf_counter() - begin < wait:
            time.sleep(0.01)
        if process.poll() is not None:
            break  # it has finished
        process.kill()
        process.wait()
        kills += 1
    subprocess.run(_command(config, killed), cwd=ROOT, check=True, capture_output=True)
    return killed, kills


def _records(study: Path) -> int:
    """Epochs of runs that are on record."""
    path = study / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _command(config: Kill, out: Path) -> list[str]:
    module = [sys.executable, "-m", "experiments.compare"]
    return [*module, *config.options.split(), "--out", str(out)]


def compare(quiet: Path, killed: Path) -> int:
    """Assert that two studies have the same bits in all that repeats; returns their runs."""
    first, second = results.read(quiet), results.read(killed)
    assert set(first.variables) == set(second.variables)
    for name in set(first.variables) - set(learning.EXECUTION):
        np.testing.assert_array_equal(first[name].values, second[name].values, err_msg=str(name))
    kept = sorted(path.name for path in (quiet / "parameters").glob("*.npz"))
    assert kept == sorted(path.name for path in (killed / "parameters").glob("*.npz"))
    for name in kept:
        one, other = np.load(quiet / "parameters" / name), np.load(killed / "parameters" / name)
        for array in one:
            np.testing.assert_array_equal(one[array], other[array], err_msg=name)
    for folder in (quiet, killed):
        assert not list((folder / "states").glob("*")), "a finished study keeps no states"
    return int(first.test_loss.isel(epoch=-1).notnull().sum())


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Kill))))
