"""What an argument has to be, declared beside it, and checked where its value is known.

    @options(rate=POSITIVE, trials=count(1))
    def search(rate, *, trials=20): ...

None passes where it is the default. What is traced, such as a lane of a vmap, passes: its value is
not known when a function is called.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from deqbilevel import checks

P = ParamSpec("P")
R = TypeVar("R")


class Rule(NamedTuple):
    """What a value has to be."""

    holds: Callable[[Any], bool]
    expected: str


def _passes(check: Callable[..., Any], **limits: Any) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        try:
            check("", value, **limits)
        except ValueError:
            return False
        return True

    return holds


def count(least: int) -> Rule:
    """`checks.whole`."""
    return Rule(_passes(checks.whole, least=least), f"a whole number, {least} or more")


def real(**limits: float | int) -> Rule:
    """`checks.number` with its limits: above, least, most, below."""
    words = {"above": "above {:g}", "least": "{:g} or more", "most": "at most {:g}"}
    words["below"] = "below {:g}"
    said = [words[name].format(limit) for name, limit in limits.items()]
    return Rule(_passes(checks.number, **limits), ", ".join(["a finite number", *said]))


def one_of(names: Iterable[str]) -> Rule:
    """One of these names."""
    names = tuple(names)
    return Rule(lambda value: value in names, f"one of {', '.join(names)}")


def _is_key(value: Any) -> bool:
    try:
        return checks.key("key", value).ndim == 0
    except ValueError:
        return False


KEY = Rule(_is_key, "one key, such as jax.random.key(0)")
TEXT = Rule(lambda value: isinstance(value, str), "a text")
FUNCTION = Rule(callable, "a function of the step u, such as lambda u: 10")
SWITCH = Rule(lambda value: isinstance(value, bool | np.bool_), "True or False")
POSITIVE = real(above=0)
"""Rules that many arguments have."""


def or_function(rule: Rule) -> Rule:
    """A function of the step, or a number for one that is constant."""
    return Rule(
        lambda value: callable(value) or rule.holds(value), f"{rule.expected}, or a function of u"
    )


def meets(value: Any, rule: Rule) -> bool:
    """Whether a value meets a rule, or is traced."""
    return checks.traced(value) or rule.holds(value)


def require(rules: Mapping[str, Rule], values: Mapping[str, Any]) -> None:
    """Raises ValueError for the first value that does not meet the rule of its name."""
    for name, rule in rules.items():
        if name in values and not meets(values[name], rule):
            said = repr(values[name])
            said = said if len(said) <= 60 else f"a {type(values[name]).__name__}"
            raise ValueError(f"{name}={said}: expected {rule.expected}")


def options(**rules: Rule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function whose arguments are checked by the rules of their names, see `require`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @wraps(function)
        def guarded(*positional: P.args, **named: P.kwargs) -> R:
            given = signature.bind(*positional, **named).arguments
            defaults = {name: signature.parameters[name].default for name in given}
            require(rules, {k: v for k, v in given.items() if not v is defaults[k] is None})
            return function(*positional, **named)

        return guarded

    return decorate
