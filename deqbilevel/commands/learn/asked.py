"""The options of `learn`, but for those of the parts that they choose."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from deqbilevel import algorithms, fidelities, operators, recipes, regularizers
from deqbilevel.commands import options
from deqbilevel.commands.learn import parts, searching

BY_MODEL = options.default("by the model")
LEVEL = options.only(
    "with a --fidelity whose measurements are no counts", lambda c: not parts.counts(c.fidelity)
)
STAYS = options.only(
    "with measurements that stay: without --fresh-noise and --sampling",
    lambda c: not (c.fresh_noise or c.sampling),
)
CONSTANT = options.only("with --optimiser adam", lambda c: c.optimiser == "adam")
SEARCHES = options.only("with --search", lambda c: c.search is not None)


@dataclass(frozen=True)
class Learn:
    """Learn a regulariser, or with --apply reconstruct pictures by what a run learned."""

    operator: Annotated[str, options.among(operators.OPERATORS)] = "identity"
    """K: identity is denoising, row_mask inpainting, a blur deblurring."""
    fidelity: Annotated[str, options.among(fidelities.FIDELITIES)] = "squares"
    """D, and the noise that it stands for."""
    regularizer: Annotated[str, options.among(regularizers.REGULARIZERS)] = "convolutional"
    """R, whose gradient is N; without an energy (dense and normalised untied, affine, denoiser) a
    deep equilibrium model."""
    step: Annotated[str, options.among(recipes.STEPS)] = "gradient_step"
    """The map, whose fixed point is the reconstruction."""
    start: Annotated[str, options.among(recipes.STARTS)] = "adjoint"
    """Where the lower level is solved from."""
    loss: tuple[str, ...] = ("mean_squared_error",)
    """Of the upper level: a name, or NAME:option=value,option=value; of several their sum, each
    times its weight: ssim mean_absolute_error:weight=0.1."""
    clean: Annotated[int | None, options.count, STAYS, options.default("all")] = None
    """The truth is known of so many training images, the first; of the others --noisy-loss."""
    noisy_loss: Annotated[
        tuple[str, ...], options.only("with --clean", lambda c: c.clean is not None)
    ] = ("monte_carlo_sure",)
    """Of images without the truth, beside --loss of the others: a loss of the noise, as
    monte_carlo_sure:weight=0.5."""
    noise: Annotated[float, options.noise, LEVEL] = 0.1
    """Standard deviation, of images in --range."""
    finer: Annotated[int | None, options.whole(2, 16), options.default("K itself")] = None
    """Simulate the measurements on a grid so many times finer than that of the images."""
    nonnegative: bool = False
    """Look for reconstructions of values 0 and more, of images in --range 0..1."""
    fresh_noise: bool = False
    """Draw the noise anew in every step, instead of once for each image."""
    tau: Annotated[float | None, options.tau, options.default("1/L")] = None
    """Step size."""
    gamma: Annotated[float, options.weight] = 1.0
    """Weight of the regulariser."""
    lam: Annotated[float, options.weight] = 1.0
    """Weight of the data fidelity."""
    learn: Annotated[tuple[str, ...] | None, options.default("what the regulariser names")] = None
    """Entries of params; K: the operator too, gamma, lam and tau: scalars."""
    sampling: bool = False
    """Take the measurements by the K that is learned, as when a mask is learned."""
    lower: Annotated[str | None, options.among(parts.LOWER), BY_MODEL] = None
    """Solver of the lower level: of an energy optimized_gradient, or preconditioned_momentum where
    it is steep in few places, with --nonnegative nesterov; else anderson."""
    lower_evaluations: Annotated[int, options.whole(1, 100_000)] = 100
    """In each step, at most."""
    lower_tolerance: Annotated[float, options.number(0, 1)] = 1e-5
    """Relative residual at which it stops before."""
    warm: Annotated[bool | None, options.default("with an energy and noise that stays")] = None
    """Go on with the lower level of an image where the last step left it."""
    hypergradient: Annotated[str | None, options.among(parts.HYPERGRADIENTS), BY_MODEL] = None
    """minimiser of a smooth energy, conjugate_gradient of another, else anderson."""
    adjoint_evaluations: Annotated[int, options.whole(1, 100_000)] = 100
    """Products of the backward pass in each step, at most."""
    adjoint_tolerance: Annotated[float, options.number(0, 1)] = 1e-3
    """Relative residual at which a hypergradient is accepted."""
    final_evaluations: Annotated[int, options.whole(1, 100_000)] = 500
    """Of a reconstruction that is judged, at most."""
    final_tolerance: Annotated[float, options.number(0, 1)] = 1e-5
    """Where it stops before."""
    optimiser: Literal["adam", "lbfgs", "gradient_descent"] = "adam"
    """The last two search along their direction, and need the whole batch."""
    search: Annotated[str | None, options.among(searching.NAMES), options.default("none")] = None
    """Look for a few scalars without gradients first; with --epochs 0 instead of learning."""
    search_over: Annotated[tuple[str, ...], SEARCHES] = ()
    """What: NAME=LOW..HIGH, or NAME=LOW..HIGH:log for even logarithms, of gamma, lam and what else
    the regulariser has, as beta_0."""
    candidates: Annotated[int, options.whole(1, 100_000), SEARCHES] = 20
    """Tried by the search, each on the first 100 training images."""
    algorithm: Annotated[str | None, options.among(algorithms.METHODS), options.default("none")] = (
        None
    )
    """An upper-level algorithm in place of hypergradient and solves of its own."""
    learning_rate: Annotated[float, options.rate, CONSTANT] = 2e-3
    schedule: Annotated[Literal["constant", "cosine"], CONSTANT] = "constant"
    """Of the learning rate."""
    data: Annotated[str, options.data] = "sample"
    """sample, faces, photographs, phantoms:NAME, idx:DIR, tfds, images:DIR, arrays:FILE."""
    patch: Annotated[int, options.side, options.patches] = 28
    """Height and width of the patches of images:DIR."""
    whole: Annotated[bool, options.patches] = False
    """Take the pictures of images:DIR whole, all of one shape, and no patches."""
    shape: Annotated[tuple[int, int] | None, options.side, options.default("all of each")] = None
    """Height and width of phantoms, or of the middle of whole pictures, photographs or faces."""
    range: Literal["-1..1", "0..1"] = "-1..1"
    """Of the values of the images."""
    train_size: Annotated[int | None, options.size, options.default("all")] = None
    test_size: Annotated[int | None, options.size, options.default("all")] = None
    batch_size: Annotated[int | None, options.size, options.default("100, or all")] = None
    epochs: Annotated[int, options.whole(0)] = 10
    initial: Annotated[Path | None, options.default("none")] = None
    """Start with what another run learned, or with what ships by its name; with --epochs 0 it is
    judged as it is."""
    apply: Annotated[
        Path | None, options.folder("a run that has ended"), options.default("none")
    ] = None
    """Reconstruct the pictures of --data images:DIR by what this run learned."""
    measured: Annotated[bool, options.only("with --apply", lambda c: c.apply is not None)] = False
    """The pictures are measurements, and not true ones that are measured first."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""
