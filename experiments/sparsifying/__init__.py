"""Filters that only sparsify beside those that are learned for a task, and what they leave open.

python -m experiments.sparsifying [--parts signals pictures] [--data images:DIR] [--test DIR]

    signals    piecewise constant signals: one filter of two taps, for which a difference of
               neighbours is exact, and four of five
    sets       analysis operator learning within each constraint set, [CF] 7.4
    pictures   denoising by handcrafted filters, by those of every single-level method, and by
               those that are learned for it: with the best weight of all, with strengths, and with
               filters learned by a hypergradient
    samples    Langevin samples of the posterior of a model that ships

Repeating the same command goes on after an interruption. `deqbilevel learn --initial` takes each
file of learned filters that it writes, and `deqbilevel reconstruct --by` too.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tqdm import tqdm

from deqbilevel import pretrained
from deqbilevel.commands import command, common, folders, options
from deqbilevel.commands.records import Log
from deqbilevel.disk import archives
from experiments.sparsifying import finding, posterior, report, tasks
from experiments.sparsifying.learning import Task

Part = Literal["signals", "sets", "pictures", "samples"]
Start = Literal[
    "differences",
    "cosines",
    "analysis_rows",
    "analysis_frame",
    "transform",
    "convolutional",
    "ksvd",
    "experts",
    "experts_contrastive",
    "conditional_field",
]

SAMPLES = options.only("with samples among --parts", lambda config: "samples" in config.parts)
TESTED = options.only("with --test", lambda config: config.test is not None)


@dataclass(frozen=True)
class Sparsifying:
    """Compare filters that sparsify with filters that are learned for denoising."""

    parts: tuple[Part, ...] = ("signals", "sets", "pictures", "samples")
    starts: tuple[Start, ...] = get_args(Start)
    """Of pictures: what made the filters that are started from."""
    noise: Annotated[float, options.number(above=0, most=1)] = 0.1
    """Standard deviation, of pictures in [0, 1]."""
    size: Annotated[tuple[int, int], options.whole(2, 31)] = (5, 5)
    """Height and width of the filters of pictures, one fewer than it has pixels."""
    data: Annotated[str, options.data] = "photographs"
    """What is learned from: photographs, images:DIR, arrays:FILE."""
    patch: Annotated[int, options.side, options.patches] = 48
    """Height and width of the patches of images:DIR."""
    shape: Annotated[tuple[int, int] | None, options.side, options.default("64x64")] = None
    """Height and width of the parts of photographs."""
    train_size: Annotated[int | None, options.size, options.default("all")] = None
    test_size: Annotated[int | None, options.size, options.default("all")] = None
    batch_size: Annotated[int, options.size] = 8
    test: Annotated[
        Path | None, options.folder("pictures to be denoised"), options.default("held-out parts")
    ] = None
    """Their grey values are the truth."""
    pictures: Annotated[int, options.size, TESTED] = 20
    """Of these, the first."""
    middle: Annotated[int, options.side, TESTED] = 160
    """Height and width of the middle that is taken of each."""
    single_steps: Annotated[int, options.count] = 300
    """Of single-level methods."""
    steps: Annotated[int, options.whole(2, options.MANY)] = 400
    """By which filters are learned for the task; strengths by half as many."""
    model: Annotated[str, options.among((*pretrained.SHIPPED, *pretrained.MODELS)), SAMPLES] = (
        "ridge"
    )
    """Whose posterior is sampled."""
    samples: Annotated[int, options.count, SAMPLES] = 4000
    """Of a chain."""
    chains: Annotated[int, options.whole(2, 1000), SAMPLES] = 4
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Sparsifying) -> dict[str, Any]:
    """Find what is missing; returns {part: {way: numbers}}."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            images = tasks.images_of(config)
            if any(n > m for n, m in zip(config.size, images.shape, strict=True)):
                raise ValueError(f"--size {config.size}: larger than images of {images.shape}")
            pictures = tasks.pictures(config, images)
            chosen = common.options_of(config) | {"test": str(config.test)}
            claimed = folders.claim_over(
                images,
                config,
                f"sparsifying-{common.digest(chosen)}",
                chosen,
                report.files_of(config),
                read={"test": pictures.test},
                sources={"--test": config.test},
            )
            out = stack.enter_context(claimed)
        log = Log.of(out / "rows.jsonl", report.ROW)
        rows = log.read()
        done = {(row["part"], row["way"]) for row in rows}
        jobs = list(jobs_of(config, pictures, out))
        with tqdm(total=len(jobs), initial=len(rows), unit="way") as bar:
            for part, way, find in jobs:
                if (part, way) in done:
                    continue
                bar.set_postfix_str(f"{part}, {way}")
                rows.append(common.plain({"part": part, "way": way, **find()}))
                log.append(rows[-1])
                bar.update(1)
        return report.show(config, pictures, rows, out) | {"out": str(out)}


def jobs_of(config: Any, pictures: Task, out: Path) -> Iterator[tuple[str, str, Any]]:
    """Part, way, and what finds its record."""
    signals = cache(partial(tasks.signals, config.seed))
    for part, size in tasks.SIGNALS.items() if "signals" in config.parts else ():
        for way in finding.WAYS[part]:
            yield (
                part,
                way,
                lambda part=part, way=way, size=size: finding.of_task(
                    config, part, way, signals(), size, out
                ),
            )
    for way in finding.SETS if "sets" in config.parts else ():
        yield "sets", way, partial(finding.of_set, config, way, pictures, out)
    for way in config.starts if "pictures" in config.parts else ():
        yield (
            "pictures",
            way,
            partial(finding.of_task, config, "pictures", way, pictures, config.size, out),
        )
    if "samples" in config.parts:
        yield "samples", config.model, partial(_sampled, config, pictures, out)


def _sampled(config: Any, pictures: Task, out: Path) -> dict[str, Any]:
    """The record of the samples of the first picture's middle."""
    found = posterior.sampled(config, *posterior.middle(pictures))
    archives.write_arrays(out / finding.file("samples", config.model), found["pictures"])
    return found["numbers"]
