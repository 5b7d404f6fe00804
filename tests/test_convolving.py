"""Convolutions of many channels: their values, their derivatives, and their form in a loop."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal, untyped
from scipy import ndimage

from deqbilevel.convolutions.channels import convolve, valid
from deqbilevel.hypergradients import METHODS, no_info
from deqbilevel.layers import PADDING, Conv
from deqbilevel.solvers import picard

BOUNDARIES = {"circular": "wrap", "zero": "constant", "reflecting": "reflect"}
"""Ours and SciPy's names."""

CHANNELS = [(1, 3), (3, 1), (2, 3), (3, 2), (1, 1)]
"""Inputs and outputs: every way to convolve, and both to the gradient of a kernel."""


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@float64
def test_it_is_scipys_correlation_summed_over_the_inputs(boundary, channels):
    x, kernel = normal(0, 2, 6, 7, channels[0]), normal(1, 3, 5, *channels)
    mode = BOUNDARIES[boundary]
    expected = [
        [
            sum(
                ndimage.correlate(np.asarray(u)[..., i], np.asarray(kernel)[..., i, o], mode=mode)
                for i in range(channels[0])
            )
            for o in range(channels[1])
        ]
        for u in x
    ]
    expected = np.moveaxis(np.array(expected), 1, -1)
    np.testing.assert_allclose(convolve(x, kernel, boundary), expected, atol=1e-12)
    np.testing.assert_allclose(jax.jit(convolve, static_argnums=2)(x, kernel, boundary), expected)


@pytest.mark.parametrize("size", [(2, 4), (1, 1), (3, 2)])
@pytest.mark.parametrize("channels", CHANNELS)
@float64
def test_even_sizes_are_centred_as_by_xla(channels, size):
    x, kernel = normal(0, 2, 5, 6, channels[0]), normal(1, *size, *channels)
    order = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order)
    np.testing.assert_allclose(jax.jit(convolve)(x, kernel), expected, atol=1e-12)


def weights(y):
    """Of the entries of y, against which a gradient is taken."""
    return jnp.cos(jnp.arange(float(y.size))).reshape(y.shape)


def derivatives(function, x, kernel, seed):
    """A function for the derivative of another along random directions, and for its gradient."""
    ways = normal(seed, *x.shape), normal(seed + 1, *kernel.shape)

    def both(x, kernel):
        y, along = jax.jvp(function, (x, kernel), ways)
        return along, jax.vjp(function, x, kernel)[1](jax.tree.map(weights, y))

    return both


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
@float64
def test_derivatives_of_both_modes_and_orders_are_those_of_finite_differences(boundary, channels):
    x, kernel = normal(0, 2, 4, 5, channels[0]), normal(1, 3, 2, *channels)

    def function(x, kernel):
        return jnp.sin(convolve(x, kernel, boundary))

    first = derivatives(function, x, kernel, seed=2)
    second = derivatives(first, x, kernel, seed=4)
    at = jax.jit(lambda *given: (function(*given), first(*given), second(*given)))
    found, h = at(x, kernel), 1e-5
    for order, seed in ((0, 2), (1, 4)):
        way = [normal(seed + i, *given.shape) for i, given in enumerate((x, kernel))]
        ends = [at(x + s * h * way[0], kernel + s * h * way[1])[order] for s in (1, -1)]
        along, slopes = found[order + 1]
        weighed = 0.0
        for one, up, down in zip(*map(jax.tree.leaves, (along, *ends)), strict=True):
            np.testing.assert_allclose(one, (up - down) / (2 * h), rtol=1e-5, atol=1e-5)
            weighed += np.vdot(weights(one), one)
        np.testing.assert_allclose(sum(map(np.vdot, slopes, way)), weighed, rtol=1e-9)


def value_and_gradients(x, kernel):
    y, vjp = jax.vjp(convolve, x, kernel)
    return y, vjp(jnp.cos(y))


one_lane = jax.jit(value_and_gradients)


@pytest.mark.parametrize("axes", [(0, None), (None, 1), (3, 4), (0, 0)])
@pytest.mark.parametrize("channels", CHANNELS)
@float64
def test_lanes_are_as_alone(channels, axes):
    shapes = [(2, 4, 5, channels[0]), (3, 2, *channels)]
    given = [
        normal(i, *(shape if axis is None else (*shape[:axis], 3, *shape[axis:])))
        for i, (shape, axis) in enumerate(zip(shapes, axes, strict=True))
    ]

    found = jax.jit(jax.vmap(value_and_gradients, axes))(*given)
    for lane in range(3):
        alone = one_lane(
            *(
                a if axis is None else np.take(np.asarray(a), lane, axis)
                for a, axis in zip(given, axes, strict=True)
            )
        )
        for one, expected in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(one[lane], expected, atol=1e-12)


class Network(nn.Module):
    layer: type[nn.Module]

    @nn.compact
    def __call__(self, x):
        x = self.layer(4, (3, 3))(x)
        return self.layer(1, (3, 3))(nn.relu(self.layer(4, (3, 3))(nn.relu(x))))


def orders(layer):
    """The orders of axes of the convolutions in a loop of the products with a network's Jacobians,
    and of its gradient with respect to the weights."""
    network, x = Network(layer), jnp.ones((2, 8, 8, 1))
    weights = network.init(jax.random.key(0), x)

    def loop(x, weights):
        def products(_, w):
            _, vjp = jax.vjp(network.apply, weights, x)
            slopes, w = vjp(w)
            _, w = jax.jvp(lambda x: network.apply(weights, x), (x,), (w,))
            return w + jnp.sum(jax.flatten_util.ravel_pytree(slopes)[0])

        return jax.lax.fori_loop(0, 3, products, x)

    text = jax.jit(loop).lower(x, weights).as_text()
    return set(re.findall(r"stablehlo\.convolution.*dim_numbers = (.*?), window", text))


def test_in_a_loop_every_convolution_has_the_order_that_xla_has_a_fast_one_for():
    fast = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    assert orders(Conv) == {fast}
    assert orders(nn.Conv) > {fast}


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("size", [(3, 3), (2, 5)])
def test_the_layer_is_flaxs_with_its_weights(size, padding):
    x = normal(0, 2, 6, 7, 3)
    ours, theirs = (layer(4, size, padding=padding) for layer in (Conv, nn.Conv))
    weights = theirs.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(1), x)) == jax.tree.map(
        jnp.shape, weights
    )
    weights = jax.tree.map(lambda a: a + 0.1, weights)  # a bias that is not zero
    np.testing.assert_allclose(ours.apply(weights, x), theirs.apply(weights, x), atol=2e-6)


@float64
def test_a_network_of_ones_own_is_a_deq_with_the_gradients_of_flaxs():
    u0 = normal(0, 2, 36)

    def gradient(layer):
        network = Network(layer)
        weights = Network(nn.Conv).init(jax.random.key(0), u0.reshape(2, 6, 6, 1))
        weights = jax.tree.map(lambda a: jnp.asarray(a, float), weights)

        def G(u, params, f):
            return f - 0.2 * network.apply(params, u.reshape(2, 6, 6, 1)).reshape(u.shape)

        limits = {"tolerance": 1e-10, "max_evaluations": 100}
        solve = METHODS["picard"](G, picard(**limits), **limits)
        slope = jax.grad(lambda params: jnp.sum(solve(params, u0, u0, no_info())[0] ** 2))
        return jax.jit(slope)(weights)

    found, expected = gradient(Conv), gradient(nn.Conv)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(other) > 1e-3
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_the_precision_of_the_context_is_that_of_the_products():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(jax.grad(lambda x: jnp.sum(valid(x, kernel) ** 2))).trace(x)
    text = traced.lower().as_text()
    assert text.count("<precision HIGHEST>") == 4, text


@pytest.mark.parametrize(
    ("x", "kernel", "boundary", "says"),
    [
        ((2, 4, 4), (3, 3, 1, 1), "zero", "expected .batch, height, width, inputs."),
        ((2, 4, 4, 3), (3, 3, 1, 3), "zero", "takes 1 inputs, and x .2, 4, 4, 3. has 3"),
        ((2, 4, 4, 1), (3, 3, 1, 3), "mirror", "boundary"),
    ],
)
def test_what_cannot_be_convolved_is_refused(x, kernel, boundary, says):
    with untyped(), pytest.raises(ValueError, match=says):
        convolve(jnp.ones(x), jnp.ones(kernel), boundary)


@pytest.mark.parametrize(
    ("options", "x", "says"),
    [
        ({"features": 0}, (1, 4, 4, 1), "features"),
        ({"kernel_size": 3}, (1, 4, 4, 1), "kernel_size=3: expected rows and columns"),
        ({"kernel_size": (3, 0)}, (1, 4, 4, 1), "kernel_size"),
        ({"padding": "SYMMETRIC"}, (1, 4, 4, 1), "SAME"),
        ({}, (1, 16), "give images that are rows of pixels"),
    ],
)
def test_a_layer_of_no_use_is_refused(options, x, says):
    with untyped(), pytest.raises(ValueError, match=says):
        layer = Conv(**{"features": 2, "kernel_size": (3, 3)} | options)
        layer.init(jax.random.key(0), jnp.ones(x))
