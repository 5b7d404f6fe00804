"""Denoising by filters: the best weight of all, strengths of each, and the filters themselves."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from deqbilevel import algorithms, losses, models, operators, solvers
from deqbilevel.regularizers.convolutional import bank_of
from deqbilevel.types import Images, Params

WEIGHTS = (-9.0, 1.0)
"""Between which the logarithm of the weight is searched."""

CLOSE = 0.02
"""To which it is found."""

WEIGHED = 24
"""Training images, at most, by which a weight is chosen."""

LOWER, ADJOINT = 12, 6
"""Gradients and products with the Hessian of a step, both from where the last one ended."""

ACCURACY = {"tolerance": 1e-5, "max_evaluations": 1000}
"""Of the lower levels that are judged."""

RATES = {"beta": 0.05, "filters": 5e-3}
"""Adam's, at the start of a cosine schedule."""


class Task(NamedTuple):
    """Images in [0, 1], a row each, and what is measured of them."""

    shape: tuple[int, int]
    train: Images
    f: Images
    test_shape: tuple[int, int]
    test: Images
    f_test: Images
    batch: int


def model_of(shape: tuple[int, int], params: Params) -> models.Model:
    """Denoising by `params` of the convolutional regulariser."""
    return models.assemble(
        operators.identity(shape), bank_of(shape).regularizer(lambda key: params)
    )


@partial(jax.jit, static_argnames="shape")
def denoised(shape: tuple[int, int], params: Params, f: Images) -> Images:
    """The minimisers."""
    solver = solvers.DESCENTS["optimized_gradient"](**ACCURACY)
    return model_of(shape, params).reconstruct(solver, params, f)[0]


def decibels(task: Task, params: Params) -> float:
    """The mean PSNR of the test images."""
    u = denoised(task.test_shape, params, task.f_test)
    return float(losses.mean_scores(u, task.test, task.test_shape, 1.0)["psnr_db"])


def best_weight(task: Task, params: Params) -> Params:
    """`params` with the beta_0 of the least mean squared error of the first training images."""
    from scipy.optimize import minimize_scalar  # slow to import, and not for --help

    truth, f = task.train[:WEIGHED], task.f[:WEIGHED]

    def error(beta_0: float) -> float:
        u = denoised(task.shape, params | {"beta_0": jnp.float32(beta_0)}, f)
        return float(losses.mean_squared_error(u, truth))

    found: Any = minimize_scalar(error, bounds=WEIGHTS, method="bounded", options={"xatol": CLOSE})
    return params | {"beta_0": jnp.float32(found.x)}


def learned(
    task: Task, params: Params, names: tuple[str, ...], steps: int, key: Array
) -> tuple[Params, Array]:
    """`params` with the entries of those names learned by the mean squared error, and the course of
    that on the batches."""
    orders, own = jax.random.split(key)
    count = len(task.train)
    batches = jax.vmap(lambda k: jax.random.permutation(k, count)[: task.batch])(
        jax.random.split(orders, steps)
    )
    rates = {name: RATES[name] * (name in names) for name in RATES}
    return _course(task.shape, params, rates, (task.train, task.f), batches, own)


@partial(jax.jit, static_argnames="shape")
def _course(
    shape: tuple[int, int],
    params: Params,
    rates: dict[str, Any],
    data: tuple[Images, Images],
    batches: Array,
    key: Array,
) -> tuple[Params, Array]:
    """One program for whatever is learned: what is not has a rate of 0."""
    posed = algorithms.posed(model_of(shape, params), params, *data, learned=tuple(RATES))
    cosine: Callable[[Any], Any] = optax.cosine_decay_schedule(1.0, len(batches))

    def scaled(updates: Any, _: Any) -> dict[str, Array]:
        return {name: -rates[name] * x for name, x in updates.items()}

    optimiser = optax.chain(
        optax.scale_by_adam(), optax.scale_by_schedule(cosine), optax.stateless(scaled)
    )
    method = algorithms.aid(
        posed.problem,
        optimiser,
        lower_iterations=LOWER,
        adjoint_iterations=ADJOINT,
        lower_solver="optimized_gradient",
    )
    method = algorithms.guarded(algorithms.minibatches(method))
    # From the minimisers: steps on lower levels that are still on their way from the measurement
    # learn weights that are too large, which is what makes that way shorter.
    state = method.init(posed.gamma, denoised(shape, params, data[1]))

    def body(state: Any, at: tuple[Array, Array]) -> tuple[Any, Array]:
        state, info = method.step(state, (at[0], posed.data), at[1])
        return state, info.loss

    state, course = jax.lax.scan(body, state, (batches, jax.random.split(key, len(batches))))
    return params | state.gamma, course
