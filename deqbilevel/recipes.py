"""Models by the words that they are assembled from, and trained ones as files.

recipe = Recipe("diagonal_blur", {"size": 9}, "convolutional", {"filters": (24, 5, 5)})
model = recipe.model((64, 64))
learned = load("runs/learn-0123abcd")            # what any command has trained
u, info = learned.model((481, 321)).reconstruct(solver, learned.params, f)
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deqbilevel import checks, fidelities, maps, models, operators, pretrained, regularizers
from deqbilevel.disk import archives, arrays
from deqbilevel.models import Model
from deqbilevel.types import Params


def file(name: str | None = None) -> str:
    """What a command calls the file of what it learned in the folder of its run; of several models,
    by their names.

    >>> print(recipes.file(), recipes.file("deq"))
    learned.npz learned-deq.npz
    """
    return "learned.npz" if name is None else f"learned-{name}.npz"


STEPS: checks.Registry[Any] = checks.Registry(
    "step", {**maps.MAPS, "plug_and_play_step": maps.plug_and_play_step}
)
"""The maps that a recipe may name."""

STARTS: checks.Registry[Any] = checks.Registry(
    "start",
    {
        "adjoint": lambda K: K.adjoint,
        "zero": lambda K: lambda f: jnp.zeros_like(K.adjoint(f)),
        "measurement": lambda K: lambda f: f,
    },
)
"""Where the lower level is solved from: K^T f, zero, or f itself."""


class Recipe(NamedTuple):
    """The parts of a model by name, each with its options; all of it is JSON.

    Raises: ValueError, when a model is made, for a name that none of the parts has, and an option
    that a part has not.

    >>> recipe = recipes.Recipe("row_mask", {"part": 0.5}, "dense", {"activation": "relu"})
    >>> print(recipe.model((2, 1)).K.mask)
    [0. 1.]
    """

    operator: str = "identity"
    operator_options: Mapping[str, Any] = {}
    regularizer: str = "convolutional"
    regularizer_options: Mapping[str, Any] = {}
    fidelity: str = "squares"
    step: str = "gradient_step"
    start: str = "adjoint"
    learns_operator: bool = False
    """Whether `params["K"]` is learned too."""
    fidelity_options: Mapping[str, Any] = {}
    nonnegative: bool = False
    """Whether reconstructions are, see `models.assemble`."""

    def model(self, shape: tuple[int, int]) -> Model:
        """The model of images of a shape. Raises: ValueError for what the parts refuse."""
        checks.pixels(shape)
        K = built(operators.OPERATORS, self.operator, shape, self.operator_options)
        R = built(regularizers.REGULARIZERS, self.regularizer, shape, self.regularizer_options)
        D = built(fidelities.FIDELITIES, self.fidelity, None, self.fidelity_options)
        step, start = STEPS[self.step], STARTS[self.start](K)
        return models.assemble(K, R, D=D, step=step, start=start, nonnegative=self.nonnegative)

    def init(self, model: Model, key: Any) -> dict[str, Any]:
        """The params that learning starts from, with the operator where it is learned."""
        params = model.init(key)
        return params | {"K": model.K} if self.learns_operator else params


def dense(task: str, model: str, activation: str, threshold: float) -> Recipe:
    """The dense model of [REB] 3.2, as `models.build` makes it, with an activation.

    >>> print(recipes.dense("denoising", "deq", "relu", 0.1).regularizer_options)
    {'tied': False, 'activation': 'relu', 'threshold': 0.1}
    """
    options = {"tied": models.MODELS[model], "activation": activation, "threshold": threshold}
    return Recipe(models.TASKS[task], {}, "dense", options, start="zero")


def built(
    registry: checks.Registry[Any],
    name: str,
    shape: tuple[int, int] | None,
    options: Mapping[str, Any],
) -> Any:
    """A part by name, for images of a shape; of a part that is the same for all, None. Raises:
    ValueError for an option that it does not have.

    >>> K = recipes.built(operators.OPERATORS, "row_mask", (2, 1), {"part": 0.5})
    >>> print(K.mask)
    [0. 1.]
    """
    build, given = registry[name], () if shape is None else (shape,)
    for option in options:
        known = [p for p in list(inspect.signature(build).parameters)[len(given) :]]
        if option not in known:
            have = ", ".join(known) or "none"
            raise ValueError(f"{registry.what} {name}: has no option {option}; expected {have}")
    return build(*given, **{k: tuple(x) if isinstance(x, list) else x for k, x in options.items()})


class Learned(NamedTuple):
    """A model that was trained.

    Raises: ValueError for a shape at which params have another form, see `model`.
    """

    recipe: Recipe
    shape: tuple[int, int]
    """Of the images that it was trained on."""
    range: tuple[float, float]
    """Of the values of these images."""
    params: Params
    about: dict[str, Any]
    """How it was made and what it reached."""

    def model(self, shape: tuple[int, int] | None = None) -> Model:
        """The model, of images of another shape if one is given.

        Raises: ValueError where params have another form there, as dense ones have.
        """
        model = self.recipe.model(self.shape if shape is None else shape)
        try:
            model.require(self.params)
        except ValueError as error:
            raise ValueError(
                f"shape {shape}: {self.recipe.regularizer} was learned on images of {self.shape} "
                f"and has other weights there ({error}); cut them to that shape"
            ) from error
        return model


def save(path: Path, learned: Learned) -> None:
    """Write what was learned, whole or not at all; `load` reads it.

    Raises: ValueError for params that are not finite, or not of the recipe and numbers beside.

    >>> import pathlib, tempfile
    >>> recipe = recipes.Recipe("identity", {}, "dense", {"activation": "relu"})
    >>> params = recipe.model((1, 2)).init(jax.random.key(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, recipes.file())
    ...     recipes.save(path, recipes.Learned(recipe, (1, 2), (0.0, 1.0), params, {}))
    ...     print(bool(jnp.all(recipes.load(folder).params["A"] == params["A"])))
    True
    """
    params = checks.finite("params", learned.params)
    own = _template(learned.recipe, learned.shape)
    beside = {name: x for name, x in params.items() if name not in own}
    structure = jax.tree.structure({name: params.get(name) for name in own})
    numbers = jax.tree_util.all_leaves(beside.values()) and not any(map(jnp.ndim, beside.values()))
    if structure != jax.tree.structure(own) or not numbers:
        raise ValueError(f"params: {sorted(params)}; expected {sorted(own)} and single numbers")
    leaves = _named(params)
    header = {
        "recipe": learned.recipe._asdict(),
        "shape": learned.shape,
        "range": learned.range,
        "beside": sorted(beside),
        "about": learned.about,
    }
    stored = {name: np.asarray(x) for name, x in leaves.items()}
    archives.write_arrays(path, stored | {"about": np.array(json.dumps(header))})


def place(path: str | Path) -> Path:
    """Where `load` reads: a path, or the file of what ships by its name.

    >>> print(recipes.place("ridge").name, recipes.place("runs/mine").name)
    ridge.npz mine
    """
    path = Path(path)
    ships = str(path) in (*pretrained.SHIPPED, *pretrained.MODELS) and not path.exists()
    return pretrained.model_file(str(path)) if ships else path


def load(path: str | Path, name: str | None = None) -> Learned:
    """What a command of ours learned: of the folder of a run, or of its file, or what ships, see
    `pretrained.SHIPPED` and `pretrained.MODELS`.

    name: of the model, where a run has several.
    Raises: ValueError for a folder without such a file, and for a file that holds anything else,
    naming it and what is wrong there.

    >>> learned = recipes.load("natural")
    >>> print(learned.range, learned.model((16, 16)).shape)
    (0.0, 1.0) (16, 16)
    """
    shipped = {**pretrained.SHIPPED, **pretrained.MODELS}
    if str(path) in pretrained.SHIPPED and not Path(path).exists():
        return _shipped(str(path))
    path = place(path)
    if path.is_dir():
        there = sorted(x.stem.removeprefix("learned-") for x in path.glob(file("*")))
        if name is None and there and not (path / file()).exists():
            raise ValueError(f"{path}: several models; give the name of one: {', '.join(there)}")
        path = path / file(name)
    if not path.is_file():
        raise ValueError(
            f"{path}: not there; expected the folder of a run that has ended, or one of "
            f"{', '.join(shipped)}, which ship"
        )
    try:
        found = arrays.headers(path)
        header = json.loads(str(arrays.read(path, _only(found, "about"))["about"]))
        recipe = Recipe(**header["recipe"])
        shape, limits = tuple(header["shape"]), tuple(header["range"])
        template = _template(recipe, shape)
        template |= {name: jax.ShapeDtypeStruct((), float) for name in header["beside"]}
        about = header["about"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not what deqbilevel wrote ({error})") from error
    schema = {name: arrays.Array(x.shape) for name, x in _named(template).items()}
    stored = arrays.read(path, schema | {"about": arrays.Array((), np.str_)})
    leaves = [jnp.asarray(stored[name]) for name in _named(template)]
    params = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return Learned(recipe, shape, limits, params, about)


def _shipped(name: str) -> Learned:
    """Filters for denoising that ship, with the recipe that they were learned by."""
    found = pretrained.load(name)
    made = found.about["options"]
    chosen = {option: made[option] for option in ("filters", "basis", "potential", "eps")}
    recipe = Recipe(regularizer_options=chosen | {"boundary": found.boundary})
    shape = (made["patch"], made["patch"])
    params = found.params | {"noise": jnp.asarray(made["noise"], float)}
    return Learned(recipe, shape, (0.0, 1.0), params, found.about)


def _named(params: Params) -> dict[str, Any]:
    """The leaves by where they stand."""
    return {
        jax.tree_util.keystr(path).replace("/", "|"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def _template(recipe: Recipe, shape: tuple[int, int]) -> dict[str, Any]:
    """The form of the params that the model starts from."""
    return jax.eval_shape(lambda key: recipe.init(recipe.model(shape), key), jax.random.key(0))


def _only(found: Mapping[str, arrays.Header], name: str) -> arrays.Schema:
    """A schema of whatever a file holds, of which one entry is a text."""
    like = {key: arrays.Array(x.shape, x.dtype, finite=False) for key, x in found.items()}
    return like | {name: arrays.Array((), np.str_)}
