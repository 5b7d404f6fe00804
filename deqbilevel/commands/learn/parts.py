"""The words of a learning problem, and the options that the chosen parts bring.

What an operator, a fidelity or a regulariser takes beside an image shape is an option of the
command by the name of the part, `--operator.size 9`, with the type and the default that its
function declares. So an entry of a registry is an entry of this command.
"""

import dataclasses
import inspect
import itertools
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from deqbilevel import (
    checks,
    fidelities,
    hypergradients,
    learning,
    losses,
    operators,
    recipes,
    regularizers,
    settings,
    simulation,
    solvers,
)
from deqbilevel.commands import adapting
from deqbilevel.data import Images
from deqbilevel.linearised import SOLVERS as TOGETHER
from deqbilevel.models import Model
from deqbilevel.recipes import Recipe
from deqbilevel.settings import MINIMISER, PUT_TOGETHER, Budget, Setting

PARTS: dict[str, checks.Registry[Any]] = {
    "operator": operators.OPERATORS,
    "fidelity": fidelities.FIDELITIES,
    "regularizer": regularizers.REGULARIZERS,
}
"""The parts with options of their own."""

SHAPELESS = ("fidelity",)
"""Those that are built of options alone, and not for a shape of images."""

LOWER = [*solvers.SOLVERS, *solvers.DESCENTS, *TOGETHER]
"""Solvers of the lower level."""

SEPARATOR = "__"
"""Between a part and its option in the name of a field."""

HIDDEN = ("method", "complex_images")
"""Options that change how a part is computed, not what it is, and what the commands have no data
for: their pictures are real."""


FROM_FILES = ("file", "mask")
"""Options that name a file."""


def options_of(part: str, name: str) -> list[tuple[str, Any, Any]]:
    """The options of a part as fields of a dataclass: names, types and defaults."""
    build: Any = PARTS[part][name]
    hints = typing.get_type_hints(getattr(build, "func", build))
    bound, skipped = getattr(build, "keywords", {}), part not in SHAPELESS
    return [
        (f"{part}{SEPARATOR}{option}", hints[option], parameter.default)
        for option, parameter in list(inspect.signature(build).parameters.items())[skipped:]
        if option not in bound and option not in HIDDEN
    ]


def with_options(kind: type, arguments: Sequence[str]) -> type:
    """The dataclass of the command with the options of the parts that a command line chooses."""
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(kind)}
    fields: list[Any] = []
    for part, registry in PARTS.items():
        name = _chosen(part, arguments) or defaults[part]
        if name in registry:
            fields += [
                (field, hint, dataclasses.field(default=default))
                for field, hint, default in options_of(part, name)
            ]
    # Its documentation is that of the fields before it, where tyro looks for it.
    made = dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True)
    made.__doc__ = kind.__doc__
    return made


def _chosen(part: str, arguments: Sequence[str]) -> str | None:
    """What a command line says of a part, in either form of an option with a value."""
    for flag, value in itertools.pairwise([*arguments, ""]):
        if flag == f"--{part}":
            return value
        if flag.startswith(f"--{part}="):
            return flag.partition("=")[2]
    return None


def counts(fidelity: str) -> bool:
    """Whether measurements are counts, whose noise follows from their number."""
    return fidelities.FIDELITIES[fidelity]().counts


def recipe_of(config: Any) -> Recipe:
    """The recipe that the options name. Raises: ValueError for negative values in images that are
    counted, or looked for among images that have none."""
    if (config.nonnegative or counts(config.fidelity)) and config.range != "0..1":
        what = "--nonnegative" if config.nonnegative else f"--fidelity {config.fidelity}"
        raise ValueError(
            f"{what} --range {config.range}: images have negative values there; take --range 0..1"
        )
    return Recipe(
        operator=config.operator,
        operator_options=_given(config, "operator"),
        regularizer=config.regularizer,
        regularizer_options=_given(config, "regularizer"),
        fidelity=config.fidelity,
        fidelity_options=_given(config, "fidelity"),
        step=config.step,
        start=config.start,
        learns_operator="K" in (config.learn or ()),
        nonnegative=config.nonnegative,
    )


def files_of(config: Any) -> dict[str, Path]:
    """The files that options of the operator name, by their flags."""
    return {
        f"--operator.{option}": Path(found).expanduser()
        for option in FROM_FILES
        if (found := getattr(config, f"operator{SEPARATOR}{option}", None)) is not None
    }


def read_by(config: Any, model: Model) -> dict[str, Any]:
    """What a run reads beside its data, as `folders.claim_over` takes it."""
    files = files_of(config)
    read = {"operator": model.K} if files else None
    initial = config.initial and recipes.place(config.initial)
    return {"read": read, "sources": {"--initial": initial, **files}}


def simulated(config: Any, recipe: Recipe, model: Model) -> Model:
    """The model, with measurements of a grid --finer times finer, where that is asked for.

    Raises: ValueError for operators that have no other data there.
    """
    if config.finer is None:
        return model
    if config.sampling:
        raise ValueError(
            "--finer --sampling: measurements are simulated on a finer grid, or taken by the K "
            "that is learned; leave out one of them"
        )
    if model.D.counts:
        raise ValueError(
            f"--finer {config.finer} --fidelity {config.fidelity}: values between pixels may be "
            "negative, of which there are no counts; leave --finer out"
        )
    own = simulation.finer(recipe.operator, model.shape, config.finer, recipe.operator_options)
    return model._replace(simulation=own)


def scalars(config: Any) -> dict[str, Any]:
    """The numbers that the maps and the optimiser take."""
    noise = 0.0 if counts(config.fidelity) else config.noise
    found = {"gamma": config.gamma, "lam": config.lam, "noise": noise}
    found |= {"learning_rate": config.learning_rate}
    found |= {} if config.tau is None else {"tau": config.tau}
    return {name: jnp.asarray(value, float) for name, value in found.items()}


def initial(config: Any, model: Any, scalars: Mapping[str, Any]) -> dict[str, Any]:
    """What another run learned of the regulariser, with the options that it had there.

    Raises: ValueError for one of another kind, and for options that say otherwise.
    """
    learned = recipes.load(config.initial)
    if learned.recipe.regularizer != config.regularizer:
        raise ValueError(
            f"--initial {config.initial}: learned {learned.recipe.regularizer}, and --regularizer "
            f"is {config.regularizer}; choose one"
        )
    there = learned.recipe.regularizer_options
    for field, _, default in options_of("regularizer", config.regularizer):
        name, asked = field.partition(SEPARATOR)[2], getattr(config, field, default)
        if asked != default and _listed(asked) != _listed(there.get(name, default)):
            raise ValueError(
                f"--initial {config.initial}: learned with {name} {there.get(name, default)}, and "
                f"--regularizer.{name} is {asked}; leave one of them out"
            )
    own = model.init(learning.keys(0)[0])
    found = {name: learned.params[name] for name in own}
    model.require(found | dict(scalars))
    return found


def _listed(value: Any) -> Any:
    """As it comes back from a file."""
    return list(value) if isinstance(value, tuple) else value


def _given(config: Any, part: str) -> Mapping[str, Any]:
    own = options_of(part, getattr(config, part))
    return {
        field.partition(SEPARATOR)[2]: getattr(config, field, default) for field, _, default in own
    }


def setting_of(config: Any, model: Model, params: Mapping[str, Any]) -> Setting:
    """How the lower level and its adjoint are solved; what is not said follows from the model.

    Raises: ValueError for values that cannot be used.
    """
    phi: Any = params.get("phi")
    smooth = model.tied and getattr(phi, "twice_differentiable", True)
    lower = config.lower or (model.descent if model.tied else "anderson")
    symmetric = model.tied and not model.nonnegative
    default = MINIMISER if smooth else "conjugate_gradient" if symmetric else "anderson"
    budget = Budget(config.lower_evaluations, config.adjoint_evaluations)
    return settings.check(
        Setting(
            forward_tolerance=config.lower_tolerance,
            adjoint_tolerance=config.adjoint_tolerance,
            budget=budget,
            limit=budget,
            evaluation_tolerance=config.final_tolerance,
            evaluation_budget=config.final_evaluations,
            ridge=1e-4,
            relative_ridge=True,
            preconditioned=False,
            learning_rate=config.learning_rate,
            solver=lower,
            hypergradient=config.hypergradient or default,
            warm=config.algorithm is None  # which goes on warm by itself
            and (model.tied and not config.fresh_noise if config.warm is None else config.warm),
        )
    )


HYPERGRADIENTS = [MINIMISER, *hypergradients.METHODS, PUT_TOGETHER]


def loss_of(config: Any, images: Images) -> losses.Loss:
    """Of images with the truth. Raises: ValueError for words that say none."""
    return losses.named(config.loss, images.shape, images.peak)


def upper_loss(config: Any, images: Images) -> losses.Loss:
    """What is learned by: that, or with --clean of the others another beside it.

    Raises: ValueError for words that say none, a --noisy-loss of the truth, and where no image is
    without the truth.
    """
    loss = loss_of(config, images)
    if config.clean is None:
        return loss
    if config.clean >= len(images.train):
        raise ValueError(
            f"--clean {config.clean}: of {len(images.train)} training images; expected fewer, or "
            "leave it out"
        )
    words = config.noisy_loss
    noisy = adapting.loss_of(words, images.shape, images.peak, "--noisy-loss")
    return losses.semi_supervised(loss, noisy)


def check_loss(config: Any, learner: learning.Learner, params: Any, batch: int) -> None:
    """Raises: ValueError for a loss that these images, data and noise do not have."""
    (model,), loss = learner.models, learner.loss
    if losses.of_truth(loss) is None and config.noise == 0:
        words = " ".join(config.loss if config.clean is None else config.noisy_loss)
        raise ValueError(f"--loss {words} --noise 0: the loss is of the noise; give some")

    def value(u: jax.Array) -> jax.Array:
        at = model.completed(params)
        told = learning.knowing.known(model, at, u, operators.of(model.K, at).apply(u))
        rows = model.start(learning.knowing.rows(loss, told))
        return learning.knowing.value(loss, rows, told)

    jax.eval_shape(value, jnp.zeros((batch, checks.pixels(model.shape))))
