"""Learn which frequencies to sample, together with the regulariser: [CF] (6.3), [27], [28].

python -m experiments.sampling [--part 0.25] [--by lines] [--data images:DIR] [--out DIR]

    min_{s, beta}  1/pixels (||u* - u||^2 + lambda sum(s + s (1 - s))),    0 <= s <= 1
    u* = argmin_u  1/2 ||s F u - f||^2 + sum_k e^{beta_0 + beta_k} 1' phi(c_k * u),  f = s F u + n

with the mean over images and noise n, fresh in each step; c_k are finite differences (or filters
that are learned too) and phi is the corner-rounded 1-norm. f depends on s, and so does the
gradient. The noise is that of a device: it does not shrink with s, so that a sample with s < 1 is a
worse one, and both parts of f have it. s starts at 1/2 everywhere, and unless lambda is given it is
in each step the price at which the part of the samples gains more than it costs, see `pricing`.

At the end s is thresholded, see `masks.Grid.thresholded`, and judged against fixed masks of as many
samples: at the learned weights, and at weights learned for each mask. Repeating the same command
goes on after an interruption.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from deqbilevel.commands import command, common, folders, options, running
from experiments.sampling import report, training

FILES = (*training.FILES, "rows.jsonl", "sampling.npz", "summary.md", "result.json")
"""What a run writes beside its figures, see `folders`."""


@dataclass(frozen=True)
class Sampling:
    """Learn the sampling of a Fourier operator, and compare it with fixed masks."""

    part: Annotated[float, options.number(above=0, most=0.95)] = 0.35
    """Of the frequencies: samples that are kept."""
    by: Literal["points", "lines"] = "points"
    """What has one weight."""
    paired: bool = True
    """Whether a point, or a line, and its opposite are sampled together, as of complex images; of
    real ones each says the same, and one of them is enough."""
    strength: Annotated[
        float | None, options.weight, options.default("so that the mean of s goes to --part")
    ] = None
    """lambda of (6.3)."""
    filters: Annotated[
        tuple[int, int] | None, options.whole(2, 48), options.default("finite differences")
    ] = None
    """Number of filters that are learned too, and their height and width; of finite differences the
    weights are."""
    filters_rate: Annotated[
        float, options.rate, options.only("with --filters", lambda c: c.filters is not None)
    ] = 2e-3
    """Learning rate of the filters."""
    beta_0: Annotated[float, options.number(-50, 50)] = -6.0
    """Logarithm of the regulariser's weight at the start."""
    eps: Annotated[float, options.number(1e-6, 1e3)] = 0.01
    """Where the corner of the potential is rounded."""
    noise: Annotated[float, options.noise] = 0.01
    """Standard deviation of both parts of f, of images in [0, 1]."""
    steps: Annotated[int, options.whole(0)] = 100
    """Of the upper level."""
    tuning: Annotated[int, options.whole(0)] = 15
    """Steps in which the weights are learned for each mask."""
    tuning_products: Annotated[
        int,
        options.whole(1, 100_000),
        options.only("with --tuning above 0", lambda config: config.tuning > 0),
    ] = 30
    """Of the adjoint in each of them, at most; masks that are not learned are the harder ones."""
    learning_rate: Annotated[float, options.rate] = 0.02
    """Adam's, of s and the weights."""
    lower_evaluations: Annotated[int, options.whole(1, 100_000)] = 10
    """Of the lower level in each step, from where the last left it."""
    adjoint_evaluations: Annotated[int, options.whole(1, 100_000)] = 10
    final_evaluations: Annotated[int, options.whole(1, 100_000)] = 300
    """Of a reconstruction that is judged, at most."""
    curve: Annotated[tuple[float, ...], options.number(above=0, most=1), options.may_be_empty] = (
        *(0.1, 0.15, 0.25, 0.35, 0.5),
    )
    """Parts of the curve of PSNR and SSIM."""
    data: Annotated[str, options.data] = "faces"
    """faces, photographs, images:DIR (whole pictures)."""
    shape: options.Middle = None
    """Height and width of the middle to take of each picture."""
    train_size: Annotated[int, options.size] = 12
    test_size: Annotated[int, options.size] = 8
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Sampling) -> dict[str, Any]:
    """Learn, resuming where an earlier call stopped, and judge; returns the headline numbers."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            images = running.images_of(config, value_range=(0.0, 1.0), whole=True)
            problem = training.posed(config, images)
            options = common.options_of(config)
            name = f"sampling-{config.by}-{common.digest(options)}"
            claimed = folders.claim_over(images, config, name, options, FILES)
            out = stack.enter_context(claimed)
        learned = training.train(config, problem, out)
        return report.show(config, problem, learned, images, out)
