import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import default_precision, float64

from deqbilevel import potentials
from deqbilevel.potentials import (
    POTENTIALS,
    CornerRounded,
    Fair,
    GemanMcClure,
    LogRoot,
    LogSum,
    PiecewiseQuadratic,
    PowerSum,
    RoundedPower,
    Welsch,
    clipping,
    identity,
    relu,
    softshrink,
)
from deqbilevel.regularizers.dense import ACTIVATIONS

POINTS = np.linspace(-2.97, 2.97, 100)
"""No point lies within 0.01 of a kink of the table's potentials (0 and +-0.5 and +-1)."""
HALF = np.geomspace(1e-6, 1e2, 20001)
WIDE = np.concatenate([-HALF[::-1], [0], HALF])
"""Fine at every scale, so that it meets the extremes of phi'' for a small eps too."""
FAR = np.concatenate([-HALF[::-1], [0], HALF, np.geomspace(1e2, 1e5, 301)])
"""So far out that a slope nears its limit."""
METHODS = ("value", "derivative", "second_derivative")


@pytest.fixture(params=POTENTIALS)
def phi(request):
    return POTENTIALS[request.param]()


def allowed(phi, a):
    """a, or where phi is not convex at most 9/10 of the largest that makes its prox unique."""
    concave = -float(jnp.min(phi.second_derivative(jnp.asarray(WIDE))))
    return min(a, 0.9 / concave) if concave > 0 else a


@partial(jax.jit, static_argnums=1)
def slopes(phi, method, z, *more):
    """The derivative of a method of phi by automatic differentiation; compiled once a class."""
    return jax.vmap(jax.grad(lambda z: getattr(phi, method)(z, *more)))(z)


@partial(jax.jit, static_argnums=1)
def parameter_slopes(phi, method, z, *more):
    return jax.grad(lambda phi: jnp.sum(getattr(phi, method)(z, *more) * jnp.sin(z)))(phi)


@jax.jit
def best_and_prox(phi, z, a):
    """argmin_x a phi(x) + (x - z)^2 / 2 by search and by `prox`, and the gain."""

    def objective(x):
        return a * phi.value(x) + (x - z) ** 2 / 2

    def search(_, bracket):  # ternary search, as the objective is convex for an allowed a
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

    def total(leaves, method, *more):
        values = getattr(jax.tree.unflatten(structure, leaves), method)(z, *more)
        return np.sum(np.asarray(values) * np.sin(POINTS))

    for method, *more in (("value",), ("derivative",), ("prox", allowed(phi, 0.7))):
        gradient = jax.tree.leaves(parameter_slopes(phi, method, z, *more))
        for i in range(len(leaves)):
            up, down = list(leaves), list(leaves)
            up[i], down[i] = up[i] + h, down[i] - h
            if leaves[i] == 0 and i == 3:
                continue  # the threshold t >= 0 has no difference to its left
            difference = (total(up, method, *more) - total(down, method, *more)) / (2 * h)
            # Rounding: eps * |sum| / h.
            np.testing.assert_allclose(gradient[i], difference, rtol=1e-6, atol=1e-7)


def test_two_classes_have_two_structures():
    """So that the cache of a jitted function never takes one potential for another."""
    examples = [build() for build in POTENTIALS.values()]
    for one, other in itertools.combinations([*examples, RoundedPower(1.0), PowerSum(p=2.0)], 2):
        same = type(one) is type(other) and getattr(one, "p", 0) == getattr(other, "p", 0)
        same |= type(one) is type(other) is PiecewiseQuadratic
        assert (jax.tree.structure(one) == jax.tree.structure(other)) == same


@float64
def test_convex_where_its_derivative_is_monotone(phi):
    z = jnp.asarray(WIDE)
    assert phi.convex == bool((np.diff(phi.derivative(z)) >= -1e-15).all())
    assert phi.convex == bool((phi.second_derivative(z) >= 0).all())
    assert (phi.value(z) >= 0).all()


@float64
def test_lipschitz_constant_is_attained_and_never_exceeded(phi):
    z = jnp.concatenate([jnp.asarray(WIDE), jnp.asarray(POINTS)])
    if np.isinf(phi.lipschitz):
        below, above = phi.derivative(jnp.array([-1e-12, 1e-12]))
        assert above - below > 0.1
    else:
        largest = jnp.max(jnp.abs(phi.second_derivative(z)))
        np.testing.assert_allclose(largest, phi.lipschitz, rtol=1e-12)


@pytest.mark.parametrize("eps", [0.1, 1.0, 30.0])
@pytest.mark.parametrize(
    "kind", [LogRoot, *(partial(RoundedPower, p) for p in (0.1, 0.9, 1.7, 2.0))]
)
@float64
def test_lipschitz_constant_of_every_parameter(kind, eps):
    phi = kind(eps=eps)
    largest = jnp.max(jnp.abs(phi.second_derivative(jnp.asarray(WIDE))))
    np.testing.assert_allclose(largest, phi.lipschitz, rtol=1e-12)


def extremes_against_a_grid(phi):
    """Each constant is never exceeded on a grid, and reached; LogRoot has bounds, see there."""
    z = jnp.asarray(FAR) * getattr(phi, "eps", 1.0)
    second, third = phi.second_derivative(z), slopes(phi, "second_derivative", z)
    margins = {
        "slope": phi.slope - jnp.max(jnp.abs(phi.derivative(z))),
        "least_curvature": jnp.min(second) - phi.least_curvature,
        "curvature_lipschitz": phi.curvature_lipschitz - jnp.max(jnp.abs(third)),
    }
    for name, margin in margins.items():
        constant = abs(float(getattr(phi, name)))
        loose = 0.9 if isinstance(phi, LogRoot) else 1e-3
        if np.isinf(constant):
            assert name == "slope" or not phi.twice_differentiable
            assert name != "slope" or jnp.max(jnp.abs(phi.derivative(1e5 * z))) > 1e3
        else:
            limit = 0.05 * phi.lipschitz if constant == 0 else loose * constant
            assert -1e-12 * (1 + constant) <= margin <= limit, name
    if phi.convex and phi.twice_differentiable:
        assert (np.diff(phi.second_derivative(z[z >= 0])) <= 1e-14 * phi.lipschitz).all()


@float64
def test_extremes_are_attained_and_never_exceeded(phi):
    extremes_against_a_grid(phi)


@pytest.mark.parametrize("eps", [0.1, 1.0, 30.0])
@float64
def test_extremes_of_every_parameter(eps):
    kinds = (CornerRounded, Fair, LogSum, LogRoot, GemanMcClure, Welsch)
    powers = (0.1, 0.9, 1.0, 1.7, 2.0)
    for kind in (*kinds, *(partial(RoundedPower, p) for p in powers)):
        extremes_against_a_grid(kind(eps=eps))


@pytest.mark.parametrize("eps", [0.1, 1.0])
@float64
def test_prox_of_a_potential_that_is_not_convex_allows_the_stated_a(eps):
    """The docstrings' bounds: 1 / max(-phi''), and for LogRoot below it."""
    z = jnp.asarray(WIDE)
    for phi, bound in (
        (LogSum(eps), 4 * eps**2),
        (GemanMcClure(eps), 4),
        (Welsch(eps), np.exp(1.5) / 2),
        (RoundedPower(0.5, eps), 7**1.75 * eps**1.5),
    ):
        np.testing.assert_allclose(-1 / jnp.min(phi.second_derivative(z)), bound, rtol=1e-6)
    assert jnp.min(LogRoot(eps).second_derivative(z)) > -1 / (10 + eps) ** 2


@float64
def test_twice_differentiable_where_the_second_derivative_is_continuous(phi):
    """Its jump over 1e-9 about each point of a grid that holds the kinks."""
    z, h = np.linspace(-3, 3, 6001), 1e-9
    near = phi.second_derivative(jnp.asarray(z[:, None] + np.array([-2 * h, -h, h, 2 * h])))
    continuous = bool((np.ptp(near, axis=1) < 1e-2).all())
    is_identity = jax.tree.leaves(phi) == jax.tree.leaves(identity())
    assert phi.twice_differentiable == (continuous and not is_identity)


@pytest.mark.parametrize("a", [0.3, 1.0, 5.0])
@float64
def test_prox_minimises(phi, a):
    best, x, gain = best_and_prox(phi, jnp.asarray(POINTS), allowed(phi, a))
    assert (gain >= -1e-14).all()
    # Values decide a minimiser only to the square root of rounding.
    np.testing.assert_allclose(x, best, atol=1e-6)


@float64
def test_prox_solves_its_stationarity_equation(phi):
    z, a = jnp.asarray(POINTS), allowed(phi, 0.7)
    x = phi.prox(z, a)
    away = np.abs(np.abs(np.asarray(x))[:, None] - np.array([0, 0.5, 1])).min(axis=1) > 1e-9
    assert away.sum() > 50
    np.testing.assert_allclose((x + a * phi.derivative(x))[away], z[away], atol=1e-12)
    # Differentiated once more: dx/dz (1 + a phi''(x)) = 1.
    slope = 1 / (1 + a * phi.second_derivative(x))
    np.testing.assert_allclose(slopes(phi, "prox", z, a)[away], slope[away], rtol=1e-10)


def test_gradients_at_zero_are_finite_in_float32(phi):
    zero, phi = jnp.zeros(1), default_precision(phi)
    for method, *more in (*((method,) for method in METHODS), ("prox", 0.01)):
        assert jnp.isfinite(slopes(phi, method, zero, *more)).all()
        for gradient in jax.tree.leaves(parameter_slopes(phi, method, zero, *more)):
            assert jnp.isfinite(gradient)


def test_float32_loses_no_digits(phi):
    """No cancellation near 0: single precision against double precision at the same numbers."""
    z = np.concatenate([HALF[::200], POINTS]).astype(np.float32)

    def evaluate(numbers):
        return [getattr(phi, method)(jnp.asarray(numbers)) for method in METHODS]

    single, double = evaluate(z), float64(evaluate)(z.astype(float))
    for method, low, high in zip(METHODS, single, double, strict=True):
        # phi'' of a potential that is not convex has a zero.
        scale = 1e-6 * float(np.abs(high).max()) if method == "second_derivative" else 1e-30
        np.testing.assert_allclose(low, high, rtol=3e-6, atol=scale)


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
    for method, *more in (*((method,) for method in METHODS), ("prox", 0.01)):
        together = jax.jit(jax.vmap(lambda phi, m=method, more=more: getattr(phi, m)(z, *more)))(
            lanes
        )
        for i in range(2):
            alone = jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
            np.testing.assert_allclose(together[i], getattr(alone, method)(z, *more), rtol=1e-12)


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


@float64
def test_rounded_powers_with_closed_forms():
    z = jnp.asarray(WIDE)
    one, round_corner = RoundedPower(1.0, 0.3), CornerRounded(0.3)
    for method in METHODS:
        np.testing.assert_allclose(getattr(one, method)(z), getattr(round_corner, method)(z))
    two = RoundedPower(2.0, 0.3)
    np.testing.assert_allclose(two.value(z), z**2 + 0.09)
    np.testing.assert_allclose(two.prox(z, 0.7), z / 2.4)
    assert [RoundedPower(p).convex for p in (0.99, 1.0, 2.0)] == [False, True, True]


@pytest.mark.parametrize("a", [0.02, 0.7])
@float64
def test_power_sum_closed_form_is_the_limit_of_the_bisection(a):
    """The prox at p = 3/2 and beside it, and at p = 2, where it is z / (1 + 2 a beta_tilde)."""
    z = jnp.linspace(-3, 3, 101)
    exact, beside = PowerSum().prox(z, a), PowerSum(p=1.5 + 1e-12).prox(z, a)
    np.testing.assert_allclose(beside, exact, rtol=1e-11, atol=1e-12)
    w = jnp.sign(z) * jnp.maximum(jnp.abs(z) - 0.5 * a, 0)
    np.testing.assert_allclose(PowerSum(p=2.0).prox(z, a), w / (1 + 0.6 * a), rtol=1e-14)


@float64
def test_power_sum_prox_at_known_points():
    """[CF] (4.23) with 2 beta_tilde |z|^p / p; without the 2 the value would be 1.1748."""
    x = PowerSum(0.5, 0.3, 1.5).prox(jnp.array([2.0, -2.0, 0.4, 0.5]), 1.0)
    np.testing.assert_allclose(x, [0.92342873, -0.92342873, 0, 0], atol=1e-7)
    root = -0.3 + np.sqrt(0.3**2 + 1.5)
    np.testing.assert_allclose(x[0], root**2, rtol=1e-15)
    assert slopes(PowerSum(), "prox", jnp.array([0.4, -0.4]), 1.0).tolist() == [0, 0]


@pytest.mark.parametrize("kind, p", [(RoundedPower, 0.0), (RoundedPower, 2.1), (PowerSum, 1.0)])
def test_an_exponent_outside_its_range_is_refused(kind, p):
    with pytest.raises(ValueError, match="exponent"):
        kind(p=p)


WIDTHS = [
    potentials.CornerRounded,
    potentials.RoundedPower,
    potentials.Fair,
    potentials.LogCosh,
    potentials.LogSum,
    potentials.LogRoot,
    potentials.GemanMcClure,
    potentials.Welsch,
]
NO_WIDTHS = [0, -1.0, 1e-10, 1e39, float("nan"), float("inf"), "wide", None]


@pytest.mark.parametrize("kind", WIDTHS)
def test_a_width_that_is_none_is_refused(kind):
    for eps in NO_WIDTHS:
        with pytest.raises(ValueError, match=r"eps=.*: expected a finite number, 1e-09 or more"):
            kind(eps=eps)
    for eps in (potentials.LEAST_WIDTH, potentials.MOST_WIDTH):
        phi = kind(eps=jnp.float32(eps))
        z = jnp.array([-1.0, 0.0, eps])
        for found in (phi.value(z), phi.derivative(z), phi.second_derivative(z)):
            assert jnp.isfinite(found).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: potentials.softshrink(-1.0), r"threshold=-1.0: expected .*0 or more"),
        (lambda: potentials.softshrink(float("nan")), "threshold=nan"),
        (lambda: potentials.clipping(1e39), r"bound=1e\+39"),
        (lambda: potentials.Quadratic(-1.0), "s=-1.0"),
        (lambda: potentials.PiecewiseQuadratic(0.0, 1.0, -1.0, 0.5), r"s \+ q=-1.0"),
        (lambda: potentials.PiecewiseQuadratic(1.0, 1.0, 0.0, -0.5), "t=-0.5"),
        (lambda: potentials.PowerSum(beta=-1.0), "beta=-1.0"),
        (lambda: potentials.PowerSum(beta_tilde=float("inf")), "beta_tilde=inf"),
    ],
)
def test_parameters_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_parameters_that_are_traced_or_no_numbers_pass():
    phi = jax.jit(lambda eps: potentials.LogSum(eps))(-1.0)
    assert phi.eps == -1 and jax.tree.map(lambda x: None, phi).eps is None
    lanes = jax.vmap(lambda t: potentials.softshrink(t))(jnp.array([0.5, -0.5]))
    assert lanes.t.shape == (2,)
