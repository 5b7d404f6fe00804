"""Convolutional bilevel learning against a convolutional DEQ on pictures of faces.

python -m experiments.faces [--task deblurring] [--kernels 2 11] [--data images:DIR]
python -m experiments.faces --task deblurring --kernels-from RUN [--epochs 0]

The experiment of the journal version of [REB]: ten pictures, one batch, fresh noise in every epoch.
Starts, learning rates and seeds are lanes of one program; the lane and the epoch with the least
training loss are shown, as a DEQ can unlearn its fixed point. `--kernels-from` starts from the
kernels that another run learned: with `--epochs 0` they are used as they are. Repeating the same
command goes on after an interruption, or shows the finished run again.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from deqbilevel import recipes
from deqbilevel.commands import command, common, folders, options
from experiments.faces import posing, report, training

Start = Literal["random", "first_differences", "second_differences"]

FAST = options.only("with --setting fast", lambda c: c.setting == "fast")
DEBLURRED = options.only("with --task deblurring", lambda c: c.task == "deblurring")
DRAWN = options.only("without --kernels-from, which is a start", lambda c: c.kernels_from is None)


@dataclass(frozen=True)
class Problem:
    """Kernels to learn for a task on whole pictures."""

    task: Literal["denoising", "deblurring"] = "denoising"
    models: tuple[Literal["bilevel", "deq"], ...] = ("bilevel", "deq")
    """bilevel: C = A; deq: C starts as a copy of A and is learned too."""
    kernels: Annotated[tuple[int, int], options.whole(1, 10_000)] = (30, 3)
    """Number, and height and width, which is odd."""
    kernels_from: Annotated[
        Path | None,
        options.folder("the --out of a finished run"),
        options.default("none"),
    ] = None
    """The folder of another run, whose learned kernels are the start; of a run of bilevel learning
    alone they are so for the DEQ as well, with C = A."""
    data: Annotated[str, options.data] = "photographs"
    """photographs, faces, images:DIR (whole pictures), celeb_a or celeb_a:DIR."""
    shape: options.Middle = None
    """Height and width of the middle to take of each picture."""
    train_size: Annotated[int, options.size] = 10


@dataclass(frozen=True)
class Faces(Problem):
    """Learn kernels A, and C of the DEQ, for one task. Unset options: [REB]'s published ones."""

    starts: Annotated[tuple[Start, ...], DRAWN] = ("random",)
    """Each a lane; differences are 2 kernels."""
    learning_rates: Annotated[
        tuple[float, ...] | None,
        options.rate,
        options.default("[REB]'s, by the task and the kernels"),
        options.only("with --epochs above 0", lambda c: c.epochs > 0),
    ] = None
    """Adam's, each a lane; falling along a line."""
    seeds: Annotated[
        int,
        options.whole(1, 1000),
        options.only(
            "with --starts random alone, and without --kernels-from: the lanes would be equal",
            lambda c: set(c.starts) == {"random"} and c.kernels_from is None,
        ),
    ] = 1
    """Random starts, each a lane."""
    blur: Annotated[int, options.whole(1, 1000), DEBLURRED] = 5
    """Length of the diagonal."""
    padding: Annotated[Literal["circular", "zero"], DEBLURRED] = "circular"
    """Of the blur."""
    noise: Annotated[
        float | None, options.noise, options.default("0.1, and 0.01 of --blur above 5")
    ] = None
    """Standard deviation, on pictures in [-1, 1]."""
    setting: Literal["fast", "published"] = "fast"
    """published: Picard iteration, 1000 evaluations (4000 and a quarter of the step for deblurring)
    forwards and backwards; fast: the same fixed points in a small part of that."""
    precision: Literal["highest", "tensorfloat32"] = "highest"
    """Of products on a GPU: float32 in full, or in TF32, by which no solve ends. A CPU has one."""
    tolerance: Annotated[float, options.number(0, 1), FAST] = 2e-6
    """Relative residual of the lower level, that of [REB]'s map with its small step; float32 ends
    at 2e-6."""
    adjoint_tolerance: Annotated[float, options.number(0, 1), FAST] = 2e-6
    """Residual of the adjoint relative to the gradient of the loss. That relative to its solution
    is some hundred times smaller."""
    guard: Annotated[float | None, options.number(1, 1e6), FAST] = 10.0
    """Where a residual is more times its tolerance than this, no step is taken, and the kernels go
    halfway back to the last from which one was; none: every step is taken."""
    epochs: Annotated[int, options.whole(0)] = 500
    evaluate_every: Annotated[int, options.count] = 10
    """Epochs between two evaluations, records and checkpoints."""
    test_size: Annotated[int, options.size] = 10
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""

    @property
    def level(self) -> float:
        """Of the noise: [REB]'s where none is given."""
        if self.noise is not None:
            return self.noise
        return 0.01 if self.task == "deblurring" and self.blur > 5 else 0.1


def files_of(config: Faces) -> list[str]:
    """What a run writes beside its figures, see `folders`."""
    kinds = ("metrics-{}.jsonl", "states/{}/<checkpoint>", "best/{}/<checkpoint>")
    kinds += ("kernels-{}.npz", recipes.file("{}"))
    own = [kind.format(name) for name in config.models for kind in kinds]
    return [*own, "summary.md", "result.json"]


@command.checked
def main(config: Faces) -> dict[str, Any]:
    """Train each model, resuming where an earlier call stopped; returns the headline numbers."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            posed = posing.posed(config)
            options = posing.options_of(config) | {"noise": config.level}
            claimed = folders.claim_over(
                posed.images,
                config,
                f"faces-{config.task}-{common.digest(options)}",
                options,
                files_of(config),
                read=posed.given,
                sources={"--kernels-from": config.kernels_from},
            )
            out = stack.enter_context(claimed)
        runs = [training.learn(config, posed, name, out) for name in config.models]
        return report.show(config, posed.images, runs, out)
