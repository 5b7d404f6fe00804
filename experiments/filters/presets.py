"""What each experiment of filter learning stands for: the values of options that are not given."""

from typing import Any

from deqbilevel import potentials

REVIEW: dict[str, Any] = {
    "potential": "corner_rounded",
    "eps": 0.01,
    "boundary": "circular",
    "optimiser": "adam",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "lower_iterations": 10,
    "adjoint_iterations": 1000,
    "adjoint_tolerance": 1e-5,
    "seeds": 1,
    "images": 8,
    "patch": 50,
}
"""The settings of [CF], for all of its experiments."""

PRESETS: dict[str, dict[str, Any]] = {
    "vertical-bars": REVIEW
    | {"filters": (4, 4, 2), "iterations": 4000, "lower_iterations": 50, "seeds": 6},
    "cameraman": REVIEW | {"filters": (48, 7, 7), "iterations": 10000, "beta_0": -4.0},
    "natural": REVIEW
    | {
        "filters": (48, 7, 7),
        "iterations": 1000,
        "basis": "cosines",
        "potential": "log_sum",
        "eps": 0.02,
        "boundary": "reflecting",
        "learning_rate": 2e-2,
        "schedule": "cosine",
        "lower_iterations": 20,
        "adjoint_iterations": 60,
        "adjoint_tolerance": 1e-2,
        "images": 200,
        "patch": 64,
        "batch": 20,
    },
    "own": REVIEW | {"filters": (24, 5, 5), "iterations": 1000},
}
"""What each experiment stands for; every entry can be overridden."""

SMOOTH = [
    name
    for name, phi in potentials.POTENTIALS.items()
    if phi().twice_differentiable and hasattr(phi(), "eps")
]
"""Potentials that a minimiser has hypergradients with, and that bend at `--eps`."""

ITERATIONS = ("lower_iterations", "adjoint_iterations")
"""Options that are those of an algorithm, if one is given."""

LOWER_LEVEL = {"lower_solver": "optimized_gradient", "hypergradient": "minimiser"}
"""Options that an algorithm does not take, and their defaults."""
