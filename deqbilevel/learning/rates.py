"""How weights move: optax transformations whose rates are leaves of `params`, so that lanes differ.

    optimiser(params, step) -> the transformation of that step; its state does not depend on either

A transformation of optax as it is makes one by `fixed`.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from deqbilevel import checks, precision
from deqbilevel.types import Params

Optimiser = Callable[[Params, Any], optax.GradientTransformation]
"""(params, step) -> transformation."""

Schedule = Callable[[Array, int], optax.Schedule]
"""(rate at the start, steps in all) -> step -> learning rate."""


def fixed(transformation: optax.GradientTransformation) -> Optimiser:
    """The optimiser of a transformation that has its rates.

    Raises: ValueError for what is no transformation.

    >>> step = learning.fixed(optax.sgd(0.5))({}, 0)
    >>> print(step.update(jnp.array([2.0]), step.init(jnp.zeros(1)))[0])
    [-1.]
    """
    if not isinstance(transformation, optax.GradientTransformation):
        raise ValueError(
            f"optimiser: a {type(transformation).__name__}; expected a transformation of optax, "
            "such as optax.adam(1e-3)"
        )
    return lambda params, step: transformation


def adam_direction(params: Params) -> optax.GradientTransformation:
    """Adam without its learning rate; `params` may have its `adam_b1`, `adam_b2` and `adam_eps`.

    >>> step = learning.adam_direction({"adam_b1": 0.5})
    >>> print(step.update(jnp.array([2.0]), step.init(jnp.zeros(1)))[0])  # at first the sign
    [1.]
    """
    own = {name: params[f"adam_{name}"] for name in ("b1", "b2", "eps") if f"adam_{name}" in params}
    return optax.scale_by_adam(**own)


def cosine(start: Array, total_steps: int) -> optax.Schedule:
    """To 1e-6 with the last step, as in the code published with [REB] for digits; the text has
    T_max = 10,000 instead of the number of steps. Raises ValueError for fewer than one step.

    >>> rate = learning.cosine(jnp.array(1.0), 10)
    >>> print(jnp.stack([rate(0), rate(5), rate(10)]))
    [1.  0.5 0. ]
    """
    checks.whole("total_steps", total_steps)
    return optax.cosine_decay_schedule(start, total_steps, alpha=1e-6 / start)


def linear(part: float) -> Schedule:
    """Along a line to a part of the start, as in the code published with [REB] for faces.

    Raises: ValueError for a part that is not from 0 to 1.

    >>> print(learning.linear(0.1)(jnp.array(1.0), 10)(5))  # half-way from 1 to 0.1
    0.55
    """
    checks.number("part", part, least=0, most=1)
    return lambda start, total_steps: optax.linear_schedule(start, part * start, total_steps)


SCHEDULES: checks.Registry[Schedule] = checks.Registry(
    "schedule", {"cosine": cosine, "constant": linear(1.0)}
)
"""Those that a command may name."""


def adam(total_steps: int, schedule: Schedule = cosine) -> Optimiser:
    """Adam whose rate falls from `params["learning_rate"]` along the schedule over `total_steps`.

    Raises: ValueError for fewer than one step, and what is no schedule.

    >>> step = learning.adam(10)({"learning_rate": jnp.array(0.1)}, 0)
    >>> print(step.update(jnp.array([2.0]), step.init(jnp.zeros(1)))[0])
    [-0.1]
    """
    checks.whole("total_steps", total_steps)
    checks.function("schedule", schedule)

    def of_step(params: Params, step: Any) -> optax.GradientTransformation:
        rate = schedule(params["learning_rate"], total_steps)(step)
        rate = jnp.asarray(rate, precision.dtype_of(params))
        return optax.chain(adam_direction(params), optax.scale(-rate))

    return of_step


def searched(direction: optax.GradientTransformation, *, anew: bool) -> Optimiser:
    """A step along a direction no longer than 1, by backtracking on the upper-level loss; `anew`
    from a step of 1 every time, else from twice the last."""
    search = optax.scale_by_backtracking_linesearch(
        max_backtracking_steps=20,
        decrease_factor=0.5,
        increase_factor=float("inf") if anew else 2.0,
    )
    # A weight e^beta is multiplied by e at most.
    return fixed(optax.chain(direction, optax.clip_by_global_norm(1.0), optax.scale(-1.0), search))


def lbfgs() -> Optimiser:
    """L-BFGS with backtracking; the step that its direction is scaled for is 1.

    >>> step, loss, x = learning.lbfgs()({}, 0), lambda x: sum(x**2) / 2, jnp.array([4.0])
    >>> print(step.update(x, step.init(x), x, value=loss(x), grad=x, value_fn=loss)[0])  # at most 1
    [-1.]
    """
    return searched(optax.scale_by_lbfgs(), anew=True)


def gradient_descent() -> Optimiser:
    """Steepest descent with backtracking.

    >>> step, x = learning.gradient_descent()({}, 0), jnp.array([4.0])
    >>> loss = lambda x: jnp.sum(x**2) / 2
    >>> print(step.update(x, step.init(x), x, value=loss(x), grad=x, value_fn=loss)[0])  # at most 1
    [-1.]
    """
    return searched(optax.identity(), anew=False)


SEARCHING: checks.Registry[Callable[[], Optimiser]] = checks.Registry(
    "optimiser", {"lbfgs": lbfgs, "gradient_descent": gradient_descent}
)
"""Those that search along their direction, which need the same images at every trial."""
