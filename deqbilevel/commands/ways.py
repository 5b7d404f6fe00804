"""Several ways to learn the regulariser of one problem, each a run of `learn` in a folder of its
own below that of the command, with one table and one picture of all."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import data, learning, plots, recipes
from deqbilevel.commands import common, folders, learn
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.learn import parts, report

PICTURE = "reconstructions.png"

SCORES = {"psnr_db": "PSNR in dB", "ssim": "SSIM"}
"""What the table says of each, from the numbers of `learn`."""

SHOWN = 4
"""Test images in the picture."""


class Way(NamedTuple):
    """A way by its name, and what it says beside the options that all have."""

    name: str
    options: Mapping[str, Any]


def configs(ways: Sequence[Way], shared: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The options of `learn` for each way, in the folder of its name.

    `regularizer__eps` is --regularizer.eps.
    Raises: ValueError for what the parts or the options refuse.
    """
    return {way.name: _config({**shared, **way.options}, out / way.name) for way in ways}


def _config(options: Mapping[str, Any], out: Path) -> Any:
    flags = [
        text
        for part in parts.PARTS
        if part in options
        for text in (f"--{part}", str(options[part]))
    ]
    config = learn.kind(flags)(**options, out=out)
    learn.check(config)
    return config


def claimed(
    config: Any,
    command: str,
    ways: Sequence[Way],
    shared: Mapping[str, Any],
    files: Sequence[str],
    read: Mapping[str, Path | None] | None = None,
) -> tuple[dict[str, Any], AbstractContextManager[Path]]:
    """`configs` in the folder of a command, and its claim, see `folders`; files: what the command
    writes there beside the picture; read: what it reads beside --data.

    Raises: ValueError, before the folder is there.
    """
    asked = json.loads(json.dumps(common.options_of(config), default=str))
    name = f"{command}-{common.digest(asked)}"
    out = config.out or Path("runs") / name
    found = configs(ways, shared, out)
    sources = {"--data": data.place(config.data), **(read or {})}
    files = (PICTURE, *files)
    return found, folders.claim(out, name, asked, files=files, sources=sources, fresh=config.fresh)


def compared(
    configs: Mapping[str, Any], out: Path, adjoint: str, caption: str
) -> dict[str, dict[str, float | None]]:
    """Learn what is missing and draw what comes of it: the `scores`."""
    rows = scores({name: learn.main(config) for name, config in configs.items()}, adjoint)
    images = learn.images_of(next(iter(configs.values())))
    picture(out / PICTURE, configs, images, adjoint, f"{caption}; {images.source}")
    return rows


def scores(
    found: Mapping[str, Mapping[str, Any]], adjoint: str
) -> dict[str, dict[str, float | None]]:
    """PSNR and SSIM of K^T f, called `adjoint`, and of each way, in the mean over test images."""
    first = next(iter(found.values()))
    nothing = "adjoint" if "psnr_db_adjoint" in first else "measured"  # K^T f = f
    rows = {adjoint: {name: first[f"{name}_{nothing}"] for name in SCORES}}
    return rows | {
        way: {name: numbers[f"{name}_learned"] for name in SCORES} for way, numbers in found.items()
    }


def table(rows: Mapping[str, Mapping[str, float | None]]) -> str:
    """Of `scores`, in Markdown."""
    lines = [common.line(["", *SCORES.values()]), common.line(["---"] * (1 + len(SCORES)))]
    for name, row in rows.items():
        cells = ["-" if x is None else f"{x:.3f}" for x in (row[score] for score in SCORES)]
        lines.append(common.line([name, *cells]))
    return "\n".join(lines)


def picture(
    path: Path, configs: Mapping[str, Any], images: data.Images, adjoint: str, caption: str
) -> None:
    """Draw the first test images, K^T f, and what each way makes of the same measurements."""
    rows = {"true u": np.asarray(images.test[:SHOWN])}
    for name, config in configs.items():
        seen, u = reconstructed(config, images, SHOWN)
        rows |= {adjoint: np.asarray(seen), name: np.asarray(u)}
    draw(path, plots.reconstructions, rows, images.shape, caption, grey=images.range)


def reconstructed(config: Any, images: data.Images, count: int) -> tuple[Array, Array]:
    """K^T f of the first test images as `learn` measured them, and what a run makes of them."""
    test, found = jnp.asarray(images.test[: report.JUDGED]), recipes.load(config.out)
    model = found.model(images.shape)
    setting = parts.setting_of(config, model, found.params)
    f = model.measure(found.params, test, learning.keys(config.seed)[2])[:count]
    solve = jax.jit(lambda params, f: model.reconstruct(setting.evaluation(), params, f))
    u, _ = report.reconstructed(solve, found.params, f)
    return model.K.adjoint(f), u
