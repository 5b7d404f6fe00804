"""The published solvers of benchopt's bilevel benchmark on our data-cleaning problem.

    git clone https://github.com/benchopt/benchmark_bilevel; pip install benchopt
    python -m experiments.algorithms --problem cleaning --peers benchmark_bilevel

Their stochastic JAX solvers are used as their own runner uses them: given the two costs of a batch
and where to start, `run(callback)` calls back before each epoch, a scan of `eval_freq` steps under
jit. The problem is that of `deqbilevel.algorithms.cleaning.pose` to rounding: digits, labels, loss,
regularisation, start. What differs is theirs: a batch is consecutive digits, the order of batches
is drawn anew when all have been seen, and step sizes decay as their papers say.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel.algorithms import Calls, Posed
from deqbilevel.algorithms.cleaning import CLASSES, Corpus, Digits, cross_entropy
from deqbilevel.algorithms.judging import judge
from deqbilevel.courses import SPACING
from experiments.algorithms.cases import Case

EPOCH_SECONDS = 0.02
"""An epoch takes about that: many of them in a short run, few compared with what a call costs."""

Evaluate = Callable[[Array, Array], Mapping[str, Any]]
"""(gamma, x) -> loss, gradient_norm and scores of gamma at the true minimiser; x is the method's
own lower-level variable, of the shape of `cleaning.pose`."""

CALLS: Mapping[str, Callable[[Any], Calls]] = MappingProxyType(
    {
        "amigo": lambda own: Calls(own.n_inner_steps, own.n_inner_steps, 1, 1),
        "bsa": lambda own: Calls(own.n_inner_steps, (own.n_hia_steps - 1) / 2, 1, 1),
        "f2sa": lambda own: Calls(2 * own.n_inner_steps + 2, 0, 0, own.n_inner_steps + 1),
        "fsla": lambda own: Calls(1, 1, 2, 3),
        "mrbo": lambda own: Calls(2, 2 * own.n_shia_steps, 2, 2),
        "saba": lambda own: Calls(1, 1, 1, 1),
        "soba": lambda own: Calls(1, 1, 1, 1),
        "srba": lambda own: Calls(2, 2, 2, 2),
        "stocbio": lambda own: Calls(own.n_inner_steps, own.n_shia_steps, 1, 1),
        "sustain": lambda own: Calls(2, own.n_hia_steps - 1, 2, 2),
        "ttsa": lambda own: Calls(1, (own.n_hia_steps - 1) / 2, 1, 1),
        "vrbo": lambda own: Calls(
            *(2 * own.n_inner_steps * n for n in (1, own.n_shia_steps, 1, 1))
        ),
    }
)
"""Oracle calls of a step, read off their sources; of a solver that is not here, none are counted.

Products of a random number are counted by its mean; F2SA's gradients of Phi in gamma as lower
gradients; the full passes of SRBA and VRBO, once in a period, not at all.
"""

DOUBLE_LOOP = tuple(f"peer:{name}" for name in ("amigo", "bsa", "f2sa", "stocbio", "vrbo"))
"""Those with several lower-level steps in each upper-level step, as `algorithms.DOUBLE_LOOP`."""


def objective(corpus: Corpus, regularisation: float = 0.2) -> dict[str, Any]:
    """The problem of `cleaning.pose` as the arguments of their `set_objective`.

        f_inner(z, gamma, start, batch_size) = mean_i sigmoid(gamma_i) CE(x; a_i, b_i) + c ||x||^2
        f_outer(z, gamma, start, batch_size) = mean_j CE(x; a'_j, b'_j)

    with means over start <= i < start + batch_size and x: [1, features, 10] as z: [features * 10].
    A batch that would reach beyond the digits ends with them.
    """
    train, validation = (_on_device(part) for part in (corpus.train, corpus.validation))
    features = corpus.train.images.shape[1]

    def part(arrays: Any, start: Any, size: int) -> Any:
        return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, size), arrays)

    @partial(jax.jit, static_argnames="batch_size")
    def f_inner(
        inner_var: Array, outer_var: Array, start: Any = 0, batch_size: int = 1
    ) -> Float[Array, ""]:
        (images, labels), gamma = part((train, outer_var), start, batch_size)
        x = inner_var.reshape(1, features, CLASSES)
        fit = jnp.mean(jax.nn.sigmoid(gamma) * cross_entropy(x, images, labels))
        return fit + regularisation * jnp.sum(inner_var**2)

    @partial(jax.jit, static_argnames="batch_size")
    def f_outer(
        inner_var: Array, outer_var: Array, start: Any = 0, batch_size: int = 1
    ) -> Float[Array, ""]:
        images, labels = part(validation, start, batch_size)
        return jnp.mean(cross_entropy(inner_var.reshape(1, features, CLASSES), images, labels))

    return {
        "f_inner": f_inner,
        "f_outer": f_outer,
        "n_inner_samples": len(corpus.train.labels),
        "n_outer_samples": len(corpus.validation.labels),
        "inner_var0": jnp.zeros(features * CLASSES),
        "outer_var0": jnp.zeros(len(corpus.train.labels)),
    }


def _on_device(part: Digits) -> tuple[Array, Array]:
    return jnp.asarray(part.images, float), jnp.asarray(part.labels)


def at_minimiser(case: Case, posed: Posed) -> Evaluate:
    """What `judge` says of gamma; it solves from where the last call ended."""

    @jax.jit
    def judged(data: Any, gamma: Array, x: Array, v: Array) -> Any:
        return judge(posed._replace(data=data), case.accuracy, case.scores, gamma, x, v)

    x, v = posed.x, jnp.zeros_like(posed.x)

    def evaluate(gamma: Array, _: Array) -> Mapping[str, Any]:
        nonlocal x, v
        numbers, x, v = judged(posed.data, gamma, x, v)
        return numbers

    return evaluate


def prepared(
    solver: Any,
    corpus: Corpus,
    *,
    batch: int = 64,
    seed: int = 0,
    regularisation: float = 0.2,
    **options: Any,
) -> Any:
    """An object of one of `solvers`, compiled, with epochs of about `EPOCH_SECONDS`.

    options: of `published`; those that the solver does not know are left out. Its step sizes are
    those of `course`, which every solver reads when a run begins: one compilation serves all.
    Raises: ValueError for a batch below 1, or larger than the digits of either level.
    """
    given = objective(corpus, regularisation)
    most = min(given["n_inner_samples"], given["n_outer_samples"])
    if not 1 <= batch <= most:
        raise ValueError(f"batch={batch}: expected 1 to {most}, the digits of the smaller level")
    known = {name: value for name, value in options.items() if name in solver.parameters}
    known |= {"batch_size": batch, "random_state": seed, "eval_freq": 4}
    own = solver.get_instance(**known)
    own.set_objective(**given)  # their warm-up as well: two epochs
    _timed(own)
    own.eval_freq = max(1, round(EPOCH_SECONDS / _timed(own) * own.eval_freq))
    _timed(own)  # compiles for that length
    return own


def _timed(own: Any) -> float:
    """Seconds of the last of three epochs from the start, none of which is kept."""
    ticks: list[float] = []

    def callback() -> bool:
        jax.block_until_ready((own.inner_var, own.outer_var))
        ticks.append(time.perf_counter())
        return len(ticks) <= 3

    own.run(callback)
    return ticks[-1] - ticks[-2]


def course(
    name: str,
    own: Any,
    evaluate: Evaluate,
    *,
    step_size: float,
    outer_ratio: float,
    seconds: float,
    calls: float = math.inf,
    spacing: float = SPACING,
) -> list[dict[str, Any]]:
    """A run of a `prepared` solver from the start, as rows like those of `experiments.algorithms`.

    Args:
        step_size, outer_ratio: the lower-level step, and by what it is divided for the upper.
        seconds, calls: it ends with the epoch that reaches either; evaluations are not timed.
        spacing: of the steps of two rows, at least; infinite: only the start and the end.

    A row holds method, `peer:NAME`; rates, the upper-level step; step; seconds; calls, one of each
    oracle, see `CALLS`; a list of one for each value of `evaluate` and for diverged; last. A run
    that is no longer finite ends with the values of the row before.
    """
    own.step_size, own.outer_ratio = step_size, outer_ratio
    gamma, x = own.outer_var0, own.inner_var0
    each = CALLS[name](own) if name in CALLS else Calls()
    rows: list[dict[str, Any]] = []
    step, spent, clock = 0, 0.0, None

    def callback() -> bool:
        nonlocal gamma, x, step, spent, clock
        if clock is not None:
            gamma, x = jax.block_until_ready((own.outer_var, own.inner_var))
            spent += time.perf_counter() - clock
            step += own.eval_freq
        counts = [float(step * n) for n in each]
        finite = bool(jnp.isfinite(gamma).all() & jnp.isfinite(x).all())
        last = not finite or spent >= seconds or sum(counts) >= calls
        if last or not rows or step >= spacing * max(rows[-1]["step"], 1):
            found = _values(evaluate, gamma, x) if finite else None
            values = _of_values(rows[-1]) if found is None else found
            last = last or found is None
            row = {"method": f"peer:{name}", "rates": [step_size / outer_ratio], "step": step}
            row |= {"seconds": spent, "calls": counts, **values}
            rows.append(row | {"diverged": [found is None], "last": last})
        clock = time.perf_counter()
        return not last

    own.run(callback)
    return rows


_OTHERS = ("method", "rates", "step", "seconds", "calls", "diverged", "last")


def _values(evaluate: Evaluate, gamma: Array, x: Array) -> dict[str, list[float]] | None:
    """None where they are not finite."""
    found = evaluate(gamma, x.reshape(1, -1, CLASSES))
    values = {name: [float(value)] for name, value in found.items()}
    return values if np.isfinite(list(values.values())).all() else None


def _of_values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _OTHERS}
