"""MNIST and CelebA as tensorflow-datasets keeps them, read and written without TensorFlow or a
download.

tensorflow-datasets is slow to import and optional, so only the functions that need it import it.
"""

import importlib.util
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from deqbilevel.data.base import (
    DataError,
    Images,
    first,
    from_bytes,
    from_pictures,
    middle,
    to_grey,
)
from deqbilevel.pictures import folder_path

SPLITS = ("train", "test")
FORMAT = "array_record"

FACES = 10
"""Of CelebA in either split by default."""

Labelled = tuple[UInt8[np.ndarray, "n 28 28"], UInt8[np.ndarray, " n"]]


class _Dataset(NamedTuple):
    """What reading and its messages need to know of a data set."""

    name: str
    title: str
    how_to_prepare: str
    """With {} for the folder to write."""
    larger: str | None
    """Where there are more images."""


_MNIST = _Dataset(
    "mnist",
    "MNIST",
    "prepare it for tensorflow-datasets from the IDX files in DIR with\n"
    "    python -m experiments.prepare_tfds --idx DIR --out {}",
    "idx:DIR or tfds:DIR",
)
_CELEB_A = _Dataset(
    "celeb_a",
    "CelebA",
    "prepare it where there is TensorFlow, with\n"
    f"    tfds build celeb_a --file_format={FORMAT} --data_dir={{}}\n"
    "which downloads it from Google Drive, or read a folder of its pictures as images:DIR",
    None,
)

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
    digits = _read(_MNIST, folder, train_size, test_size)
    train, test = (np.stack([image[..., 0] for image in images]) for images in digits)
    return from_bytes(train, test, "MNIST through tensorflow-datasets")


def load_celeb_a(
    folder: str | Path | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    shape: tuple[int, int] | None = None,
) -> Images:
    """The first faces, in grey, of the training and the test split of a prepared `celeb_a`.

    Reading needs no TensorFlow. Preparing does, and a download from Google Drive: it is
    tensorflow-datasets' own. The faces (Liu, Luo, Wang, Tang. Deep learning face attributes in
    the wild. ICCV 2015) are for research that is not commercial.

    Args:

        folder: the `data_dir` of tensorflow-datasets; None: its default.
        train_size: number of training faces; None: 10.
        test_size: number of test faces; None: 10.
        shape: (height, width) of the middle of each face to take; None: all of it, 218x178.

    Raises:

        DataError: packages are missing, or the folder is not prepared, cannot be read, or holds
            fewer or smaller faces than asked for.
    """
    sizes = (FACES if asked is None else asked for asked in (train_size, test_size))
    faces = _read(_CELEB_A, folder, *sizes)
    train, test = ([middle(to_grey(face), shape, "a face") for face in images] for images in faces)
    return from_pictures(train, test, "faces of CelebA through tensorflow-datasets")


def write_mnist(digits: Mapping[str, Labelled], tfds_directory: str | Path) -> tuple[int, int]:
    """Writes the images and labels of each split as a prepared `mnist`, see `write_tfds`.

    Returns:

        The numbers of training and test digits.

    Raises:

        DataError: as `write_tfds`.
    """
    # From arrays the image feature encodes with TensorFlow, from Pillow images without it.
    examples = {
        split: [
            {"image": Image.fromarray(image), "label": label}
            for image, label in zip(images, labels, strict=True)
        ]
        for split, (images, labels) in digits.items()
    }
    return write_tfds("mnist", examples, tfds_directory)


def write_tfds(
    dataset: str, examples: Mapping[str, Sequence[dict[str, Any]]], tfds_directory: str | Path
) -> tuple[int, int]:
    """Writes training and test examples as a prepared data set of tensorflow-datasets.

    Afterwards `tfds.data_source(dataset, data_dir=tfds_directory)` reads them, in this order. The
    folder appears whole or not at all; one that is there already is left alone.

    Args:

        dataset: its name in tensorflow-datasets.
        examples: by split, "train" and "test", the features of each. An image is one of Pillow,
            or the path or the bytes of a file.
        tfds_directory: the `data_dir` to write.

    Returns:

        The numbers of training and test examples.

    Raises:

        DataError: packages are missing, or `tfds_directory` holds another data set of that name.
    """
    tfds = _tensorflow_datasets()
    counts = len(examples["train"]), len(examples["test"])
    out = folder_path(tfds_directory)
    there = tfds.builder(dataset, data_dir=out)
    if Path(there.data_dir).exists():
        _check_same(there, counts)
        return counts
    out.mkdir(parents=True, exist_ok=True)
    # A hidden folder inside `out` is on the same disk, so that the final rename is atomic.
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=out) as scratch:
        info = tfds.builder(dataset, data_dir=scratch, file_format=FORMAT).info
        written = Path(info.data_dir)
        written.mkdir(parents=True)
        info.set_splits(
            tfds.core.SplitDict([_write(tfds, info, name, examples[name]) for name in SPLITS])
        )
        info.write_to_directory(written)
        final = out / written.relative_to(scratch)
        final.parent.mkdir(exist_ok=True)
        os.rename(written, final)
    return counts


def _read(
    dataset: _Dataset, folder: str | Path | None, train_size: int | None, test_size: int | None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first images of the training and the test split (None: all), uint8[h, w, channels]."""
    tfds = _tensorflow_datasets()
    data_dir = None if folder is None else folder_path(folder)

    def read(split: str, size: int | None) -> list[np.ndarray]:
        source = tfds.data_source(dataset.name, split=split, data_dir=data_dir, download=False)
        count = first(size, len(source), split, larger=dataset.larger)
        examples = source.__getitems__(range(count))
        return [example["image"] for example in examples]

    def unprepared(where: Path, fault: str) -> DataError:
        advice = dataset.how_to_prepare.format(shlex.quote(str(where)))
        return DataError(f"{where}: {fault}; {advice}")

    try:
        builder = tfds.builder(dataset.name, data_dir=data_dir)
        if not builder.is_prepared():
            raise unprepared(Path(builder.data_dir).parents[1], f"no {dataset.title} prepared here")
        return read("train", train_size), read("test", test_size)
    except DataError:
        raise
    except Exception as error:  # tensorflow-datasets and array_record raise many kinds
        where = data_dir or Path(tfds.core.constants.DATA_DIR)
        fault = f"{dataset.title} cannot be read as {FORMAT}; remove it ({error})"
        raise unprepared(where, fault) from error


def _write(tfds: Any, info: Any, split: str, examples: Sequence[dict[str, Any]]) -> Any:
    """Writes the one file of a split and returns its `SplitInfo`."""
    template = tfds.core.ShardedFileTemplate(
        dataset_name=info.name, data_dir=info.data_dir, split=split, filetype_suffix=FORMAT
    )
    records = [info.features.serialize_example(example) for example in examples]
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


def _tensorflow_datasets() -> Any:
    missing = [pip for name, pip in _PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(f"packages are missing; run\n    pip install {' '.join(missing)}")
    import tensorflow_datasets

    return tensorflow_datasets
