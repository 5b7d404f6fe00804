"""What an upper-level method is made and run with, checked in one place.

    @checked(inner_iterations=count(0))
    def method(problem, optimiser, *, ...): ...

An option is checked by the rule of its name, in `RULES` or given here, see `deqbilevel.rules`.
"""

import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp

from deqbilevel.algorithms.base import Algorithm, Problem
from deqbilevel.checks import finite
from deqbilevel.rules import (
    FUNCTION,
    POSITIVE,
    SWITCH,
    Rule,
    count,
    meets,
    one_of,
    options,
    or_function,
    real,
    require,
)
from deqbilevel.solvers import DESCENTS

P = ParamSpec("P")

ALGORITHM = Rule(lambda x: isinstance(x, Algorithm), "what a method gives, such as aid(...)")

RULES: dict[str, Rule] = {
    "problem": Rule(lambda x: isinstance(x, Problem), "algorithms.Problem, as posed.problem is"),
    "optimiser": Rule(
        lambda x: callable(getattr(x, "init", None)) and callable(getattr(x, "update", None)),
        "one of optax, such as optax.sgd(0.1)",
    ),
    "lower_iterations": count(1),
    "adjoint_iterations": count(1),
    "inner_iterations": count(1),
    "adjoint_terms": count(0),
    "period": count(1),
    "backtracks": count(1),
    "tightenings": count(1),
    "power_iterations": count(1),
    "largest": count(1),
    "mu": POSITIVE,
    "adjoint_step": POSITIVE,
    "step_size": POSITIVE,
    "accuracy": POSITIVE,
    "adjoint_accuracy": POSITIVE,
    "smoothness": real(least=0),
    "cross_bound": Rule(lambda x: x == math.inf or POSITIVE.holds(x), "a number above 0, or inf"),
    "correction": real(),
    "proximity": real(least=0),
    "inner_tolerance": real(least=0),
    "eta": real(above=0, below=1),
    "decrease": real(above=0, below=1),
    "backtracking": real(above=0, below=1),
    "tightening": real(above=0, below=1),
    "growth": real(least=1),
    "loosening": real(least=1),
    "momentum": or_function(real(least=0, most=1)),
    "lower_momentum": or_function(real(least=0, most=1)),
    "lower_schedule": or_function(POSITIVE),
    "tolerance": FUNCTION,
    "weight": FUNCTION,
    "large": Rule(callable, "a function (data, key) -> sample"),
    "lipschitz": Rule(
        lambda value: isinstance(value, tuple) and all(meets(x, real(least=0)) for x in value),
        "maid.Lipschitz of numbers of at least 0",
    ),
    "lower_solver": one_of(DESCENTS),
    "inverse": one_of(("dense", "conjugate_gradient")),
    "checkpoint": one_of(("none", "sqrt")),
    "warm_adjoint": SWITCH,
    "randomised": SWITCH,
    "restart": SWITCH,
}
"""The options of methods, by name."""


def checked(**own: Rule) -> Callable[[Callable[P, Algorithm]], Callable[P, Algorithm]]:
    """A factory of methods whose problem, optimiser and options are checked, as is what its
    methods start from and see. own: rules that are others than those of `RULES`.

    Raises, where the factory is called, and its method's init and step: ValueError.
    """

    def decorate(factory: Callable[P, Algorithm]) -> Callable[P, Algorithm]:
        signature = inspect.signature(factory)

        @options(**RULES | own)
        @wraps(factory)
        def made(*positional: P.args, **named: P.kwargs) -> Algorithm:
            method = factory(*positional, **named)
            problem: Any = signature.bind(*positional, **named).arguments["problem"]
            if problem.strong_convexity is not None:
                require(RULES, {"mu": problem.strong_convexity})
            return _watched(method, problem)

        return made

    return decorate


def _watched(method: Algorithm, problem: Problem) -> Algorithm:
    """The method, which looks at what it starts from, and at whether the problem fits it."""

    def init(gamma: Any, x: Any) -> Any:
        try:
            if any(isinstance(leaf, str) for leaf in jax.tree.leaves((gamma, x))):
                raise TypeError("not a text")
            x = jnp.asarray(x)
            gamma, x = jax.tree.map(lambda y: jnp.asarray(y, jnp.asarray(y).dtype), (gamma, x))
        except (TypeError, ValueError) as error:
            raise ValueError(f"gamma and x: expected arrays of numbers ({error})") from error
        leaves = jax.tree.leaves(gamma)
        if not leaves:
            raise ValueError("gamma: has no numbers, expected the upper-level variables")
        _floating("gamma", gamma)
        if x.ndim < 2 or not x.size:
            raise ValueError(
                f"x: of shape {x.shape}, expected [batch, ...] with a row for each lower-level "
                "problem; give a single one as x[None]"
            )
        _floating("x", x)
        if jnp.result_type(*leaves) != x.dtype:
            raise ValueError(
                f"gamma in {jnp.result_type(*leaves)} and x in {x.dtype}: expected one precision"
            )
        alpha = problem.lower_step(gamma)
        require({"lower_step(gamma)": POSITIVE}, {"lower_step(gamma)": alpha})
        return method.init(gamma, x)

    def step(state: Any, data: Any, key: Any) -> tuple[Any, Any]:
        if not (hasattr(state, "gamma") and hasattr(state, "x")):
            raise ValueError(
                f"state: a {type(state).__name__}, expected what init(gamma, x) of the method gives"
            )
        finite("data", data)
        _fits(problem, state.gamma, state.x, data)
        return method.step(state, data, key)

    return method._replace(init=init, step=step)


def _floating(name: str, tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{name}: has {leaf.dtype}, expected floating-point numbers")
    finite(name, tree)


def _fits(problem: Problem, gamma: Any, x: Any, data: Any) -> None:
    """Raises ValueError where the problem's functions do not take these, or give other shapes."""
    shapes = f"gamma {_shapes(gamma)}, x {_shapes(x)}, data {_shapes(data)}"
    try:
        loss = jax.eval_shape(problem.upper, gamma, x, data)
        gradient = jax.eval_shape(problem.lower_gradient, x, gamma, data)
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"the problem does not take {shapes}: {error}") from error
    if getattr(loss, "shape", None) != ():
        raise ValueError(f"problem.upper: gives {_shapes(loss)} for {shapes}, expected a scalar")
    if (getattr(gradient, "shape", None), getattr(gradient, "dtype", None)) != (x.shape, x.dtype):
        raise ValueError(
            f"problem.lower_gradient: gives {_shapes(gradient)} for {shapes}, expected what x is"
        )


def _shapes(tree: Any) -> str:
    """The types and shapes of a tree's leaves, as far as a line goes."""
    leaves = [
        f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "shape") else type(leaf).__name__
        for leaf in jax.tree.leaves(tree)
    ]
    return ", ".join([*leaves[:6], "..."] if len(leaves) > 6 else leaves) or "none"
