"""An algorithm around an algorithm: it is stopped, and frozen where it diverges.

    method = guarded(minibatches(aid(problem, optimiser)), calls=10_000)
    state, infos = run(method, method.init(gamma, x), data, key, indices)

A wrapper takes an Algorithm, or what makes one, and gives an Algorithm, whose State holds the State
of the one inside as `inner`. `batching.minibatches` is the innermost: it needs the rows of the
method itself.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info, inside
from deqbilevel.algorithms.checked import ALGORITHM
from deqbilevel.rules import Rule, options, real


class Guarded(NamedTuple):
    """A State, how far it got, and why it went no further."""

    inner: Any
    last: Info
    """Of the last step taken, infinite before: what a frozen lane goes on to show."""
    steps: Int[Array, ""]
    """Steps taken; where `diverged`, the one after these is the one that did."""
    calls: Calls
    """So far, those of a step that diverged included."""
    stopped: Bool[Array, ""]
    diverged: Bool[Array, ""]

    gamma = inside("gamma")
    x = inside("x")


LIMIT = Rule(lambda x: x == math.inf or real(least=0).holds(x), "a number of at least 0")


@options(algorithm=ALGORITHM, loss=LIMIT, gradient_norm=LIMIT, relative_change=LIMIT, calls=LIMIT)
def guarded(
    algorithm: Algorithm,
    *,
    loss: Any = jnp.inf,
    gradient_norm: Any = None,
    relative_change: Any = None,
    calls: Any = None,
) -> Algorithm:
    """The algorithm until it diverges or a stopping rule is met; there it stays, and calls nothing.

    A step diverges whose loss is above `loss` or whose loss, hypergradient, gamma, x or other row
    is not finite, or that has a NaN anywhere in its State. It is not taken: the State stays finite,
    the lane is frozen, its neighbours never see it. A step is the last one after which

        ||grad l|| <= gradient_norm, at the gamma that it started from
        ||gamma+ - gamma|| <= relative_change ||gamma||, .01 in [142] of [CF] 5.1
        the calls of all oracles are at least `calls`

    A search for a step size that finds none leaves gamma, and so meets the second. All may be
    traced. A step that is not taken shows the Info of the one before, with the calls that it made.
    Among lanes a frozen one still takes the time of the others.
    Raises: ValueError for rules that are no numbers of 0 or more.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.guarded(algorithms.lagrangian(problem), calls=1)
    >>> state, _ = algorithms.run(method, method.init(gamma, x), data, jax.random.key(0), 3)
    >>> print(state.steps, state.stopped, state.diverged)  # one step is more than one call
    1 True False
    """

    def init(gamma: Gamma, x: Array) -> Guarded:
        inner = algorithm.init(gamma, x)
        zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
        none = Calls(zero, zero, zero, zero)
        no = jnp.zeros((), bool)
        return Guarded(inner, Info(none, inf, inf, inf, inf), jnp.zeros((), int), none, no, no)

    def step(state: Guarded, data: Data, key: PRNGKeyArray) -> tuple[Guarded, Info]:
        def take(state: Guarded) -> tuple[Any, Info]:
            inner, info = algorithm.step(state.inner, data, key)
            return inner, optax.tree.cast_like(info, state.last)

        def stay(state: Guarded) -> tuple[Any, Info]:
            return state.inner, state.last._replace(calls=Calls(*(0 * x for x in state.calls)))

        active = ~(state.stopped | state.diverged)
        inner, info = jax.lax.cond(active, take, stay, state)
        rows = [getattr(inner, name) for name in ("gamma", "x", *algorithm.rows)]
        sound = _all(jnp.isfinite, (rows, info.loss, info.gradient_norm)) & (info.loss <= loss)
        sound &= _all(lambda x: ~jnp.isnan(x), inner)
        taken = active & sound

        spent = state.calls.plus(info.calls)
        done = jnp.zeros((), bool)
        if gradient_norm is not None:
            done |= info.gradient_norm <= gradient_norm
        if relative_change is not None:
            change = optax.tree.norm(optax.tree.sub(inner.gamma, state.gamma))
            done |= change <= relative_change * optax.tree.norm(state.gamma)
        if calls is not None:
            done |= spent.total() >= calls

        inner, last = jax.tree.map(
            lambda new, old: jnp.where(taken, new, old), (inner, info), (state.inner, state.last)
        )
        state = Guarded(
            inner=inner,
            last=last,
            steps=state.steps + taken,
            calls=spent,
            stopped=state.stopped | (taken & done),
            diverged=state.diverged | (active & ~sound),
        )
        return state, last._replace(calls=info.calls)

    return Algorithm(init, step, rows=())


def _all(test: Callable[[Array], Array], tree: Any) -> Bool[Array, ""]:
    """Whether the test holds for every floating-point number of a tree."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(test(x)) for x in leaves]))
