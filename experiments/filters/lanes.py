"""What filter learning starts from: models, parameters and noisy images, the seeds as lanes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from deqbilevel import learning, models, operators, potentials, precision, pretrained
from deqbilevel.learning import Learner
from deqbilevel.losses import half_squared_error
from deqbilevel.models import Model
from deqbilevel.regularizers import convolutional
from deqbilevel.settings import Budget, Setting
from experiments.filters import tasks
from experiments.filters.tasks import Task

BETA_0 = {"vertical-bars": learning.BETA_0}
"""The grid of beta_0, that of [CF] D for the bars; else a wide one, for any potential."""

WIDE = tuple(-12 + 0.5 * i for i in range(25))


class Lanes(NamedTuple):
    """What the seeds start from, with a leading axis of lanes where a lane has its own."""

    learner: Learner
    """With a model for each shape of the training images."""
    params: dict[str, Any]
    truth: list[Array]
    """[images, pixels] of each shape, the same for all lanes"""
    f: list[Array]
    """[lanes, images, pixels] of each shape"""
    held_out: Array
    """[lanes, images, pixels], noisy"""
    pictures: list[dict[str, np.ndarray]]
    """The noisy pictures of each lane."""


def lanes_of(options: dict[str, Any], task: Task) -> Lanes:
    """What each seed starts from, beta_0 not yet searched.

    Raises: ValueError for images, filters or a potential that cannot be used.
    """
    seeds = range(options["seed"], options["seed"] + options["seeds"])
    noise, realisations = options["noise"], options["realisations"]
    own = [tasks.measured(task, noise, realisations, seed) for seed in seeds]
    groups = zip(*(lane.f for lane in own), strict=True)
    starts = [_initial(options, seed) for seed in seeds]
    dtype = precision.dtype_of(starts[0])
    f = [jnp.asarray(np.stack(group), dtype) for group in groups]
    truth = [jnp.asarray(x, dtype) for x in tasks.truths(task, realisations)]
    learner = learner_of(options, [group.shape for group in task.groups])
    if options["algorithm"] is not None and len(truth) > 1:
        raise ValueError(
            f"--algorithm {options['algorithm']}: needs training images of one shape, and these "
            f"have {len(truth)}; take patches by --patch"
        )
    learning.check(learner, starts[0])
    params = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    held_out = jnp.asarray(np.stack([lane.held_out for lane in own]), dtype)
    return Lanes(learner, params, truth, f, held_out, [lane.pictures for lane in own])


def model_of(options: dict[str, Any], shape: tuple[int, int]) -> Model:
    """The model of images of a shape."""
    # Under vmap over lanes a product of matrices is faster than a grouped convolution.
    method = "patch" if options["seeds"] > 1 else None
    own, start = convolutional.bank_of(shape, options["boundary"], method), _initial(options, 0)
    return models.assemble(operators.Identity(), own.regularizer(lambda key: start))


def setting_of(options: dict[str, Any]) -> Setting:
    """How the lower level and its adjoint are solved: both from where the last step left them."""
    budget = Budget(options["lower_iterations"] or 1, options["adjoint_iterations"] or 1)
    return Setting(
        forward_tolerance=0.0,
        adjoint_tolerance=options["adjoint_tolerance"],
        budget=budget,
        limit=budget,
        evaluation_tolerance=0.0,
        evaluation_budget=budget.forward,
        ridge=1e-4,
        relative_ridge=False,
        preconditioned=False,
        learning_rate=options["learning_rate"],
        solver=options["lower_solver"],
        hypergradient=options["hypergradient"],
        warm=True,
    )


def learner_of(options: dict[str, Any], shapes: list[tuple[int, int]]) -> Learner:
    """Learning filters and weights, or weights alone, by 1/2 ||u - truth||^2: [CF] (Ex)."""
    filters = options["learn"] == "filters-and-beta"
    return Learner(
        tuple(model_of(options, shape) for shape in shapes),
        setting_of(options),
        optimiser_of(options),
        ("filters", "beta") if filters else ("beta",),
        half_squared_error,
    )


def optimiser_of(options: dict[str, Any]) -> learning.Optimiser:
    """Adam, or one that searches along its direction."""
    if options["optimiser"] in learning.SEARCHING:
        return learning.SEARCHING[options["optimiser"]]()
    rate = options["learning_rate"]
    falling = optax.cosine_decay_schedule(rate, max(options["iterations"], 1), alpha=0.01)
    return learning.fixed(optax.adam(falling if options["schedule"] == "cosine" else rate))


def _initial(options: dict[str, Any], seed: int) -> dict[str, Any]:
    """The parameters of a lane before beta_0 is searched."""
    # A stream of its own: the noise takes the first.
    rng = np.random.default_rng((seed, 1))
    if options["start"] is not None:
        return redrawn(pretrained.load(options["start"]).params, options["redraw"], rng)
    count, rows, columns = options["filters"]

    def random(*shape: int) -> np.ndarray:
        c = rng.standard_normal((count, *shape))
        return c / np.linalg.norm(c.reshape(count, -1), axis=1).reshape(-1, *[1] * len(shape))

    basis = None
    if options["basis"] is not None:
        basis = convolutional.BASES[options["basis"]](rows, columns)
        basis = basis / (rows if "cosines" in options["basis"] else 1)
        c = np.eye(count) if count == len(basis) else random(len(basis))
    elif count == rows * columns - 1:
        c = convolutional.cosines(rows, columns) / rows
    else:
        c = random(rows, columns)
    kind: Any = potentials.POTENTIALS[options["potential"]]
    phi = kind(eps=options["eps"])
    return convolutional.init(c, beta_0=options["beta_0"] or 0.0, phi=phi, basis=basis)


def described(start: str) -> dict[str, Any]:
    """The options that filters of `pretrained` were made with, which they bring along.

    Raises: ValueError for a name that is none, or a file that holds none.
    """
    try:
        params = pretrained.load(start).params
    except ValueError as error:
        raise ValueError(f"--start {error}") from error
    phi = params["phi"]
    named = [name for name, kind in potentials.POTENTIALS.items() if isinstance(phi, type(kind()))]
    return {
        "filters": tuple(convolutional.filters(params).shape),
        "basis": "its own" if "basis" in params else None,
        "potential": named[0],
        "eps": float(vars(phi)["eps"]) if "eps" in vars(phi) else None,
        "beta_0": float(params["beta_0"]),
    }


def redrawn(params: dict[str, Any], share: float, rng: np.random.Generator) -> dict[str, Any]:
    """Filters weaker than a share of the strongest, as random ones of that strength."""
    strengths = np.asarray(convolutional.strengths(params))
    least = share * strengths.max()
    weak = strengths < least
    c, beta = (np.array(params[name]) for name in ("filters", "beta"))
    c[weak] = rng.standard_normal(c[weak].shape)
    drawn = params | {"filters": jnp.asarray(c)}
    beta[weak] += np.log(least / np.asarray(convolutional.strengths(drawn))[weak])
    return drawn | {"beta": jnp.asarray(beta)}


def searched(options: dict[str, Any], lanes: Lanes) -> Lanes:
    """The lanes with the beta_0 of the options, or each with the best by the upper-level loss on up
    to twenty training images of a shape."""
    if options["beta_0"] is not None:
        return lanes
    values = BETA_0.get(options["experiment"], WIDE)
    truth, f = lanes.truth[0][:20], lanes.f[0][:, :20]

    def search(params: dict[str, Any], f: Array) -> learning.Search:
        return learning.search(lanes.learner, params, truth, f, "beta_0", values)

    found = jax.jit(jax.vmap(search))(lanes.params, f)
    for lane in np.flatnonzero(found.at_edge):
        print(
            f"warning: beta_0 = {found.best[lane]:g} of lane {lane} is at the edge of the grid "
            f"from {values[0]:g} to {values[-1]:g}; a better one may lie beyond, see --beta-0",
            flush=True,
        )
    return lanes._replace(params=lanes.params | {"beta_0": found.best})
