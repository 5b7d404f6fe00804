"""Algorithms around algorithms: options and batches that change with the steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Data, Gamma, Info, inside
from deqbilevel.algorithms.checked import ALGORITHM
from deqbilevel.rules import FUNCTION, Rule, count, options, real, require

Schedule = Callable[[Int[Array, ""]], Any]
"""The number of steps taken -> a number."""


class Counted(NamedTuple):
    """A State and the number of steps taken."""

    inner: Any
    steps: Int[Array, ""]

    gamma = inside("gamma")
    x = inside("x")


def _counted(
    algorithm: Callable[[Array], Algorithm], see: Callable[[Data, Array], Data]
) -> Algorithm:
    """The algorithm of each step, by its number, and what it sees of the data."""

    def init(gamma: Gamma, x: Array) -> Counted:
        start = jnp.zeros((), int)
        return Counted(algorithm(start).init(gamma, x), start)

    def step(state: Counted, data: Data, key: PRNGKeyArray) -> tuple[Counted, Info]:
        u = state.steps
        inner, info = algorithm(u).step(state.inner, see(data, u), key)
        return Counted(inner, u + 1), info

    return Algorithm(init, step, rows=())


@options(factory=Rule(callable, "a method, or functools.partial of one"))
def scheduled(factory: Callable[..., Algorithm], **schedules: Any) -> Algorithm:
    """factory(option=schedule(u), ...) at the step u = 0, 1, ...: tightening accuracy, growing T.

    scheduled(partial(aid, problem, optimiser), lower_iterations=lambda u: 1 + u // 10). The options
    must be such as may be traced, and leave the State's shapes alone.
    Raises: ValueError for what is no function of u.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> factory = lambda **options: algorithms.aid(problem, optax.sgd(1.0), **options)
    >>> method = algorithms.scheduled(factory, lower_iterations=lambda u: 4 + u)
    >>> _, info = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(info.calls.lower_gradients)
    4.0
    """
    require(dict.fromkeys(schedules, FUNCTION), schedules)

    def algorithm(u: Array) -> Algorithm:
        return factory(**{name: schedule(u) for name, schedule in schedules.items()})

    return _counted(algorithm, lambda data, u: data)


@options(algorithm=ALGORITHM, size=FUNCTION)
def growing(algorithm: Algorithm, size: Schedule) -> Algorithm:
    """The algorithm on data._replace(size=size(u)): batches that grow with the step u, [CF] 7.6.

    For data with a leaf `size`: how many of the samples of a batch, whose shape is fixed, count.
    Raises: ValueError in the first step for data without such a leaf.

    >>> posed = algorithms.stochastic_quadratic(algorithms.quadratic(), batch=8)
    >>> method = algorithms.growing(algorithms.lagrangian(posed.problem), lambda u: 1 + u)
    >>> state, _ = method.step(method.init(posed.gamma, posed.x), posed.data, jax.random.key(0))
    >>> print(state.steps)  # on one sample; the next is on two
    1
    """
    return _counted(lambda u: algorithm, lambda data, u: _sized(data, size(u)))


class Enlarged(NamedTuple):
    """A State, how many samples it sees, and the loss of the step before."""

    inner: Any
    size: Float[Array, ""]
    loss: Float[Array, ""]

    gamma = inside("gamma")
    x = inside("x")


@options(
    algorithm=ALGORITHM,
    initial=count(1),
    largest=count(1),
    factor=real(above=1),
    decrease=real(least=0, below=1),
)
def enlarging(
    algorithm: Algorithm, *, initial: int, largest: int, factor: Any = 2.0, decrease: Any = 1e-3
) -> Algorithm:
    """`growing` where a step fails to lower l enough, as [11] of [CF] 7.6 does.

    The batch has `initial` samples until a step has l(gamma+) > (1 - decrease) l(gamma), both as
    Info has them, and from there on `factor` times as many, rounded down, `largest` at most. That
    the fall is relative to l, which must not be negative, is our reading.
    Raises: ValueError for numbers out of range, and as `growing` does.

    >>> posed = algorithms.stochastic_quadratic(algorithms.quadratic(), batch=8)
    >>> method = algorithms.enlarging(algorithms.lagrangian(posed.problem), initial=2, largest=8)
    >>> state = method.init(posed.gamma, posed.x)._replace(loss=jnp.zeros(()))
    >>> print(method.step(state, posed.data, jax.random.key(0))[0].size)  # the loss rose from 0
    4.0
    """

    def init(gamma: Gamma, x: Array) -> Enlarged:
        inner = algorithm.init(gamma, x)
        return Enlarged(inner, jnp.full((), initial, x.dtype), jnp.full((), jnp.inf, x.dtype))

    def step(state: Enlarged, data: Data, key: PRNGKeyArray) -> tuple[Enlarged, Info]:
        size = jnp.floor(state.size).astype(int)
        inner, info = algorithm.step(state.inner, _sized(data, size), key)
        failed = info.loss > (1 - decrease) * state.loss
        grown = jnp.minimum(jnp.where(failed, factor, 1) * state.size, largest)
        return Enlarged(inner, grown, info.loss.astype(state.loss.dtype)), info

    return Algorithm(init, step, rows=())


def _sized(data: Data, size: Any) -> Data:
    if not hasattr(data, "size") or not hasattr(data, "_replace"):
        raise ValueError(
            f"data: a {type(data).__name__} without `size`, expected one of samples, such as those "
            "of stochastic_quadratic and cleaning.pose"
        )
    return data._replace(size=size)
