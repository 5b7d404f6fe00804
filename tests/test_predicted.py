"""Weights that a network predicts from the measurement, and how they are learned."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import default_precision, float64, normal

from deqbilevel import learning, losses, models, operators
from deqbilevel.learning import Learner
from deqbilevel.regularizers import REGULARIZERS, predicted
from deqbilevel.settings import MINIMISER, SETTINGS, Budget

SHAPE = (8, 12)
PIXELS = SHAPE[0] * SHAPE[1]
OPTIONS: dict[str, Any] = {"filters": (2, 2, 2), "basis": "differences", "eps": 0.1, "beta_0": -2.0}


def problem() -> tuple[models.Model, dict[str, Any]]:
    R = REGULARIZERS["convolutional"](SHAPE, **OPTIONS, predicted_field=4)
    model = models.assemble(operators.identity(SHAPE), R)
    params = default_precision(R.init(jax.random.key(0))) | {"noise": jnp.asarray(0.2)}
    shifted = jax.tree.map(lambda x: x + 0.3 * normal(x.size, *x.shape), params["network"])
    return model, params | {"network": shifted}


@float64
def test_each_measurement_has_its_own_weights_within_a_bound():
    model, params = problem()
    u, f = normal(0, 3, PIXELS), 3 * normal(1, 3, PIXELS)
    told = model.told(params, f)
    field = told["field"]
    assert field.shape == (3, 2, 3) and (np.abs(field) < predicted.BOUND).all()
    assert np.ptp(field, axis=0).min() > 1e-3 and np.ptp(field, axis=(1, 2)).min() > 1e-3
    plain = models.assemble(model.K, REGULARIZERS["convolutional"](SHAPE, **OPTIONS))
    for i in range(3):
        own = {k: x for k, x in params.items() if k != "network"} | {"field": field[i]}
        one = (u[i : i + 1], own, f[i : i + 1])
        np.testing.assert_allclose(model.energy(u, params, f)[i], plain.energy(*one)[0])
        F = model.stationarity()(u, params, f)[i]
        np.testing.assert_allclose(F, plain.stationarity()(*one)[0], atol=1e-12)
        assert plain.lipschitz(own) < model.lipschitz(params)
        own |= {"tau": model.completed(params)["tau"]}
        other = plain.G(one[0], plain.completed(own), one[2])
        np.testing.assert_allclose(model.G(u, model.completed(params), f)[i], other[0], atol=1e-12)
    assert model.told(told, 2 * f)["field"] is field  # one that is there stands
    fresh = model.R.init(jax.random.key(3))
    assert not np.any(model.told(fresh, f)["field"])


@float64
def test_it_is_learned_by_the_slope_of_differences_and_from_noise_alone():
    """Half of each picture is flat and half is rough: the weights come to differ."""
    model, params = problem()
    rough = jnp.where(jnp.arange(SHAPE[1]) < 6, 0.0, 0.7 * normal(5, 4, *SHAPE)).reshape(4, PIXELS)
    f = model.measure(params, rough, jax.random.key(1))
    setting = SETTINGS["accurate"]._replace(
        solver="optimized_gradient",
        hypergradient=MINIMISER,
        forward_tolerance=1e-9,
        adjoint_tolerance=1e-9,
        budget=Budget(2000, 2000),
        limit=Budget(2000, 2000),
    )
    loss = losses.monte_carlo_sure(SHAPE)

    def by_rate(params: Any, step: Any) -> Any:
        return optax.sgd(params["learning_rate"])

    learner = Learner((model,), setting, by_rate, ("beta", "network"), loss)
    take = jax.jit(lambda state: learning.step(learner, state, jnp.zeros_like(rough), f=f))
    state = learning.start(learner, params | {"learning_rate": jnp.asarray(1.0)})
    weights = {k: state.params[k] for k in learner.learned}
    moved, metrics = take(state)
    gradient = jax.tree.map(jnp.subtract, weights, {k: moved.params[k] for k in weights})
    assert metrics.solved == 1
    d = jax.tree.map(lambda x: normal(x.size + 1, *x.shape), weights)

    def loss_at(t: float) -> Any:
        near = jax.tree.map(lambda x, d: x + t * d, weights, d)
        return take(state._replace(params=state.params | near))[1].loss

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    found = sum(jnp.vdot(*x) for x in zip(*map(jax.tree.leaves, (gradient, d)), strict=True))
    np.testing.assert_allclose(found, slope, rtol=1e-5)
    assert all(
        float(optax.tree.norm(gradient["network"][name])) > 0 for name in gradient["network"]
    )
    state = state._replace(params=state.params | {"learning_rate": jnp.asarray(4.0)})
    before = metrics.loss
    for _ in range(25):
        state, metrics = take(state)
    assert metrics.loss < before - 1e-3 and not state.diverged
    field = model.told(state.params, f)["field"].mean((0, 1))
    assert field[0] > 0.5 and field[-1] < -1  # more smoothing where there is nothing


def test_what_cannot_be_predicted_is_refused():
    build: Any = REGULARIZERS["convolutional"]
    with pytest.raises(ValueError, match="predicted_field=0: expected a whole number, 1 or more"):
        build(SHAPE, predicted_field=0)
    with pytest.raises(ValueError, match=r"predicted_field=4 with field=\(2, 2\): leave one out"):
        build(SHAPE, predicted_field=4, field=(2, 2))
    with pytest.raises(ValueError, match="predicted_field=4 with complex_images: leave one out"):
        build(SHAPE, **OPTIONS, predicted_field=4, complex_images=True)
