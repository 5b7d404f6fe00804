"""The models of the faces: what is asked for, kernels to start with, and how they are solved."""

import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp

from deqbilevel import learning, models
from deqbilevel.commands import common, running, sizes
from deqbilevel.data import Images
from deqbilevel.disk import arrays
from deqbilevel.models import Model
from deqbilevel.recipes import Recipe
from deqbilevel.regularizers import normalised
from deqbilevel.settings import Budget, Setting
from deqbilevel.types import Params

START = {
    "random": normalised.uniform,
    "first_differences": lambda key, count, *size: normalised.first_differences(*size),
    "second_differences": lambda key, count, *size: normalised.second_differences(*size),
}
"""Kernels to start with: (key, count, rows, columns) -> kernels."""

LAM, TAU = 18.1560, 1 / 800
"""[REB]'s published settings for faces; 1/800 is below 1/L, L = lam + c^2 sup phi'' = 763.5."""

STENCIL = 3
"""Kernels up to this size take Newton's method: their Jacobian has few diagonals, 25, and its
products are cheap."""


class Posed(NamedTuple):
    """What is learned on, and by model what is learned."""

    images: Images
    given: dict[str, Params | None]
    """The kernels that another run learned, if it starts from them."""
    models: dict[str, Model]


def posed(config: Any) -> Posed:
    """Raises: ValueError for a request that cannot be met."""
    _check(config)
    images = running.images_of(config, whole=True)
    sizes.fits(
        16 * config.kernels[0] * images.train.size,
        f"--kernels {config.kernels[0]} {config.kernels[1]} on {len(images.train)} "
        f"pictures of {images.shape[0]}x{images.shape[1]}",
        "take fewer kernels, or fewer or smaller pictures (--train-size, --shape)",
    )
    return Posed(
        images,
        {name: stored_kernels(config, name) for name in config.models},
        {name: recipe_of(config, name).model(images.shape) for name in config.models},
    )


def options_of(config: Any) -> dict[str, Any]:
    """The options that decide the numbers, ready for JSON."""
    given = config.kernels_from and str(config.kernels_from)
    return common.options_of(config) | {"kernels_from": given}


def _check(config: Any) -> None:
    count, size = config.kernels
    if size % 2 == 0:
        raise ValueError(f"--kernels {count} {size}: expected 1 or more, of an odd size")
    differences = set(config.starts) - {"random"}
    if count != 2 and differences:
        raise ValueError(f"--starts {' '.join(config.starts)}: differences are --kernels 2 {size}")
    if size < 3 and (differences or config.kernels_from is None):
        raise ValueError(
            f"--kernels {count} {size}: numbers and no kernels; take a size of 3 or more"
        )
    if config.seed + config.seeds > 2**32:
        raise ValueError(f"--seed {config.seed} --seeds {config.seeds}: beyond 32 bits")
    if config.epochs % config.evaluate_every:
        raise ValueError(
            f"--epochs {config.epochs}: expected a multiple of --evaluate-every "
            f"{config.evaluate_every}"
        )


def stored_kernels(config: Any, name: str) -> Params | None:
    """The kernels that a run of before learned; for a DEQ, C = A where it has only bilevel ones.

    Raises: ValueError where there are none.
    """
    if config.kernels_from is None:
        return None
    path = config.kernels_from / f"kernels-{name}.npz"
    tied = config.kernels_from / "kernels-bilevel.npz"
    if name == "deq" and not path.exists() and tied.exists():
        path = tied
    if not path.exists():
        raise ValueError(f"{path}: not there; --kernels-from wants the --out of a finished run")
    shape = arrays.Array(("kernels", "rows", "columns"))
    schema = {"A": shape} if path == tied else {"A": shape, "C": shape}
    found = {letter: jnp.asarray(x) for letter, x in arrays.read(path, schema).items()}
    count, size = config.kernels
    if found["A"].shape != (count, size, size):
        raise ValueError(
            f"{path}: {found['A'].shape[0]} kernels {found['A'].shape[1]}x{found['A'].shape[2]}; "
            f"--kernels {count} {size} asks for others"
        )
    return {"C": found["A"]} | found if name == "deq" else found


def recipe_of(config: Any, name: str) -> Recipe:
    """The model by its words; the lower level starts at what was measured."""
    own = {"tied": models.MODELS[name], "kernels": config.kernels}
    blur = {"size": config.blur, "boundary": config.padding} if config.task == "deblurring" else {}
    return Recipe(models.TASKS[config.task], blur, "normalised", own, start="measurement")


def setting(config: Any, name: str) -> Setting:
    """How the lower level and its adjoint are solved."""
    picard = config.setting == "published"
    count = 4000 if config.task == "deblurring" else 1000
    budget = Budget(count, count) if picard else Budget(300, 200)
    fast = "newton" if config.kernels[1] <= STENCIL else "preconditioned_anderson"
    return Setting(
        forward_tolerance=None if picard else config.tolerance,
        adjoint_tolerance=None if picard else config.adjoint_tolerance,
        budget=budget,
        limit=budget,
        evaluation_tolerance=None if picard else config.tolerance,
        evaluation_budget=budget.forward,
        ridge=0.0,
        relative_ridge=True,
        preconditioned=False,
        learning_rate=_rates(config, name)[0],
        precision=config.precision,
        guard=None if picard else config.guard,
        hypergradient="picard" if picard else "preconditioned",
        solver="picard" if picard else fast,
    )


def _rates(config: Any, name: str) -> tuple[float, ...]:
    if config.learning_rates is not None:
        return config.learning_rates
    few = config.kernels[0] < 10
    if config.task == "deblurring":
        return (7e-4 if few else 5e-3,)
    return ((4e-3 if name == "bilevel" else 3.2e-3) if few else 1e-2,)


def lanes_of(config: Any, name: str) -> list[dict[str, Any]]:
    """The start, learning rate and seed of each lane."""
    starts = ["given"] if config.kernels_from else config.starts
    seeds = range(config.seed, config.seed + config.seeds)
    lanes = itertools.product(starts, _rates(config, name), seeds)
    return [dict(zip(("start", "learning_rate", "seed"), lane, strict=True)) for lane in lanes]


def initial(config: Any, model: Model, given: Params | None, lane: dict[str, Any]) -> Params:
    """The parameters that a lane starts with."""
    if given is None:
        count, size = config.kernels
        A = START[lane["start"]](learning.keys(lane["seed"])[0], count, size, size)
        given = {"A": A} if model.tied else {"A": A, "C": A}
    quarter = config.setting == "published" and config.task == "deblurring"
    scalars = models.hyperparameters(
        tau=TAU / 4 if quarter else TAU,
        gamma=1.0,
        lam=LAM,
        noise=config.level,
        activation=None,
        learning_rate=lane["learning_rate"],
    )
    return normalised.bank_of(model.shape).start(**given) | scalars
