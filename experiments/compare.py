"""The study of [REB]: deep equilibrium models against bilevel learning on three tasks.

`python -m experiments.compare` is the quick preset: a small grid on the digits that ship with the
package, in a few minutes on two cores. `--preset paper` is the whole grid of 1350 runs. It uses
every device that there is. Every finished epoch is on disk; the same command goes on where it
stopped, and `python -m experiments.watch` shows how far it is.
"""

import contextlib
import math
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
import xarray as xr
from jax.experimental import multihost_utils
from tqdm import tqdm

from deqbilevel import (
    baselines,
    data,
    grids,
    lanes,
    loop,
    models,
    plans,
    results,
    settings,
    storage,
    studies,
)
from deqbilevel.data import Images
from deqbilevel.files import marked
from deqbilevel.storage import Lane, Storage
from experiments import captions, command, common, folders, options, report, sizes
from experiments.options import once

GRIDS: dict[str, dict[str, Any]] = {
    "quick": {
        "noises": (0.1, 0.5),
        "taus": (0.5,),
        "gammas": (0.5, 1.0),
        "captions": True,
        "batch_size": 25,
        "learning_rate": 1e-3,
        "epochs": 3,
        "train_size": 1000,
        "test_size": 100,
        "setting": "fast",
    },
    "paper": {
        "noises": (0.0, 0.05, 0.1, 0.5, 1.0),
        "taus": (0.01, 0.1, 0.9, 1.1, 2.1),
        "gammas": (0.1, 0.5, 1.0),
        "captions": False,
        "batch_size": 100,
        "epochs": 100,
        "train_size": None,
        "test_size": None,
        "setting": "paper",
    },
}
"""What each preset stands for; every entry can be overridden."""

PATIENCE = 45.0
"""Seconds that a process waits for process 0."""

FILES = (
    "results.zarr/<zarr>",
    "results.zarr.new/<zarr>",
    "metrics.jsonl",
    "states/<lanes>",
    "parameters/<lanes>",
)
FILES += ("summary.md",)
"""What a study writes beside its figures, see `folders`."""

Task = Literal["denoising", "inpainting", "deblurring"]
ModelName = Literal["bilevel", "deq"]
Activation = Literal["identity", "relu", "softshrink"]

PRESET = options.default("the preset's")
PRESET_OR_ALL = options.default("the preset's, of paper all")
SAMPLED = options.only("with an --axis NAME=LOW..HIGH", lambda c: any(".." in x for x in c.axis))
BY_HAND = options.only("with --coordinator", lambda c: c.coordinator is not None)
OF_AXES = {
    "tau": options.tau,
    "gamma": options.weight,
    "seed": options.seed,
    "learning_rate": options.rate,
    "lam": options.weight,
    "threshold": options.number(0, 100),
    "ridge": options.number(above=0),
    "window": options.whole(1, 1000),
    "forward_tolerance": options.tolerance,
    "adjoint_tolerance": options.tolerance,
    "adam_b1": options.number(0, 0.999999),
    "adam_b2": options.number(0, 0.999999),
    "adam_eps": options.number(above=0, most=1),
}
"""What the values of an --axis may be."""

OWN_GRID = ("tasks", "models", "noises", "taus", "gammas", "activations", "axis")
"""Options without which a preset's grid is its own."""

LARGEST_GRID = 100_000
"""Runs of a study, of which the whole one of [REB] has 1350."""


@dataclass(frozen=True)
class Compare:
    """A grid of training runs, its table and the figures of [REB]. Unset options: the preset's."""

    preset: Literal["quick", "paper"] = "quick"
    """Which grid."""
    tasks: tuple[Task, ...] = ("denoising", "inpainting", "deblurring")
    models: tuple[ModelName, ...] = ("bilevel", "deq")
    noises: Annotated[tuple[float, ...] | None, options.noise, PRESET] = None
    """Standard deviations, on images in [-1, 1]."""
    taus: Annotated[tuple[float, ...] | None, options.tau, PRESET] = None
    """Step sizes, and thresholds of Softshrink."""
    gammas: Annotated[tuple[float, ...] | None, options.weight, PRESET] = None
    """Weights of the regulariser."""
    activations: tuple[Activation, ...] = ("identity", "relu", "softshrink")
    captions: Annotated[bool | None, options.default("with the quick preset's own grid")] = None
    """Also the runs that Figures 2 to 4 of [REB] are of, where the grid does not have them."""
    epochs: Annotated[int | None, options.whole(0), PRESET] = None
    train_size: Annotated[int | None, options.size, PRESET_OR_ALL] = None
    """Training images."""
    test_size: Annotated[int | None, options.size, PRESET_OR_ALL] = None
    """Test images."""
    batch_size: Annotated[int | None, options.size, PRESET] = None
    learning_rate: Annotated[
        float | None, options.rate, options.default("the preset's, or the setting's")
    ] = None
    """Adam's."""
    setting: Annotated[Literal["paper", "accurate", "fast"] | None, PRESET] = None
    """How the lower level and its adjoint are solved."""
    precision: Annotated[
        Literal["highest", "tensorfloat32"] | None, options.default("the setting's")
    ] = None
    """Of products on a GPU: float32 in full, or in TF32. A CPU has one."""
    data: Annotated[str, options.data] = "sample"
    """sample, idx:DIR, tfds, tfds:DIR or images:DIR."""
    patch: Annotated[int, options.side, options.patches] = 28
    """Height and width of the patches of images:DIR."""
    seed: Annotated[int, options.seed] = 0
    axis: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A further axis, repeatable: NAME=VALUE,VALUE... or NAME=LOW..HIGH[:log], which is sampled.
    NAME is seed, learning_rate, lam, threshold, ridge, window, forward_tolerance,
    adjoint_tolerance, adam_b1, adam_b2 or adam_eps; where it is sampled, also tau or gamma."""
    samples: Annotated[int, options.whole(1, 100_000), SAMPLED] = 16
    """Points at which the axes that are sampled are, for every combination of the others."""
    sampling: Annotated[Literal["sobol", "random"], SAMPLED] = "sobol"
    """How those points are drawn, by the seed."""
    keep_parameters: Literal["none", "best", "all"] = "best"
    """Whose final parameters to keep: the best run of each task, model and noise, or of all."""
    hours: Annotated[float | None, options.number(above=0), options.default("no limit")] = None
    """Of training for each run, which then ends with the epoch that it is in and counts as
    finished. The same command goes on where more hours are given."""
    lanes_at_once: Annotated[
        int | None, options.whole(1, 10_000), options.default("1 on a CPU, else 25 or what fits")
    ] = None
    """Runs that train together on each device."""
    width: Annotated[
        int | None, options.whole(1, 10_000), options.default("1 on a CPU, else all")
    ] = None
    """Of those, how many under one vmap; more are slower on a CPU."""
    cpu_devices: Annotated[int, options.whole(1, 256)] = 1
    """Devices to make of a CPU; lanes train side by side on them."""
    distributed: bool = False
    """Join the other processes of a SLURM or MPI job, one for each host; they share --out."""
    coordinator: Annotated[str | None, options.default("none")] = None
    """HOST:PORT of process 0, for processes that find each other by hand."""
    processes: Annotated[int | None, options.whole(1, 10_000), BY_HAND] = None
    """How many processes there are."""
    process: Annotated[int | None, options.whole(0, 9_999), BY_HAND] = None
    """The number of this one, from 0."""
    out: Annotated[Path | None, options.output, options.default("runs/compare-PRESET")] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""
    dry_run: bool = False
    """Say what is to be done, how long it may take and in how much memory, and do nothing."""

    def resolved(self) -> dict[str, Any]:
        """Every option that decides the numbers, with the preset's value where it is unset."""
        apart = (
            *("out", "fresh", "dry_run", "axis", "keep_parameters", "hours", "lanes_at_once"),
            *("width", "cpu_devices", "distributed", "coordinator", "processes", "process"),
        )
        options = common.options_of(self, without=apart)
        ours = all(getattr(self, name) == getattr(Compare, name) for name in OWN_GRID)
        if options["captions"] is None:
            options["captions"] = GRIDS[self.preset]["captions"] and ours
        for name, value in GRIDS[self.preset].items():
            if options[name] is None:
                options[name] = value
        if options["learning_rate"] is None:
            options["learning_rate"] = settings.SETTINGS[options["setting"]].learning_rate
        if options["precision"] is None:
            options["precision"] = settings.SETTINGS[options["setting"]].precision
        options["axes"] = _axes(self.axis)
        ranges = [name for name, x in options["axes"].items() if isinstance(x, grids.Range)]
        for name in {"tau", "gamma"} & set(ranges):
            if getattr(self, f"{name}s") is not None:
                raise ValueError(f"--axis {name} and --{name}s: give one of them")
            del options[f"{name}s"]
        if not ranges:
            del options["samples"], options["sampling"]
        return options


def _axes(texts: Sequence[str]) -> dict[str, list[Any] | grids.Range]:
    """The options `--axis`.

    Raises: ValueError for one that names no axis, comes twice, or holds no numbers.
    """
    found: dict[str, list[Any] | grids.Range] = {}
    for text in texts:
        name, _, values = text.partition("=")
        among = grids.SAMPLED if ".." in values else grids.OWN_AXES
        models.known("--axis", name, dict.fromkeys(among))
        if name in found:
            raise ValueError(f"--axis {text}: {name} was given before; join its values")
        try:
            if ".." in values:
                values, _, scale = values.partition(":")
                if scale not in ("", "log"):
                    raise ValueError(f"after the colon {scale!r}, not log")
                low, high = (float(value) for value in values.split(".."))
                found[name] = grids.Range(low, high, scale == "log")
            else:
                found[name] = [grids.OWN_AXES[name].kind(value) for value in values.split(",")]
        except ValueError as error:
            raise ValueError(
                f"--axis {text}: expected {name}=NUMBER,NUMBER... or "
                f"{name}=LOW..HIGH[:log]: {error}"
            ) from error
        values = found[name]
        for value in values[:2] if isinstance(values, grids.Range) else values:
            why = OF_AXES[name].refused(value)
            if why is not None:
                raise ValueError(f"--axis {text}: {value}: {why}")
        if isinstance(values, list):
            once(f"--axis {name}", values)
    return found


class Work(NamedTuple):
    """A study that is ready to run."""

    study: studies.Study
    grid: list[Lane]
    built: dict[tuple[str, str], models.Model]
    """task, model -> the model"""
    images: Images
    store: Storage

    def groups(self) -> Iterator[tuple[str, models.Model, list[Lane]]]:
        """The name, model and lanes of each group."""
        for group, its_lanes in grids.groups(self.grid).items():
            yield "/".join(map(str, group)), self.built[group[:2]], its_lanes


@command.checked
def main(config: Compare) -> dict[str, Any]:
    """Run what is missing of the study, then its table and figures."""
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            work = _prepare(config, stack)
        if config.dry_run:
            return _plan(work, config.fresh)
        numbers = _execute(work)
        out = work.store.folder
        dataset = results.read(out)
        rows = results.summary(dataset)
        if jax.process_index() == 0:
            report.present(dataset, rows, out)
    return {
        "runs": len(work.grid),
        "under_threshold": sum(row["under"] for row in rows),
        "diverged": sum(row["diverged"] for row in rows),
        **_headline(rows),
        **numbers,
        "seconds": time.perf_counter() - begin,
        "out": str(out),
    }


def _headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best test loss of each task and model, also by noise, and what doing nothing gives."""
    best: dict[str, float | None] = {}
    for row in rows:
        name = f"{row['task']}/{row['model']}"
        losses = (best.get(name), row.get("best"))
        best[name] = min((x for x in losses if x is not None), default=None)
    by_noise = {f"{r['task']}/{r['model']}/{r['noise']:g}": r.get("best") for r in rows}
    known = {f"{r['task']}/{r['noise']:g}": r["without_learning"] for r in rows}
    return {
        "best_test_loss": best,
        "best_test_loss_by_noise": by_noise,
        "test_loss_without_learning": known,
        "no_better_than_nothing": results.warnings(rows),
    }


def _prepare(config: Compare, stack: contextlib.ExitStack) -> Work:
    """Check every option, load the images and, but for a dry run, make the folder ours."""
    _join(config)
    options = config.resolved()
    _check_width(config)
    study = _study(config, options)
    axes, drawn = _grid(options)
    _check_grid(config, axes, options)
    grid = grids.grid(axes, drawn)
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
        largest = max(grid, key=lambda lane: lane["model"] == "deq")
        study = _fill(study, built[largest["task"], largest["model"]], largest, images, config)
    out = Path("runs") / f"compare-{config.preset}" if config.out is None else config.out
    size = (min(study.pictures, len(images.test)), images.test.shape[1])
    pictures: dict[str, tuple[int, int]] = dict.fromkeys(results.PICTURES, size)
    inputs = data.fingerprint(images)
    stack.enter_context(marked(folders.mark(options, inputs)))
    store = Storage(out, axes, study.epochs, loop.RECORDS, pictures)
    if config.dry_run or jax.process_index() > 0:
        folders.agree(out, options, inputs, fresh=config.fresh)
    else:
        claimed = folders.claim(
            config.out,
            out.name,
            options,
            files=FILES,
            inputs=inputs,
            sources={"--data": folders.source(config.data)},
            fresh=config.fresh,
        )
        stack.enter_context(claimed)
        caption = report.caption(options, grid, images)
        points = {name: ("sample", values) for name, values in drawn.items()}
        extra = _pictures(axes, built, study, images, caption)
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


def _grid(options: dict[str, Any]) -> tuple[dict[str, list[Any]], dict[str, list[float]]]:
    """The axes that are crossed, and the points of those that are sampled."""
    axes = {name: list(options[f"{name}s"]) for name in results.AXES if f"{name}s" in options}
    axes |= {name: x for name, x in options["axes"].items() if isinstance(x, list)}
    ranges = {name: x for name, x in options["axes"].items() if isinstance(x, grids.Range)}
    if not ranges:
        return axes, {}
    count = options["samples"]
    drawn = grids.sample(ranges, count, options["sampling"], options["seed"])
    return axes | {"sample": list(range(count))}, drawn


def _join(config: Compare) -> None:
    """Make the devices that the options ask for; only before jax is used for the first time."""
    common.make_cpu_devices(config.cpu_devices)
    by_hand = (config.coordinator, config.processes, config.process)
    if config.coordinator is not None:
        host, port = _check_coordinator(config)
        if config.process:
            _wait_for(host, port)
        jax.distributed.initialize(*by_hand)
    elif config.distributed:
        jax.distributed.initialize()


def _wait_for(host: str, port: int) -> None:
    """Until process 0 listens. Raises: ValueError where it does not in time: JAX's own wait for it
    takes five minutes, and then ends the process without a word of where it looked."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection((host, port), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"--coordinator {host}:{port}: nobody listens there ({error}); start process 0 "
                    "with the same address, on a host and a port that this one can reach"
                ) from error
        time.sleep(0.2)


def _check_coordinator(config: Compare) -> tuple[str, int]:
    """Host and port. Raises ValueError for processes that cannot find each other."""
    if config.processes is None or config.process is None:
        raise ValueError("--coordinator, --processes and --process: give all three, or none")
    host, _, port = str(config.coordinator).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator {config.coordinator}: expected HOST:PORT")
    if config.process >= config.processes:
        raise ValueError(
            f"--process {config.process}: expected below --processes {config.processes}, counted "
            "from 0"
        )
    if config.distributed:
        raise ValueError("--distributed finds the others by itself; leave --coordinator out")
    return host, int(port)


def _study(config: Compare, options: dict[str, Any]) -> studies.Study:
    on_cpu = jax.default_backend() == "cpu"
    each = config.lanes_at_once or config.width or 1
    return studies.Study(
        setting=settings.SETTINGS[options["setting"]]._replace(precision=options["precision"]),
        epochs=options["epochs"],
        batch_size=options["batch_size"],
        learning_rate=options["learning_rate"],
        seed=options["seed"],
        lanes=lanes.lanes(each, config.width or (1 if on_cpu else each)),
        keep=config.keep_parameters,
        hours=config.hours,
    )


def _fill(
    study: studies.Study, model: models.Model, lane: Lane, images: Images, config: Compare
) -> studies.Study:
    """The study with as many lanes at once as fit into four fifths of a device's free memory."""
    memory = plans.free_memory() * 4 // 5
    each = plans.lanes_that_fit(model, lane, study, images.train, memory)
    # One program runs everywhere, so the fullest device decides.
    each = int(np.min(multihost_utils.process_allgather(np.asarray(each))))
    width = min(config.width or each, each)
    return study._replace(lanes=study.lanes._replace(each=each // width * width, width=width))


def _plan(work: Work, fresh: bool) -> dict[str, Any]:
    """Print what is left to do, a line for each group; returns the sum."""
    study, store, images, found = work.study, work.store, work.images, []
    progress = storage.nothing(store, work.grid)
    if store.results.exists() and not fresh:
        progress, _ = store.look(work.grid)
    for name, model, group in work.groups():
        found.append(plans.plan(model, group, study, images.train, images.test, store, progress))
        print(f"{name}: {_said(found[-1], study)}", flush=True)
    whole = plans.total(found)
    print(f"in all: {_said(whole, study)}", flush=True)
    return whole._asdict() | {"devices": study.lanes.mesh.size, "out": str(store.folder)}


def _said(plan: plans.Plan, study: studies.Study) -> str:
    return (
        f"{plan.lanes} lanes in {plan.chunks} chunks of at most {study.lanes.count} (an epoch "
        f"each), {plan.evaluations:.3g} evaluations, {plan.memory / 1e6:.0f} MB on each device, "
        f"about {plan.seconds:.0f} s"
    )


def _execute(work: Work) -> dict[str, Any]:
    """Train what is not on disk yet, group by group, with a line of progress."""
    study, store, images, grid = work.study, work.store, work.images, work.grid
    progress = _recover(store, grid)
    if jax.process_index() == 0:
        print(
            f"{len(grid)} lanes in {len(grids.groups(grid))} groups, {study.lanes.count} at once "
            f"on {study.lanes.mesh.size} devices ({study.lanes.width} of each under one vmap); "
            "--dry-run says how long and in how much memory",
            file=sys.stderr,
        )
    done = sum(last + 1 for last in progress.done.values())
    begin, spent = time.perf_counter(), 0.0
    total = len(grid) * (study.epochs + 1)
    silent = jax.process_index() > 0
    with tqdm(total=total, unit="epoch", initial=done, disable=silent) as bar:

        def on_chunk(chunk: Sequence[Lane], record: Mapping[str, Any]) -> None:
            nonlocal spent
            spent += float(np.sum(record["needed_evaluations"]))
            finished = [r[max(r)] for r in progress.records.values() if study.over(r)]
            diverged = sum(bool(r["diverged"]) for r in finished)
            rate = spent / (time.perf_counter() - begin)
            bar.set_postfix_str(
                f"{len(finished)} of {len(grid)} runs done, {diverged} diverged, "
                f"{rate:.0f} evaluations/s"
            )
            bar.update(len(chunk))

        for name, model, group in work.groups():
            bar.set_description(name)
            train, test = images.train, images.test
            try:
                studies.run_group(
                    model, group, study, train, test, store, progress, on_chunk=on_chunk
                )
            except ValueError as error:
                sys.exit(f"error: {error}")
    if jax.process_index() == 0:
        studies.prune(study, grid, store, progress)
    records = [r for lane in progress.records.values() for r in lane.values()]
    return {
        "evaluations": sum(r["needed_evaluations"] for r in records),
        "useful_work": studies.useful_work(progress),
        "training_seconds": sum(r["seconds"] + r["evaluation_seconds"] for r in records),
    }


def _recover(store: Storage, grid: list[Lane]) -> storage.Progress:
    """What is on disk: the first process mends it, then the others look."""
    if jax.process_index() == 0:
        progress, problems = store.recover(grid)
        for problem in problems:
            print(f"warning: {problem}", file=sys.stderr)
        multihost_utils.sync_global_devices("recovered")
        return progress
    multihost_utils.sync_global_devices("recovered")
    return store.look(grid)[0]


def _pictures(
    axes: Mapping[str, Any],
    built: dict[tuple[str, str], models.Model],
    study: studies.Study,
    images: Images,
    caption: str,
) -> xr.Dataset:
    """The true images and the measurements of the pictures, what the figures say of them, and what
    doing nothing gives on all test images."""
    dims = ("task", "noise", "picture", "pixel")
    measured = [
        [
            np.asarray(
                studies.measurements(built[task, axes["model"][0]], study, noise, images.test)
            )
            for noise in axes["noise"]
        ]
        for task in axes["task"]
    ]
    known = [
        [_known(built[task, axes["model"][0]], study, noise, images) for noise in axes["noise"]]
        for task in axes["task"]
    ]
    height, width = images.shape
    return xr.Dataset(
        {
            "baseline_loss": (("task", "noise", "baseline"), np.asarray(known)),
            "truth": (dims[2:], np.asarray(images.test[: study.pictures])),
            "measurement": (dims, np.asarray(measured)),
        },
        coords={"baseline": list(baselines.NAMES.values())},
        attrs={"caption": caption, "height": height, "width": width},
    )


def _known(model: models.Model, study: studies.Study, noise: float, images: Images) -> list[float]:
    """The losses of `baselines.NAMES`; NaN where there is none."""
    key = study.keys({})[2]
    found = baselines.baselines(model.K, images.train, images.test, noise, key)
    return [found.get(name, np.nan) for name in baselines.NAMES]


if __name__ == "__main__":
    command.run(Compare, main)
