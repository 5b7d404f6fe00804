"""Grids: the lanes of a study, from axes that are crossed and axes that are sampled.

    axes = {"task": ["denoising"], "model": ["bilevel", "deq"], "noise": [0.1], ...}
    lanes = grid(axes)                                         # every combination
    drawn = sample({"tau": Range(0.01, 2.1, log=True), "lam": Range(0.5, 2.0)}, 64, "sobol", 0)
    lanes = grid(axes | {"sample": range(64)}, drawn)          # every one of them with 64 points

A lane is one setting of the hyperparameters: `{"task": "denoising", "model": "deq", ...}`. Axes
that are sampled share the one dimension `sample`, and each is a coordinate along it.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from deqbilevel import checks, models
from deqbilevel.results import AXES
from deqbilevel.studies.cubes import CELL
from deqbilevel.studies.storage import Lane
from deqbilevel.types import Params


class Own(NamedTuple):
    """An axis that a study may have beside `results.AXES`: a scalar of model, solver or Adam."""

    kind: type
    low: float
    high: float = math.inf
    open: bool = True
    """Whether the lower bound itself is excluded; the upper one always is."""


OWN_AXES: dict[str, Own] = {
    "seed": Own(int, 0, 2**32, open=False),
    "learning_rate": Own(float, 0),
    "lam": Own(float, 0, open=False),
    "threshold": Own(float, 0, open=False),
    "ridge": Own(float, 0),
    "forward_tolerance": Own(float, 0),
    "adjoint_tolerance": Own(float, 0),
    "window": Own(int, 1, 101, open=False),
    "adam_b1": Own(float, 0, 1, open=False),
    "adam_b2": Own(float, 0, 1, open=False),
    "adam_eps": Own(float, 0),
}
"""Every one but the seed and the window is an entry of `params`, and so may differ within a
program. See `settings.Setting.of` and `learning.adam_direction` for those of solver and Adam."""

MOST = 100_000
"""Points, and lanes of a grid: of more, their files alone would fill a disk."""

STATIC = ("window",)
"""Axes that decide shapes, beside task and model: each value is a program of its own."""

OF_SOLVER = ("window", "ridge", "forward_tolerance", "adjoint_tolerance")
"""Axes that say how a lower level is solved by iterations."""

SAMPLED = tuple(n for n in (*AXES[CELL:5], *OWN_AXES) if n not in ("seed", *STATIC))
"""What may be sampled: real numbers, except the noise, whose every level has files of its own."""


class Range(NamedTuple):
    """Where an axis is sampled: evenly between low and high, or evenly in the logarithm."""

    low: float
    high: float
    log: bool = False


def sample(
    ranges: Mapping[str, Range], count: int, how: Literal["sobol", "random"], seed: int
) -> dict[str, list[float]]:
    """`count` points: a value of each axis for each. Sobol points are scrambled by the seed, and
    fill the ranges evenly for every count; the points of a larger count begin with the same.

    Raises: ValueError for an axis that cannot be sampled, a range that is empty or reaches out of
    the axis's bounds, another way to draw, or a count or seed that is no whole number, of 1 or 0 or
    more.

    >>> from deqbilevel.studies import grids
    >>> points = grids.sample({"lam": grids.Range(1.0, 3.0)}, 4, "sobol", seed=0)
    >>> print(sorted(int(2 * (x - 1)) for x in points["lam"]))  # one in each quarter
    [0, 1, 2, 3]
    """
    checks.known("how", how, ("sobol", "random"))
    checks.whole("count", count, most=MOST)
    checks.whole("seed", seed, least=0, most=2**32 - 1)
    if not ranges:
        raise ValueError("ranges: expected one or more")
    for name, span in ranges.items():
        _check(name, span)
    generator = np.random.default_rng(seed)
    if how == "sobol":
        # Whole powers of two, which SciPy draws without a warning; a part of them serves as well.
        unit = scipy.stats.qmc.Sobol(len(ranges), rng=generator).random_base2(
            math.ceil(math.log2(count))
        )
    else:
        unit = generator.random((count, len(ranges)))
    found = {}
    for (name, (low, high, log)), u in zip(ranges.items(), unit[:count].T, strict=True):
        values = low * (high / low) ** u if log else low + (high - low) * u
        found[name] = values.tolist()
    return found


def _check(name: str, span: Any) -> None:
    checks.known("sampled axis", name, SAMPLED)
    if not isinstance(span, Range):
        raise ValueError(f"{name}={span!r}: expected a Range(low, high)")
    for number in span[:2]:
        if np.ndim(checks.number(name, number)):
            raise ValueError(f"{name}={number}: expected one number for the end of a range")
    low, high = span[:2]
    if not np.float32(low) < np.float32(high) or (checks.switch("log", span.log) and low <= 0):
        least = "0 < low < high" if span.log else "low < high"
        raise ValueError(f"{name}={low:g}..{high:g}: expected finite numbers, {least}")
    # The ends themselves are not drawn: a range may end at a bound that its axis excludes.
    own = OWN_AXES.get(name, Own(float, 0))
    if low < own.low or high > own.high:
        limit = f" to {own.high:g}" if math.isfinite(own.high) else " or more"
        raise ValueError(f"{name}={low:g}..{high:g}: expected numbers from {own.low:g}{limit}")


def grid(
    axes: Mapping[str, Sequence[Any]], drawn: Mapping[str, Sequence[float]] | None = None
) -> list[Lane]:
    """Every combination of the values of `axes`, those of `drawn` beside their `sample`.

    `axes` has a list for each of AXES, in order, but for those that are drawn; then for any of
    OWN_AXES; and `sample` last where there are drawn ones.
    Raises: ValueError for an axis that is missing, empty, unknown, out of bounds, or has a value
    twice.

    >>> from deqbilevel.studies import grids
    >>> axes = {"task": ["denoising"], "model": ["deq"], "noise": [0.1], "tau": [0.5, 0.9]}
    >>> some = grids.grid(axes | {"gamma": [0.1], "activation": ["relu"]})
    >>> print(len(some), some[1]["tau"])
    2 0.9
    """
    drawn = drawn or {}
    checks.entries("axes", axes, ())
    needed = tuple(name for name in AXES if name not in drawn)
    further = {name for name in OWN_AXES if name not in drawn} | ({"sample"} if drawn else set())
    if tuple(axes)[: len(needed)] != needed or not set(axes) <= {*needed, *further}:
        raise ValueError(
            f"axes {list(axes)}: expected a list of values for each of {needed}, in that order, "
            f"then any of {tuple(OWN_AXES)}"
        )
    for name, values in axes.items():
        if not len(values) or len({_value(x) for x in values}) < len(values):
            raise ValueError(f"{name} {list(values)}: expected one value or more, each once")
    lanes: list[Lane] = [dict(zip(axes, v, strict=True)) for v in itertools.product(*axes.values())]
    lanes = [
        lane | {name: values[lane["sample"]] for name, values in drawn.items()} for lane in lanes
    ]
    for lane in lanes:
        scalars(lane)
    return lanes


def _value(x: Any) -> Any:
    """What tells two values of an axis apart: numbers as float32, which they are computed in."""
    return float(np.float32(x)) if isinstance(x, float) else repr(x)


def groups(lanes: Sequence[Lane], *, direct: bool = False) -> dict[tuple[Any, ...], list[Lane]]:
    """The lanes by task, model and whatever else decides shapes, in order; with `direct` those that
    are `linear` apart.

    Raises: ValueError for a lane without task or model.

    >>> from deqbilevel.studies import grids
    >>> some = [{"task": "denoising", "model": name} for name in ("deq", "bilevel", "deq")]
    >>> print({name: len(group) for name, group in grids.groups(some).items()})
    {('denoising', 'deq'): 2, ('denoising', 'bilevel'): 1}
    """
    found: dict[tuple[Any, ...], list[Lane]] = {}
    for lane in lanes:
        checks.entries("lane", lane, ("task", "model"))
        static = [lane[name] for name in STATIC if name in lane]
        if direct and linear(lane):
            static.append("identity")
        found.setdefault((lane["task"], lane["model"], *static), []).append(lane)
    return found


def linear(lane: Lane) -> bool:
    """Whether a lane may be trained by `learning.directly`: bilevel with the identity activation,
    and no axis that says how it is solved.

    >>> from deqbilevel.studies import grids
    >>> print(grids.linear({"model": "bilevel", "activation": "identity"}))
    True
    """
    of = lane.get("model"), lane.get("activation")
    return of == ("bilevel", "identity") and not set(lane) & set(OF_SOLVER)


def scalars(lane: Lane) -> Params:
    """The scalars of a lane as leaves of `params`, with lam = 1 as in [REB] where that is no axis.

    Raises: ValueError for a lane without one of AXES or with an unknown one, an unknown activation
    or a value out of bounds, see OWN_AXES.

    >>> from deqbilevel.studies import grids
    >>> lane = {"task": "denoising", "model": "deq", "noise": 0.1, "tau": 0.5, "gamma": 0.1}
    >>> print(sorted(grids.scalars(lane | {"activation": "relu", "seed": 3})))
    ['gamma', 'lam', 'noise', 'phi', 'tau']
    """
    if missing := [name for name in AXES[CELL:] if name not in lane]:
        raise ValueError(f"lane {dict(lane)}: no {', '.join(missing)}; expected each of {AXES}")
    for name in lane:
        checks.known("axis", name, (*AXES, *OWN_AXES, "sample"))
    for name in lane.keys() & OWN_AXES.keys():
        value, own = lane[name], OWN_AXES[name]
        checks.number(name, value, above=own.low if own.open else None)
        if not (own.low <= value < own.high) or (own.open and value == own.low):
            low = f"above {own.low}" if own.open else f"{own.low} or more"
            high = f" and below {own.high:g}" if own.high < math.inf else ""
            raise ValueError(f"{name}={value}: expected a finite number, {low}{high}")
        if own.kind is int:
            checks.whole(name, value, least=int(own.low), most=int(own.high))
    names = ("tau", "gamma", "activation", "noise", "lam", "threshold", "learning_rate")
    of_model = models.hyperparameters(**{name: lane[name] for name in names if name in lane})
    apart = {*names, "seed", *STATIC}
    others = {name: lane[name] for name in OWN_AXES if name in lane and name not in apart}
    return of_model | jax.tree.map(jnp.float32, others)
