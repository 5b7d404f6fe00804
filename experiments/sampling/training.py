"""The learning of a sampling, in blocks of steps: each is on disk before the next begins."""

import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from deqbilevel import algorithms, learning, losses, models, operators, regularizers
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.data import Images
from deqbilevel.disk import checkpoints
from deqbilevel.learning import Learner, State
from deqbilevel.models import Model
from deqbilevel.settings import MINIMISER, SETTINGS, Budget, Setting
from deqbilevel.types import Params
from experiments.sampling.masks import Grid, Sampled
from experiments.sampling.pricing import priced

FILES = ("metrics.jsonl", "latest/<checkpoint>")
"""What `train` writes, see `folders`."""

BLOCK = 10
"""Steps between two checkpoints."""

START = 0.5
"""s everywhere, as far from 0 as from 1."""

B1 = 0.9
"""Of Adam."""

START_EVALUATIONS = 100
"""Of the lower level before the first step."""

RECORD = {"step": 0, "seconds": 0.0, "part": 0.0, "strength": ANY}
MEASURED = ("loss", "lower_gradient_norm", "adjoint_residual")
RECORD |= {name: [ANY] for name in MEASURED}
"""Of a block: the mean of s and lambda at its end, and what was measured in each step."""


class Problem(NamedTuple):
    """What is learned, and from what."""

    grid: Grid
    learner: Learner
    model: Model
    """The same lower level for a mask, an `operators.Fourier`."""
    params: Params
    """At the start, K among them."""
    truth: Float[Array, "train pixels"]


class Found(NamedTuple):
    """What was learned."""

    params: Params
    s: Float[np.ndarray, "height columns"]
    records: list[dict[str, Any]]


def posed(config: Any, images: Images) -> Problem:
    """The learning problem of the options. Raises: ValueError for those that are none."""
    shape = images.shape
    own = {"filters": (2, 2, 2), "basis": "differences"}
    if config.filters is not None:
        own = {"filters": (config.filters[0], config.filters[1], config.filters[1])}
    # Of the ways to convolve the fastest for few filters on whole pictures.
    R = regularizers.REGULARIZERS["convolutional"](
        shape, eps=config.eps, beta_0=config.beta_0, method="patch", **own
    )
    grid = Grid(shape, config.by == "lines", config.paired)
    K = Sampled(jnp.asarray(grid.start(START, config.seed), float), shape, config.paired)
    of_mask = operators.Fourier(jnp.ones(shape[0] * shape[1]), shape)
    params = R.init(learning.keys(config.seed)[0])
    scalars = {"noise": config.noise, "strength": config.strength or 0.0}
    params |= {name: jnp.asarray(x, float) for name, x in scalars.items()}
    model = models.assemble(K, R)
    weights = weights_of(config)
    box = algorithms.steps.box(*({"K": end} | dict.fromkeys(weights, far) for end, far in BOX))
    rates: dict[str, Any] = dict.fromkeys(("K", *weights), config.learning_rate)
    rates |= {"filters": config.filters_rate} if config.filters else {}
    each: Any = {name: optax.adam(rate, b1=B1) for name, rate in rates.items()}
    adam = optax.partition(each, {name: name for name in rates})
    priced_first = [priced(partial(wanted, config), B1)] if config.strength is None else []
    learner = Learner(
        (model,),
        setting_of(config),
        learning.fixed(optax.chain(*priced_first, adam, box)),
        ("K", *weights),
        losses.Penalised(losses.mean_squared_error, penalty),
        sampling=True,
    )
    learning.check(learner, params | {"K": K})
    truth = jnp.asarray(images.train)
    return Problem(grid, learner, models.assemble(of_mask, R), params | {"K": K}, truth)


BOX = ((0.0, -jnp.inf), (1.0, jnp.inf))
"""Of s and of the weights."""


def weights_of(config: Any) -> tuple[str, ...]:
    """The entries of params that are learned of the regulariser."""
    return ("beta",) if config.filters is None else ("filters", "beta")


def penalty(params: Params) -> Float[Array, ""]:
    """lambda mean(s + s (1 - s)): [CF] (6.3) over the number of pixels, as the loss is."""
    s = params["K"].s
    return params["strength"] * jnp.mean(s + s * (1 - s))


def setting_of(config: Any) -> Setting:
    """Lower level and adjoint go on where the last step left them."""
    budget = Budget(config.lower_evaluations, config.adjoint_evaluations)
    return SETTINGS["paper"]._replace(
        forward_tolerance=0.0,
        adjoint_tolerance=1e-5,
        budget=budget,
        limit=budget,
        evaluation_tolerance=1e-5,
        evaluation_budget=config.final_evaluations,
        solver="optimized_gradient",
        hypergradient=MINIMISER,
        warm=True,
    )


def train(config: Any, problem: Problem, out: Path) -> Found:
    """Learn from where an earlier call stopped."""
    learner, truth = problem.learner, problem.truth
    _, key, _ = learning.keys(config.seed)
    done = checkpoints.latest_step(out / "latest") or 0
    state = start(problem, key, evaluations=0 if done else START_EVALUATIONS)
    step = jax.jit(lambda state, key: learning.step(learner, state, truth, key=key))
    if done:
        state = checkpoints.restore(out / "latest", state)
    log = Log.of(out / "metrics.jsonl", RECORD)
    records = log.course("step", [*range(BLOCK, done, BLOCK), done] if done else [])
    with tqdm(total=config.steps, initial=done, unit="step") as bar:
        while done < config.steps:
            measured, begin = [], time.perf_counter()
            count = min(BLOCK, config.steps - done)
            for one in jax.random.split(jax.random.fold_in(key, done), count):
                state, metrics = step(state, one)
                measured.append([float(getattr(metrics, name)) for name in MEASURED])
                done += 1
                bar.set_postfix_str(f"loss {measured[-1][0]:.3g}")
                bar.update(1)
            part = float(jnp.mean(state.params["K"].weights))
            record = {"step": done, "seconds": time.perf_counter() - begin, "part": part}
            record |= {"strength": price(state)}
            record |= dict(zip(MEASURED, np.transpose(measured).tolist(), strict=True))
            records.append(record)
            log.keep(records)
            checkpoints.save(out / "latest", done, state)
    return Found(state.params, np.asarray(state.params["K"].weights), records)


def wanted(config: Any, done: Int[Array, ""] | int) -> Array:
    """The mean of s after so many steps: from one half along a line to the part at a third of them,
    before s is decided, as what is 1 stays there."""
    return START + (config.part - START) * jnp.minimum(1.0, 3 * done / config.steps)


def price(state: State) -> float:
    """lambda: that of the last step, or the one that is given."""
    found = optax.tree.get(state.optimiser, "price", state.params["strength"])
    return float(found)


def start(problem: Problem, key: Array, *, evaluations: int) -> State:
    """The state before the first step."""
    model, params = problem.learner.models[0], problem.params
    f = model.measure(params, problem.truth, jax.random.fold_in(key, 2**31))
    return learning.start(problem.learner, params, f, evaluations=evaluations)
