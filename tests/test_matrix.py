"""Every operator, regulariser, loss and way to a hypergradient together, from the registries.

All four would be thousands of programs to compile. Here every regulariser meets every way, and in
turn every operator and loss: each pair of an operator with either of them is there. What does not
go together is refused by name, and those refusals are listed.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import float64, normal

from deqbilevel import learning, models
from deqbilevel.hypergradients import SYMMETRIC
from deqbilevel.learning import Learner
from deqbilevel.losses import LOSSES
from deqbilevel.operators import OPERATORS
from deqbilevel.regularizers import REGULARIZERS
from deqbilevel.settings import MINIMISER, NAMES, Budget, Setting

SHAPE = (5, 5)
PIXELS = SHAPE[0] * SHAPE[1]
SMALL: dict[str, dict[str, Any]] = {
    "dense": {"features": 30, "activation": "identity"},
    "dense untied": {"features": 30, "activation": "identity", "tied": False},
    "convolutional": {"filters": (3, 3, 3), "eps": 0.5, "beta_0": -1.0},
    "normalised": {"kernels": (3, 3)},
    "normalised untied": {"kernels": (3, 3), "tied": False},
    "affine": {"size": 3},
    "denoiser": {"channels": 2, "layers": 2, "size": 3},
    "convex": {"channels": 2, "size": 3},
}
"""Options of the regularisers; a second word makes a second case of one."""

ESTIMATES = ("shine", "truncated", "gaussian_smoothing", "jacobian_free")
"""Ways that are no exact gradient by their nature."""

CASES = [
    (list(OPERATORS)[(i + j) % len(OPERATORS)], R, list(LOSSES)[(i * j + j) % len(LOSSES)], way)
    for (i, R), (j, way) in itertools.product(enumerate(SMALL), enumerate(NAMES))
]


def test_every_entry_of_every_registry_has_a_case():
    operators, regularizers, losses, ways = (set(x) for x in zip(*CASES, strict=True))
    assert operators == set(OPERATORS) and losses == set(LOSSES) and ways == set(NAMES)
    assert {name.split()[0] for name in regularizers} == set(REGULARIZERS)
    assert {(a, b) for a, b, *_ in CASES} == set(itertools.product(OPERATORS, SMALL))
    assert len({(a, d) for a, _, _, d in CASES}) == len(OPERATORS) * len(NAMES)


def learner_of(operator: str, R: str, loss: str, way: str) -> tuple[Learner, dict[str, Any]]:
    """A learner whose lower level is solved to rounding, and params with a fixed point."""
    model = models.assemble(
        OPERATORS[operator](SHAPE), REGULARIZERS[R.split()[0]](SHAPE, **SMALL[R])
    )
    params = model.init(jax.random.key(1))
    if "C" in params:  # near A: of two random factors a fixed point need not exist
        params["C"] = params["A"] + 0.1 * params["C"]
    if R.startswith("dense"):  # well conditioned where K sees nothing
        params = {k: 2.5 * x if k in ("A", "C") else x for k, x in params.items()}
    if R == "affine":  # monotone
        params["network"]["kernel"] = 0.2 * params["network"]["kernel"].at[1, 1].add(5.0)
    if "phi" in params and R.startswith("normalised"):
        params["phi"] = type(params["phi"])(jnp.asarray(0.5))
        params["c"] = jnp.asarray(1.0)
    params = jax.tree.map(lambda x: jnp.asarray(x, float), params) | {"noise": jnp.asarray(0.1)}
    budget = Budget(3000, {"truncated": 50, "gaussian_smoothing": 3000}.get(way, 3000))
    setting = Setting(
        forward_tolerance=1e-12,
        adjoint_tolerance=1e-11,
        budget=budget,
        limit=budget,
        evaluation_tolerance=1e-12,
        evaluation_budget=3000,
        ridge=0.0,
        relative_ridge=True,
        preconditioned=False,
        learning_rate=1.0,
        solver="picard" if way in ("truncated",) else "anderson",
        hypergradient=way,
    )
    optimiser = learning.fixed(optax.sgd(RATES.get(R.split()[0], 0.02)))
    return Learner((model,), setting, optimiser, model.R.learned, LOSSES[loss]), params


RATES = {"dense": 0.02, "convolutional": 0.05, "normalised": 0.05}


def refused(learner: Learner, params: dict[str, Any]) -> str | None:
    try:
        learning.check(learner, params)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("operator", "R", "loss", "way"), CASES, ids=map("-".join, CASES))
@float64
def test_it_learns_by_a_gradient_that_finite_differences_confirm(operator, R, loss, way):
    learner, params = learner_of(operator, R, loss, way)
    if said := refused(learner, params):
        assert way in said and "take" in said
        return
    truth = 0.5 * normal(2, 2, PIXELS)
    f = learner.models[0].measure(params, truth, jax.random.key(3))
    take = jax.jit(lambda state: learning.step(learner, state, truth, f=f))
    state = first = learning.start(learner, params)
    losses = []
    for _ in range(4):
        state, metrics = take(state)
        losses.append(float(metrics.loss))
    assert (losses[3] < losses[0] and float(metrics.solved) == 1) or way in ESTIMATES, losses
    assert not state.diverged
    if way in ESTIMATES:
        return
    moved, metrics = take(first)
    weights = {k: first.params[k] for k in learner.learned}
    rate = RATES.get(R.split()[0], 0.02)
    gradient = jax.tree.map(
        lambda a, b: (a - b) / rate, weights, {k: moved.params[k] for k in learner.learned}
    )
    d = jax.tree.map(lambda x: normal(x.size, *x.shape), weights)
    h = 1e-5

    def loss_at(t):
        near = jax.tree.map(lambda x, d: x + t * d, weights, d)
        return float(take(first._replace(params=first.params | near))[1].loss)

    slope = (loss_at(h) - loss_at(-h)) / (2 * h)
    found = sum(np.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, d)), strict=True))
    size = optax.tree.norm(gradient) * optax.tree.norm(d)
    assert abs(found - slope) <= 1e-5 * max(abs(slope), float(size) / len(jax.tree.leaves(d)))


@float64
def test_what_is_refused_is_what_cannot_be():
    found = set()
    for case in CASES:
        if refused(*learner_of(*case)):
            found.add((case[1], case[3]))
    asymmetric = {"dense untied", "normalised untied", "affine", "denoiser"}
    symmetric = {way for way in NAMES if way in (*SYMMETRIC, MINIMISER)}
    expected = set(itertools.product(asymmetric, symmetric))
    expected |= {("dense", MINIMISER)}  # its activations have kinks
    expected |= {(R, "preconditioned") for R in SMALL if not R.startswith("normalised")}
    assert found == expected
