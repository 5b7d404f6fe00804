"""An upper-level algorithm by its name, for the commands that learn by one: `--algorithm`."""

import inspect
from typing import Any

import optax

from deqbilevel import algorithms, learning
from deqbilevel.algorithms import Algorithm, Problem
from deqbilevel.commands.algorithm_options import DEBLURRING, FILTERS, MINIBATCHES
from deqbilevel.learning import Schedule
from deqbilevel.types import Params
from deqbilevel.upper import Method


def check(model: str, name: str, **others: bool) -> None:
    """Raises ValueError for a model or a method that cannot be trained so, and for other options of
    the command that are given and have no meaning then."""
    given = [f"--{option}" for option, different in others.items() if different]
    if given:
        raise ValueError(
            f"--algorithm {name} with {', '.join(given)}: an algorithm has solvers of its own for "
            "both levels; leave one or the other out"
        )
    if model != "bilevel":
        raise ValueError(
            f"--algorithm {name} with --model {model}: a fixed point that minimises no lower-level "
            "cost; take a model with an energy (--model bilevel), or leave --algorithm out"
        )
    if name not in DEBLURRING:
        raise ValueError(
            f"--algorithm {name}: too much for a dense A, by its matrices or the solves inside of "
            f"solves; expected one of {', '.join(DEBLURRING)}"
        )


def trained(name: str, total_steps: int, schedule: Schedule = learning.cosine) -> Method:
    """The method on minibatches, moved by Adam as in `learning.step`, with the options of filters
    where the step of the lower level is 1/L."""

    def method(problem: Problem, params: Params) -> Algorithm:
        rates = schedule(params["learning_rate"], total_steps)
        own = _options(DEBLURRING if "tau" in params else FILTERS, name, batches=True)
        if name == "maid":
            return algorithms.maid(problem, step_size=params["learning_rate"], **own)
        adam = optax.chain(learning.adam_direction(params), optax.scale_by_learning_rate(rates))
        return algorithms.METHODS[name](problem, adam, **own)

    return method


def filtered(
    name: str, optimiser: optax.GradientTransformation, chosen: dict[str, Any], *, batches: bool
) -> Method:
    """The method for filters, moved by an optimiser.

    chosen: options that are to replace the method's own, those that are not None; batches: whether
    its steps see some of the images only.
    Raises: ValueError for a method or an option that filters do not have.
    """
    if name not in FILTERS:
        raise ValueError(
            f"--algorithm {name}: needs dense matrices, expected one of {', '.join(FILTERS)}"
        )
    own = _options(FILTERS, name, batches=batches)
    known = inspect.signature(algorithms.METHODS[name]).parameters
    for option, value in chosen.items():
        if value is not None and option not in known:
            raise ValueError(
                f"--algorithm {name} --{option.replace('_', '-')} {value}: the method has no such "
                "option; leave it out"
            )
        if value is not None:
            own[option] = (lambda u, n=value: n) if callable(own.get(option)) else value
    moved_by = None if name in algorithms.OWN_STEPS else optimiser
    return lambda problem, params: algorithms.METHODS[name](problem, moved_by, **own)


def _options(table: dict[str, dict[str, Any]], name: str, *, batches: bool) -> dict[str, Any]:
    own = {option: value for option, value in table[name].items() if option != "rate"}
    return own | (MINIBATCHES.get(name, {}) if batches else {})
