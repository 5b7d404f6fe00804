"""MNIST as tensorflow-datasets keeps it, read and written without TensorFlow or a download.

tensorflow-datasets is slow to import and optional, so only the functions that need it import it.
"""

import importlib.util
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from deqbilevel.data.base import DataError, Images, first, from_bytes

SPLITS = ("train", "test")
FORMAT = "array_record"

Labelled = tuple[UInt8[np.ndarray, "n 28 28"], UInt8[np.ndarray, " n"]]

_PACKAGES = {"tensorflow_datasets": "tensorflow-datasets", "array_record": "array-record"}


def load_tfds(
    folder: str | Path | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
) -> Images:
    """The first digits of each split of a prepared `mnist` (None: all).

    A folder that `prepare` wrote keeps the order of the IDX files; tensorflow-datasets' own
    preparation shuffles, once and for all.

    Args:
        folder: the `data_dir` of tensorflow-datasets; None: its default.
        train_size: number of training digits.
        test_size: number of test digits.

    Raises:
        DataError: packages are missing, or the folder is not prepared, cannot be read, or holds
            fewer digits than asked for.
    """
    tfds = _tensorflow_datasets()
    data_dir = None if folder is None else Path(folder).expanduser()

    def read(split: str, size: int | None) -> UInt8[np.ndarray, "n 28 28"]:
        source = tfds.data_source("mnist", split=split, data_dir=data_dir, download=False)
        digits = source.__getitems__(range(first(size, len(source), split)))
        return np.stack([digit["image"][..., 0] for digit in digits])

    try:
        builder = tfds.builder("mnist", data_dir=data_dir)
        if not builder.is_prepared():
            raise _unprepared(Path(builder.data_dir).parents[1], "no MNIST prepared here")
        train, test = read("train", train_size), read("test", test_size)
    except DataError:
        raise
    except Exception as error:  # tensorflow-datasets and array_record raise many kinds
        where = data_dir or Path(tfds.core.constants.DATA_DIR)
        raise _unprepared(
            where, f"MNIST cannot be read as {FORMAT}; remove it ({error})"
        ) from error
    return from_bytes(train, test, "MNIST through tensorflow-datasets")


def write_tfds(digits: dict[str, Labelled], tfds_directory: str | Path) -> tuple[int, int]:
    """Writes the images and labels of each split as a prepared `mnist` of tensorflow-datasets.

    Afterwards `tfds.data_source("mnist", data_dir=tfds_directory)` reads them, in this order. The
    folder appears whole or not at all; one that is there already is left alone.

    Returns:
        The numbers of training and test digits.

    Raises:
        DataError: packages are missing, or `tfds_directory` holds another `mnist`.
    """
    tfds = _tensorflow_datasets()
    counts = len(digits["train"][1]), len(digits["test"][1])
    out = Path(tfds_directory).expanduser()
    there = tfds.builder("mnist", data_dir=out)
    if Path(there.data_dir).exists():
        _check_same(there, counts)
        return counts
    out.mkdir(parents=True, exist_ok=True)
    # A hidden folder inside `out` is on the same disk, so that the final rename is atomic.
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=out) as scratch:
        info = tfds.builder("mnist", data_dir=scratch, file_format=FORMAT).info
        written = Path(info.data_dir)
        written.mkdir(parents=True)
        info.set_splits(
            tfds.core.SplitDict([_write(tfds, info, name, *digits[name]) for name in SPLITS])
        )
        info.write_to_directory(written)
        final = out / written.relative_to(scratch)
        final.parent.mkdir(exist_ok=True)
        os.rename(written, final)
    return counts


def _write(
    tfds: Any,
    info: Any,
    split: str,
    images: UInt8[np.ndarray, "n 28 28"],
    labels: UInt8[np.ndarray, " n"],
) -> Any:
    """Writes the one file of a split and returns its `SplitInfo`."""
    if labels.max() > 9:
        raise DataError(f"{split} label {labels.max()}: the labels of digits are 0 to 9")
    template = tfds.core.ShardedFileTemplate(
        dataset_name=info.name, data_dir=info.data_dir, split=split, filetype_suffix=FORMAT
    )
    # From arrays the image feature encodes with TensorFlow, from Pillow images without it.
    records = [
        info.features.serialize_example({"image": Image.fromarray(image), "label": label})
        for image, label in zip(images, labels, strict=True)
    ]
    path = template.sharded_filepath(shard_index=0, num_shards=1)
    tfds.core.ExampleWriter(tfds.core.FileFormat(FORMAT)).write(path, enumerate(records))
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=[len(records)],
        num_bytes=sum(map(len, records)),
        filename_template=template,
    )


def _check_same(builder: Any, counts: tuple[int, int]) -> None:
    info = builder.info
    if builder.is_prepared() and info.file_format.value == FORMAT:
        if tuple(info.splits[split].num_examples for split in SPLITS) == counts:
            return
    raise DataError(
        f"{builder.data_dir}: holds another data set already; remove it or choose another folder"
    )


def _unprepared(folder: Path, fault: str) -> DataError:
    return DataError(
        f"{folder}: {fault}; prepare it for tensorflow-datasets from the IDX files in DIR with\n"
        f"    python -m experiments.prepare_tfds --idx DIR --out {shlex.quote(str(folder))}"
    )


def _tensorflow_datasets() -> Any:
    missing = [pip for name, pip in _PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(f"packages are missing; run\n    pip install {' '.join(missing)}")
    import tensorflow_datasets

    return tensorflow_datasets
