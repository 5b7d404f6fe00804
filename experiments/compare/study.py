"""The study that the options of `experiments.compare` ask for, checked and ready to run."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import lazy_loader
import numpy as np
from jax.experimental import multihost_utils

from deqbilevel import data, lanes, learning, models, results, settings
from deqbilevel.commands import folders, sizes
from deqbilevel.data import Images
from deqbilevel.disk.files import marked
from deqbilevel.studies import grids, plans
from deqbilevel.studies.storage import Lane, Storage
from deqbilevel.studies.study import Study
from experiments import report
from experiments.compare import captions, known, processes
from experiments.compare.options import Compare

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_loader.load("xarray")

FILES = (
    "results.zarr/<zarr>",
    "results.zarr.new/<zarr>",
    "metrics.jsonl",
    "states/<lanes>",
    "parameters/<lanes>",
    "summary.md",
)
"""What a study writes beside its figures, see `folders`."""

LARGEST_GRID = 100_000
"""Runs of a study, of which the whole one of [REB] has 1350."""


class Work(NamedTuple):
    """A study that is ready to run."""

    study: Study
    grid: list[Lane]
    built: dict[tuple[str, str], models.Model]
    """task, model -> the model"""
    images: Images
    store: Storage

    def groups(self) -> Iterator[tuple[str, models.Model, list[Lane]]]:
        """The name, model and lanes of each group."""
        groups = grids.groups(self.grid, direct=self.study.setting.direct)
        for group, its_lanes in groups.items():
            yield "/".join(map(str, group)), self.built[group[:2]], its_lanes


def prepare(config: Compare, stack: contextlib.ExitStack) -> Work:
    """Check every option, load the images and, but for a dry run, make the folder ours."""
    processes.join(config)
    options = config.resolved()
    _check_width(config)
    study = _study(config, options)
    axes, drawn = crossed(options)
    _check_grid(config, axes, options)
    grid = grids.grid(axes, drawn)
    tolerances = {"forward_tolerance", "adjoint_tolerance"} & set(grid[0])
    tightest = {name: min(lane[name] for lane in grid) for name in tolerances}
    settings.check(study.setting.of(tightest))
    if options["captions"]:
        axes, grid = captions.joined(axes, drawn, grid)
    study.hyperparameters(grid[0])  # the grid has checked all but the study's learning rate
    images = data.load(
        config.data,
        train_size=options["train_size"],
        test_size=options["test_size"],
        patch=config.patch,
        seed=config.seed,
    )
    measured = config.lanes_at_once is None and jax.default_backend() != "cpu"
    sizes.dense(config, axes["model"], images, 0 if measured else study.lanes.each)
    sizes.batch(config, len(images.train))
    study = study._replace(batch_size=min(study.batch_size, len(images.train)))
    built = {
        (task, model): models.build(task, model, images.shape)
        for task in axes["task"]
        for model in axes["model"]
    }
    if measured:
        deqs = [lane for lane in grid if lane["model"] == "deq"] or grid
        # One of each program, of which direct solves are another.
        direct = study.setting.direct
        largest = {direct and grids.linear(lane): lane for lane in deqs}
        study = _fill(study, built, list(largest.values()), images, config)
    out = Path("runs") / f"compare-{config.preset}" if config.out is None else config.out
    size = (min(study.pictures, len(images.test)), images.test.shape[1])
    pictures: dict[str, tuple[int, int]] = dict.fromkeys(results.PICTURES, size)
    inputs = data.fingerprint(images)
    stack.enter_context(marked(folders.mark(options, inputs)))
    store = Storage(out, axes, study.epochs, learning.RECORDS, pictures)
    if config.dry_run or jax.process_index() > 0:
        folders.agree(out, options, inputs, fresh=config.fresh)
    else:
        claimed = folders.claim(
            config.out,
            out.name,
            options,
            files=FILES,
            inputs=inputs,
            sources={"--data": data.place(config.data)},
            fresh=config.fresh,
        )
        stack.enter_context(claimed)
        caption = report.caption(options, grid, images)
        points = {name: ("sample", values) for name, values in drawn.items()}
        extra = known.pictures(axes, built, study, images, caption)
        for problem in store.ready(extra.assign_coords(points).assign_attrs(runs=len(grid))):
            print(f"warning: {problem}", file=sys.stderr)
        _limit(store, config.hours)
    if options["preset"] == "paper" and len(images.train) < 60_000:
        print(f"note: {report.FEW.format(len(images.train))}", file=sys.stderr)
    return Work(study, grid, built, images, store)


def _check_width(config: Compare) -> None:
    """Raises ValueError for a width that lanes cannot be divided by."""
    width, each = config.width, config.lanes_at_once
    if width is not None and each is not None and each % width:
        raise ValueError(f"--width {width}: expected a divisor of --lanes-at-once {each}")


def _check_grid(config: Compare, axes: Mapping[str, list[Any]], options: dict[str, Any]) -> None:
    """Raises ValueError for a grid that is too large, or has runs that are equal."""
    runs = math.prod(len(values) for values in axes.values())
    if runs > LARGEST_GRID:
        raise ValueError(
            f"{runs:,} runs, of {' x '.join(f'{len(v)} {n}s' for n, v in axes.items())}: expected "
            f"at most {LARGEST_GRID:,}; take fewer values, or fewer --samples"
        )
    others = set(config.activations) - {"softshrink"}
    if "threshold" in options["axes"] and others:
        raise ValueError(
            f"--axis threshold with --activations {' '.join(sorted(others))}: no threshold there, "
            "so that runs would be equal; take --activations softshrink"
        )
    if "learning_rate" in options["axes"] and config.learning_rate is not None:
        raise ValueError("--axis learning_rate and --learning-rate: give one of them")
    most = settings.SETTINGS[options["setting"]].limit.forward
    if max(axes.get("window", [1])) > most:
        raise ValueError(
            f"--axis window={max(axes['window'])}: expected at most {most}, the evaluations of "
            f"--setting {options['setting']}"
        )


def _limit(store: Storage, hours: float | None) -> None:
    """Put the hours that runs may take beside their results.

    Raises: ValueError where the study was made with more: its runs went on.
    """
    with xr.open_zarr(store.results, chunks=None) as stored:
        attrs = dict(stored.attrs)
        begun = bool(stored.test_loss.notnull().any())
    before = attrs.pop("hours", None)
    if begun and (before or np.inf) > (hours or np.inf):
        said = "no limit" if before is None else f"{before:g}"
        raise ValueError(f"--hours {hours:g}: runs had {said} before; take as many or more")
    if hours != before:
        attrs |= {} if hours is None else {"hours": hours}
        xr.Dataset(attrs=attrs).to_zarr(store.results, mode="a", zarr_format=2)


def crossed(options: dict[str, Any]) -> tuple[dict[str, list[Any]], dict[str, list[float]]]:
    """The axes that are crossed, and the points of those that are sampled."""
    axes = {name: list(options[f"{name}s"]) for name in results.AXES if f"{name}s" in options}
    axes |= {name: x for name, x in options["axes"].items() if isinstance(x, list)}
    ranges = {name: x for name, x in options["axes"].items() if isinstance(x, grids.Range)}
    if not ranges:
        return axes, {}
    count = options["samples"]
    drawn = grids.sample(ranges, count, options["sampling"], options["seed"])
    return axes | {"sample": list(range(count))}, drawn


def _study(config: Compare, options: dict[str, Any]) -> Study:
    on_cpu = jax.default_backend() == "cpu"
    each = config.lanes_at_once or config.width or 1
    return Study(
        setting=settings.SETTINGS[options["setting"]]._replace(
            precision=options["precision"], direct=options.get("direct", False)
        ),
        epochs=options["epochs"],
        batch_size=options["batch_size"],
        learning_rate=options["learning_rate"],
        seed=options["seed"],
        lanes=lanes.lanes(each, config.width or (1 if on_cpu else each)),
        keep=config.keep_parameters,
        hours=config.hours,
    )


def _fill(
    study: Study,
    built: Mapping[tuple[str, str], models.Model],
    lanes: Sequence[Lane],
    images: Images,
    config: Compare,
) -> Study:
    """The study with as many lanes at once, like any of these, as fit into four fifths of a
    device's free memory."""
    memory = plans.free_memory() * 4 // 5
    each = min(
        plans.lanes_that_fit(built[x["task"], x["model"]], x, study, images.train, memory)
        for x in lanes
    )
    # One program runs everywhere, so the fullest device decides.
    each = int(np.min(multihost_utils.process_allgather(np.asarray(each))))
    width = min(config.width or each, each)
    return study._replace(lanes=study.lanes._replace(each=each // width * width, width=width))
