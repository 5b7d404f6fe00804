"""The constants of [CF] C.2 against dense derivatives, and what is reported of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import KINDS, default_precision, dense, float64, normal
from jax.flatten_util import ravel_pytree

from deqbilevel import conditions, models, operators
from deqbilevel.conditions import Region
from deqbilevel.conditions.report import ANY_IMAGES, EVERYWHERE, REGION
from deqbilevel.potentials import POTENTIALS, CornerRounded, Fair, LogRoot, LogSum, Quadratic
from deqbilevel.regularizers import convolutional

SHAPE = (6, 7)
PIXELS = 42
STRIPES = np.repeat([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], 7)
PAIR = np.array([[[1.0], [-1.0]]])
LEARNED = ("filters", "beta")


def small(phi, c=None, K=None, boundary="circular", learned=LEARNED, beta_0=-1.0, basis=None):
    """A small problem and its parameters."""
    K = default_precision(operators.Identity() if K is None else K)
    problem = conditions.Problem(K, convolutional.bank_of(SHAPE, boundary), learned)
    c = 0.5 * normal(0, 3, 3, 2) if c is None else c
    beta = np.linspace(-0.5, 0.5, len(c))
    p = convolutional.init(c, beta_0=beta_0, beta=beta, phi=phi, basis=basis)
    return problem, default_precision(p | {"lam": 1.3, "gamma": 0.8})


def model_of(problem, p):
    """The model whose lower-level cost this is."""
    return models.assemble(problem.K, problem.R.regularizer(lambda key: p))


def derivatives(problem, p):
    """H and J of one image as matrices, a function of u and the learned vector; and that vector."""
    start, unravel = ravel_pytree({name: p[name] for name in problem.learned})
    stationarity = model_of(problem, p).stationarity()

    def F(u, learned):
        return stationarity(u[None], p | unravel(learned), jnp.zeros((1, PIXELS)))[0]

    return jax.jacfwd(F, (0, 1)), start


def samples(problem, p, region, count=16):
    """Pairs of images, and of learned vectors, of a region: some near one another, some far."""
    rng = np.random.default_rng(0)
    low, high = region.pixels
    u, v = rng.uniform(low, high, (2, count, PIXELS))
    u[::4], v[::4] = (np.where(x[::4] > 0, high, low) for x in (u, v))
    u[1] = high
    u[2] *= 1e-2  # about the corner of phi
    v[::2] = u[::2] + 1e-3 * (v[::2] - u[::2])

    def moved():
        c = rng.standard_normal((count, p["filters"].size))
        c *= region.filters / np.linalg.norm(c, axis=1, keepdims=True)
        beta = rng.uniform(-region.beta, region.beta, (count, p["beta"].size))
        shift = {"filters": c.reshape(count, *p["filters"].shape), "beta": beta}
        there = {name: np.asarray(p[name]) + shift[name] for name in problem.learned}
        return np.concatenate([there[name].reshape(count, -1) for name in sorted(there)], axis=1)

    one, other = moved(), moved()
    other[::2] = one[::2] + 1e-3 * (other - one)[::2]
    return u, v, one, other


def measured(problem, p, region):
    """What the samples show of every constant."""
    both = jax.jit(jax.vmap(derivatives(problem, p)[0]))
    u, v, one, other = samples(problem, p, region)
    here, in_u, in_params = both(u, one), both(v, one), both(u, other)
    far_u, far_params = np.linalg.norm(u - v, axis=1), np.linalg.norm(one - other, axis=1)

    def norms(matrices):
        return np.linalg.norm(np.asarray(matrices), 2, axis=(1, 2))

    eigenvalues = np.linalg.eigvalsh(np.asarray(here[0]))
    truth = np.where(np.asarray(u) > np.mean(region.pixels), *region.pixels)
    return conditions.Constants(
        eigenvalues.min(),
        np.abs(eigenvalues).max(),
        norms(here[1]).max(),
        *((norms(x - y) / far_u).max() for x, y in zip(here, in_u, strict=True)),
        *((norms(x - y) / far_params).max() for x, y in zip(here, in_params, strict=True)),
        np.linalg.norm(u - truth, axis=1).max(),
    )


CASES = {
    "quadratic": (Quadratic(0.7), {}),
    "corner_rounded": (CornerRounded(0.2), {}),
    "fair": (Fair(0.5), {"learned": ("beta",)}),
    "log_sum": (LogSum(0.5), {"K": operators.diagonal_blur(SHAPE, 3)}),
    "zero": (CornerRounded(0.5), {"boundary": "zero", "K": operators.row_mask(SHAPE, 2)}),
    "reflecting": (CornerRounded(0.5), {"boundary": "reflecting", "learned": ("filters",)}),
    "basis": (LogRoot(), {"c": 0.5 * normal(0, 3, 5), "basis": 2 * convolutional.cosines(3, 2)}),
}


@pytest.mark.parametrize("name", CASES)
@float64
def test_no_constant_is_exceeded(name):
    phi, options = CASES[name]
    problem, p = small(phi, **options)
    region = Region(pixels=(-1.5, 1.0), filters=0.3, beta=0.4)
    sigma = conditions.least_singular_value(problem.K, SHAPE)
    found = jax.jit(lambda p: conditions.constants(problem, p, sigma, region))(p)
    seen = measured(problem, p, region)
    assert seen.strong_convexity >= found.strong_convexity - 1e-9
    for entry, most, value in zip(found._fields[1:], found[1:], seen[1:], strict=True):
        assert value <= most * (1 + 1e-9), entry
    assert seen.lipschitz > 0.15 * found.lipschitz
    assert seen.loss_gradient > 0.99 * found.loss_gradient


def most_of(tensor):
    """max of tensor . (x, y, z) over unit vectors, or less, by alternating maximisation."""
    best, rng = 0.0, np.random.default_rng(0)
    for _ in range(10):
        x = [v / np.linalg.norm(v) for v in (rng.standard_normal(n) for n in tensor.shape)]
        for i in 20 * (0, 1, 2):
            j, k = (m for m in range(3) if m != i)
            v = np.einsum(tensor, [0, 1, 2], x[j], [j], x[k], [k], [i])
            x[i] = v / max(np.linalg.norm(v), 1e-300)
        best = max(best, abs(np.einsum("abc,a,b,c", tensor, *x)))
    return best


@pytest.mark.parametrize("learned", [LEARNED, ("beta",)])
@pytest.mark.parametrize("phi, factor", [(Quadratic(0.7), 1.0), (CornerRounded(1.0), 2.6)])
@float64
def test_constants_are_attained_or_nearly(phi, factor, learned):
    """One filter (1, -1) and stripes, of a height where the phi''' of the second is largest."""
    problem, p = small(phi, PAIR, learned=learned)
    found = conditions.constants(problem, p, 1.0, Region(pixels=(-0.25, 0.25)))
    both, start = derivatives(problem, p)

    @jax.jit
    def evaluate(u):
        return both(u, start), jax.jacfwd(both, (0, 1))(u, start)

    u = jnp.asarray(0.25 * STRIPES)
    (H, J), ((H_in_u, H_in_params), (J_in_u, J_in_params)) = evaluate(u)
    tensors = (H_in_u, J_in_u, H_in_params, J_in_params)
    seen = [np.linalg.norm(J, 2), *(most_of(np.asarray(tensor)) for tensor in tensors)]
    for value, most in zip(seen, found[2:-1], strict=True):
        assert most / factor * (1 - 1e-9) <= value <= most * (1 + 1e-9)
    flat, least = evaluate(0 * u)[0][0], np.linalg.eigvalsh(H)[0]
    for exact in (np.linalg.norm(flat, 2), model_of(problem, p).lipschitz(p)):
        np.testing.assert_allclose(found.lipschitz, exact, rtol=1e-12)
    np.testing.assert_allclose(found.strong_convexity, least, rtol=1e-12)


@float64
def test_a_bound_of_j_without_the_number_of_pixels_is_exceeded():
    """As [CF] C.2 has it, ||A|| sqrt(w) sup |phi'|: here phi' is near +-1 at every pixel."""
    problem, p = small(CornerRounded(1e-3), PAIR, learned=("beta",))
    both, start = derivatives(problem, p)
    found = conditions.constants(problem, p, 1.0, Region(pixels=(-1.0, 1.0)))
    seen = np.linalg.norm(both(jnp.asarray(STRIPES), start)[1], 2)
    printed = float(found.mixed) / PIXELS**0.5
    assert 0.9 * found.mixed < seen <= found.mixed and seen > 5 * printed


@float64
def test_several_images_and_a_wider_region():
    problem, p = small(CornerRounded(0.5))
    one, two, wide = (
        conditions.constants(problem, p, 1.0, region)
        for region in (Region(), Region(images=4), Region((0.0, 2.0), 0.1, 0.1))
    )
    np.testing.assert_allclose(two.mixed, 2 * one.mixed)
    assert two.lipschitz == one.lipschitz and two.mixed_in_u == one.mixed_in_u
    assert all(more > less for more, less in zip(wide[1:], one[1:], strict=True))
    both, start = derivatives(problem, p)
    u = samples(problem, p, Region())[0][:4]
    J = jax.jit(jax.vmap(both, (0, None)))(u, start)[1]
    assert np.linalg.norm(J.reshape(4 * PIXELS, -1), 2) <= two.mixed


@float64
def test_a_convex_potential_and_the_identity():
    """mu = lam: filters that sum to zero add nothing."""
    problem, p = small(CornerRounded(0.2), convolutional.cosines(3, 2))
    found = conditions.report(problem, p)
    np.testing.assert_allclose(found.constants.strong_convexity, 1.3, rtol=1e-14)
    assert found.failing == () and found.fixed == LEARNED
    assert "the given filters and beta alone, which do not move" in conditions.text(found)
    wide = conditions.report(problem, p, Region(filters=0.1, beta=0.1))
    assert wide.failing == () and conditions.text(wide).endswith("every condition holds there")
    assert conditions.report(problem, p, Region(filters=0.1)).fixed == ("beta",)
    where = {c.name: c.where for c in found.conditions}
    assert where["A_Phi 3"] == EVERYWHERE and where["A_Phi 2"] == ANY_IMAGES
    assert {where[name] for name in ("A_l 2", "A_Phi 4", "A_Phi 5", "A_Phi 6")} == {REGION}
    assert found.condition_number == pytest.approx(float(model_of(problem, p).lipschitz(p)) / 1.3)
    problem, p = small(CornerRounded(0.2), convolutional.cosines(3, 2), learned=("beta",))
    where = {c.name: c.where for c in conditions.report(problem, p).conditions}
    assert where["A_Phi 4"] == where["A_Phi 6"] == ANY_IMAGES and where["A_l 2"] == REGION


@float64
def test_missing_pixels():
    mask, cosines = operators.row_mask(SHAPE, 2), convolutional.cosines(3, 2)
    found = conditions.report(*small(CornerRounded(0.2), cosines, K=mask))
    assert found.failing == ("A_Phi 3",) and found.condition_number == math.inf
    assert "NO  A_Phi 3" in conditions.text(found)
    assert "not shown to hold: A_Phi 3" in conditions.text(found)
    for phi, where in ((Quadratic(0.7), ANY_IMAGES), (CornerRounded(0.2), REGION)):
        found = conditions.report(*small(phi, K=mask))
        assert found.failing == () and found.conditions[5].where == where


@float64
def test_a_potential_that_is_not_convex_needs_weak_weights():
    for beta_0, failing in ((0.0, ("A_Phi 3",)), (-4.0, ())):
        found = conditions.report(*small(LogSum(0.5), beta_0=beta_0))
        assert found.failing == failing
        assert found.conditions[5].where == ANY_IMAGES
        assert found.constants.strong_convexity < 1.3


@pytest.mark.parametrize(
    "name, failing",
    [
        ("clipping", ("A_Phi 1", "A_Phi 4", "A_Phi 6")),
        ("power_sum", ("A_Phi 1", "A_Phi 2", "A_Phi 4", "A_Phi 5", "A_Phi 6")),
    ],
)
@float64
def test_potentials_with_kinks(name, failing):
    phi = POTENTIALS[name]()
    assert conditions.report(*small(phi, convolutional.cosines(3, 2))).failing == failing


@float64
def test_other_parameters_are_refused():
    problem, p = small(Quadratic(), learned=("beta", "beta_0"))
    with pytest.raises(ValueError, match="constants are for filters and beta"):
        conditions.report(problem, p)


@pytest.mark.parametrize(
    ("change", "region", "sigma", "named"),
    [
        ({"K": None}, Region(), 1.0, "K.apply: a NoneType; expected a function"),
        ({}, Region(), -1.0, "sigma=-1.0: expected a finite number, 0 or more"),
        ({}, Region(), math.nan, "sigma=nan"),
        ({}, Region(pixels=(1.0, 0.0)), 1.0, r"pixels=\(1.0, 0.0\): expected two numbers"),
        ({}, Region(pixels=(0.0, math.nan)), 1.0, "pixels="),
        ({}, Region(filters=-1.0), 1.0, "filters=-1.0"),
        ({}, Region(beta=math.inf), 1.0, "beta=inf"),
        ({}, Region(images=0), 1.0, "images=0: expected a whole number, 1 or more"),
    ],
)
def test_what_is_no_region_and_no_operator_is_refused(change, region, sigma, named):
    problem, p = small(Quadratic())
    with pytest.raises(ValueError, match=named):
        conditions.report(problem._replace(**change), p, region, sigma)


def test_the_scalars_are_1_where_there_are_none_and_shapes_are_those_of_images():
    problem, p = small(Quadratic())
    del p["lam"], p["gamma"]
    found = conditions.report(problem, p).constants
    expected = conditions.report(problem, p | {"lam": 1.0, "gamma": 1.0}).constants
    np.testing.assert_allclose(found, expected)
    with pytest.raises(ValueError, match="shape=0: expected a whole number"):
        conditions.least_singular_value(problem.K, (6, 0))


class Tall:
    """A matrix of full rank that is of no known kind."""

    def apply(self, u):
        return jnp.concatenate([u, 2 * u], axis=-1)[..., : PIXELS + 3]

    def adjoint(self, v):
        raise NotImplementedError

    def resolvent(self, z, a):
        raise NotImplementedError


class Wide(Tall):
    def apply(self, u):
        return u[..., 1:]


@float64
def test_least_singular_values():
    known = [default_precision(build(SHAPE)) for build in KINDS.values()]
    for K in (*known, default_precision(operators.diagonal_blur(SHAPE, 2)), Tall()):
        matrix = dense(K.apply, PIXELS)
        # Of real images: what is complex is two data.
        matrix = np.concatenate([matrix.real, matrix.imag])
        expected = np.linalg.svd(matrix, compute_uv=False)[PIXELS - 1]
        found = conditions.least_singular_value(K, SHAPE)
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert conditions.least_singular_value(Wide(), SHAPE) == 0
