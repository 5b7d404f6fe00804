"""Data fidelities D(v; f) of predicted data v = K u and the measurement f, with the noise that
each stands for.

    squares    1/2 ||v - f||^2: f = v + noise N(0, 1), of complex data in both parts
    poisson    sum(w - f log w), w = v + r: counts of mean peak (v + r), over the peak
    huber      sum h(|v - f|), squares up to a threshold and lines beyond: some of the noise large

Each is built with options of its own, such as the peak of `poisson`.
"""

from collections.abc import Callable

from deqbilevel.checks import Registry
from deqbilevel.fidelities.base import Data, Fidelity, normal
from deqbilevel.fidelities.huber import huber
from deqbilevel.fidelities.poisson import poisson
from deqbilevel.fidelities.squares import squares

__all__ = ["FIDELITIES", "Data", "Fidelity", "huber", "normal", "poisson", "squares"]

FIDELITIES: Registry[Callable[..., Fidelity]] = Registry(
    "fidelity",
    {
        "squares": lambda: squares,
        "poisson": poisson,
        "huber": huber,
    },
)
"""Every data fidelity, built with options of its own. The shared property tests walk this table."""
