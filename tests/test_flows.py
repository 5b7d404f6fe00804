"""Gradient flows: closed forms, the derivative by the time, stable steps, and the adjoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import default_precision, float64, normal

from deqbilevel import models, operators, regularizers, unrolled
from deqbilevel.regularizers import convolutional

SHAPE = (6, 5)
PIXELS = SHAPE[0] * SHAPE[1]


R = convolutional.convolutional(SHAPE, filters=(3, 2, 2), eps=0.3, beta_0=-1.0)
MODEL = models.assemble(operators.diagonal_blur(SHAPE, size=3), R)


def smooth(steps, time=1.5, scheme="explicit"):
    """A flow with filters, blurred data and a cost that is far from quadratic."""
    return unrolled.flow(MODEL.K, R, steps=steps, time=time, scheme=scheme)


def linear(steps):
    """u' = f - u - w u, so that u(t) = f/(1 + w) + e^{-(1 + w) t} (f - f/(1 + w))."""
    R = regularizers.function(SHAPE, lambda u, w: w * u, lambda key: jnp.ones(()))
    return unrolled.flow(operators.identity(SHAPE), R, steps=steps, time=0.7)


def drawn(net):
    return default_precision(net.init(jax.random.key(0)))


def value(net):
    """(params, f) -> a loss of what is reconstructed."""
    return lambda params, f: jnp.mean((net.reconstruct(params, f) - 0.5 * f) ** 2)


@float64
def test_a_linear_flow_is_that_of_its_steps_in_closed_form():
    net, f, S = linear(8), normal(0, 2, PIXELS), 8
    params, h = drawn(net) | {"log_time": jnp.log(0.7)}, 0.7 / S

    @jax.jit
    def found(params):
        return jax.value_and_grad(lambda p: jnp.sum(net.reconstruct(p, f) * f))(params)

    u, slope = found(params)
    np.testing.assert_allclose(u, jnp.sum(f**2) * (1 + (1 - 2 * h) ** S) / 2, rtol=1e-12)
    by_time = -2 * h * S * (1 - 2 * h) ** (S - 1)
    np.testing.assert_allclose(slope["log_time"], jnp.sum(f**2) * by_time / 2, rtol=1e-12)
    u, _ = found(unrolled.refined(params, 4000))
    np.testing.assert_allclose(u, jnp.sum(f**2) * (1 + jnp.exp(-2 * 0.7)) / 2, rtol=1e-4)


@float64
def test_the_time_has_the_derivative_of_central_differences_and_of_the_flow():
    net, f = smooth(20), normal(0, 2, PIXELS)
    params = drawn(net)

    def of_image(u, f):
        return jnp.mean((u - 0.5 * f) ** 2)

    @jax.jit
    def found(params):
        value, slope = jax.value_and_grad(lambda p: of_image(net.reconstruct(p, f), f))(params)
        u = net.reconstruct(params, f)
        by_flow = unrolled.stopping_slope(MODEL, params, f, u, jax.grad(of_image)(u, f))
        return value, slope["log_time"], by_flow * jnp.exp(params["log_time"])

    _, slope, by_flow = found(params)
    ends = [found(params | {"log_time": params["log_time"] + h})[0] for h in (1e-5, -1e-5)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
    _, finer, finer_by_flow = found(unrolled.refined(params, 200))
    error, finer_error = abs(by_flow / slope - 1), abs(finer_by_flow / finer - 1)
    assert finer_error < error / 5 < 0.1  # of the order of one step


@float64
def test_the_adjoint_by_reversal_is_reverse_mode_with_memory_that_does_not_grow():
    net, f = smooth(200), normal(0, 2, PIXELS)
    exact, euler = (unrolled.reversed_flow(net, corrections=n) for n in (8, 0))

    @jax.jit
    def slopes(params, f):
        return [jax.grad(value(own), (0, 1))(params, f) for own in (net, exact, euler)]

    expected, *others = slopes(drawn(net), f)
    for found, off in zip(others, (1e-8, 0.05), strict=True):
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert jnp.linalg.norm(x - y) <= off * jnp.linalg.norm(y) + 1e-12

    def memory(net, steps):
        params = unrolled.refined(drawn(net), steps)
        compiled = jax.jit(jax.grad(value(net))).lower(params, f).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = memory(exact, 20), memory(exact, 2000)
    assert long - short < 2000 * 5 * 8  # the shares, and no image of 30 numbers
    assert memory(net, 2000) > 2000 * PIXELS * 8


@float64
def test_a_flow_that_rounding_does_not_take_back_has_no_gradient():
    net, f = smooth(400, time=40.0), normal(0, 1, PIXELS)
    params = drawn(net)
    found = jax.jit(jax.grad(value(unrolled.reversed_flow(net))))(params, f)
    assert jnp.isnan(found["log_time"])
    off = jax.jit(lambda params: unrolled.recovery(net, params, f))
    assert off(params) > 1e-2 and off(params | {"log_time": jnp.log(1.0)}) < 1e-6


@float64
def test_an_implicit_step_is_stable_where_an_explicit_one_is_refused():
    f, h = normal(0, 2, PIXELS), 40.0
    explicit, implicit = smooth(1, time=h), smooth(1, time=h, scheme="implicit")
    params = drawn(explicit)
    with pytest.raises(ValueError, match="log_time: T = 40 in 1 steps is h = 40, and explicit"):
        explicit.reconstruct(params, f)
    with pytest.raises(ValueError, match="no time"):
        unrolled.reversed_flow(unrolled.lista(operators.identity(SHAPE), SHAPE))

    @jax.jit
    def found(params):
        def loss(params):
            u = implicit.reconstruct(params, f)
            return jnp.mean((u - 0.5 * f) ** 2), u

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, u), slope = found(params)
    F = MODEL.stationarity()
    np.testing.assert_allclose(u + h * F(u, params, f), implicit.K.adjoint(f), atol=1e-7)
    ends = [found(params | {"log_time": params["log_time"] + d})[0][0] for d in (1e-3, -1e-3)]
    np.testing.assert_allclose(slope["log_time"], (ends[0] - ends[1]) / 2e-3, rtol=1e-4)
