"""The published solvers of benchopt's bilevel benchmark on our data-cleaning problem.

    git clone https://github.com/benchopt/benchmark_bilevel; pip install benchopt
    python -m experiments.algorithms --problem cleaning --peers benchmark_bilevel

Their stochastic JAX solvers are used as their own runner uses them: given the two costs of a batch
and where to start, `run(callback)` calls back before each epoch, a scan of `eval_freq` steps under
jit. The problem is that of `deqbilevel.algorithms.cleaning.pose` to rounding: digits, labels, loss,
regularisation, start. What differs is theirs: a batch is consecutive digits, the order of batches
is drawn anew when all have been seen, and step sizes decay as their papers say.
"""

import contextlib
import hashlib
import importlib.util
import itertools
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel.algorithms import Calls, Posed
from deqbilevel.algorithms.cleaning import CLASSES, Corpus, Digits, cross_entropy
from experiments.algorithms import cases
from experiments.algorithms.cases import Case
from experiments.records import Log

PUBLISHED = (
    "datacleaning0_5_021424_best_params.yml",
    "datacleaning0_5_best_params.yml",
)
"""Files of their folder `config` with the options that they found best for half of the labels
wrong; where both name a solver, the second holds."""

UTILITIES = "benchmark_utils"
"""Their package."""

OUTER_RATIO = 1e-4
"""Of the lower step to the upper for a solver without a published one; their median."""

FACTOR = 10.0
"""Between two step sizes, and two ratios, of a search: that of their own grids."""

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


# ---- their code


def solvers(folder: Path) -> dict[str, type]:
    """Their stochastic JAX solvers by the names of their files, from a clone of the benchmark.

    What cannot be imported is named on standard error and left out; templates are left out.
    Raises: ValueError where there is no such folder, no benchmark in it, or no benchopt.
    """
    base = folder / UTILITIES / "stochastic_jax_solver.py"
    if not folder.is_dir():
        raise ValueError(f"--peers {folder}: no such folder; {_GET}")
    if not base.is_file() or not (folder / "solvers").is_dir():
        raise ValueError(f"--peers {folder}: not a clone of benchopt's bilevel benchmark; {_GET}")
    if importlib.util.find_spec("benchopt") is None:
        raise ValueError("--peers: benchopt is not installed; pip install benchopt")
    found = {}
    with _importable(folder), contextlib.redirect_stdout(sys.stderr):
        parent = importlib.import_module(f"{UTILITIES}.{base.stem}").StochasticJaxSolver
        for path in sorted((folder / "solvers").glob("*.py")):
            if path.stem.startswith("template"):
                continue
            try:
                solver = getattr(_loaded(path), "Solver", None)
            except Exception as error:
                _say(path.stem, "cannot be imported", error)
                continue
            if isinstance(solver, type) and issubclass(solver, parent):
                found[path.stem] = solver
    return found


def inputs(folder: Path | None) -> dict[str, str]:
    """A digest of the solvers of a clone, for a run to tell that they changed."""
    if folder is None:
        return {}
    found = hashlib.sha256()
    for path in sorted((folder / "solvers").glob("*.py")):
        found.update(path.name.encode() + path.read_bytes())
    return {"--peers": found.hexdigest()}


_GET = "git clone https://github.com/benchopt/benchmark_bilevel"


def _say(name: str, what: str, error: Exception) -> None:
    print(f"peer {name} {what}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_bilevel_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Their package `benchmark_utils` can be imported meanwhile, and nothing of it remains."""

    def theirs() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == UTILITIES]

    paths = list(sys.path)
    before = {name: sys.modules.pop(name) for name in theirs()}
    sys.path.insert(0, str(folder.resolve()))
    try:
        yield
    finally:
        sys.path[:] = paths
        for name in theirs():
            del sys.modules[name]
        sys.modules.update(before)


def published(folder: Path) -> dict[str, dict[str, Any]]:
    """The options that the benchmark holds best for data cleaning, by the solver's own name.

    Lists and words after `framework` are left out. {} where the clone has none of the files.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in PUBLISHED:
        path = folder / "config" / name
        text = path.read_text() if path.is_file() else ""
        for solver, options in re.findall(r"^\s*- (\w+)\[(.*)$", text, re.MULTILINE):
            pairs = re.findall(r"(\w+)=([^\[\],]+)", options)
            found[solver] = {key: _value(value) for key, value in pairs if key != "framework"}
    return found


def _value(text: str) -> float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


# ---- our problem


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
    """What `cases.judge` says of gamma; it solves from where the last call ended."""

    @jax.jit
    def judge(data: Any, gamma: Array, x: Array, v: Array) -> Any:
        return cases.judge(case, posed._replace(data=data), gamma, x, v)

    x, v = posed.x, jnp.zeros_like(posed.x)

    def evaluate(gamma: Array, _: Array) -> Mapping[str, Any]:
        nonlocal x, v
        numbers, x, v = judge(posed.data, gamma, x, v)
        return numbers

    return evaluate


# ---- their solvers on our problem


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
    spacing: float = cases.SPACING,
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


def search(
    name: str,
    own: Any,
    evaluate: Evaluate,
    centre: tuple[float, float],
    *,
    seconds: float,
    calls: float = math.inf,
    points: int = 3,
    moves: int = 1,
) -> dict[str, Any]:
    """The (step_size, outer_ratio) with the least loss at the minimiser after those seconds.

    Tried are `points` of each, a `FACTOR` apart with the centre in their middle, then those around
    the best, `moves` times or until the best is in the middle. Runs that diverge are out; of none
    that does not, the one with the smallest steps is taken. 1 point: the centre, not tried.
    """
    step_size, outer_ratio = centre
    if points == 1:
        return {"best": list(centre), "rates": [step_size / outer_ratio]}
    reach = range(-(points // 2), points - points // 2)
    ends: dict[tuple[int, int], dict[str, Any]] = {}

    def steps(place: tuple[int, int]) -> tuple[float, float]:
        return step_size * FACTOR ** place[0], outer_ratio / FACTOR ** place[1]

    def rank(place: tuple[int, int]) -> tuple[float, tuple[int, int]]:
        end = ends[place]
        return math.inf if end["diverged"][0] else end["loss"][0], place

    middle = best = (0, 0)
    for _ in range(moves + 1):
        middle = best
        for i, j in itertools.product(reach, reach):
            place = middle[0] + i, middle[1] + j
            if place not in ends:
                step, ratio = steps(place)
                own_steps = {"step_size": step, "outer_ratio": ratio, "spacing": math.inf}
                run = course(name, own, evaluate, seconds=seconds, calls=calls, **own_steps)
                ends[place] = run[-1]
        best = min(ends, key=rank)
        if best == middle:
            break
    return {
        "best": list(steps(best)),
        "tried": [list(steps(place)) for place in ends],
        "rates": [end["rates"][0] for end in ends.values()],
        "losses": [end["loss"][0] for end in ends.values()],
        "diverged": [end["diverged"][0] for end in ends.values()],
        "seconds": [end["seconds"] for end in ends.values()],
    }


def compare(
    folder: Path,
    corpus: Corpus,
    evaluate: Evaluate,
    out: Path,
    *,
    seconds: float,
    calls: float = math.inf,
    points: int = 3,
    moves: int = 1,
    search_part: float = 0.25,
    seed: int = 0,
    names: tuple[str, ...] | None = None,
) -> list[dict[str, Any]]:
    """The rows of the courses of all `solvers` of a clone, each with its best step sizes.

    Both are written to searches.jsonl and courses.jsonl of `out`, beside those of our methods; a
    course that is there to its end is not run again, one that was interrupted begins anew. A
    solver that fails is named on standard error and left out.
    Raises: ValueError, see `solvers`, or for names that are not among them.
    """
    classes, best = solvers(folder), published(folder)
    for name in names or ():
        if name not in classes:
            raise ValueError(f"peer {name}: expected one of {', '.join(classes)}")
    rows = []
    for name in classes if names is None else names:
        method = f"peer:{name}"
        log = Log.of(out / "courses.jsonl", cases.POINT)
        stored = log.read()
        done = [row for row in stored if row["method"] == method]
        if done and done[-1]["last"]:
            rows += done
            continue
        log.keep([row for row in stored if row["method"] != method])
        options = best.get(classes[name].name, {})
        try:
            own = prepared(classes[name], corpus, seed=seed, **options)
        except Exception as error:
            _say(name, "does not run", error)
            continue
        found_before = Log.of(out / "searches.jsonl", cases.SEARCH)
        searches = {record["method"]: record for record in found_before.read()}
        if method not in searches:
            centre = own.step_size, options.get("outer_ratio", OUTER_RATIO)
            part: Any = {"seconds": search_part * seconds, "calls": search_part * calls}
            found = search(name, own, evaluate, centre, **part, points=points, moves=moves)
            searches[method] = {"method": method, "rate": found["best"][0]} | found
            found_before.append(searches[method])
        step_size, outer_ratio = searches[method]["best"]
        steps = {"step_size": step_size, "outer_ratio": outer_ratio}
        own_rows = course(name, own, evaluate, seconds=seconds, calls=calls, **steps)
        for row in own_rows:
            log.append(row)
        rows += own_rows
    return rows
