from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from helpers import ALL_OPERATORS, default_precision, dense, float64, normal, untyped

from deqbilevel.adjoints import check
from deqbilevel.operators import (
    CONVOLUTIONS,
    OPERATORS,
    CircularConvolution,
    Coils,
    ComplexCoils,
    Difference,
    Identity,
    Matrix,
    Operator,
    ParallelBeam,
    Stack,
    ZeroPaddedConvolution,
    circular_convolution,
    diagonal_blur,
    norm,
    of,
    random_matrix,
    resolvent,
    row_mask,
    zero_padded_convolution,
)

SHAPES = [(6, 9)]


class Case(NamedTuple):
    """An operator in double precision and what is known of it, each compiled once."""

    K: Operator
    pixels: int
    data: jax.ShapeDtypeStruct
    """Of four images."""
    apply: Callable
    adjoint: Callable
    resolvent: Callable

    def measurements(self, seed: int) -> jax.Array:
        """Random data of four images."""
        v = normal(seed, *self.data.shape)
        if not jnp.issubdtype(self.data.dtype, jnp.complexfloating):
            return v
        return v + 1j * normal(seed + 100, *self.data.shape)


@pytest.fixture(
    scope="module", params=[(name, shape) for name in ALL_OPERATORS for shape in SHAPES], ids=str
)
def case(request):
    name, shape = request.param
    pixels = shape[0] * shape[1]
    K = ALL_OPERATORS[name](shape)
    with jax.enable_x64(True):
        K = default_precision(K)
        data = jax.eval_shape(K.apply, jax.ShapeDtypeStruct((4, pixels), float))
    methods = (lambda u: K.apply(u), lambda v: K.adjoint(v), lambda z, a: resolvent(K, z, a))
    return Case(K, pixels, data, *map(jax.jit, methods))


def test_data_may_have_another_size_and_be_complex():
    sizes = {name: make((6, 6)).apply(jnp.ones((1, 36))) for name, make in ALL_OPERATORS.items()}
    assert sizes["random_matrix"].shape == (1, 18)
    assert sizes["complex_matrix"].shape == (1, 19)
    assert sizes["complex_matrix"].dtype == jnp.complex64


@float64
def test_adjoint_is_the_transpose(case):
    u, v = normal(0, 4, case.pixels), case.measurements(1)
    left, right = np.vdot(case.apply(u), v).real, np.vdot(u, case.adjoint(v))
    np.testing.assert_allclose(left, right, rtol=1e-12)
    # JAX transposes without conjugation.
    (transposed,) = jax.jit(jax.linear_transpose(case.apply, u))(jnp.conj(v))
    np.testing.assert_allclose(case.adjoint(v), transposed, rtol=1e-12, atol=1e-14)


@float64
def test_linear(case):
    u, v = normal(0, 4, case.pixels), normal(1, 4, case.pixels)
    np.testing.assert_allclose(
        case.apply(2 * u - 3 * v), 2 * case.apply(u) - 3 * case.apply(v), atol=1e-13
    )
    u, v = case.measurements(2), case.measurements(3)
    np.testing.assert_allclose(
        case.adjoint(2 * u - 3 * v), 2 * case.adjoint(u) - 3 * case.adjoint(v), atol=1e-13
    )


@float64
def test_resolvent_solves_the_proximal_equation(case):
    z = normal(0, 4, case.pixels)
    for a in (0.0, 0.3, 20.0):
        x = case.resolvent(z, a)
        np.testing.assert_allclose(x + a * case.adjoint(case.apply(x)), z, atol=1e-12)


class Bare(NamedTuple):
    """An operator without what it knows in closed form."""

    K: Any

    def apply(self, u: jax.Array) -> jax.Array:
        return self.K.apply(u)

    def adjoint(self, v: jax.Array) -> jax.Array:
        return self.K.adjoint(v)


def true_norm(case: Case) -> float:
    """||K|| of real images: the real and the imaginary part of complex data are data."""
    matrix = dense(case.apply, case.pixels)
    return float(np.linalg.norm(np.concatenate([matrix.real, matrix.imag]), 2))


@float64
def test_norm_approaches_the_largest_singular_value_from_below(case):
    both = jax.jit(lambda K: [norm(Bare(K), case.pixels, iterations=n) for n in (2, 5000)])
    (short, long), true = both(case.K), true_norm(case)
    assert max(short, long) <= true * (1 + 1e-14)
    close = isinstance(
        case.K, Coils | ComplexCoils
    )  # its largest singular values lie close together
    np.testing.assert_allclose(long, true, rtol=1e-7 if close else 1e-9)


@float64
def test_norm_in_closed_form_is_a_bound_and_attained_but_for_zero_padding(case):
    found, true = float(norm(case.K, case.pixels)), true_norm(case)
    assert found >= true * (1 - 1e-14)
    if isinstance(case.K, ZeroPaddedConvolution):
        assert found <= 1.2 * true
    elif isinstance(case.K, Difference | ParallelBeam | Stack):
        assert found <= 1.3 * true
    elif jnp.issubdtype(case.data.dtype, jnp.complexfloating):
        assert found <= 2**0.5 * true  # of complex images
    else:
        np.testing.assert_allclose(found, true, rtol=1e-12)


@pytest.mark.parametrize("boundary", CONVOLUTIONS)
@float64
def test_norm_of_convolutions_with_any_kernel(boundary):
    for seed, size in enumerate([(3, 3), (2, 4), (1, 5), (6, 6)]):
        kernel = np.random.default_rng(seed).standard_normal(size)
        K = default_precision(CONVOLUTIONS[boundary](kernel, (6, 6)))
        true = np.linalg.norm(dense(K.apply, 36), 2)
        found = float(norm(K, 36))
        assert found >= true * (1 - 1e-14)
        if boundary == "circular":
            np.testing.assert_allclose(found, true, rtol=1e-12)
        assert found <= np.abs(kernel).sum() * (1 + 1e-6)  # float32 weights


def test_float32_images_of_any_rank_keep_shape_and_dtype(case):
    u = np.zeros((2, 3, case.pixels), np.float32)
    complex_data = jnp.issubdtype(case.data.dtype, jnp.complexfloating)
    dtype = jnp.complex64 if complex_data else jnp.float32
    single = jax.tree.map(lambda x: jnp.asarray(x, dtype), case.K)
    for image in (u, u[0, 0]):
        data = jax.eval_shape(lambda K, u: K.apply(u), single, image)
        assert (data.shape, data.dtype) == ((*image.shape[:-1], case.data.shape[1]), dtype)
        back = jax.eval_shape(lambda K, v: K.adjoint(v), single, data)
        assert (back.shape, back.dtype) == (image.shape, image.dtype)
        out = jax.eval_shape(lambda K, u: resolvent(K, u, 0.5), single, image)
        assert (out.shape, out.dtype) == (image.shape, image.dtype)


@float64
def test_jit_and_vmap_over_leaves(case):
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, leaf - 1]), case.K)
    u, v = normal(0, 3, 2, case.pixels), jnp.stack([case.measurements(i)[:2] for i in range(3)])

    def everything(K, u, v):
        return K.apply(u), K.adjoint(v), resolvent(K, u, 0.7), norm(K, case.pixels)

    together, one = jax.jit(jax.vmap(everything))(lanes, u, v), jax.jit(everything)
    for i in range(3):
        alone = one(jax.tree.map(lambda leaf, i=i: leaf[i], lanes), u[i], v[i])
        for x, y in zip(together, alone, strict=True):
            np.testing.assert_allclose(x[i], y, rtol=1e-12, atol=1e-13)


SIZES = [(3, 3), (2, 4), (1, 5), (5, 2), (6, 9)]


@pytest.mark.parametrize(
    ("boundary", "size"),
    [*(("circular", size) for size in SIZES), ("zero", (2, 4)), ("zero", (5, 2))],
    ids=str,
)
@float64
def test_convolution_is_that_of_scipy(boundary, size):
    kernel = np.random.default_rng(0).integers(-8, 9, size) / 8
    mode = {"circular": "wrap", "zero": "constant"}[boundary]
    K, u = default_precision(CONVOLUTIONS[boundary](kernel, (6, 9))), normal(0, 3, 54)
    expected = [scipy.ndimage.convolve(x.reshape(6, 9), kernel, mode=mode) for x in np.array(u)]
    np.testing.assert_allclose(
        jax.jit(lambda u: K.apply(u))(u), np.reshape(expected, (3, 54)), atol=1e-13
    )

    def left_side(u):
        z = resolvent(K, u, 0.8)
        return z + 0.8 * K.adjoint(K.apply(z))

    np.testing.assert_allclose(jax.jit(left_side)(u), u, atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("centred", [True, False])
@float64
def test_convolution_spreads_a_pixel_as_the_kernel_looks(size, centred):
    rng = np.random.default_rng(1)
    kernel, image = rng.standard_normal(size), rng.standard_normal((6, 9))
    centre = (size[0] // 2, size[1] // 2) if centred else (size[0] - 1, 0)
    given = {} if centred else {"centre": centre}
    circular, zero = (
        default_precision(CONVOLUTIONS[name](kernel, (6, 9), **given)) for name in CONVOLUTIONS
    )
    whole = scipy.signal.convolve2d(image, kernel)
    (i, j), (height, width) = centre, image.shape
    np.testing.assert_allclose(
        zero.apply(jnp.asarray(image.ravel())),
        whole[i : i + height, j : j + width].ravel(),
        atol=1e-6,
    )
    placed = np.zeros_like(image)
    placed[: size[0], : size[1]] = kernel
    transfer = np.fft.fft2(np.roll(placed, (-i, -j), (0, 1)))
    expected = np.fft.ifft2(transfer * np.fft.fft2(image)).real
    np.testing.assert_allclose(
        circular.apply(jnp.asarray(image.ravel())), expected.ravel(), atol=1e-6
    )
    for K in (circular, zero):
        matrix, transpose = dense(K.apply, 54), dense(K.adjoint, 54)
        np.testing.assert_allclose(matrix.T, transpose, atol=1e-14)


@pytest.mark.parametrize("boundary", CONVOLUTIONS)
def test_symmetric_kernels_and_the_blur_of_any_size_are_as_a_correlation(boundary):
    mode = {"circular": "wrap", "zero": "constant"}[boundary]
    image = np.random.default_rng(2).standard_normal((6, 9)).astype(np.float32)
    symmetric = np.array([[1.0, 2.0, 0.5], [3.0, 4.0, 3.0], [0.5, 2.0, 1.0]])
    cases = {
        size: (diagonal_blur((6, 9), size, boundary), np.eye(size) / size) for size in range(1, 7)
    }
    cases["kernel"] = (CONVOLUTIONS[boundary](symmetric, (6, 9)), symmetric)
    for K, kernel in cases.values():
        expected = scipy.ndimage.correlate(image, kernel, mode=mode)
        np.testing.assert_allclose(K.apply(jnp.asarray(image.ravel())), expected.ravel(), atol=3e-6)


@float64
def test_convolution_weights_can_be_learned():
    K = default_precision(circular_convolution(np.arange(1.0, 10.0).reshape(3, 3), (6, 6)))
    u, v = normal(0, 2, 36), normal(1, 2, 36)
    value, gradient = jax.jit(jax.value_and_grad(lambda K: jnp.vdot(K.apply(u), v)))(K)
    assert isinstance(gradient, CircularConvolution)
    # K u is linear in the weights, so <gradient, weights> = <K u, v>.
    np.testing.assert_allclose(jnp.vdot(gradient.weights, K.weights), value, rtol=1e-12)


@float64
def test_resolvent_by_iterations_has_the_derivatives_of_a_dense_solve():
    kernel = np.arange(1.0, 7.0).reshape(2, 3) / 10
    K = default_precision(zero_padded_convolution(kernel, (3, 4)))
    assert not hasattr(K, "resolvent")
    u, z = normal(0, 2, 12), normal(1, 2, 12).at[1].mul(1e6)

    def dense_resolvent(K, z, a):
        matrix = K.apply(jnp.eye(12)).T
        return jnp.linalg.solve(jnp.eye(12) + a * matrix.T @ matrix, z.T).T

    @jax.jit
    def both(K, z, a):
        def derivatives(solve):
            # Divided by its size, a small image shows whether its neighbour's error reaches it.
            loss = lambda *x: jnp.sum(u * solve(*x) / jnp.array([[1], [1e6]]))  # noqa: E731
            return jax.grad(loss, (0, 1, 2))(K, z, a)

        return derivatives(resolvent), derivatives(dense_resolvent)

    for a in (0.7, 30.0):
        for x, y in zip(*map(jax.tree.leaves, both(K, z, a)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-13)


def test_resolvent_by_iterations_of_nothing_is_nothing():
    K = OPERATORS["diagonal_blur_zero"]((6, 6))
    z = jnp.zeros((2, 36)).at[0].set(1.0)
    x = np.asarray(jax.jit(lambda z: resolvent(K, z, 3.0))(z))
    assert np.isfinite(x).all() and (x[1] == 0).all() and (x[0] > 0).all()


@pytest.mark.parametrize(("shape", "rows"), [((28, 28), 10), ((6, 9), 2), ((7, 4), 3)])
def test_row_mask_removes_the_top_third(shape, rows):
    mask = np.asarray(OPERATORS["row_mask"](shape).mask).reshape(shape)
    assert (mask[:rows] == 0).all() and (mask[rows:] == 1).all()


def test_diagonal_blur_averages_five_pixels_of_a_diagonal():
    spike = jnp.zeros((9, 9)).at[4, 3].set(1.0).ravel()
    image = np.asarray(OPERATORS["diagonal_blur"]((9, 9)).apply(spike)).reshape(9, 9)
    expected = np.zeros((9, 9))
    for i in range(-2, 3):
        expected[4 + i, 3 + i] = 0.2
    np.testing.assert_allclose(image, expected, atol=1e-7)


def test_random_matrix_is_normal_with_the_norm_of_an_image_kept_on_average():
    K = random_matrix((20, 20), rate=0.3, seed=3)
    M = np.asarray(K.M)
    assert M.shape == (120, 400)
    # Standard errors of the mean and the deviation of n numbers; five of them.
    assert abs(M.mean() * 120**0.5) < 5 / M.size**0.5
    assert abs(M.std() * 120**0.5 - 1) < 5 / (2 * M.size) ** 0.5
    np.testing.assert_array_equal(M, random_matrix((20, 20), rate=0.3, seed=3).M)
    assert not np.isclose(M, random_matrix((20, 20), rate=0.3, seed=4).M).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_matrix((6, 6), rate=0.0), "rate=0.0: expected a finite number, above 0"),
        (lambda: random_matrix((6, 6), rate=1.5), "rate=1.5: expected a finite number"),
        (lambda: random_matrix((6, 6), rate=0.01), "rate=0.01: no row for 36 pixels"),
        (lambda: random_matrix((6, 6), seed=-1), "seed=-1: expected a whole number"),
        (lambda: random_matrix((6, 6)).apply(jnp.ones((2, 35))), "u of shape .*images of 36"),
        (lambda: random_matrix((6, 6)).adjoint(jnp.ones((2, 36))), "v of shape .*of 18"),
        (lambda: resolvent(random_matrix((6, 6)), jnp.ones((2, 36)), -1.0), "a=-1.0: expected"),
        (lambda: resolvent(Identity(), jnp.ones((2, 36)), -1.0), "a=-1.0: expected"),
        (lambda: norm(SimpleNamespace(apply=abs), 36), "K.adjoint: a NoneType"),  # type: ignore[arg-type]
        (lambda: norm(Identity(), 0), "pixels=0: expected a whole number, 1 or more"),
        (lambda: norm(Identity(), 36, iterations=-1), "iterations=-1: expected a whole number"),
        (lambda: of(Identity(), {"K": random_matrix((6, 6))}), "K is a Matrix; expected a Ident"),
    ],
)
def test_what_is_no_operator_or_does_not_fit_is_refused(make, message):
    with untyped(), pytest.raises(ValueError, match=message):
        make()


def test_the_operator_of_params_is_theirs_or_the_given_one():
    K, other = random_matrix((6, 6)), random_matrix((6, 6), seed=1)
    assert of(K, {}) is K and of(K, {"K": other}) is other


@float64
def test_a_matrix_can_be_learned():
    K = default_precision(random_matrix((2, 3)))
    u, v = normal(0, 2, 6), normal(1, 2, 3)
    gradient = jax.grad(lambda K: jnp.vdot(K.apply(u), v))(K)
    assert isinstance(gradient, Matrix)
    np.testing.assert_allclose(gradient.M, v.T @ u, rtol=1e-12)


@pytest.mark.parametrize("missing", [-1, 0, 6, 7, 2.5])
def test_row_mask_refuses(missing):
    with (
        untyped(),
        pytest.raises(ValueError, match=rf"missing={missing}: expected between 1 and 5 rows"),
    ):
        row_mask((6, 6), missing)


def test_diagonal_blur_refuses_an_unknown_boundary():
    with pytest.raises(ValueError, match="boundary 'mirror': expected one of circular, zero"):
        diagonal_blur((6, 6), boundary="mirror")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_convolution_refuses_what_is_not_finite(value):
    for make in CONVOLUTIONS.values():
        with pytest.raises(ValueError, match=r"kernel=.*: expected a finite number"):
            make(np.array([[1, value]]), (6, 6))


def test_convolution_refuses_a_centre_outside_and_an_image_without_pixels():
    for centre in ((2, 0), (0, -1)):
        with pytest.raises(ValueError, match=r"centre=.*: expected a whole number, 0 or more"):
            circular_convolution(np.ones((2, 2)), (6, 6), centre)
    with pytest.raises(ValueError, match=r"shape=0: expected a whole number"):
        circular_convolution(np.ones((1, 1)), (0, 6))
    for size in (0, -3):
        with pytest.raises(ValueError, match=f"size={size}: expected a whole number, 1 or more"):
            diagonal_blur((6, 6), size)


@pytest.mark.parametrize("kernel", [np.zeros((3, 3)), np.ones((7, 3)), np.ones((3, 7))])
def test_circular_convolution_refuses(kernel):
    with pytest.raises(ValueError, match=r"no larger than the image \(6, 6\); crop the kernel"):
        circular_convolution(kernel, (6, 6))


class Dense(NamedTuple):
    """A matrix, and that of its adjoint."""

    matrix: np.ndarray
    transpose: np.ndarray

    def apply(self, u: jax.Array) -> jax.Array:
        return u @ self.matrix.T

    def adjoint(self, v: jax.Array) -> jax.Array:
        return v @ self.transpose.T


def test_an_operator_is_checked_by_one_inner_product():
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((300, 400)).astype(np.float32)
    check(Dense(matrix, matrix.T), 400)
    check(Dense(1e4 * matrix, 1e4 * matrix.T), 400)
    check(Dense(0 * matrix, 0 * matrix.T), 400)
    check(Dense(1j * matrix, -1j * matrix.T), 400)
    wrong = matrix.copy()
    wrong[:20, :20] *= 1.1
    for transpose in (wrong.T, 1.01 * matrix.T, -matrix.T, np.nan * matrix.T):
        with pytest.raises(ValueError, match=r"Dense: <K u, v> = .* and <u, K\^T v> = "):
            check(Dense(matrix, transpose), 400)
    with pytest.raises(ValueError, match=r"Dense: does not take images \[batch, 399\]"):
        check(Dense(matrix, matrix.T), 399)
    with pytest.raises(ValueError, match=r"its adjoint \[2, 300\] of that"):
        check(Dense(matrix, np.eye(300, dtype=np.float32)), 400)
    with pytest.raises(ValueError, match="SimpleNamespace has no adjoint"):
        check(SimpleNamespace(apply=lambda u: u), 400)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Mask: does not take images \[batch, 7\]"):
        check(row_mask((2, 4), 1), 7)


def test_a_traced_operator_is_not_checked():
    matrix = np.ones((2, 2), np.float32)

    @jax.jit
    def build(matrix):
        check(Dense(matrix, 2 * matrix), 2)
        return matrix

    build(matrix)
    with pytest.raises(ValueError, match="<K u, v>"):
        check(Dense(matrix, 2 * matrix), 2)
