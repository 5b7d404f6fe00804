"""Training by one of `deqbilevel.algorithms.METHODS`, with the interface of `learning.trainer`."""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from deqbilevel import algorithms, learning, precision
from deqbilevel.algorithms import Algorithm, Problem
from deqbilevel.algorithms.guarding import Guarded
from deqbilevel.learning import HUGE, Metrics, Schedule, State, Trainer, finite
from deqbilevel.models import Model
from deqbilevel.solvers.base import OFFSET
from deqbilevel.types import Images, Params
from experiments.algorithm_options import DEBLURRING, FILTERS, MINIBATCHES


def check(model: str, name: str, **others: bool) -> None:
    """Raises ValueError for a model or a method that cannot be trained so, and for other options of
    the command that are given and have no meaning then."""
    given = [f"--{option}" for option, different in others.items() if different]
    if given:
        raise ValueError(
            f"--algorithm {name} with {', '.join(given)}: an algorithm has solvers of its own for "
            "both levels; leave one or the other out"
        )
    if model != "bilevel":
        raise ValueError(
            f"--algorithm {name} with --model {model}: a fixed point that minimises no lower-level "
            "cost; take a model with an energy (--model bilevel), or leave --algorithm out"
        )
    if name not in DEBLURRING:
        raise ValueError(
            f"--algorithm {name}: too much for a dense A, by its matrices or the solves inside of "
            f"solves; expected one of {', '.join(DEBLURRING)}"
        )


def method(
    name: str, problem: Problem, params: Params, total_steps: int, schedule: Schedule
) -> Algorithm:
    """A method with its options, moved by Adam as in `learning.step`; those of filters where the
    step of the lower level is 1/L."""
    rates = schedule(params["learning_rate"], total_steps)
    options = DEBLURRING if "tau" in params else FILTERS
    own = {k: v for k, v in options[name].items() if k != "rate"} | MINIBATCHES.get(name, {})
    if name == "maid":
        return algorithms.maid(problem, step_size=params["learning_rate"], **own)
    adam = optax.chain(learning.adam_direction(params), optax.scale_by_learning_rate(rates))
    return algorithms.METHODS[name](problem, adam, **own)


def trainer(
    base: Trainer,
    model: Model,
    name: str,
    *,
    count: int,
    total_steps: int,
    schedule: Schedule = learning.cosine,
) -> Trainer:
    """The trainer with its steps replaced by those of a method, on `count` training images.

    `State.optimiser` is the method's, guarded, with the rows of all images: where the lower level
    and its adjoint were left for each, under the noise that it had then. A step takes the rows of
    its batch, and has the order and the noise that `learning.step` has. Where it diverges it is not
    taken, nor is any after it.
    """

    def posed(params: Params, truth: Images, f: Images) -> tuple[algorithms.Posed, Algorithm]:
        loss, learned = base.learner.loss, base.learner.learned
        found = algorithms.posed(model, params, truth, f, loss=loss, learned=learned, smooth=False)
        return found, method(name, found.problem, params, total_steps, schedule)

    def fields(own: Algorithm, inner: Any) -> dict[str, Array]:
        return {name: getattr(inner, name) for name in own.rows}

    @precision.highest
    def init(params: Params) -> State:
        state = base.init(params)
        dark = jnp.zeros((count, math.prod(model.shape)), precision.dtype_of(state.params))
        problem, own = posed(state.params, dark, model.K.apply(dark))
        guarded = algorithms.guarded(own).init(problem.gamma, problem.x)
        # Every leaf in memory of its own: steps are given all of it to write in.
        return state._replace(optimiser=jax.tree.map(jnp.copy, guarded))

    def step(state: State, images: Images, batch: Array, key: PRNGKeyArray, kept: Any) -> Any:
        """The state and the metrics after a batch."""
        params, truth = precision.as_weights(state.params, images[batch])
        f = model.measure(params, truth, key) if kept is None else kept[batch]
        problem, own = posed(params, truth, f)
        known = cast(Guarded, state.optimiser)
        rows = fields(own, known.inner)
        taken = jax.tree.map(lambda row: row[batch], rows)
        part = known._replace(inner=known.inner._replace(**taken))
        part, info = algorithms.guarded(own).step(part, problem.data, jax.random.fold_in(key, 1))
        moved = fields(own, part.inner)
        rows = jax.tree.map(lambda row, new: row.at[batch].set(new), rows, moved)
        size = OFFSET + jnp.linalg.norm(part.x.ravel())
        unknown = jnp.full_like(info.loss, jnp.nan)
        entries = sum(x.size for x in jax.tree.leaves(problem.gamma))
        metrics = Metrics(
            loss=finite(info.loss),
            gradient_norm=finite(info.gradient_norm / entries**0.5),
            forward_evaluations=info.calls.lower_gradients,
            adjoint_evaluations=info.calls.hessian_products,
            forward_residual=finite(model.completed(params)["tau"] * info.lower_residual / size),
            adjoint_residual=jnp.minimum(info.adjoint_residual, HUGE),  # NaN where never known
            solved=unknown,
            adjoint_converged=unknown,
            lower_gradient_norm=finite(info.lower_residual / truth.size**0.5),
            lower_solves=info.calls.upper_gradients,
        )
        following = State(
            model.refresh(params | part.gamma),
            part._replace(inner=part.inner._replace(**rows)),
            state.step + 1,
            state.budget,
            part.diverged,
        )
        return following, metrics

    @precision.highest
    def steps(
        state: State, images: Images, order: Array, keys: Array, f: Any = None
    ) -> tuple[State, Metrics]:
        return jax.lax.scan(lambda s, x: step(s, images, *x, f), state, (order, keys))

    return base._replace(init=jax.jit(init), steps=jax.jit(steps, donate_argnums=0))
