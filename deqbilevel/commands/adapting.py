"""Weights tuned to one measurement without its truth, [CF] 7.5: from those that were learned."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from deqbilevel import learning, losses, settings
from deqbilevel.models import Model
from deqbilevel.settings import MINIMISER, Budget
from deqbilevel.types import Params

STEPS = 15
"""Of Adam, whose rate falls by a cosine."""

RATE = 0.1
"""Of weights, which are logarithms."""

BUDGET = Budget(60, 40)


def loss_of(
    words: Sequence[str], shape: tuple[int, int], peak: float, flag: str = "--adapt"
) -> losses.Informed:
    """Raises: ValueError for words that are no loss, and for a loss of the truth."""
    loss = losses.named(words, shape, peak)
    if not isinstance(loss, losses.Informed):
        raise ValueError(
            f"{flag} {' '.join(words)}: needs the truth; take one of the noise, such as "
            "monte_carlo_sure, whiteness or noise_corridor"
        )
    return loss


def adaptation(
    model: Model, loss: losses.Informed, learned: tuple[str, ...]
) -> Callable[[Params, Inexact[Array, "batch data"]], Params]:
    """(params, f) -> params with the `learned` entries tuned to f, compiled once.

    Raises: ValueError for a model without an energy, and names that params have not.
    """
    if not model.tied:
        raise ValueError("--adapt: needs a model with an energy, and this is a DEQ")
    setting = settings.SETTINGS["accurate"]._replace(
        solver=model.descent,
        hypergradient=MINIMISER,
        warm=True,
        forward_tolerance=1e-6,
        adjoint_tolerance=1e-2,
        budget=BUDGET,
        limit=BUDGET,
        learning_rate=RATE,
    )
    optimiser = learning.adam(STEPS, learning.cosine)
    learner = learning.Learner((model,), setting, optimiser, learned, loss)
    steps = jax.jit(functools.partial(learning.steps, learner, batches=STEPS))

    def adapted(params: Params, f: Inexact[Array, "batch data"]) -> Params:
        own: Any = {name: x for name, x in params.items() if name != "learning_rate"}
        state = learning.start(learner, own, f, evaluations=10 * BUDGET.forward)
        # No loss of the noise looks at it.
        state, _ = steps(state, jnp.zeros_like(model.start(f)), f=f)
        return params | {name: state.params[name] for name in learned}

    return adapted
