"""Options of `experiments.compare`: its presets, further axes, and what they resolve to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from deqbilevel import settings
from deqbilevel.checks import known
from deqbilevel.commands import common, options
from deqbilevel.commands.options import once
from deqbilevel.studies import grids

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

Task = Literal["denoising", "inpainting", "deblurring"]
ModelName = Literal["bilevel", "deq"]
Activation = Literal["identity", "relu", "softshrink"]

PRESET = options.default("the preset's")
PRESET_OR_ALL = options.default("the preset's, of paper all")
SAMPLED = options.only("with an --axis NAME=LOW..HIGH", lambda c: any(".." in x for x in c.axis))
BY_HAND = options.only("with --coordinator", lambda c: c.coordinator is not None)
OTHERS = options.only(
    "with --setting accurate or fast",
    lambda c: (c.setting or GRIDS[c.preset]["setting"]) != "paper",
)
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
    direct: Annotated[bool | None, options.default("the setting's, of paper none"), OTHERS] = None
    """Solve bilevel runs with the identity activation by a factorisation where that costs less."""
    precision: options.Precision = None
    """Of products on a GPU: float32 in full, or in TF32. A CPU has one."""
    data: Annotated[str, options.data] = "sample"
    """sample, idx:DIR, tfds, tfds:DIR, images:DIR or arrays:FILE."""
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
        int | None, options.whole(1, 10_000), options.default("1 on a CPU, else 45 or what fits")
    ] = None
    """Runs that train together on each device."""
    width: Annotated[
        int | None, options.whole(1, 10_000), options.default("1 on a CPU, else all")
    ] = None
    """Of those, how many under one vmap; more are slower on a CPU."""
    saving: Annotated[float, options.number(0, 1440)] = 3.0
    """Minutes between two savings of what runs go on from: what a process that is killed may cost.
    A signal saves first."""
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
    figures: bool = True
    """Also draw the figures."""
    fresh: bool = False
    """Start anew instead of going on."""
    dry_run: bool = False
    """Say what is to be done, how long it may take and in how much memory, and do nothing."""

    def resolved(self) -> dict[str, Any]:
        """Every option that decides the numbers, with the preset's value where it is unset."""
        apart = (
            *("out", "fresh", "dry_run", "axis", "keep_parameters", "hours", "lanes_at_once"),
            *(
                "figures",
                "saving",
                "width",
                "cpu_devices",
                "distributed",
                "coordinator",
                "processes",
                "process",
            ),
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
        if options["direct"] is None:
            options["direct"] = settings.SETTINGS[options["setting"]].direct
        if not options["direct"]:
            del options["direct"]  # which older studies do not have
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
        known("--axis", name, dict.fromkeys(among))
        if name in found:
            raise ValueError(f"--axis {text}: {name} was given before; join its values")
        try:
            if ".." in values:
                found[name] = grids.Range(*common.span(values))
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
