"""The dense models of [REB] by a task and one word, and the scalars of a run."""

from functools import partial

import jax
import jax.numpy as jnp

from deqbilevel import checks, operators
from deqbilevel.checks import Registry
from deqbilevel.models.assembling import assemble
from deqbilevel.models.base import Model
from deqbilevel.regularizers import dense
from deqbilevel.regularizers.dense import ACTIVATIONS
from deqbilevel.types import Params

TASKS: Registry[str] = Registry(
    "task",
    {
        "denoising": "identity",
        "inpainting": "row_mask",
        "deblurring": "diagonal_blur",
    },
)
"""The tasks of [REB] 3.3 and the names of their forward operators."""

MODELS: Registry[bool] = Registry(
    "model",
    {
        "bilevel": True,
        "deq": False,
    },
)
"""The models and whether their regulariser is tied."""


def build(task: str, model: str, shape: tuple[int, int], features: int | None = None) -> Model:
    """The dense model of [REB] 3.2 with the gradient step, (14) or (18), solved from zero.

    `features` is the number of rows of A; None: as many as pixels, as in the paper.
    Raises: ValueError for an unknown task or model, a shape without pixels, and fewer than one
    feature.

    >>> model = models.build("inpainting", "deq", (3, 2))
    >>> print(model.tied, model.K.mask, sorted(model.init(jax.random.key(0))))
    False [0. 0. 1. 1. 1. 1.] ['A', 'C', 'b']
    """
    checks.pixels(shape)
    K = operators.OPERATORS[TASKS[task]](shape)
    R = dense.dense(shape, tied=MODELS[model], features=features, activation=None)
    return assemble(K, R, start=jnp.zeros_like)


def hyperparameters(
    *,
    tau: float,
    gamma: float,
    activation: str | None,
    lam: float = 1.0,
    noise: float = 0.0,
    learning_rate: float | None = None,
    threshold: float | None = None,
) -> Params:
    """The scalars of a run as leaves in JAX's default precision; all may be vmapped over.

    tau: step size, and threshold of Softshrink unless that is given; gamma: weight of the
    regulariser; lam: weight of the data fidelity; noise: standard deviation alpha on the scale of
    images in [-1, 1]; activation: None where the regulariser brings its own; learning_rate: None
    for the setting's.
    Raises: ValueError for an unknown activation or a negative or infinite number.

    >>> scalars = models.hyperparameters(tau=0.9, gamma=0.1, activation="relu", noise=0.1)
    >>> print(sorted(scalars), scalars["lam"])
    ['gamma', 'lam', 'noise', 'phi', 'tau'] 1.0
    """
    scalars = {"tau": tau, "gamma": gamma, "lam": lam, "noise": noise}
    if learning_rate is not None:
        scalars["learning_rate"] = learning_rate
    for name, value in scalars.items():
        least = {"above": 0} if name in ("tau", "learning_rate") else {"least": 0}
        if isinstance(value, list | tuple):
            raise ValueError(f"{name}={value}: expected a number, or an array of them")
        checks.number(name, value, **least)
    if threshold is not None:
        checks.number("threshold", threshold, least=0)
    if activation is None:
        return jax.tree.map(partial(jnp.array, dtype=float), scalars)
    threshold = tau if threshold is None else threshold
    phi = ACTIVATIONS[activation](threshold)
    return jax.tree.map(partial(jnp.array, dtype=float), scalars | {"phi": phi})
