"""What every regulariser of the table holds to, with its defaults and with other options."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import default_precision, float64, normal, untyped

from deqbilevel import potentials
from deqbilevel.regularizers import (
    REGULARIZERS,
    Regularizer,
    convolutional,
    dense,
    equinox_module,
    flax_module,
    function,
    normalised,
)
from deqbilevel.regularizers.base import unchanged

SHAPE = (6, 5)
PIXELS = SHAPE[0] * SHAPE[1]
IMAGES = 100
"""As many in several tests, so that one compiled gradient serves them."""

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense, untied": ("dense", {"tied": False, "features": 7}),
    "convolutional, basis": ("convolutional", {"filters": (3, 2, 2), "basis": "cosines"}),
    "convolutional, complex": (
        "convolutional",
        {"filters": (3, 2, 2), "complex_images": True},
    ),
    "convolutional, zero": ("convolutional", {"filters": (3, 3, 2), "boundary": "zero"}),
    "normalised, untied": ("normalised", {"tied": False, "kernels": (3, 3)}),
    "normalised, circular": ("normalised", {"kernels": (3, 2), "boundary": "circular"}),
    "total_variation, elastic": (
        "total_variation",
        {"isotropic": False, "field": (2, 2), "ridge": 0.0},
    ),
    "denoiser, not normalised": ("denoiser", {"channels": 2, "layers": 2, "normalised": False}),
}
SMALL: dict[str, dict[str, Any]] = {
    name: {"channels": (2, 2, 3), "size": 3} for name in REGULARIZERS if "ridge" in name
}
SMALL |= {"input_convex": {"channels": 2}, "difference_of_convex": {"channels": 2}}
SMALL |= {"total_deep_variation": {"channels": 2}}
"""Options of those that are large without."""

CASES = {name: (name, SMALL.get(name, {})) for name in REGULARIZERS} | OTHERS


class Case(NamedTuple):
    """A regulariser, its gradient compiled, and its params as they are after `init`, in double
    precision."""

    R: Regularizer
    params: dict[str, Any]


@cache
def built(case: str) -> Case:
    name, options = CASES[case]
    R = REGULARIZERS[name](SHAPE, **options)
    with jax.enable_x64(True):
        params = default_precision(R.init(jax.random.key(1)))
        params = {"phi": potentials.CornerRounded(jnp.asarray(0.3))} | params
        return Case(R._replace(gradient=jax.jit(R.gradient)), R.refresh(params))


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return built(request.param)


@float64
def test_init_has_what_is_learned_and_the_same_key_the_same_weights(case):
    R, params = case
    assert R.shape == SHAPE and R.learned
    drawn, again = (R.init(jax.random.key(1)) for _ in range(2))
    assert set(R.learned) <= set(drawn) <= set(params)
    jax.tree.map(np.testing.assert_array_equal, drawn, again)
    for name in R.learned:
        assert all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(drawn[name]))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(drawn[name]))


@float64
def test_the_gradient_is_that_of_the_energy_by_finite_differences(case):
    R, params = case
    u, way, h = 0.3 * normal(0, IMAGES, PIXELS), normal(1, IMAGES, PIXELS), 1e-5
    gradient = R.gradient(u, params)
    assert (gradient.shape, gradient.dtype) == (u.shape, u.dtype)
    assert np.abs(gradient).max() > 1e-3
    assert R.tied == (R.energy is not None)
    if R.energy is None:
        return
    energy = jax.jit(R.energy)
    assert energy(u, params).shape == (IMAGES,)
    ahead = (8 * (energy(u + h * way, params) - energy(u - h * way, params))) - (
        energy(u + 2 * h * way, params) - energy(u - 2 * h * way, params)
    )
    np.testing.assert_allclose(
        np.sum(np.asarray(gradient * way), axis=1), ahead / (12 * h), rtol=1e-5, atol=1e-7
    )


UNTIED = ("dense, untied", "normalised, untied", "affine", "denoiser", "denoiser, not normalised")


@pytest.mark.parametrize("name", CASES)
def test_the_untied_ones_have_no_energy(name):
    kind, options = CASES[name]
    assert (REGULARIZERS[kind](SHAPE, **options).energy is None) == (name in UNTIED)


@float64
def test_an_image_is_what_it_is_alone(case):
    R, params = case
    u = 0.3 * normal(2, IMAGES, PIXELS)
    together = R.gradient(u, params)
    for i in range(3):
        np.testing.assert_allclose(
            R.gradient(u[i : i + 1], params)[0], together[i], rtol=1e-10, atol=1e-12
        )


@float64
def test_no_pair_exceeds_the_lipschitz_constant(case):
    R, params = case
    assert R.lipschitz is not None
    bound = float(jax.jit(R.lipschitz)(params))
    for scale in (1e-3, 0.1, 3.0):
        u, v = scale * normal(3, IMAGES, PIXELS), scale * normal(4, IMAGES, PIXELS)
        change = np.asarray(R.gradient(u, params) - R.gradient(v, params))
        ratio = np.linalg.norm(change, axis=1) / np.linalg.norm(u - v, axis=1)
        # Norms by power iteration are from below.
        assert 0 < ratio.max() <= bound * (1 + 1e-3)
        if R.firm:
            slack = np.sum(change * (np.asarray(u - v) - change), axis=1)
            assert (slack >= -1e-12 * scale**2).all() and bound <= 1 + 1e-12


@float64
def test_refresh_is_idempotent_and_leaves_the_weights_alone(case):
    R, params = case
    once = R.refresh(params)
    twice = R.refresh(once)
    assert set(once) == set(twice) == set(params)
    for name in params:
        tolerance = 0 if name in R.learned else 1e-2  # power iteration goes on
        for x, y, z in zip(*(jax.tree.leaves(p[name]) for p in (params, once, twice)), strict=True):
            np.testing.assert_allclose(y, x, atol=tolerance, rtol=tolerance)
            np.testing.assert_allclose(z, y, atol=tolerance, rtol=tolerance)
    if R.refresh is unchanged:
        assert once is params


@pytest.mark.parametrize("name", CASES)
@float64
def test_the_linearisation_is_the_derivative(name):
    R, params = built(name)
    assert (R.linearised is not None) == name.startswith("normalised")
    if R.linearised is None:
        return
    u, way, other = 0.1 * normal(5, 2, PIXELS), normal(6, 2, PIXELS), normal(7, 2, PIXELS)
    image, derivative = jax.jit(lambda: jax.jvp(lambda u: R.gradient(u, params), (u,), (way,)))()
    found, jacobian = jax.jit(R.linearised)(u, params)
    np.testing.assert_allclose(found, image, rtol=1e-10, atol=1e-12)
    ahead, back = jax.jit(lambda A: (A.apply(way), A.transpose.apply(other)))(jacobian)
    np.testing.assert_allclose(ahead, derivative, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(np.vdot(other, ahead), np.vdot(back, way), rtol=1e-9)
    assert jacobian.symmetric == R.tied


@pytest.mark.parametrize("name", CASES)
@float64
def test_a_preconditioner_lowers_the_condition_number(name):
    """About (a I + N'(u))^{-1}."""
    R, params = built(name)
    of_filters = ("convolutional", "ridge", "weakly_convex_ridge", "spline_ridge")
    assert (R.preconditioner is not None) == name.startswith(of_filters)
    if R.preconditioner is None:
        return
    u, a = 0.1 * normal(8, 1, PIXELS), 0.01

    @jax.jit
    def multiplied():
        hessian = jax.jacobian(lambda x: R.gradient(x[None], params)[0])(u[0])
        hessian += a * jnp.eye(PIXELS)
        inverse = R.preconditioner(u, params, a)
        return hessian, jax.vmap(lambda row: inverse(row[None])[0])(hessian)  # both are symmetric

    hessian, rows = multiplied()
    product = np.linalg.eigvals(np.asarray(rows))
    before, after = np.linalg.cond(hessian), np.abs(product).max() / np.abs(product).min()
    assert after < before


@float64
def test_the_matrix_of_a_dense_one_is_half_its_product():
    R = dense.dense(SHAPE)
    params = default_precision(R.init(jax.random.key(0)))
    assert R.matrix is not None
    np.testing.assert_allclose(R.matrix(params), params["A"].T @ params["A"] / 2, rtol=1e-12)
    assert convolutional.convolutional(SHAPE).matrix is None
    assert normalised.normalised(SHAPE).matrix is None


# ---- one's own


@float64
def test_a_function_of_ones_own_of_either_kind():
    def init(key):
        return {"w": jnp.full(PIXELS, 0.5)}

    def energy(u, weights):
        return 0.5 * jnp.sum(weights["w"] * u**2, axis=1)

    tied = function(SHAPE, energy, init, energy=True, lipschitz=lambda w: jnp.max(w["w"]))
    untied = function(SHAPE, lambda u, weights: weights["w"] * u, init)
    params, u = tied.init(jax.random.key(0)), normal(0, 3, PIXELS)
    assert tied.learned == untied.learned == ("network",)
    assert tied.tied and not untied.tied and untied.lipschitz is None
    np.testing.assert_allclose(tied.gradient(u, params), 0.5 * u, rtol=1e-12)
    np.testing.assert_allclose(untied.gradient(u, params), 0.5 * u, rtol=1e-12)
    np.testing.assert_allclose(tied.energy(u, params), 0.25 * jnp.sum(u**2, axis=1), rtol=1e-12)
    assert tied.lipschitz(params) == 0.5


def test_a_flax_module_of_ones_own():
    import flax.linen as nn

    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Conv(1, (3, 3))(x)

    R = flax_module(SHAPE, Scaled())
    params, u = R.init(jax.random.key(0)), jnp.asarray(normal(0, 2, PIXELS), jnp.float32)
    module = Scaled()
    expected = module.apply({"params": params["network"]}, u.reshape(2, *SHAPE, 1)).reshape(2, -1)
    np.testing.assert_allclose(R.gradient(u, params), expected, rtol=1e-6)

    class Energy(nn.Module):
        @nn.compact
        def __call__(self, x):
            return 0.5 * jnp.sum(nn.Conv(1, (3, 3), use_bias=False)(x) ** 2, axis=(1, 2, 3))

    R = flax_module(SHAPE, Energy(), energy=True)
    params = R.init(jax.random.key(0))
    assert R.tied
    # Of a quadratic energy: <grad R(u), u> = 2 R(u).
    product = jnp.sum(R.gradient(u, params) * u, axis=1)
    np.testing.assert_allclose(product, 2 * R.energy(u, params), rtol=1e-5)


def test_an_equinox_module_of_ones_own():
    equinox = pytest.importorskip("equinox")

    def build(key):
        return equinox.nn.Conv2d(1, 1, 3, padding=1, key=key)

    R = equinox_module(SHAPE, build)
    params, u = R.init(jax.random.key(0)), jnp.asarray(normal(0, 2, PIXELS), jnp.float32)
    module = build(jax.random.key(0))
    expected = jax.vmap(module)(u.reshape(2, 1, *SHAPE)).reshape(2, -1)
    np.testing.assert_allclose(R.gradient(u, params), expected, rtol=1e-6)
    slope = jax.grad(lambda p: jnp.sum(R.gradient(u, p) ** 2))(params)
    assert any(jnp.any(x != 0) for x in jax.tree.leaves(slope))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: function(SHAPE, None, lambda key: 1.0), "apply: a NoneType; expected a function"),
        (
            lambda: function(SHAPE, lambda u, w: u[:, :3], lambda key: jnp.ones(())),
            r"apply: returns \(2, 3\) for u \(2, 30\); expected \(2, 30\), the form of u",
        ),
        (
            lambda: function(SHAPE, lambda u, w: u, lambda key: jnp.ones(()), energy=True),
            r"apply: returns \(2, 30\) .* expected \(2,\), a number for each image",
        ),
        (
            lambda: function(SHAPE, lambda u, w: u, lambda key: jnp.ones(()), energy=3),
            "energy=3: expected True or False",
        ),
        (lambda: dense.dense(SHAPE, features=0), "features=0: expected a whole number"),
        (lambda: dense.dense((0, 3)), "shape=0: expected a whole number"),
        (lambda: convolutional.convolutional(SHAPE, filters=(0, 2, 2)), "filters=0"),
        (lambda: convolutional.convolutional(SHAPE, filters=(3, 1, 1)), "numbers and no filters"),
        (
            lambda: convolutional.convolutional(SHAPE, filters=(3, 2, 2), potential="clipping"),
            "potential 'clipping': has no eps to bend at; take a smooth one",
        ),
        (
            lambda: convolutional.convolutional(SHAPE, filters=(3, 2, 2), eps=0.0),
            "eps=0.0: expected a finite number, above 0",
        ),
        (
            lambda: convolutional.convolutional(SHAPE, filters=(3, 2, 2), basis="wavelets"),
            "basis 'wavelets': expected one of",
        ),
        (lambda: normalised.normalised(SHAPE, tied=1), "tied=1: expected True or False"),
    ],
)
def test_what_is_no_regulariser_is_refused(make, message):
    with untyped(), pytest.raises(ValueError, match=message):
        make()


@float64
def test_weights_that_vary_in_space_are_those_of_each_part_of_an_image():
    """Where e^{field} is 4, a part of an image has four times the energy."""
    shape = (8, 16)
    options: dict[str, Any] = {"filters": (3, 2, 2), "eps": 0.3, "boundary": "zero"}
    plain: Any = REGULARIZERS["convolutional"](shape, **options)
    R: Any = REGULARIZERS["convolutional"](shape, **options, field=(2, 4))
    params = R.init(jax.random.key(0))
    assert R.learned == ("filters", "beta", "field") and params["field"].shape == (2, 4)
    u = normal(0, 3, 8 * 16)
    energy, of_plain, gradient = (jax.jit(x) for x in (R.energy, plain.energy, R.gradient))
    np.testing.assert_allclose(energy(u, params), of_plain(u, params))
    fields = jnp.log(4.0) * jnp.array([[0.0, 0, 1, 1], [0, 0, 1, 1]])
    at = params | {"field": fields}
    left = u.reshape(3, 8, 16).at[:, :, 3:].set(0).reshape(3, -1)
    right = u.reshape(3, 8, 16).at[:, :, :13].set(0).reshape(3, -1)
    zero = of_plain(0 * u, params)
    np.testing.assert_allclose(energy(left, at) - energy(0 * u, at),
                               of_plain(left, params) - zero, rtol=1e-9)  # fmt: skip
    np.testing.assert_allclose(energy(right, at) - energy(0 * u, at),
                               4 * (of_plain(right, params) - zero), rtol=1e-9)  # fmt: skip
    d, h = normal(1, 3, 8 * 16), 1e-5
    slope = jnp.sum(gradient(u, at) * d, axis=-1)
    difference = (energy(u + h * d, at) - energy(u - h * d, at)) / (2 * h)
    np.testing.assert_allclose(slope, difference, rtol=1e-7)
    steep = jnp.linalg.norm(gradient(u + d, at) - gradient(u, at), axis=-1)
    assert (steep <= R.lipschitz(at) * jnp.linalg.norm(d, axis=-1)).all()
    np.testing.assert_allclose(R.lipschitz(at), 4 * plain.lipschitz(params))
    with pytest.raises(ValueError, match="field=17: expected"):
        REGULARIZERS["convolutional"](shape, **options, field=(2, 17))
