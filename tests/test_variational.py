"""Total variation and its kin without smoothing: operators, certificates and saddle points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, float64, normal
from scipy.optimize import lsq_linear
from skimage.restoration import denoise_tv_chambolle

from deqbilevel import operators
from deqbilevel.variational import (
    Problem,
    chambolle_pock,
    cosines,
    fista,
    fourier,
    generalised_variation,
    infimal_convolution,
    total_variation,
    wavelets,
)

SHAPE = (5, 6)
PIXELS = SHAPE[0] * SHAPE[1]
KINDS = {
    "tv": (total_variation, (0.3,)),
    "tgv": (generalised_variation, (0.3, 0.4)),
    "ictv": (infimal_convolution, (0.3, 0.4)),
}


solved = jax.jit(
    chambolle_pock, static_argnames=("accelerated", "every", "preconditioned", "relaxation")
)
"""The same, compiled."""


def identity(omega):
    return Problem(operators.identity(SHAPE), omega)


def matrix(problem, term):
    """Omega_t."""
    omega = problem.omega
    return dense(jax.jit(lambda x: omega.apply(x)[term].reshape(len(x), -1)), omega.unknowns)


@pytest.mark.parametrize("name", KINDS)
def test_norms_and_symbols_are_bounds(name):
    make, weights = KINDS[name]
    problem = identity(make(SHAPE))
    parts = [matrix(problem, t) for t in range(len(weights))]
    for part, bound in zip(parts, problem.omega.norms, strict=True):
        assert 0.7 * bound < np.linalg.norm(part, 2) <= bound + 1e-5
    sigma = (0.7, 1.9)[: len(parts)]
    own = sum(s * part.T @ part for s, part in zip(sigma, parts, strict=True))
    symbol = problem.omega.symbol(sigma)
    bound = dense(jax.jit(lambda x: cosines.multiplied(symbol, x)), problem.omega.unknowns)
    assert np.linalg.eigvalsh(bound - own).min() > -1e-5


def test_a_majorant_is_above_the_operator_and_below_its_norm_at_most_frequencies():
    K = operators.gaussian_blur(SHAPE, 0.6, "zero")
    D = jax.jit(lambda: cosines.majorant(K, SHAPE))()
    above = dense(jax.jit(lambda u: cosines.multiplied(D[None], u)), PIXELS)
    of_K = dense(jax.jit(lambda u: K.adjoint(K.apply(u))), PIXELS)
    assert np.linalg.eigvalsh(1.02 * above - of_K).min() > -1e-5
    assert np.median(D) < 0.7 * np.linalg.norm(of_K, 2)


def ramp():
    """An affine image, and its gradient where it has one."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    slopes = np.stack((2.0 * (rows < SHAPE[0] - 1), -3.0 * (columns < SHAPE[1] - 1)))
    return jnp.asarray((2 * rows - 3 * columns).reshape(1, -1)), slopes.reshape(1, -1)


def test_what_each_is_zero_on():
    u, slopes = ramp()
    tv, tgv, ictv = (KINDS[name][0](SHAPE) for name in KINDS)
    assert tv.value(jnp.ones((1, PIXELS)), (1.0,)) == 0
    assert tv.value(u, (1.0,)) > 1
    assert tgv.value(jnp.concatenate((u, slopes), axis=1), (1.0, 1.0)) == 0
    assert ictv.value(jnp.concatenate((u, u + 7), axis=1), (1.0, 1.0)) == 0


def test_the_off_diagonal_counts_twice():
    """u = x y has the mixed second derivative 1 at each of 4 x 5 places."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    u = (rows * columns).reshape(1, -1)
    x = jnp.asarray(np.concatenate((u, u), axis=1))
    for together, expected in ((False, 2 * 20), (True, 2**0.5 * 20)):
        found = infimal_convolution(SHAPE, together).value(x, (1.0, 1.0))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


# ---- exact solutions


@float64
@pytest.mark.parametrize("shape", [(1, 30), SHAPE])
def test_anisotropic_variation_is_that_of_bounded_least_squares(shape):
    """The dual problem by an active set method, which ends at the exact solution."""
    f = normal(0, 2, shape[0] * shape[1])
    weights = (np.abs(normal(1, f.shape[1])) + 0.1,)
    omega = total_variation(shape, together=False)
    problem = Problem(operators.identity(shape), omega)
    at, info = solved(problem, weights, f, tolerance=1e-13, max_iterations=20_000)
    assert info.converged.all()
    Omega, bound = matrix(problem, 0), np.tile(weights[0], 2)
    seen = np.abs(Omega).sum(1) > 0
    bounds = (-bound[seen], bound[seen])
    for y, found in zip(np.asarray(f), at.x, strict=True):
        d = lsq_linear(Omega[seen].T, y, bounds, method="bvls", tol=1e-15, max_iter=1000).x
        np.testing.assert_allclose(found, y - Omega[seen].T @ d, atol=1e-6)


@float64
def test_isotropic_variation_is_that_of_scikit_image():
    f, options = normal(0, 1, PIXELS), {"tolerance": 1e-13, "max_iterations": 20_000}
    at, info = solved(identity(total_variation(SHAPE)), (0.4,), f, **options)
    theirs = denoise_tv_chambolle(np.asarray(f).reshape(SHAPE), 0.4, eps=0, max_num_iter=20_000)
    assert info.converged.all()
    np.testing.assert_allclose(at.x[0], theirs.ravel(), atol=1e-6)


@float64
@pytest.mark.parametrize(("name", "together"), [("tv", True), ("tgv", False), ("ictv", True)])
def test_no_point_costs_less_than_the_certificate_says(name, together):
    """And both forms of the algorithm end at the same one."""
    make, weights = KINDS[name]
    problem = identity(make(SHAPE, together))
    f = normal(3, 2, PIXELS)
    found = []
    for preconditioned in (False, True):
        at, info = solved(
            problem,
            weights,
            f,
            tolerance=1e-8,
            max_iterations=60_000,
            preconditioned=preconditioned,
            every=50,
        )
        assert info.converged.all()
        found.append(at)
    np.testing.assert_allclose(*(problem.image(at.x) for at in found), atol=3e-4)
    cost, gap = jax.jit(problem.cost), jax.jit(problem.gap)
    least = cost(found[0].x, weights, f)
    x = found[0].x + 0.1 * normal(4, *found[0].x.shape)
    d = tuple(d + 0.1 * normal(5, *d.shape) for d in found[0].d)
    assert (gap(x, d, weights, f) >= cost(x, weights, f) - least - 1e-6).all()
    assert gap(found[0].x, found[0].d, weights, f).max() < 1e-6


@pytest.mark.parametrize(
    ("kind", "preconditioned"), [("row_mask", False), ("diagonal_blur_zero", True)]
)
def test_other_operators(kind, preconditioned):
    """With and without a resolvent in closed form: no random point nearby costs less."""
    K = operators.OPERATORS[kind](SHAPE)
    problem, truth = Problem(K, total_variation(SHAPE)), normal(0, 1, PIXELS)
    f, options = K.apply(truth), {"tolerance": 1e-3, "max_iterations": 10_000}
    options |= {"balance": 0.3, "preconditioned": preconditioned}
    at, info = solved(problem, (0.1,), f, **options)
    assert info.converged.all() and info.relative_gap.max() <= 1e-3
    near = np.concatenate((at.x, at.x + 0.3 * normal(1, 200, PIXELS)))
    own, *others = jax.jit(problem.cost)(near, (0.1,), np.tile(f, (201, 1)))
    assert own - info.gap[0] <= min(others)


def test_images_stop_by_themselves_and_go_on_from_where_they_were():
    problem = identity(total_variation(SHAPE))
    f = jnp.concatenate((jnp.ones((1, PIXELS)), normal(0, 1, PIXELS)))
    at, info = solved(problem, (0.4,), f)
    assert info.iterations[0] == 0 < info.iterations[1]
    for i in (0, 1):
        alone, _ = solved(problem, (0.4,), f[i : i + 1])
        np.testing.assert_allclose(alone.x[0], at.x[i], atol=1e-6)
    again, warm = solved(problem, (0.4,), f, at, tolerance=1.01e-4)
    assert warm.iterations.max() == 0
    np.testing.assert_array_equal(again.x, at.x)


def test_acceleration_and_relaxation_end_at_the_same_image():
    problem, f = identity(total_variation(SHAPE)), normal(0, 1, PIXELS)
    plain, _ = solved(problem, (0.4,), f, tolerance=1e-5)
    for way in ({"accelerated": True, "balance": 1.0}, {"relaxation": 1.9}):
        at, info = solved(problem, (0.4,), f, tolerance=1e-5, **way)
        assert info.converged.all()
        np.testing.assert_allclose(at.x, plain.x, atol=0.02)


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ((0.1, 0.1), {}, "one for each of 1"),
        ((-1.0,), {}, "0 or more"),
        ((jnp.ones(3),), {}, "one for each place"),
        ((0.1,), {"accelerated": True, "relaxation": 1.5}, "neither"),
        ((0.1,), {"balance": 0.0}, "above 0"),
    ],
)
def test_refusals(weights, options, message):
    with pytest.raises(ValueError, match=message):
        chambolle_pock(identity(total_variation(SHAPE)), weights, jnp.ones((1, PIXELS)), **options)


def test_more_refusals():
    with pytest.raises(ValueError, match="not linear"):
        Problem(operators.diffusion(SHAPE), total_variation(SHAPE))
    K = operators.OPERATORS["diagonal_blur_zero"](SHAPE)
    with pytest.raises(ValueError, match="closed form"):
        chambolle_pock(
            Problem(K, total_variation(SHAPE)), (0.1,), jnp.ones((1, PIXELS)), relaxation=1.5
        )


def test_it_compiles_with_the_problem_as_an_argument():
    problem, f = identity(total_variation(SHAPE)), normal(0, 1, PIXELS)
    at, _ = jax.jit(chambolle_pock)(problem, (0.4,), f)
    np.testing.assert_allclose(at.x, chambolle_pock(problem, (0.4,), f)[0].x, atol=1e-5)


# ---- the dual problem, and orthonormal transforms


@float64
def test_projected_dual_gradients_end_at_the_same_image_and_signs():
    problem, f = identity(total_variation(SHAPE, together=False)), normal(0, 2, PIXELS)
    at, info = fista(problem, (0.4,), f, tolerance=1e-12, max_iterations=20_000)
    assert info.converged.all()
    saddle, _ = solved(problem, (0.4,), f, tolerance=1e-12, max_iterations=20_000)
    np.testing.assert_allclose(at.x, saddle.x, atol=1e-5)
    (z,) = problem.omega.apply(at.x)
    moved = np.abs(z) > 1e-4
    np.testing.assert_allclose(at.d[0][moved], 0.4 * np.sign(z[moved]), atol=1e-4)  # (A.13)
    plain = fista(problem, (0.4,), f, tolerance=1e-6, restart=False)[1]
    assert plain.converged.all()
    with pytest.raises(ValueError, match="take chambolle_pock"):
        fista(identity(generalised_variation(SHAPE)), (0.4, 0.4), f)


@float64
@pytest.mark.parametrize(
    "omega", [wavelets((8, 4), "haar", 2), wavelets((4, 8), "daubechies_4"), fourier((4, 5))]
)
def test_of_an_orthonormal_transform_the_minimiser_is_a_soft_threshold(omega):
    """So that analysis is synthesis with D = Omega^-1."""
    problem = Problem(operators.identity(omega.shape), omega)
    f = normal(0, 2, omega.pixels)
    z, adjoint = jax.jit(omega.apply)(f), jax.jit(omega.adjoint)
    np.testing.assert_allclose(adjoint(z), f, atol=1e-12)
    weights = (0.7, 0.0)[: len(z)]
    kept = []
    for w, a in zip(weights, z, strict=True):
        size = np.maximum(omega.size(a), 1e-30)
        kept.append(jnp.asarray(a * np.maximum(1 - w / size, 0)))
    at, info = solved(problem, weights, f, tolerance=1e-12, balance=0.5)
    assert info.converged.all()
    np.testing.assert_allclose(at.x, adjoint(tuple(kept)), atol=1e-5)


def test_wavelets_annul_what_they_should():
    """Daubechies's second moment too: a ramp, away from where it is continued periodically."""
    ramp = jnp.arange(16.0).reshape(1, -1)
    with pytest.raises(ValueError, match="cannot be halved"):
        wavelets((1, 16))
    rows = jnp.tile(ramp, (1, 2))
    fine, _ = wavelets((2, 16), "daubechies_4").apply(rows)
    np.testing.assert_allclose(fine[0, 0, :7], 0, atol=1e-5)
    fine, _ = wavelets((2, 16)).apply(rows)
    assert np.abs(fine[0, 0, :7]).min() > 0.5
    with pytest.raises(ValueError, match="expected one of haar"):
        wavelets((2, 16), "coiflet")
