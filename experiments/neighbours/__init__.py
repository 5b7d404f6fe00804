"""The neighbours of bilevel learning on equal terms: filters of one size and number, learned so:

python -m experiments.neighbours [--data images:DIR] [--test DIR] [--out DIR]

    bilevel          filters and weights, the lower level solved, hypergradient at the minimiser
    deq              filters A and C of N(u) = sum_k w_k C_k' phi'(A_k u), through the fixed point
    tied, untied     T gradient steps, `deqbilevel.unrolled`, with filters and weights shared by
                     them or of each, learned steps and momenta; T of --iterations
    learned_adjoint  the same untied, with an adjoint of the blur for each iteration, learned too
    network          untied, with a spline for each filter: a variational network
    primal_dual      small networks in turn on images and data, of as many channels as filters
    flow             a spline for each filter, and the time at which the flow ends
    total_variation, cosines, analysis, transform, convolutional_analysis, experts
                     nothing by the task but one strength, by a search: of total variation, and of
                     filters that are cosines or were learned by single-level methods

With each the PSNR of test pictures, also after other numbers of iterations than it was learned
for; then the memory of a step of learning by T, and the time that a flow learns at several levels
of noise and of blur. Repeating the same command goes on after an interruption.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tqdm import tqdm

from deqbilevel import data
from deqbilevel.commands import command, common, folders, options, sizes
from deqbilevel.commands.records import Log
from deqbilevel.data import Images
from experiments.neighbours import judging, memory, report, times, ways

Task = Literal["denoising", "deblurring"]
Name = Literal[
    "bilevel",
    "deq",
    "tied",
    "untied",
    "learned_adjoint",
    "network",
    "primal_dual",
    "flow",
    "total_variation",
    "cosines",
    "analysis",
    "transform",
    "convolutional_analysis",
    "experts",
]


@dataclass(frozen=True)
class Neighbours:
    """Learn the same filters in every way, and compare them."""

    tasks: tuple[Task, ...] = ("denoising", "deblurring")
    ways: tuple[Name, ...] = (
        "total_variation",
        "cosines",
        "analysis",
        "transform",
        "convolutional_analysis",
        "experts",
        "bilevel",
        "deq",
        "tied",
        "untied",
        "learned_adjoint",
        "network",
        "primal_dual",
        "flow",
    )
    iterations: Annotated[tuple[int, ...], options.whole(1, 10_000)] = (5, 10, 20)
    """T of tied and untied; of what else is unrolled, but a flow, the second, or the only."""
    test_iterations: Annotated[tuple[int, ...], options.whole(1, 10_000)] = (5, 10, 20, 50, 200)
    """Of what was learned, on the test pictures."""
    filters: Annotated[tuple[int, int, int], options.whole(1, 1024)] = (24, 5, 5)
    """Number, height and width."""
    noise: Annotated[float, options.number(above=0, most=255)] = 25.0
    """Of denoising, of 255 grey levels."""
    blur_noise: Annotated[float, options.number(above=0, most=255)] = 2.55
    """Of deblurring."""
    blur: Annotated[float, options.number(0.3, 20)] = 1.2
    """Standard deviation of the Gaussian, in pixels."""
    time_noises: Annotated[
        tuple[float, ...], options.number(above=0, most=255), options.may_be_empty
    ] = (10.0, 25.0, 50.0)
    time_blurs: Annotated[tuple[float, ...], options.number(0.3, 20), options.may_be_empty] = (
        0.8,
        1.2,
        1.8,
    )
    """Levels at which a flow learns its time from the same start, and the time alone is chosen."""
    memory: Annotated[tuple[int, ...], options.whole(1, 10_000), options.may_be_empty] = (
        10,
        100,
        1000,
    )
    """T of the table of memory."""
    data: Annotated[str, options.data] = "photographs"
    """What is learned from: photographs, images:DIR, arrays:FILE."""
    patch: Annotated[int, options.side, options.patches] = 48
    """Height and width of the patches of images:DIR."""
    shape: Annotated[tuple[int, int] | None, options.side, options.default("48x48")] = None
    """Height and width of the parts of photographs."""
    test: Annotated[
        Path | None, options.folder("pictures to test on"), options.default("held-out images")
    ] = None
    middle: options.Middle = None
    pictures: Annotated[int, options.size] = 20
    """Of --test, the first so many."""
    train_size: Annotated[int | None, options.size] = 200
    test_size: Annotated[int | None, options.size] = 40
    """Held-out images, by which each epoch is judged."""
    batch_size: Annotated[int, options.size] = 10
    epochs: Annotated[int, options.whole(0)] = 20
    learning_rates: Annotated[tuple[float, ...], options.rate] = (3e-2, 1e-2)
    """Adam's, at the start of its cosine schedule; each way keeps what is best on held-out images
    of all of them."""
    evaluations: Annotated[int, options.whole(1, 100_000)] = 30
    """Of the gradient in a step of bilevel and deq, which go on where the last left an image."""
    steps: Annotated[int, options.whole(1, 10_000)] = 20
    """Of a flow."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


def load(config: Neighbours) -> Images:
    """The images to learn from, in [0, 1]."""
    whole = (48, 48) if config.data == "photographs" and config.shape is None else config.shape
    size: dict[str, Any] = {"patch": config.patch} if options.pictures(config) else {"shape": whole}
    return data.load(
        config.data,
        train_size=config.train_size,
        test_size=config.test_size,
        seed=config.seed,
        value_range=(0.0, 1.0),
        **size,
    )


def work_of(
    config: Neighbours, runs: list[ways.Run], images: Images, tested: Any, out: Path
) -> list[tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]]:
    """The table, the part and the making of every record."""
    rows = [
        ("rows", run.part, partial(judging.row, config, run, images, tested, out)) for run in runs
    ]
    table = [
        ("memory", part, partial(memory.row, config, images, **part))
        for part in memory.parts(config)
    ]
    learned = [
        ("times", part, partial(times.row, config, images, out, **part))
        for part in times.parts(config)
    ]
    alone = [
        ("alone", part, partial(times.alone, config, images, out, **part))
        for part in times.parts(config)
    ]
    return [*rows, *table, *learned, *alone]


@command.checked
def main(config: Neighbours) -> dict[str, Any]:
    """Learn what is missing, and report; returns {task: {way: dB}} and what was found beside."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            images = load(config)
            sizes.batch(config, len(images.train))
            tested = judging.tested(config, images)
            runs = [run for task in config.tasks for run in ways.runs(config, task, images)]
            asked = common.options_of(config) | {"test": str(config.test)}
            claimed = folders.claim(
                config.out,
                f"neighbours-{common.digest(asked)}",
                asked,
                files=report.files_of(config, runs),
                inputs=folders.given({"images": (images.train, images.test, tested)}),
                sources={"--data": data.place(config.data), "--test": config.test},
                fresh=config.fresh,
            )
            out = stack.enter_context(claimed)
        work = work_of(config, runs, images, tested, out)
        logs = {name: Log.of(out / f"{name}.jsonl", kind) for name, kind in report.RECORDS.items()}
        found = {name: log.read() for name, log in logs.items()}
        with tqdm(total=len(work), unit="row") as bar:
            for name, part, make in work:
                if not any(part.items() <= row.items() for row in found[name]):
                    bar.set_postfix_str(", ".join(map(str, part.values())))
                    found[name].append(common.plain(part | make()))
                    logs[name].append(found[name][-1])
                bar.update(1)
        return report.show(config, images, found, out) | {"out": str(out)}
