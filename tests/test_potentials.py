from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import default_precision, float64

from deqbilevel.models import ACTIVATIONS
from deqbilevel.potentials import POTENTIALS, clipping, identity, relu, softshrink

POINTS = np.linspace(-2.97, 2.97, 100)
"""No point lies within 0.01 of a kink of the table's potentials (0 and +-0.5 and +-1)."""


@pytest.fixture(params=POTENTIALS)
def phi(request):
    return POTENTIALS[request.param]()


@partial(jax.jit, static_argnums=1)
def slopes(phi, method, z):
    """The derivative of a method of phi by automatic differentiation; compiled once a class."""
    return jax.vmap(jax.grad(getattr(phi, method)))(z)


@partial(jax.jit, static_argnums=1)
def parameter_slopes(phi, method, z):
    return jax.grad(lambda phi: jnp.sum(getattr(phi, method)(z) * jnp.sin(z)))(phi)


@jax.jit
def best_and_prox(phi, z, a):
    """argmin_x a phi(x) + (x - z)^2 / 2 by search and by `prox`, and the gain."""

    def objective(x):
        return a * phi.value(x) + (x - z) ** 2 / 2

    def search(_, bracket):  # ternary search for the minimum of a convex function
        low, high = bracket
        left, right = (2 * low + high) / 3, (low + 2 * high) / 3
        smaller = objective(left) < objective(right)
        return jnp.where(smaller, low, left), jnp.where(smaller, right, high)

    best, _ = jax.lax.fori_loop(0, 100, search, (jnp.full_like(z, -4), jnp.full_like(z, 4)))
    x = phi.prox(z, a)
    return best, x, objective(best) - objective(x)


def test_the_points_avoid_the_kinks():
    for kink in (-1, -0.5, 0, 0.5, 1):
        assert np.abs(POINTS - kink).min() > 0.009


@float64
def test_derivatives_are_those_of_the_value(phi):
    z, h = jnp.asarray(POINTS), 1e-5
    np.testing.assert_allclose(phi.derivative(z), slopes(phi, "value", z), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        phi.second_derivative(z), slopes(phi, "derivative", z), rtol=1e-10, atol=1e-13
    )
    # Fourth-order differences: rounding eps / h, truncation h^4 times phi's fifth derivative.
    for function, slope in (
        (phi.value, phi.derivative),
        (phi.derivative, phi.second_derivative),
    ):
        near, far = function(z + h) - function(z - h), function(z + 2 * h) - function(z - 2 * h)
        np.testing.assert_allclose(slope(z), (8 * near - far) / (12 * h), rtol=1e-6, atol=1e-9)


@float64
def test_parameters_can_be_differentiated(phi):
    """The derivative with respect to each parameter against central differences."""
    z, h = jnp.asarray(POINTS), 1e-6
    phi = default_precision(phi)
    leaves, structure = jax.tree.flatten(phi)

    def total(leaves, method):
        values = getattr(jax.tree.unflatten(structure, leaves), method)(z)
        return np.sum(np.asarray(values) * np.sin(POINTS))

    for method in ("value", "derivative"):
        gradient = jax.tree.leaves(parameter_slopes(phi, method, z))
        for i in range(len(leaves)):
            up, down = list(leaves), list(leaves)
            up[i], down[i] = up[i] + h, down[i] - h
            if leaves[i] == 0 and i == 3:
                continue  # the threshold t >= 0 has no difference to its left
            difference = (total(up, method) - total(down, method)) / (2 * h)
            # Rounding: eps * |sum| / h.
            np.testing.assert_allclose(gradient[i], difference, rtol=1e-6, atol=1e-7)


@float64
def test_convex_with_a_monotone_derivative(phi):
    assert (np.diff(phi.derivative(jnp.asarray(POINTS))) >= -1e-15).all()
    assert (phi.value(jnp.asarray(POINTS)) >= 0).all()


@float64
def test_lipschitz_constant_is_attained_and_never_exceeded(phi):
    z = jnp.concatenate([jnp.asarray(POINTS), jnp.zeros(1)])
    largest = jnp.max(phi.second_derivative(z))
    np.testing.assert_allclose(largest, phi.lipschitz, rtol=1e-12)


@pytest.mark.parametrize("a", [0.3, 1.0, 5.0])
@float64
def test_prox_minimises(phi, a):
    best, x, gain = best_and_prox(phi, jnp.asarray(POINTS), a)
    assert (gain >= -1e-14).all()
    # Values decide a minimiser only to the square root of rounding.
    np.testing.assert_allclose(x, best, atol=1e-6)


@float64
def test_prox_solves_its_stationarity_equation(phi):
    z, a = jnp.asarray(POINTS), 0.7
    x = phi.prox(z, a)
    away = np.abs(np.abs(np.asarray(x))[:, None] - np.array([0, 0.5, 1])).min(axis=1) > 1e-9
    assert away.sum() > 50
    np.testing.assert_allclose((x + a * phi.derivative(x))[away], z[away], atol=1e-12)


def test_float32_stays_float32(phi):
    z = np.zeros((3, 4), np.float32)
    for method, more in (
        ("value", ()),
        ("derivative", ()),
        ("second_derivative", ()),
        ("prox", (0.5,)),
    ):
        image = jax.eval_shape(lambda z, name=method, more=more: getattr(phi, name)(z, *more), z)
        assert (image.dtype, image.shape) == (z.dtype, z.shape)


@float64
def test_jit_and_vmap_over_parameters(phi):
    z = jnp.asarray(POINTS)
    lanes = jax.tree.map(lambda leaf: jnp.asarray(leaf) * jnp.array([1.0, 1.5]), phi)
    for method in ("value", "derivative", "second_derivative"):
        together = jax.jit(jax.vmap(lambda phi, m=method: getattr(phi, m)(z)))(lanes)
        for i in range(2):
            alone = jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
            np.testing.assert_allclose(together[i], getattr(alone, method)(z), rtol=1e-12)


GRID = np.linspace(-4, 4, 801)
INFINITY = np.inf


def table_of_R(t):
    """R of each activation on the grid, as in the table of `PiecewiseQuadratic`."""
    return {
        "identity": np.where(np.abs(GRID) < 1e-9, 0, INFINITY),
        "relu": np.where(GRID < 1e-9, 0, INFINITY),
        "softshrink": np.where(np.abs(GRID) < t + 1e-9, 0, INFINITY),
        "clipping": t * np.abs(GRID),
    }


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("t", [0.5, 1.0])
@float64
def test_activation_is_a_proximal_map_and_its_potential_a_moreau_envelope(name, t):
    """[REB] (20), (21), by brute force; the minimisers lie on the grid, so it is exact."""
    phi = ACTIVATIONS[name](t)
    z = np.linspace(-2.5, 2.5, 51)
    objective = table_of_R(t)[name] + (GRID - z[:, None]) ** 2 / 2
    np.testing.assert_allclose(phi.value(jnp.asarray(z)), objective.min(axis=1), atol=1e-12)
    prox_of_R = GRID[objective.argmin(axis=1)]
    np.testing.assert_allclose(phi.derivative(jnp.asarray(z)), z - prox_of_R, atol=1e-12)


@float64
def test_closed_forms():
    z = jnp.concatenate([jnp.asarray(POINTS), jnp.array([-0.5, 0.0, 0.5, 1.0])])
    soft = jnp.sign(z) * jnp.maximum(jnp.abs(z) - 0.5, 0)
    for potential, sigma in (
        (identity(), z),
        (relu(), jax.nn.relu(z)),
        (softshrink(0.5), soft),
        (clipping(0.8), jnp.clip(z, -0.8, 0.8)),
    ):
        np.testing.assert_allclose(potential.derivative(z), sigma, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(identity().value(z), z**2 / 2, rtol=1e-14)


@float64
def test_identity_has_no_kink_at_zero():
    zero = jnp.zeros(1)
    assert identity().second_derivative(zero) == 1
    assert slopes(identity(), "derivative", zero) == 1
