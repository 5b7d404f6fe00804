"""Upper-level steps: the hypergradient at the state, and what an optimiser makes of it.

    state = start(learner, params, f)
    state, metrics = step(learner, state, truth, f=f)            # a measurement that stays
    state, metrics = step(learner, state, truth, key=key)        # or a fresh one in every step

Images and measurements are arrays `[images, pixels]` and `[images, data]`, or of several shapes
tuples of them. A run that has diverged keeps its last finite weights from then on, and says so. A
guarded run goes back instead, see `Setting.guard`. Everything is computed in the dtype of the
weights, products in the precision of the setting.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from deqbilevel import checks, precision
from deqbilevel.learning import knowing
from deqbilevel.learning.base import (
    Learner,
    Metrics,
    State,
    groups,
    lower_gradient_norm,
    weights_of,
)
from deqbilevel.learning.evaluation import finite
from deqbilevel.learning.gradients import Found, Measured, hypergradient
from deqbilevel.losses import shares
from deqbilevel.settings import Setting
from deqbilevel.types import At, Params


def step(
    learner: Learner, state: State, truth: Any, *, f: Any = None, key: Any = None
) -> tuple[State, Metrics]:
    """One upper-level step on images, with measurements f of them or fresh ones by a key.

    An optimiser with a line search is given the upper-level loss as a function; each trial solves
    the lower level from where this step left it. A trial is worth nothing, its loss infinite, where
    that ends at ten times this step's lower-level gradient: a lower level too stiff for its budget
    leaves u where it was, and so would feign a good loss.
    """
    take = precision.at(learner.setting.precision, _step)
    return take(learner, state, groups(truth), None if f is None else groups(f), key)


def _step(learner: Learner, state: State, truths: Any, fs: Any, key: Any) -> tuple[State, Metrics]:
    setting, old = learner.setting.of(state.params), state.params
    _, *truths = precision.as_weights(old, *truths)
    images = _measured(learner, old, truths, fs, key)
    us, vs = (x if x is not None else [None] * len(images) for x in (state.u, state.v))
    found = [
        hypergradient(learner, model, setting, old, state.budget, each, u, v)
        for model, each, u, v in zip(learner.models, images, us, vs, strict=True)
    ]
    parts = shares(learner.loss, [len(x) for x in truths])
    loss = _total(parts, [x.loss for x in found])
    # JAX's gradient by a complex number is the conjugate of the direction of steepest ascent.
    gradient = jax.tree.map(lambda *x: jnp.conj(_total(parts, x)), *(x.gradient for x in found))
    weights = weights_of(learner, old)
    diverged = ~jnp.isfinite(loss + optax.tree.norm(gradient))
    solved = jnp.all(jnp.stack([setting.solved(x.info, x.adjoint) for x in found]))

    def loss_at(weights: Params) -> Array:
        return _trial(learner, setting, state, weights, images, found, parts)

    updates, optimiser = optax.with_extra_args_support(learner.optimiser(old, state.step)).update(
        gradient, state.optimiser, weights, value=loss, grad=gradient, value_fn=loss_at
    )
    moved: Any = optax.apply_updates(weights, updates)
    last = state.solved
    if setting.guard is not None:
        halfway = jax.tree.map(lambda w, back: (w + back) / 2, weights, last)
        moved, optimiser, last = jax.tree.map(
            partial(jnp.where, solved),
            (moved, optimiser, weights),
            (halfway, state.optimiser, last),
        )
        diverged &= solved
    diverged |= state.diverged
    u, v = (
        None
        if kept is None
        else tuple(getattr(x, name).reshape(y.shape) for x, y in zip(found, kept, strict=True))
        for name, kept in (("u", state.u), ("v", state.v))
    )
    kept = (old, state.optimiser, state.u, state.v)
    params, optimiser, u, v = jax.tree.map(
        lambda old, new: jnp.where(diverged, old, new).astype(old.dtype),
        kept,
        (learner.models[0].refresh(old | moved), optimiser, u, v),
    )
    trials = optax.tree.get(optimiser, "num_linesearch_steps", 0)
    metrics = _metrics(learner, old, found, loss, gradient, solved, trials)
    following = State(params, optimiser, state.step + 1, state.budget, diverged, last, u, v)
    return following, metrics


def _measured(learner: Learner, params: Params, truths: Any, fs: Any, key: Any) -> list[Measured]:
    """The images of each shape with their measurements."""
    if fs is not None:
        _, *fs = precision.as_weights(params, *fs)
        return [Measured(t, f) for t, f in zip(truths, fs, strict=True)]
    keys = [key] if len(truths) == 1 else jax.random.split(key, len(truths))
    if learner.sampling:
        return [Measured(t, None, k) for t, k in zip(truths, keys, strict=True)]
    return [
        Measured(t, model.measure(params, t, k))
        for model, t, k in zip(learner.models, truths, keys, strict=True)
    ]


def _trial(
    learner: Learner,
    setting: Setting,
    state: State,
    weights: Params,
    images: list[Measured],
    found: list[Found],
    parts: list[float],
) -> Array:
    """The upper-level loss at other weights, for a line search."""
    solver, losses = setting.forward(state.budget), []
    for model, each, here in zip(learner.models, images, found, strict=True):
        params = model.completed(state.params | weights)
        known = each.known(model, params)
        u, info = solver(At(model.G, params, knowing.rows(learner.loss, known)), here.u)
        before = lower_gradient_norm(model, state.params, here.u, here.info.residual)
        stiff = lower_gradient_norm(model, params, u, info.residual) > 10 * before
        losses.append(jnp.where(stiff, jnp.inf, knowing.value(learner.loss, u, known)))
    return _total(parts, losses)


def _metrics(
    learner: Learner,
    params: Params,
    found: list[Found],
    loss: Array,
    gradient: Params,
    solved: Bool[Array, ""],
    trials: Any,
) -> Metrics:
    dtype = loss.dtype

    def worst(values: Any) -> Float[Array, ""]:
        return jnp.max(jnp.stack([jnp.asarray(x, dtype) for x in values]))

    norms = [
        lower_gradient_norm(model, params, x.u, x.info.residual)
        for model, x in zip(learner.models, found, strict=True)
    ]
    metrics = Metrics(
        loss=loss,
        gradient_norm=_norm(gradient),
        forward_evaluations=worst(x.info.evaluations for x in found),
        adjoint_evaluations=worst(x.adjoint.evaluations for x in found),
        forward_residual=worst(x.info.residual for x in found),
        adjoint_residual=worst(x.adjoint.residual for x in found),
        solved=solved.astype(dtype),
        adjoint_converged=1 - worst(1 - x.adjoint.converged.astype(dtype) for x in found),
        lower_gradient_norm=worst(norms),
        lower_solves=jnp.asarray(1 + trials, dtype),
    )
    return jax.tree.map(finite, metrics)


def _norm(gradient: Params) -> Float[Array, ""]:
    return optax.tree.norm(gradient) / sum(x.size for x in jax.tree.leaves(gradient)) ** 0.5


def _total(parts: list[float], values: Any) -> Any:
    """The weighted sum; of one value as it is."""
    values = list(values)
    if len(values) == 1:
        return values[0]
    return sum(part * value for part, value in zip(parts, values, strict=True))


def steps(
    learner: Learner,
    state: State,
    truth: Any,
    batches: Any,
    *,
    f: Any = None,
    keys: Any = None,
) -> tuple[State, Metrics]:
    """Steps, scanned; the metrics have a leading axis of steps.

    batches: a number of steps on all images, or the indices of the images of each step,
    [steps, batch], of several shapes a tuple of them. f: measurements of all images, or keys:
    [steps] for fresh ones.
    Raises: ValueError for fewer than one step, and for indices that no image has.
    """
    truths, fs = groups(truth), None if f is None else groups(f)
    if not isinstance(batches, list | tuple) and np.ndim(batches) == 0:
        count = checks.whole("batches", batches)
        return jax.lax.scan(
            lambda state, key: step(learner, state, truths, f=fs, key=key), state, keys, count
        )
    chosen = groups(batches)
    _check_batches(chosen, truths)

    def on_minibatch(state: State, x: Any) -> tuple[State, Metrics]:
        chosen, key = x

        def take(images: Any) -> Any:
            return jax.tree.map(lambda rows, i: rows[i], images, chosen)

        def put(images: Any, part: Any) -> Any:
            return jax.tree.map(lambda rows, new, i: rows.at[i].set(new), images, part, chosen)

        def of_rows(x: Any, function: Any, *more: Any) -> Any:
            return None if x is None else function(x, *more)

        part = state._replace(u=of_rows(state.u, take), v=of_rows(state.v, take))
        part, metrics = step(learner, part, take(truths), f=of_rows(fs, take), key=key)
        u, v = of_rows(state.u, put, part.u), of_rows(state.v, put, part.v)
        return part._replace(u=u, v=v), metrics

    return jax.lax.scan(on_minibatch, state, (chosen, keys))


def _check_batches(batches: Any, truths: Any) -> None:
    for chosen, images in zip(batches, truths, strict=True):
        if chosen.ndim != 2 or 0 in chosen.shape or not jnp.issubdtype(chosen.dtype, jnp.integer):
            raise ValueError(
                f"batches: {chosen.dtype} of shape {list(chosen.shape)}; expected whole numbers "
                "[steps, batch], the images of each step"
            )
        if not checks.traced(chosen) and not 0 <= chosen.min() <= chosen.max() < len(images):
            raise ValueError(
                f"batches: from {chosen.min()} to {chosen.max()}; expected indices of "
                f"{len(images)} images, from 0"
            )
