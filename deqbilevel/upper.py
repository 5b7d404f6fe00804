"""Learning by an upper-level algorithm: State, Metrics and Trainer of `learning`, other steps.

    state = start(learner, method, learning.start(learner, params), x)
    state, metrics = steps(learner, method, state, truth, keys, f=f)

`State.optimiser` is that of the algorithm, guarded: its x has the lower level of every image, so
that it goes on warm. Where a step diverges it is not taken, nor is any after it.

>>> model, u = models.build("denoising", "bilevel", (1, 2)), jnp.array([[0.5, -0.5]])
>>> scalars = models.hyperparameters(tau=0.5, gamma=0.1, activation="identity")
>>> setting, params = settings.SETTINGS["paper"], model.init(jax.random.key(0)) | scalars
>>> base = learning.trainer(model, setting, total_steps=3)
>>> method = lambda problem, params: algorithms.aid(problem, optax.sgd(0.1))
>>> state = upper.start(base.learner, method, learning.start(base.learner, params), u)
>>> keys = jax.random.split(jax.random.key(0), 3)
>>> state, metrics = upper.steps(base.learner, method, state, u, keys, f=u)
>>> print(bool(metrics.loss[-1] < metrics.loss[0]), state.step)
True 3
>>> print(upper.trainer(base, method, count=1).learner is base.learner)
True
"""

import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import algorithms, precision
from deqbilevel.algorithms import Algorithm, Guarded, Info, Posed, Problem
from deqbilevel.learning import HUGE, Learner, Metrics, State, Trainer, finite
from deqbilevel.losses import Informed, Penalised
from deqbilevel.models import with_scalars
from deqbilevel.solvers.base import OFFSET
from deqbilevel.types import Images, Params

Method = Callable[[Problem, Params], Algorithm]
"""(problem, params) -> one of `algorithms.METHODS` with its options; params has the scalars that
they may depend on, such as a learning rate."""


@precision.highest
def start(learner: Learner, method: Method, state: State, x: Images) -> State:
    """The state before the first step, from one of `learning.start`, the lower levels at x.

    Raises: ValueError for a model without an energy, see `algorithms.posed`, for images of several
    shapes, and for a loss of more than the truth.
    """
    (model,) = learner.models
    posed = _posed(learner, state.params, x, model.K.apply(x))
    own = algorithms.guarded(method(posed.problem, state.params)).init(posed.gamma, x)
    # Every leaf in memory of its own: steps are given all of it to write in.
    return state._replace(optimiser=jax.tree.map(jnp.copy, own), u=None, v=None)


@precision.highest
def steps(
    learner: Learner,
    method: Method,
    state: State,
    truth: Images,
    keys: Array,
    batches: Array | None = None,
    *,
    f: Array | None = None,
    noise: Array | None = None,
) -> tuple[State, Metrics]:
    """Steps, scanned; the metrics have a leading axis of steps.

    keys: [steps], for algorithms that draw. batches: the indices of the images of each step,
    [steps, batch], all images by default. f: the measurements of all images, or noise: [steps],
    keys of fresh ones.
    """

    def body(state: State, at: Any) -> tuple[State, Metrics]:
        key, batch, fresh = at
        seen, measured = (x if batch is None or x is None else x[batch] for x in (truth, f))
        params, seen = precision.as_weights(state.params, seen)
        if measured is None:
            measured = learner.models[0].measure(params, seen, fresh)
        posed = _posed(learner, completed | params, seen, measured)
        return _step(learner, method, state._replace(params=params), posed, key, batch)

    completed = with_scalars(state.params)
    return jax.lax.scan(body, state, (keys, batches, noise))


def trainer(base: Trainer, method: Method, *, count: int) -> Trainer:
    """The trainer, without lanes, with its steps replaced by those of a method, on `count` training
    images in the same order and with the same noise."""
    learner = base.learner
    (model,) = learner.models

    def init(params: Params) -> State:
        state = base.init(params)
        dark = jnp.zeros((count, math.prod(model.shape)), precision.dtype_of(state.params))
        return start(learner, method, state, model.start(model.K.apply(dark)))

    def take(
        state: State, images: Images, order: Array, keys: Array, f: Any = None
    ) -> tuple[State, Metrics]:
        own = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        noise = keys if f is None else None
        return steps(learner, method, state, images, own, order, f=f, noise=noise)

    return base._replace(init=jax.jit(init), steps=jax.jit(take, donate_argnums=0))


def _posed(learner: Learner, params: Params, truth: Images, f: Array) -> Posed:
    if isinstance(learner.loss, Informed | Penalised):
        raise ValueError(
            "loss_function: of more than the truth, such as the measurement or params, which "
            "upper-level algorithms do not see; take the steps of `learning`"
        )
    (model,), learned = learner.models, learner.learned
    return algorithms.posed(
        model, params, truth, f, learned=learned, loss=learner.loss, smooth=False
    )


def _step(
    learner: Learner,
    method: Method,
    state: State,
    posed: Posed,
    key: Array,
    batch: Array | None,
) -> tuple[State, Metrics]:
    """A step on images, whose rows in the algorithm's State are those of the batch."""
    own, known = method(posed.problem, state.params), cast(Guarded, state.optimiser)
    rows = _rows(own, known) if batch is not None else {}
    taken = {name: row[batch] for name, row in rows.items()}
    part = known._replace(inner=known.inner._replace(**taken))
    part, info = algorithms.guarded(own).step(part, posed.data, key)
    moved = {name: rows[name].at[batch].set(new) for name, new in _rows(own, part).items() if rows}
    following = state._replace(
        params=learner.models[0].refresh(state.params | part.gamma),
        optimiser=part._replace(inner=part.inner._replace(**moved)),
        step=state.step + 1,
        diverged=part.diverged,
    )
    return following, _metrics(learner, state.params, posed, info, part.x)


def _rows(own: Algorithm, state: Guarded) -> dict[str, Any]:
    return {name: getattr(state.inner, name) for name in own.rows}


def _metrics(learner: Learner, params: Params, posed: Posed, info: Info, x: Images) -> Metrics:
    entries = sum(leaf.size for leaf in jax.tree.leaves(posed.gamma))
    residual = learner.models[0].completed(params)["tau"] * info.lower_residual
    close: Any = info.adjoint_residual <= jnp.asarray(learner.setting.adjoint_tolerance)
    return Metrics(
        loss=finite(info.loss),
        gradient_norm=finite(info.gradient_norm / entries**0.5),
        forward_evaluations=info.calls.lower_gradients,
        adjoint_evaluations=info.calls.hessian_products,
        forward_residual=finite(residual / (OFFSET + jnp.linalg.norm(x.ravel()))),
        adjoint_residual=jnp.minimum(info.adjoint_residual, HUGE),  # NaN where never known
        solved=jnp.full_like(info.loss, jnp.nan),
        adjoint_converged=close * 1.0,
        lower_gradient_norm=finite(info.lower_residual / x.size**0.5),
        lower_solves=info.calls.upper_gradients,
    )
