"""A corner rounding eps that falls while learning, [CF] 6.3, against a fixed one."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from tqdm import tqdm

from deqbilevel import learning, losses
from deqbilevel.commands import common, learn
from deqbilevel.commands.learn import parts
from deqbilevel.commands.records import Log
from deqbilevel.data import Images
from deqbilevel.learning import Learner, State
from deqbilevel.types import Params
from experiments.losses import tables

FILES = ("corners/rows.jsonl",)

FROM, TO = 0.1, 1e-3
"""Where eps starts, and what both are judged at."""

JUDGED = 20
"""Points of a course."""

NEAR = 1.02
"""How many times the least loss counts as the same, if it is no more from then on."""

ROW = {"course": "", "step": 0, "eps": 0.0, "seconds": 0.0, "evaluations": 0.0, "loss": 0.0}


def compared(config: Any, out: Path) -> tuple[dict[str, Any], str]:
    """Both courses, unless they are there: what each took to the same loss, and a table."""
    (out / "corners").mkdir(exist_ok=True)
    log = Log.of(out / "corners" / "rows.jsonl", ROW)
    rows, images = log.read(), learn.images_of(config)
    steps = max(config.epochs, 1) * learning.steps_per_epoch(len(images.train), config.batch_size)
    courses: dict[str, Callable[[int], float]] = {
        "fixed": lambda k: TO,
        "falling": lambda k: FROM * (TO / FROM) ** (k / max(steps - 1, 1)),
    }
    missing = [
        name for name in courses if sum(row["course"] == name for row in rows) < len(_judged(steps))
    ]
    posed = _posed(config, images, steps) if missing else None
    for name in missing:
        rows = [row for row in rows if row["course"] != name]
        rows += [{"course": name, **row} for row in _course(posed, courses[name], steps, name)]
        log.keep(rows)
    least = min(row["loss"] for row in rows)
    found: dict[str, Any] = {}
    for name in courses:
        own = [row for row in rows if row["course"] == name]
        near = [row["loss"] <= NEAR * least for row in own]
        there = next((row for i, row in enumerate(own) if all(near[i:])), {})
        found[name] = {
            "loss at the end": own[-1]["loss"],
            f"steps to {NEAR} of the least": there.get("step"),
            "seconds until then": there.get("seconds"),
            "evaluations until then": there.get("evaluations"),
        }
    return found, tables.markdown(found, list(next(iter(found.values()))))


def _judged(steps: int) -> list[int]:
    """After how many steps the loss is taken."""
    return sorted({max(1, round(steps * i / JUDGED)) for i in range(1, JUDGED + 1)})


def _posed(config: Any, images: Images, steps: int) -> tuple[Any, Any, State]:
    """(state, eps) -> a step on all images, compiled; params -> their loss at the last eps; and the
    state to start from."""
    model = parts.recipe_of(config).model(images.shape)
    params = model.init(learning.keys(config.seed)[0]) | parts.scalars(config)
    setting = parts.setting_of(config, model, params)
    optimiser = learning.adam(steps, learning.cosine)
    learner = Learner((model,), setting, optimiser, config.learn, losses.mean_squared_error)
    train = jnp.asarray(images.train)
    f = model.measure(params, train, learning.keys(config.seed)[2])
    state = learning.start(learner, params, f)

    def take(state: State, eps: Array) -> Any:
        state = state._replace(params=_rounded(state.params, eps))
        return learning.step(learner, state, train, f=f)

    def loss(params: Params) -> Float[Array, ""]:
        u, _ = model.reconstruct(setting.evaluation(), _rounded(params, TO), f)
        return losses.mean_squared_error(u, train)

    return learning.ahead(jax.jit(take), state, jnp.asarray(FROM)), jax.jit(loss), state


def _course(
    posed: Any, eps_of: Callable[[int], float], steps: int, name: str
) -> list[dict[str, Any]]:
    """Learn; the seconds are those of steps."""
    take, loss, state = posed
    seconds, evaluations, rows = 0.0, 0.0, []
    for k in tqdm(range(steps), desc=name, unit="step"):
        begin = time.perf_counter()
        state, metrics = jax.block_until_ready(take(state, jnp.asarray(eps_of(k))))
        seconds += time.perf_counter() - begin
        evaluations += float(metrics.forward_evaluations + metrics.adjoint_evaluations)
        if k + 1 in _judged(steps):
            row = {"step": k + 1, "eps": eps_of(k), "seconds": seconds, "evaluations": evaluations}
            rows.append(common.plain(row | {"loss": float(loss(state.params))}))
    return rows


def _rounded(params: Params, eps: Any) -> Params:
    """`params` whose potential bends at eps."""
    phi: Any = params["phi"]
    return params | {"phi": type(phi)(jnp.asarray(eps, jnp.asarray(phi.eps).dtype))}
