"""Prepares MNIST for tensorflow-datasets from the IDX files, without TensorFlow or a download.

python -m experiments.prepare_tfds --idx DIR --out DIR
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from deqbilevel.commands import command, common, options
from deqbilevel.data import prepare


@dataclass(frozen=True)
class Config:
    """Write the digits of IDX files as a folder that `--data tfds:OUT` reads."""

    idx: Annotated[Path, options.folder("IDX files")]
    """Folder of the four IDX files, gzipped or not."""
    out: Annotated[Path, options.output]
    """The `data_dir` to write for tensorflow-datasets; left alone if it is prepared already."""


@command.checked
def main(config: Config) -> dict[str, Any]:
    """Prepares the folder; returns the counts."""
    print(f"preparing {config.out} from {config.idx} ...", file=sys.stderr)
    with common.clear_errors():
        train, test = prepare(config.idx, config.out)
    print(f"prepared: {train} + {test} digits", file=sys.stderr)
    return {"out": str(config.out), "train": train, "test": test}


if __name__ == "__main__":
    command.run(Config, main)
