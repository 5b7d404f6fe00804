"""Training without solving cannot inpaint: Figure 7 of the journal version of [REB].

python -m experiments.naive [--task inpainting] [--epochs 5] [--out DIR]

Both models are trained in two ways: through the fixed point, where u* = G(u*, f) is solved and
compared with the truth, and naively, [REB] (16), where nothing is solved: the loss is
mean (G(truth, f) - truth)^2. For the gradient step and f = K truth + noise that is

    tau^2 mean (gamma N(truth) - lam K^T noise)^2.

N sees the truth and not the noise, whose mean is zero, so nothing is better than N = 0 at every
true image: for a mask, the least value is tau^2 lam^2 noise^2 times the part of the pixels that is
kept. How N acts on other images, which is all that reconstructing is about, has no part in the
loss, and N = 0 everywhere will do. In masked rows, where K = 0, a step is u - tau gamma N(u), so
that such an N leaves there what it was started with, and an N that is not small away from the truth
takes it anywhere. Only a tied N that is nearly linear (identity, or Softshrink with a small
threshold) fills something in: a convex energy whose gradient vanishes on digits is least there.

The figure shows u^k = G(u^{k-1}, f) from u^0 = 0 (Picard), which may diverge also where training
solved well, and u* as the setting solves for it while it trains (Anderson). The numbers are mean
squared errors over test images, in masked and in kept rows, of u*, of each u^k and of the fixed
point to a residual of 1e-5 (or what 1000 evaluations reach). null stands for what overflowed, and
for masked rows where there are none.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from deqbilevel import models, recipes
from deqbilevel.commands import command, common, folders, options, running, sizes
from experiments.naive import report
from experiments.naive.training import WAYS

LABELS = [f"{name}-{way}" for name in models.MODELS for way in WAYS]

FILES = (*running.files_of(*LABELS), *map(recipes.file, LABELS), "result.json")
"""What a run writes beside its figure, see `folders`."""


@dataclass(frozen=True)
class Naive:
    """Train bilevel and DEQ naively and through the fixed point, and draw what they iterate to."""

    task: Literal["denoising", "inpainting", "deblurring"] = "inpainting"
    models: tuple[Literal["bilevel", "deq"], ...] = ("bilevel", "deq")
    """bilevel: C = A; deq: C is learned too."""
    activation: Literal["identity", "relu", "softshrink"] = "softshrink"
    tau: Annotated[float, options.tau] = 0.9
    """Step size, and threshold of Softshrink."""
    gamma: Annotated[float, options.weight] = 0.1
    """Weight of the regulariser."""
    lam: Annotated[float, options.weight] = 1.0
    """Weight of the data fidelity."""
    noise: Annotated[float, options.noise] = 0.1
    """Standard deviation of the noise, on images in [-1, 1]."""
    setting: Literal["paper", "accurate", "fast"] = "paper"
    """How the lower level and its adjoint are solved, and the learning rate of both ways."""
    precision: options.Precision = None
    """Of products on a GPU: float32 in full, or in TF32. A CPU has one."""
    epochs: Annotated[int, options.whole(0)] = 5
    train_size: Annotated[int | None, options.size, options.default("all")] = None
    """Training images."""
    test_size: Annotated[int | None, options.size, options.default("all")] = None
    """Test images."""
    batch_size: Annotated[int, options.size] = 100
    iterates: Annotated[tuple[int, ...], options.whole(1, 100_000)] = (1, 5, 10, 50, 200)
    """The k of the Picard iterates u^k that are measured and drawn."""
    pictures: Annotated[int, options.whole(1, 1000)] = 3
    """Test images that are drawn."""
    data: Annotated[str, options.data] = "sample"
    """sample, idx:DIR, tfds, tfds:DIR or images:DIR."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Naive) -> dict[str, Any]:
    """Train what is not on disk yet, measure and draw; the numbers of each model and way."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            setting = running.setting_of(config)
            images = running.images_of(config)
            sizes.dense(config, config.models, images)
            sizes.batch(config, len(images.train))
            if config.pictures > len(images.test):
                raise ValueError(
                    f"--pictures {config.pictures}: more than the {len(images.test)} test images"
                )
            # The others may change without training anew.
            options = common.options_of(
                config, without=("out", "fresh", "models", "iterates", "pictures")
            ) | {"precision": setting.precision}
            name = f"naive-{config.task}-{config.setting}-{common.digest(options)}"
            claimed = folders.claim_over(images, config, name, options, FILES)
            out = stack.enter_context(claimed)
        return report.show(config, setting, images, out)
