"""The study of [REB]: deep equilibrium models against bilevel learning on three tasks.

`python -m experiments.compare` is the quick preset: a small grid on the digits that ship with the
package, in a few minutes on two cores. `--preset paper` is the whole grid of 1350 runs. Every
finished run is on disk; the same command goes on where it stopped.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
import xarray as xr
from tqdm import tqdm

from deqbilevel import data, models, plots, results, settings, studies
from deqbilevel.data import Images
from experiments import common

GRIDS: dict[str, dict[str, Any]] = {
    "quick": {
        "noises": (0.1, 0.5),
        "taus": (0.1, 0.9),
        "gammas": (0.1, 1.0),
        "epochs": 2,
        "train_size": 1000,
        "test_size": 100,
        "setting": "fast",
    },
    "paper": {
        "noises": (0.0, 0.05, 0.1, 0.5, 1.0),
        "taus": (0.01, 0.1, 0.9, 1.1, 2.1),
        "gammas": (0.1, 0.5, 1.0),
        "epochs": 100,
        "train_size": None,
        "test_size": None,
        "setting": "paper",
    },
}
"""What each preset stands for; every entry can be overridden."""

Task = Literal["denoising", "inpainting", "deblurring"]
ModelName = Literal["bilevel", "deq"]
Activation = Literal["identity", "relu", "softshrink"]


@dataclass(frozen=True)
class Compare:
    """A grid of training runs, its table and the figures of [REB]. Unset options: the preset's."""

    preset: Literal["quick", "paper"] = "quick"
    tasks: tuple[Task, ...] = ("denoising", "inpainting", "deblurring")
    models: tuple[ModelName, ...] = ("bilevel", "deq")
    noises: tuple[float, ...] | None = None
    taus: tuple[float, ...] | None = None
    gammas: tuple[float, ...] | None = None
    activations: tuple[Activation, ...] = ("identity", "relu", "softshrink")
    epochs: int | None = None
    train_size: int | None = None
    test_size: int | None = None
    batch_size: int = 100
    learning_rate: float | None = None
    """Adam's; the setting's by default."""
    setting: Literal["paper", "accurate", "fast"] | None = None
    data: str = "sample"
    """sample, idx:DIR, tfds, tfds:DIR or images:DIR."""
    patch: int = 28
    """Height and width of the patches of images:DIR."""
    seed: int = 0
    lanes_at_once: int | None = None
    """Runs that train together under vmap; by default 1 on a CPU, where more are no faster, else
    25."""
    out: Path | None = None
    """Folder of the results; by default runs/compare-PRESET."""
    fresh: bool = False
    """Start anew instead of going on."""

    def resolved(self) -> dict[str, Any]:
        """Every option that decides the numbers, with the preset's value where it is unset."""
        options = common.options_of(self, without=("out", "fresh", "lanes_at_once"))
        for name, value in GRIDS[self.preset].items():
            if options[name] is None:
                options[name] = value
        if options["learning_rate"] is None:
            options["learning_rate"] = settings.SETTINGS[options["setting"]].learning_rate
        return options


def main(config: Compare) -> dict[str, Any]:
    """Run what is missing of the study, then its table, results and figures."""
    begin = time.perf_counter()
    with common.clear_errors():
        options = config.resolved()
        common.at_least(0, epochs=options["epochs"], seed=config.seed)
        common.at_least(1, batch_size=config.batch_size, lanes_at_once=config.lanes_at_once)
        plan = _plan(config, options)
        axes = {name: options[f"{name}s"] for name in results.AXES}
        lanes = studies.grid(axes)
        for lane in lanes:
            studies.hyperparameters(lane, plan.learning_rate)
        images = data.load(
            config.data,
            train_size=options["train_size"],
            test_size=options["test_size"],
            patch=config.patch,
            seed=config.seed,
        )
        built = {
            (task, model): models.build(task, model, images.shape)
            for task in axes["task"]
            for model in axes["model"]
        }
        out = Path("runs") / f"compare-{config.preset}" if config.out is None else config.out
        common.claim(out, options, fresh=config.fresh)
        (out / "runs").mkdir(exist_ok=True)
    _execute(built, lanes, plan, images, out)
    runs = [results.read(_path(out, lane), lane) for lane in lanes]
    caption = _caption(options, lanes, images)
    dataset = _dataset(axes, runs, built, plan, images, caption)
    results.save(dataset, out / "results.nc")
    rows = results.summary(dataset)
    table = results.table(rows)
    print(table, flush=True)
    figures = plots.figures(dataset)
    for name, figure in figures.items():
        plots.save(figure, out / f"{name}.png")
    common.write(out / "summary.md", _summary(caption, table, list(figures)))
    return {
        "runs": len(runs),
        "under_threshold": sum(row["under"] for row in rows),
        "diverged": sum(row["diverged"] for row in rows),
        "best_test_loss": {f"{r['task']}/{r['model']}": r.get("best") for r in rows},
        "seconds": time.perf_counter() - begin,
        "out": str(out),
    }


def _plan(config: Compare, options: dict[str, Any]) -> studies.Plan:
    automatic = 1 if jax.default_backend() == "cpu" else 25
    return studies.Plan(
        setting=settings.SETTINGS[options["setting"]],
        epochs=options["epochs"],
        batch_size=options["batch_size"],
        lanes_at_once=config.lanes_at_once or automatic,
        learning_rate=options["learning_rate"],
        seed=options["seed"],
    )


def _path(out: Path, lane: studies.Lane) -> Path:
    """Where a lane's run is stored: a name that a person can read and that is its own."""
    name = "-".join(f"{lane[axis]}" for axis in results.AXES)
    mark = hashlib.sha256(json.dumps(lane).encode()).hexdigest()[:6]
    return out / "runs" / f"{name}-{mark}.npz"


def _execute(
    built: dict[tuple[str, str], models.Model],
    lanes: list[studies.Lane],
    plan: studies.Plan,
    images: Images,
    out: Path,
) -> None:
    """Train the lanes that are not on disk yet, group by group, and store each when finished."""
    missing = [lane for lane in lanes if not _path(out, lane).exists()]
    train, test = jnp.asarray(images.train), jnp.asarray(images.test)
    diverged = 0
    total = len(lanes) * (plan.epochs + 1)
    with tqdm(total=total, unit="epoch", initial=total - len(missing) * (plan.epochs + 1)) as bar:

        def on_epoch(count: int, record: Mapping[str, Any]) -> None:
            bar.update(count)

        for group, its_lanes in studies.groups(missing).items():
            bar.set_description("/".join(group))
            for run in studies.run_group(
                built[group], its_lanes, plan, train, test, on_epoch=on_epoch
            ):
                results.store(_path(out, run.lane), run)
                diverged += int(run.records["diverged"][-1])
                bar.set_postfix_str(
                    f"test loss {run.records['test_loss'][-1]:.3g}, {diverged} diverged"
                )


def _dataset(
    axes: Mapping[str, Any],
    runs: list[results.Run],
    built: dict[tuple[str, str], models.Model],
    plan: studies.Plan,
    images: Images,
    caption: str,
) -> xr.Dataset:
    """Everything recorded, labelled, with the true images and measurements of the pictures."""
    height, width = images.shape
    dataset = results.labelled(axes, runs, caption=caption, height=height, width=width)
    test = jnp.asarray(images.test)
    dims = ("task", "noise", "picture", "pixel")
    measured = [
        [
            studies.measurements(built[task, axes["model"][0]], plan, noise, test)
            for noise in axes["noise"]
        ]
        for task in axes["task"]
    ]
    return dataset.assign(
        truth=(dims[2:], images.test[: plan.pictures]), measurement=(dims, np.asarray(measured))
    )


def _caption(options: dict[str, Any], lanes: list[studies.Lane], images: Images) -> str:
    def listed(values: Any) -> str:
        return "{" + ", ".join(f"{v}" for v in values) + "}"

    scalars = ", ".join(f"{name} {listed(options[name + 's'])}" for name in results.AXES[2:5])
    return (
        f"{len(lanes)} runs: {scalars}, {listed(options['activations'])}; setting "
        f"{options['setting']}, epochs: {options['epochs']}, on {len(images.train)} images, tested "
        f"on {len(images.test)}; {images.source}"
    )


def _summary(caption: str, table: str, figures: list[str]) -> str:
    pictures = "\n\n".join(f"![{name}]({name}.png)" for name in figures)
    return (
        "# Deep equilibrium models versus bilevel learning\n\n"
        f"{caption}.\n\nTest loss is the mean squared error on images in [-1, 1] after the last "
        "epoch. Median, quartiles and best are over the runs that did not diverge and ended under "
        f"the threshold.\n\n{table}\n\n{pictures}\n"
    )


if __name__ == "__main__":
    common.last_line(main(tyro.cli(Compare)))
