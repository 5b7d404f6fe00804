"""Convolutions in every way, with every boundary, against SciPy, and their regulariser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal, untyped
from scipy import ndimage

from deqbilevel import convolutions
from deqbilevel.potentials import CornerRounded, Quadratic
from deqbilevel.regularizers import bases, convolutional, normalised

SHAPE = (8, 9)
BOUNDARIES = {"circular": "wrap", "zero": "constant", "reflecting": "reflect"}
"""Ours and SciPy's names."""


@pytest.mark.parametrize("size", [(3, 3), (4, 2), (1, 5), (8, 9)])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("method", convolutions.VALID)
@float64
def test_every_way_is_scipys_convolution_and_has_its_adjoint(method, boundary, size):
    c, u, z = normal(0, 3, *size), normal(1, 2, 72), normal(2, 3, 2, *SHAPE)
    found = convolutions.bank(SHAPE, boundary, method)
    mode = BOUNDARIES[boundary]
    expected = [
        [ndimage.convolve(np.asarray(x).reshape(SHAPE), k, mode=mode) for x in u]
        for k in np.asarray(c)
    ]
    image, back = jax.jit(lambda: (found.apply(c, u), found.adjoint(c, z)))()
    np.testing.assert_allclose(image, expected, atol=1e-12)
    np.testing.assert_allclose(np.vdot(image, z), np.vdot(u, back), rtol=1e-12)


def test_the_way_is_chosen_by_size_and_large_filters_are_refused():
    assert convolutions.suited((4, 4, 2)) == "direct"
    assert convolutions.suited((48, 7, 7)) == "patch"
    assert convolutions.suited((8, 31, 31)) == "fft"
    with pytest.raises(ValueError, match=r"filters of 9x3 pixels are larger than the image of 8x9"):
        convolutions.bank(SHAPE).apply(normal(0, 2, 9, 3), normal(1, 1, 72))


def params(count=3, rows=3, columns=2, phi=None):
    c = normal(3, count, rows, columns)
    phi = CornerRounded(0.1) if phi is None else phi
    return convolutional.init(c, beta_0=-1.0, beta=np.linspace(-1, 1, count), phi=phi)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@float64
def test_gradient_is_that_of_the_energy(boundary):
    R, u, p = convolutional.bank_of(SHAPE, boundary), normal(1, 2, 72), params()

    @jax.jit
    def at(u):
        energy, back = jax.vjp(lambda u: R.energy(u, p), u)
        return energy, back(jnp.ones(2))[0], R.gradient(u, p)

    energy, expected, gradient = at(u)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)
    z = [ndimage.convolve(np.asarray(u[0]).reshape(SHAPE), k, mode=BOUNDARIES[boundary])
         for k in np.asarray(p["filters"])]  # fmt: skip
    one = sum(w * np.sqrt(x**2 + 0.01).sum() for w, x in zip(np.exp([-2, -1, 0]), z, strict=True))
    np.testing.assert_allclose(energy[0], one, rtol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@float64
def test_lipschitz_bounds_hold_and_the_one_by_transfer_functions_is_met(boundary):
    """With phi'' = 1 everywhere N is linear, and its norm is known."""
    R, p = convolutional.bank_of(SHAPE, boundary), params(phi=Quadratic())
    matrix = np.asarray(R.gradient(jnp.eye(72), p))
    norm, bound = np.linalg.norm(matrix, 2), float(R.lipschitz(p))
    by_norms = float(R.lipschitz_by_norms(p))
    assert norm <= bound * (1 + 1e-12) and bound <= by_norms
    if boundary == "circular":
        assert bound == pytest.approx(norm, rel=1e-10)
    cosines = convolutional.init(bases.cosines(7, 7) / 7, beta_0=0.0, phi=Quadratic())
    R = convolutional.bank_of((50, 50), boundary)
    assert float(R.lipschitz_by_norms(cosines)) > 15 * float(R.lipschitz(cosines))


@float64
def test_bases():
    for rows, columns in ((7, 7), (4, 2), (1, 3)):
        whole = convolutional.BASES["cosines_and_constant"](rows, columns).reshape(
            -1, rows * columns
        )
        np.testing.assert_allclose(whole @ whole.T, np.eye(rows * columns), atol=1e-12)
        rest = convolutional.BASES["cosines"](rows, columns)
        np.testing.assert_allclose(rest.sum((1, 2)), 0, atol=1e-12)
        np.testing.assert_allclose(np.ptp(whole[0]), 0, atol=1e-12)
    both = convolutional.BASES["differences"](3, 3)
    assert both.shape == (2, 3, 3) and both.sum((1, 2)).tolist() == [0, 0]
    assert len(convolutional.BASES["differences"](1, 3)) == 1
    drawn = convolutional.random(jax.random.key(0), 5, 4, 2)
    np.testing.assert_allclose(jnp.linalg.norm(drawn, axis=(1, 2)), 1, rtol=1e-6)
    basis = bases.cosines(3, 3)
    p = convolutional.init(normal(0, 2, 8), beta_0=0.0, phi=Quadratic(), basis=basis)
    np.testing.assert_allclose(convolutional.filters(p).sum((1, 2)), 0, atol=1e-12)
    expected = np.einsum("kr,rij->kij", np.asarray(p["filters"]), basis)
    np.testing.assert_allclose(convolutional.filters(p), expected, atol=1e-12)


@float64
def test_filters_of_several_sizes_keep_them():
    own = [normal(0, 3, 3), normal(1, 1, 2)]
    p = convolutional.init(own, beta_0=0.5, phi=Quadratic())
    R, u = convolutional.bank_of(SHAPE), normal(2, 1, 72)
    slope = jax.grad(lambda c: jnp.sum(R.energy(u, p | {"filters": c})))(p["filters"])
    assert np.count_nonzero(np.asarray(slope[1])) == 2 and np.count_nonzero(slope[0]) == 9
    np.testing.assert_array_equal(convolutional.filters(p)[1, 0, :2], own[1][0])
    np.testing.assert_allclose(
        convolutional.strengths(p), np.exp(0.5) * np.array([jnp.linalg.norm(c) for c in own])
    )


def test_filters_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="filters: expected finite numbers, found"):
        convolutional.init(np.full((1, 2, 2), np.nan), beta_0=0.0, phi=Quadratic())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"c": np.ones((2, 3))},
            r"filters: of shape \[2, 3\]; expected \[filters, rows, c",
        ),
        ({"c": np.ones((0, 3, 3))}, "filters: of shape"),
        ({"c": [np.ones((2, 3)), np.ones(3)]}, "filters of shapes .*expected one or more"),
        ({"c": []}, r"filters of shapes \[\]"),
        ({"c": np.ones((2, 3)), "basis": np.ones((4, 2, 2))}, r"basis: .*expected \[3, rows, col"),
        ({"c": np.ones((2, 1)), "basis": np.full((1, 2, 2), np.nan)}, "basis: expected finite"),
        ({"beta": np.ones(3)}, r"beta: of shape \[3\]; expected \[2\]"),
        ({"beta_0": np.ones(2)}, r"beta_0: of shape \[2\]; expected a single number"),
        ({"beta_0": 1e39}, "beta_0: expected finite"),
        ({"phi": "fair"}, "phi='fair': expected a potential"),
    ],
)
def test_filters_that_do_not_fit_are_refused(options, message):
    with untyped(), pytest.raises(ValueError, match=message):
        convolutional.init(**{"c": np.ones((2, 2, 2)), "beta_0": 0.0, "phi": Quadratic()} | options)


def test_sizes_boundaries_and_methods_that_are_none_are_refused():
    for build in (convolutions.bank, convolutional.bank_of, normalised.bank_of):
        with untyped(), pytest.raises(ValueError, match="boundary 'moebius': expected one"):
            build(SHAPE, "moebius")
        with (
            untyped(),
            pytest.raises(ValueError, match="method 'winograd': expected one"),
        ):
            build(SHAPE, "zero", "winograd")
        with pytest.raises(ValueError, match="shape=0: expected a whole number, 1 or more"):
            build((0, 4))
    for make in (bases.cosines, bases.differences):
        with pytest.raises(ValueError, match="columns=-1: expected a whole number, 1 or more"):
            make(3, -1)
    for make in (convolutional.random, normalised.uniform):
        with pytest.raises(ValueError, match="count=-1: expected a whole number, 1 or more"):
            make(jax.random.key(0), -1, 2, 2)


@float64
def test_the_preconditioner_is_the_inverse_for_a_quadratic_potential():
    """Its phi'' is constant, and the Hessian on a circular image is a convolution."""
    R = convolutional.bank_of(SHAPE)
    p = convolutional.init(normal(0, 3, 3, 2), beta_0=-1.0, beta=normal(3, 3), phi=Quadratic(0.7))
    u, r = normal(1, 2, 72), normal(2, 2, 72)
    inverse = R.preconditioner(u, p, 0.3)
    np.testing.assert_allclose(inverse(0.3 * r + R.gradient(r, p)), r, rtol=1e-9, atol=1e-12)
