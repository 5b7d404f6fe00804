"""What a step of learning needs beside its arguments, by the number of iterations."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from deqbilevel import learning, models, unrolled
from deqbilevel.data import Images
from deqbilevel.models import Model
from deqbilevel.settings import Setting
from deqbilevel.types import Params
from experiments.neighbours import ways
from experiments.neighbours.ways import Run


class Kind(NamedTuple):
    """A way to a hypergradient."""

    way: str
    checkpoint: Literal["none", "layer", "sqrt"] = "none"
    reversal: bool = False


KINDS = {
    "bilevel": Kind("bilevel"),
    "deq": Kind("deq"),
    "tied": Kind("tied"),
    "tied, states kept": Kind("tied", "layer"),
    "tied, sqrt(T) states kept": Kind("tied", "sqrt"),
    "untied": Kind("untied"),
    "flow": Kind("flow"),
    "flow, by reversal": Kind("flow", reversal=True),
}


def parts(config: Any) -> Iterator[dict[str, Any]]:
    """What names the records of the table."""
    for kind, own in KINDS.items():
        if own.way in config.ways:
            yield from ({"kind": kind, "T": T} for T in config.memory)


def row(config: Any, images: Images, kind: str, T: int) -> dict[str, Any]:
    """The bytes of a kind at T iterations, of deblurring."""
    own = KINDS[kind]
    run = Run("deblurring", own.way, T, config.blur_noise / ways.FULL)
    params, setting = ways.start(config, run, images), ways.setting(config, run, T)
    model = ways.model(config, run, images.shape)
    if own.way in ways.UNROLLED:
        K = ways.operator(run.task, images.shape, config.blur)
        net = ways.net(config, own.way, K, images.shape, T)
        net = unrolled.reversed_flow(net) if own.reversal else net
        model = net.model(own.checkpoint)
    return {"bytes": of_step(model, setting, params, config.batch_size)}


def of_step(model: Model, setting: Setting, params: Params, batch: int) -> int:
    """The temporary memory of a compiled step on so many images."""
    learner = learning.Learner((model,), setting, learning.adam(10), model.R.learned)
    truth = jnp.zeros((batch, model.shape[0] * model.shape[1]))
    f = models.measure(model.K, truth, 0.0, jax.random.key(0))
    state = learning.start(learner, params, f)
    step: Any = jax.jit(partial(learning.step, learner))
    return step.lower(state, truth, f=f).compile().memory_analysis().temp_size_in_bytes
