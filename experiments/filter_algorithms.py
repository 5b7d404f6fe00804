"""Filters learned by one of `deqbilevel.algorithms.METHODS`, with the interface of `learning`."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from deqbilevel import algorithms
from deqbilevel.algorithms import Algorithm, Posed
from deqbilevel.learning import Learner, Metrics
from deqbilevel.types import Images, Params
from experiments import algorithm_options

Make = Callable[[Posed], Algorithm]


class State(NamedTuple):
    """As `learning.State`, for any algorithm."""

    params: Params
    inner: Any
    """The algorithm's."""
    key: PRNGKeyArray


def maker(
    name: str, optimiser: optax.GradientTransformation, chosen: dict[str, Any], *, batches: bool
) -> Make:
    """posed -> the method of that name, which goes on where it can and is frozen where it diverges.

    chosen: options that are to replace the method's own for filters, those that are not None;
    batches: whether its steps see some of the images only.
    Raises: ValueError for an option that the method does not have.
    """
    if name not in algorithm_options.FILTERS:
        raise ValueError(
            f"--algorithm {name}: needs dense matrices, expected one of "
            f"{', '.join(algorithm_options.FILTERS)}"
        )
    own = {k: v for k, v in algorithm_options.FILTERS[name].items() if k != "rate"}
    own |= algorithm_options.MINIBATCHES.get(name, {}) if batches else {}
    known = inspect.signature(algorithms.METHODS[name]).parameters
    for option, value in chosen.items():
        if value is not None and option not in known:
            raise ValueError(
                f"--algorithm {name} --{option.replace('_', '-')} {value}: the method has no such "
                "option; leave it out"
            )
        if value is not None:
            own[option] = (lambda u, n=value: n) if callable(own.get(option)) else value

    def make(posed: Posed) -> Algorithm:
        taken = None if name in algorithms.OWN_STEPS else optimiser
        method = algorithms.METHODS[name](posed.problem, taken, **own)
        return algorithms.guarded(algorithms.minibatches(method) if batches else method)

    return make


def start(
    learner: Learner, make: Make, params: Params, truth: Images, f: Images, seed: Any, u: Images
) -> State:
    """The state before the first step, the lower level at u."""
    posed = _posed(learner, params, truth, f)
    return State(params, make(posed).init(posed.gamma, u), jax.random.key(seed))


def steps(
    learner: Learner,
    make: Make,
    state: State,
    truth: Images,
    f: Images,
    batches: int | Array,
) -> tuple[State, Metrics]:
    """Steps, scanned, as `learning.steps`; the metrics have a leading axis of steps."""
    posed = _posed(learner, state.params, truth, f)
    now, later = jax.random.split(state.key)
    inner, info = algorithms.run(make(posed), state.inner, posed.data, now, batches)
    entries = sum(x.size for x in jax.tree.leaves(posed.gamma))
    pixels = truth.size if isinstance(batches, int) else batches.shape[1] * truth.shape[1]
    tolerance: Any = learner.setting.adjoint_tolerance
    metrics = Metrics(
        loss=info.loss,
        gradient_norm=info.gradient_norm / entries**0.5,
        lower_gradient_norm=info.lower_residual / pixels**0.5,
        adjoint_evaluations=info.calls.hessian_products,
        adjoint_residual=info.adjoint_residual,
        adjoint_converged=(info.adjoint_residual <= tolerance) * 1.0,
        lower_solves=info.calls.upper_gradients,
        forward_evaluations=info.calls.lower_gradients,
        forward_residual=jnp.full_like(info.loss, jnp.nan),
        solved=jnp.full_like(info.loss, jnp.nan),
    )
    return State(state.params | inner.gamma, inner, later), metrics


def _posed(learner: Learner, params: Params, truth: Images, f: Images) -> Posed:
    (model,), learned = learner.models, learner.learned
    return algorithms.posed(model, params, truth, f, learned=learned, loss=learner.loss)
