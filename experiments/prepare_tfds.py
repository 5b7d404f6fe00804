"""Prepares MNIST for tensorflow-datasets from the IDX files, without TensorFlow or a download.

python -m experiments.prepare_tfds --idx DIR --out DIR
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from deqbilevel.data import DataError, prepare


@dataclass(frozen=True)
class Config:
    """Write the digits of IDX files as a folder that `--data tfds:OUT` reads."""

    idx: Path
    """Folder of the four IDX files, gzipped or not."""
    out: Path
    """The `data_dir` to write for tensorflow-datasets; left alone if it is prepared already."""


def main(config: Config) -> None:
    """Prepares the folder; the last line on standard output is a JSON object with the counts."""
    print(f"preparing {config.out} from {config.idx} ...", file=sys.stderr)
    try:
        train, test = prepare(config.idx, config.out)
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"prepared: {train} + {test} digits", file=sys.stderr)
    print(json.dumps({"out": str(config.out), "train": train, "test": test}))


if __name__ == "__main__":
    main(tyro.cli(Config, description=Config.__doc__))
