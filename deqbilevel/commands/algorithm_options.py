"""The options of each upper-level algorithm on each problem of `algorithms.cases`.

`rate` is the middle of the step sizes that are searched. A method that is missing needs matrices
that the problem is too large for: a step of STABLE takes 4 s for an image of 32x32 pixels.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

Options = dict[str, dict[str, Any]]
"""`optimiser`, rate -> what moves gamma, is for methods that want another than the problem's."""


def decaying(offset: float | int, power: float | int) -> Callable[[Any], Any]:
    """u -> (offset / (offset + u))^power."""
    return lambda u: (offset / (offset + u)) ** power


Q1: Options = {
    "hoag": {"rate": 1.0},
    "ba": {"rate": 1.0},
    "accelerated_ba": {"rate": 1.0},
    "aid": {"rate": 1.0, "lower_iterations": 10, "adjoint_iterations": 3},
    "itd": {"rate": 1.0, "lower_iterations": 30},
    "maid": {"rate": 1.0},
    "surrogate": {"rate": 1.0},
    "bsa": {"rate": 0.1, "adjoint_terms": 10},
    "stocbio": {"rate": 1.0, "lower_iterations": 10, "adjoint_terms": 30},
    "vrbo": {"rate": 1.0, "adjoint_terms": 30},
    "penalty": {"rate": 0.5},
    "augmented_penalty": {"rate": 0.5},
    "ttsa": {"rate": 1.0, "adjoint_terms": 30, "randomised": False},
    "stable": {"rate": 1.0},
    "mrbo": {"rate": 1.0, "adjoint_terms": 30},
    "sustain": {"rate": 0.1, "momentum": 0.1},
    "lagrangian": {"rate": 1.0},
}
"""Step sizes with which each reaches 1e-6."""

Q2 = Q1


def falling(
    offset: float | int, power: float | int
) -> Callable[[Any], optax.GradientTransformation]:
    """Gradient descent whose step sizes fall as `decaying`."""
    return lambda rate: optax.sgd(lambda u: rate * decaying(offset, power)(u))


RECURSIVE = {"lower_schedule": decaying(20, 1 / 3), "optimiser": falling(20, 1 / 3)}

Q1_STOCHASTIC: Options = {
    "bsa": {"rate": 0.1, "lower_schedule": decaying(100, 1)},
    "stocbio": {"rate": 0.5, "lower_schedule": decaying(100, 1)},
    "vrbo": {"rate": 0.5, "optimiser": optax.sgd},
    "ttsa": {
        "rate": 0.1,
        "adjoint_step": 1 / (3 + 3**0.5),
        "lower_schedule": decaying(100, 2 / 5),
        "optimiser": falling(100, 3 / 5),
    },
    "stable": {"rate": 0.3, "lower_schedule": decaying(100, 1)},
    "mrbo": {"rate": 0.3, "momentum": lambda u: 0.1 * decaying(20, 2 / 3)(u), **RECURSIVE},
    "sustain": {
        "rate": 0.03,
        "adjoint_step": 1 / (3 + 3**0.5),
        "momentum": lambda u: 0.3 * decaying(20, 2 / 3)(u),
        **RECURSIVE,
    },
}
"""Step sizes as for `q1`; an adjoint step of 1/L keeps the variance of the product down."""

LOOP = {"lower_solver": "optimized_gradient"}

FILTERS: Options = {
    "hoag": {
        "rate": 1e-2,
        "tolerance": lambda u: jnp.maximum(0.99**u, 1e-3),
        "lower_iterations": 100,
        "adjoint_iterations": 100,
        **LOOP,
    },
    "ba": {
        "rate": 1e-2,
        "lower_iterations": lambda u: jnp.minimum(10 + u // 2, 200),
        "inverse": "conjugate_gradient",
        "adjoint_iterations": 100,
    },
    "accelerated_ba": {
        "rate": 1e-2,
        "lower_iterations": lambda u: jnp.minimum(10 + u // 2, 200),
        "inverse": "conjugate_gradient",
        "adjoint_iterations": 100,
    },
    "aid": {"rate": 1e-2, "lower_iterations": 10, "adjoint_iterations": 3, **LOOP},
    "itd": {"rate": 1e-2, "lower_iterations": 10, **LOOP},
    "maid": {"rate": 0.1, "lower_iterations": 200, "adjoint_iterations": 100, **LOOP},
    "surrogate": {"rate": 0.5, **LOOP},
    "bsa": {"rate": 1e-3, "adjoint_terms": 20},
    "stocbio": {"rate": 1e-2, "adjoint_terms": 20},
    "vrbo": {"rate": 1e-2},
    "penalty": {"rate": 1e-3, "lower_iterations": 10},
    "augmented_penalty": {"rate": 1e-3, "lower_iterations": 10},
    "ttsa": {"rate": 1e-3, "adjoint_terms": 20},
    "mrbo": {"rate": 1e-3, "adjoint_terms": 20},
    "sustain": {"rate": 1e-3, "adjoint_terms": 20, "momentum": 0.1},
}
"""The filters of [CF] D, all images in each step."""

DEBLURRING: Options = {
    name: {k: v for k, v in options.items() if k != "lower_solver"} | {"rate": 1e-3}
    for name, options in FILTERS.items()
    if name not in ("surrogate", "maid")
}
"""The dense model: its step tau need not be below 1/L, as momentum needs it. MAID, whose accuracy
is certified, takes thousands of evaluations a step there."""
DEBLURRING["hoag"]["mu"] = 1.0

MINIBATCHES: Options = {
    "vrbo": {"period": 1},
    "mrbo": {"lower_momentum": 1.0},
    "sustain": {"lower_momentum": 1.0},
}
"""What minibatches of images need beside: the estimates of grad_x Phi that these methods carry on
are of the noise that an image had, or of none where it was not yet seen; here they begin anew."""

CLEANING: Options = {
    "hoag": {"rate": 32_000.0, "lower_iterations": 50, "adjoint_iterations": 20, **LOOP},
    "aid": {"rate": 32_000.0, "lower_iterations": 5, "adjoint_iterations": 3, **LOOP},
    "itd": {"rate": 32_000.0, "lower_iterations": 10},
    "stocbio": {"rate": 1000.0},
    "bsa": {"rate": 1000.0, "restart": False, "lower_iterations": 10},
    "vrbo": {"rate": 4000.0},
    "ttsa": {"rate": 1000.0},
    "mrbo": {"rate": 250.0},
    "sustain": {"rate": 250.0, "momentum": 0.1},
}
"""Those that need no dense matrices, and no lower level from the start in each step."""
