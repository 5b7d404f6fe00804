"""What doing nothing gives: the losses that a reconstruction has to be below to be worth learning.

    known = baselines(model.K, train, test, noise, key)    # {"measurement": 0.25, ...}
    best(known)                                            # ("measurement", 0.25)

Images are `[images, pixels]`, as of `data`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import adjoints, checks
from deqbilevel.fidelities import Fidelity, squares
from deqbilevel.losses import Supervised, mean_squared_error, per_image
from deqbilevel.models import measure
from deqbilevel.operators import Operator
from deqbilevel.types import TestImages, TrainImages

NAMES = {"measurement": "measurement f", "adjoint": "K^T f", "mean_image": "mean training image"}
"""What is taken for a reconstruction, and what to call it."""


def baselines(
    K: Operator,
    train: TrainImages,
    test: TestImages,
    noise: float | Float[Array, ""],
    key: PRNGKeyArray,
    loss: Supervised = mean_squared_error,
    D: Fidelity = squares,
    simulation: Any = None,
) -> dict[str, float]:
    """The loss on all test images, for f = K u + noise N(0, 1), of each of NAMES.

    Of another fidelity than squares with its noise. simulation: what measures in the place of K, as
    of `models.Model`.

    Of a loss that is a sum over images it is their mean, as `learning.evaluation` has it.

    f is left out where it is no image, see `pictured`.
    Raises: ValueError for images that are none, not finite or of two sizes, a negative noise, and
    what is no operator or key.

    >>> train, test = jnp.zeros((1, 4)), jnp.ones((1, 4))
    >>> K = operators.row_mask((2, 2), missing=1)
    >>> print(baselines.baselines(K, train, test, 0.0, jax.random.key(0)))  # half of 1^2, and 1^2
    {'measurement': 0.5, 'adjoint': 0.5, 'mean_image': 1.0}
    """
    for name, images in {"train": train, "test": test}.items():
        checks.finite(name, checks.rows(name, images, train.shape[-1]))
    adjoints.check(K, train.shape[-1])
    checks.one("noise", noise, least=0)
    mean = jnp.mean(jnp.asarray(train), axis=0)

    @jax.jit
    def losses(mean: Array, truth: Array, key: PRNGKeyArray) -> dict[str, Array]:
        own = simulation or K
        f = measure(own, truth, 0.0 if D.counts else jnp.asarray(noise, truth.dtype), key, D)
        found = {"measurement": f, "adjoint": K.adjoint(f)}
        found["mean_image"] = jnp.broadcast_to(mean, truth.shape)
        seen = {name: u for name, u in found.items() if pictured(u, truth)}
        return {name: per_image(loss, loss(u, truth), len(u)) for name, u in seen.items()}

    found = losses(mean, jnp.asarray(test), key)
    return {name: float(found[name]) for name in NAMES if name in found}


def pictured(f: Any, truth: TestImages) -> bool:
    """Whether measurements can be looked at as images: real, and of as many numbers.

    >>> print(baselines.pictured(jnp.ones((1, 4), complex), jnp.ones((1, 4))))
    False
    """
    return f.shape == truth.shape and not jnp.iscomplexobj(f)


def numbers(known: Mapping[str, float]) -> dict[str, float]:
    """They as entries of a run's numbers: test_loss_measurement and so on.

    >>> print(baselines.numbers({"measurement": 0.25}))
    {'test_loss_measurement': 0.25}
    """
    return {f"test_loss_{name}": loss for name, loss in known.items()}


def levels(known: Mapping[str, float]) -> dict[str, float]:
    """They by what to call them, for figures of losses.

    >>> print(baselines.levels({"adjoint": 0.25}))
    {'K^T f': 0.25}
    """
    return {NAMES[name]: loss for name, loss in known.items()}


def best(known: Mapping[str, float]) -> tuple[str, float]:
    """The name and the loss of the best of them.

    >>> print(baselines.best({"measurement": 0.25, "adjoint": 0.2}))
    ('adjoint', 0.2)
    """
    name = min(known, key=lambda name: known[name])
    return name, known[name]


def text(known: Mapping[str, float]) -> str:
    """All of them in a line.

    >>> print(baselines.text({"measurement": 0.25, "adjoint": 0.2}))
    measurement f 0.25, K^T f 0.2
    """
    return ", ".join(f"{NAMES[name]} {loss:.4g}" for name, loss in known.items())


def warning(loss: float, known: Mapping[str, float]) -> str | None:
    """What to say of a loss that is no better than doing nothing; None of one that is.

    >>> print(baselines.warning(0.3, {"measurement": 0.25}))
    test loss 0.3 is no better than 0.25, that of the measurement f
    """
    name, least = best(known)
    if loss < least:
        return None
    return f"test loss {loss:.4g} is no better than {least:.4g}, that of the {NAMES[name]}"
