"""Upper-level steps that optax has not, as optax transformations: [CF] 5.1.

Each takes the gradient and gives what is added to gamma, like `optax.sgd`, and is made to be an
algorithm's `optimiser`; its numbers may be traced. `optax.chain(step, box(-6, 6))` keeps gamma in a
box. What `armijo` and `hoag_adaptive` need beside the gradient, the algorithm hands over: `value`,
the upper-level loss at gamma, `grad`, its gradient, and `value_fn`, the loss as a function.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from deqbilevel.checks import traced
from deqbilevel.rules import POSITIVE, Rule, count, one_of, options, or_function, real

Tree = Any
"""gamma, or a gradient of its form."""

INSIDE = real(above=0, below=1)
"""A number between 0 and 1."""


@options(rate=or_function(POSITIVE), dimension=count(1))
def dimension_normalised(rate: Any, dimension: int) -> optax.GradientTransformation:
    """-rate / N grad l, N = `dimension` the number of data: [123] of [CF] 5.1.

    A loss that is a sum over N data grows like N, so that one rate serves small and large images.
    The rate may be an optax schedule.
    Raises: ValueError for a dimension that is no whole number of 1 or more.

    >>> step = algorithms.steps.dimension_normalised(0.5, dimension=10)
    >>> print(step.update(jnp.array([20.0]), step.init(jnp.zeros(1)))[0])
    [-1.]
    """

    def scale(gradient: Tree, params: Tree = None) -> Tree:
        return jax.tree.map(lambda g: g / dimension, gradient)

    return optax.chain(optax.stateless(scale), optax.scale_by_learning_rate(rate))


@options(rate=POSITIVE, trials=count(1), sufficient=INSIDE, shrink=INSIDE, grow=real(least=1))
def armijo(
    rate: Any = 1.0, *, trials: Any = 20, sufficient: Any = 0.1, shrink: Any = 0.5, grow: Any = 1.5
) -> optax.GradientTransformationExtraArgs:
    """Backtracking from `grow` times the last step, and from `rate` at first, to the first a with

        l(gamma - a g) <= l(gamma) - sufficient a <g, grad l>

    g: the gradient, or a direction made of it before in a chain. The search is optax's. Where none
    of so many trials meets it, gamma stays, and the next search starts at `rate`: a loss known only
    up to the lower level's error need not fall, and a step that raises it is worth nothing. The
    state's `num_linesearch_steps` are the trials, a lower-level solve each; [141] of [CF] has 57
    to 59 in 40 steps.
    Raises: ValueError for fewer than one trial and other numbers that make no search, and in an
    algorithm that hands over no loss.

    >>> step, loss, gamma = algorithms.steps.armijo(), lambda x: jnp.sum(x**2) / 2, jnp.array([4.0])
    >>> extra = {"value": loss(gamma), "grad": gamma, "value_fn": loss}
    >>> print(step.update(gamma, step.init(gamma), gamma, **extra)[0])  # the first trial is 1
    [-4.]
    """
    search: Any = optax.scale_by_backtracking_linesearch(
        trials - 1,
        slope_rtol=sufficient,
        decrease_factor=shrink,
        increase_factor=grow,
        max_learning_rate=jnp.inf,
    )

    def refused(state: Any, value: Any) -> Any:
        first = jnp.full_like(state.learning_rate, rate / grow)
        return state._replace(learning_rate=first, value=jnp.full_like(state.value, value))

    def init(params: Tree) -> Any:
        return refused(search.init(params), jnp.inf)

    def update(
        updates: Tree, state: Any, params: Tree, *, value_fn: Any = None, **given: Any
    ) -> tuple[Tree, Any]:
        _check_given("armijo", value_fn)
        value, grad = given["value"], given["grad"]
        descent = jax.tree.map(jnp.negative, updates)
        extra = {"value": value, "grad": grad, "value_fn": value_fn}
        updates, found = search.update(descent, state, params, **extra)
        nothing = jax.tree.map(jnp.zeros_like, updates), refused(found, value)
        accepted = found.info.decrease_error <= 0
        return jax.tree.map(lambda *x: jnp.where(accepted, *x), (updates, found), nothing)

    return _transformation(init, update)


class Secant(NamedTuple):
    """Where the last gradient was taken, and the last step size."""

    gamma: Tree
    gradient: Tree
    rate: Float[Array, ""]


@options(
    first=POSITIVE,
    variant=one_of(("long", "short")),
    least=real(least=0, most=1),
    most=real(least=1),
)
def barzilai_borwein(
    first: Any, *, variant: str = "short", least: Any = 1e-3, most: Any = 1e3
) -> optax.GradientTransformationExtraArgs:
    """-a grad l with a of Barzilai and Borwein: [146] of [CF] 5.1. With s and y the last changes
    of gamma and of the gradient,

        long: a = <s, s> / <s, y>,    short: a = <s, y> / <y, y>

    first: the first step size; all others are kept between `least` and `most` times that. Where
    the last change shows no positive curvature the step size before is taken again.
    Raises: ValueError for another variant, step sizes that are not positive, and bounds that
    leave out the first.

    >>> step, gamma = algorithms.steps.barzilai_borwein(0.1), jnp.array([1.0])  # l = gamma^2
    >>> change, state = step.update(2 * gamma, step.init(gamma), gamma)
    >>> gamma = gamma + change  # 0.8, from where 2 a = 1
    >>> print(step.update(2 * gamma, state, gamma)[0])
    [-0.8]
    """

    def init(params: Tree) -> Secant:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return Secant(params, optax.tree.zeros_like(params), jnp.asarray(first, dtype))

    def update(updates: Tree, state: Secant, params: Tree, **_: Any) -> tuple[Tree, Secant]:
        s = optax.tree.sub(params, state.gamma)
        y = optax.tree.sub(updates, state.gradient)
        ss, sy, yy = (jnp.asarray(optax.tree.vdot(*x)) for x in ((s, s), (s, y), (y, y)))
        usable = sy > 0
        over, under = (ss, sy) if variant == "long" else (sy, yy)
        a = jnp.clip(over / jnp.where(usable, under, 1), least * first, most * first)
        rate = jnp.where(usable, a, state.rate).astype(state.rate.dtype)
        return optax.tree.scale(-rate, updates), Secant(params, updates, rate)

    return _transformation(init, update)


class Adaptive(NamedTuple):
    """The last gamma that was kept, its gradient and loss, and the constant L of the next step."""

    gamma: Tree
    gradient: Tree
    value: Float[Array, ""]
    lipschitz: Float[Array, ""]
    """0 before the first step."""
    reverts: Int[Array, ""]
    """How often the loss grew too much: HOAG then halves the tolerance of its lower level too."""


@options(
    lipschitz=POSITIVE,
    success=real(above=0, most=1),
    failure=real(above=1),
    growth=real(least=1),
    slack=real(least=0),
)
def hoag_adaptive(
    lipschitz: Any = None,
    *,
    success: Any = 0.95,
    failure: Any = 2.0,
    growth: Any = 1.2,
    slack: Any = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """-grad l / L with L estimated as HOAG does, at the cost of no evaluation of the loss.

    L starts at `lipschitz`, or at ||grad l|| / sqrt(R) with R variables (1 where that norm is below
    1e-3). With s the last change of gamma, and l the loss before it,

        l+ <= l - L/2 ||s||^2 + slack    L is multiplied by `success`, and the step taken
        l+ > l + slack                   L is multiplied by `failure`, and the step taken
        l+ > growth l                    L is multiplied by `failure`; gamma goes back to where it
                                         was, and at once takes the shorter step from there

    and else L stays. HOAG's last published code has not the second, and so lets the loss grow by
    any less than a fifth with every step; it is of an earlier version. That code also applies an
    accepted step twice, and bounds gamma only in between: here a step is applied once, and a bound
    is `box`, behind it in a chain. Losses must not be negative.
    Raises: ValueError for numbers with which L cannot follow, and in an algorithm that hands over
    no loss.

    >>> step, gamma = algorithms.steps.hoag_adaptive(lipschitz=4.0), jnp.array([1.0])
    >>> print(step.update(jnp.array([2.0]), step.init(gamma), gamma, value=1.0)[0])
    [-0.5]
    """

    def init(params: Tree) -> Adaptive:
        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
        return Adaptive(params, optax.tree.zeros_like(params), zero, zero, jnp.zeros((), int))

    def update(
        updates: Tree, state: Adaptive, params: Tree, *, value: Any = None, **_: Any
    ) -> tuple[Tree, Adaptive]:
        _check_given("hoag_adaptive", value)
        dtype = state.value.dtype
        size = optax.tree.norm(updates)
        guess = jnp.where(size > 1e-3, size / _count(updates) ** 0.5, 1)
        step = optax.tree.norm(optax.tree.sub(params, state.gamma), squared=True)
        first = state.lipschitz == 0
        worse = ~first & ~(value <= growth * state.value)
        grew = worse | (value > state.value + slack)
        fell = value <= state.value - state.lipschitz / 2 * step + slack
        L = state.lipschitz * jnp.where(grew, failure, jnp.where(fell, success, 1))
        L = jnp.where(first, guess if lipschitz is None else lipschitz, L)
        gamma, gradient, value = jax.tree.map(
            lambda old, new: jnp.where(worse, old, new),
            (state.gamma, state.gradient, state.value),
            (params, updates, jnp.asarray(value, dtype)),
        )
        updates = jax.tree.map(lambda back, now, g: (back - now) - g / L, gamma, params, gradient)
        return updates, Adaptive(gamma, gradient, value, L.astype(dtype), state.reverts + worse)

    return _transformation(init, update)


@options(project=Rule(callable, "a function, such as one of optax.projections"))
def projected(project: Callable[[Tree], Tree]) -> optax.GradientTransformation:
    """Updates after which gamma is project(gamma + updates), up to rounding; last in a chain.

    project: one of `optax.projections`, or any other.
    Raises: ValueError for what is no function.

    >>> step = algorithms.steps.projected(lambda gamma: jnp.maximum(gamma, 0))
    >>> print(step.update(jnp.array([-3.0]), step.init(None), jnp.array([1.0]))[0])  # from 1 to 0
    [-1.]
    """

    def update(updates: Tree, params: Tree = None) -> Tree:
        return optax.tree.sub(project(optax.apply_updates(params, updates)), params)

    return optax.stateless(update)


def box(lower: Any, upper: Any) -> optax.GradientTransformation:
    """`projected` onto lower <= gamma <= upper: numbers, or trees of which gamma continues the
    structure, such as {"beta": -10.0, "filters": -1.0}. HOAG's box is -6 to 6.

    Raises: ValueError where a lower bound is above the upper one, or is no number; where two trees
    are compared, only in their first use.

    >>> step = algorithms.steps.box(-1, 1)
    >>> print(step.update(jnp.array([5.0]), step.init(None), jnp.array([0.0]))[0])
    [1.]
    """

    def ordered(low: Any, high: Any) -> None:
        if traced(low) or traced(high):
            return
        ends = [np.asarray(x) for x in (low, high)]
        numbers = all(x.dtype.kind in "iuf" for x in ends)
        if not numbers or not np.all(ends[0] <= ends[1]):
            raise ValueError(f"box from {low} to {high}: expected numbers, the lower one first")

    def clip(gamma: Tree) -> Tree:
        bounds = [jax.tree.broadcast(bound, gamma) for bound in (lower, upper)]
        jax.tree.map(ordered, *bounds)
        return jax.tree.map(jnp.clip, gamma, *bounds)

    if jax.tree.structure(lower) == jax.tree.structure(upper):
        jax.tree.map(ordered, lower, upper)

    return projected(clip)


def _transformation(init: Any, update: Any) -> optax.GradientTransformationExtraArgs:
    return optax.GradientTransformationExtraArgs(init, update)


def _check_given(step: str, what: Any) -> None:
    if what is None:
        raise ValueError(
            f"{step} looks at the upper-level loss, which this algorithm does not hand over, as "
            "one of samples; take optax.sgd with a schedule, or another algorithm, such as aid"
        )


def _count(tree: Tree) -> int:
    """R, the number of variables."""
    return sum(jnp.size(x) for x in jax.tree.leaves(tree))
