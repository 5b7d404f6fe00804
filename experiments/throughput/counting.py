"""What an evaluation of a lane moves and launches, counted in the compiled program.

The body of the solver's loop is compiled for so many lanes under one vmap, and nothing is run: the
count is of this machine's compiler, which fuses about as that of a GPU does. A prediction for a GPU
follows from its memory, its products and its launches, which is where one waits:

    least  max(bytes / 3.0 TB/s, flop / 105 TFLOP/s) + kernels 2 us / width
    most   bytes / 3.0 TB/s + flop / 60 TFLOP/s + kernels 4 us / width
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks, precision
from deqbilevel.commands import common
from deqbilevel.models import Model
from deqbilevel.settings import Setting
from deqbilevel.solvers.base import Iteration, Progress, any_lane
from deqbilevel.studies import grids
from deqbilevel.studies.storage import Lane
from deqbilevel.types import At, Params

MEMORY, PRODUCTS, LAUNCH = 3.0e12, (60e12, 105e12), (2e-6, 4e-6)
"""Bytes, operations and seconds of an H100, products in TF32, from slow to fast."""

FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota")
"""What a compiled program lists and does not launch."""


def counted(
    model: Model, setting: Setting, lane: Lane, width: int, batch_size: int
) -> dict[str, float]:
    """Of one evaluation of so many lanes like this one, by lane but for the kernels."""
    step = _compiled(model, setting, lane, width, batch_size)
    costs: Any = step.cost_analysis()
    kernels = _kernels(step.as_text())
    moved, flop = costs["bytes accessed"] / width, costs["flops"] / width
    launches = [kernels * seconds / width for seconds in LAUNCH]
    slow, fast = PRODUCTS
    return {
        "kernels": kernels,
        "megabytes": moved / 1e6,
        "megaflop": flop / 1e6,
        "least_us": 1e6 * (max(moved / MEMORY, flop / fast) + launches[0]),
        "most_us": 1e6 * (moved / MEMORY + flop / slow + launches[1]),
    }


def _compiled(model: Model, setting: Setting, lane: Lane, width: int, batch_size: int) -> Any:
    """The body of the loop of `solvers.base.iterate`, of all lanes; what it carries is donated."""
    solver = setting.forward(setting.budget)
    if not isinstance(solver, Iteration):
        raise ValueError(f"setting {setting.solver}: its loop is not seen from outside")

    def begin(params: Params, f: Array) -> Any:
        return solver.begin(At(model.G, model.completed(params), f), model.start(f))

    def evaluation(k: Array, carry: Any, params: Params, f: Array) -> Any:
        state, progress = carry
        state, u, residual = begin(params, f)[0](k, state)
        limits = solver.tolerance, solver.max_evaluations
        progress = progress.advance(u, residual, *limits)
        return k + 1, (state, progress), any_lane(progress.active)

    def start(params: Params, f: Array) -> Any:
        u = model.start(f)
        progress = Progress(u, jnp.array(0), jnp.zeros((), u.dtype), jnp.array(True))
        return begin(params, f)[1], progress

    def shapes() -> tuple[Params, Array]:
        params = model.init(jax.random.key(0)) | grids.scalars(lane)
        f = model.K.apply(jnp.zeros((batch_size, checks.pixels(model.shape))))
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape)), (params, f))

    given = jax.eval_shape(shapes)
    carry = jax.eval_shape(jax.vmap(start), *given)
    over_lanes = jax.vmap(evaluation, (None, 0, 0, 0), (None, 0, None))
    jitted = jax.jit(precision.at(setting.precision, over_lanes), donate_argnums=1)
    return jitted.lower(jax.ShapeDtypeStruct((), jnp.int32), carry, *given).compile()


def _kernels(program: str) -> int:
    """What the entry of a program launches."""
    entry = program[program.index("\nENTRY ") :]
    names = re.findall(r"^ +(?:ROOT )?%\S+ = .*? ([a-z][a-z-]*)\(", entry, re.MULTILINE)
    return sum(name not in FREE for name in names)


def table(found: dict[str, dict[str, float]]) -> str:
    """A line for each group and width."""
    head = ("group, width", "kernels", "MB a lane", "MFLOP a lane", "us on an H100")
    lines = [common.line(head), common.line(["---"] * len(head))]
    for name, x in found.items():
        cells = [name, str(x["kernels"]), f"{x['megabytes']:.1f}", f"{x['megaflop']:.0f}"]
        lines.append(common.line([*cells, f"{x['least_us']:.1f} to {x['most_us']:.1f}"]))
    return "\n".join(lines)
