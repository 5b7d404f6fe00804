"""Bilevel learning through the exact minimiser of a smooth cost, warm from step to step: [CF] (Ex).

    min_params  1/2 ||u*(params) - truth||^2
    u* = argmin_u  lam/2 ||K u - f||^2 + gamma R(u; params)

An upper-level step goes on with the lower level where the step before left it, solves for the
hypergradient from where that left it, and moves the learned entries of `params` by an optax
transformation. Everything that the next step needs is in `State`, so that steps can be scanned,
stored, and vmapped over lanes. A step may take a minibatch of the images; the others keep where
they are. Images of several shapes are a list with an entry for each shape: of problems, of true
images, of measurements. Everything is computed in the dtype of the weights, products in full
precision (`precision.highest`).
"""

from deqbilevel.bilevel.base import Problem, check, solve, weights
from deqbilevel.bilevel.learning import Metrics, State, hypergradient, start, step, steps
from deqbilevel.bilevel.searching import BETA_0, Search, search

__all__ = [
    "BETA_0",
    "Metrics",
    "Problem",
    "Search",
    "State",
    "check",
    "hypergradient",
    "search",
    "solve",
    "start",
    "step",
    "steps",
    "weights",
]
