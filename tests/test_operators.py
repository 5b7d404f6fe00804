from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from helpers import default_precision, dense, float64, normal, untyped

from deqbilevel.adjoints import check
from deqbilevel.operators import (
    CONVOLUTIONS,
    OPERATORS,
    CircularConvolution,
    Operator,
    circular_convolution,
    diagonal_blur,
    norm,
    row_mask,
    zero_padded_convolution,
)

SHAPES = [(6, 6), (6, 9)]
METHODS = ("apply", "adjoint", "resolvent")


class Case(NamedTuple):
    """An operator in double precision and its methods, each compiled once."""

    K: Operator
    pixels: int
    apply: Callable
    adjoint: Callable
    resolvent: Callable


@pytest.fixture(
    scope="module", params=[(name, shape) for name in OPERATORS for shape in SHAPES], ids=str
)
def case(request):
    name, shape = request.param
    K = OPERATORS[name](shape)
    with jax.enable_x64(True):
        K = default_precision(K)
    methods = [jax.jit(lambda *x, name=name: getattr(K, name)(*x)) for name in METHODS]
    return Case(K, shape[0] * shape[1], *methods)


@float64
def test_adjoint_is_the_transpose(case):
    u, v = normal(0, 4, case.pixels), normal(1, 4, case.pixels)
    np.testing.assert_allclose(np.vdot(case.apply(u), v), np.vdot(u, case.adjoint(v)), rtol=1e-12)
    (transposed,) = jax.jit(jax.linear_transpose(case.apply, u))(v)
    np.testing.assert_allclose(case.adjoint(v), transposed, rtol=1e-12, atol=1e-14)


@float64
def test_linear(case):
    u, v = normal(0, 4, case.pixels), normal(1, 4, case.pixels)
    for map_ in (case.apply, case.adjoint):
        np.testing.assert_allclose(map_(2 * u - 3 * v), 2 * map_(u) - 3 * map_(v), atol=1e-13)


@float64
def test_resolvent_solves_the_proximal_equation(case):
    z = normal(0, 4, case.pixels)
    for a in (0.0, 0.3, 20.0):
        x = case.resolvent(z, a)
        np.testing.assert_allclose(x + a * case.adjoint(case.apply(x)), z, atol=1e-12)


@float64
def test_norm_approaches_the_largest_singular_value_from_below(case):
    true = np.linalg.norm(dense(case.apply, case.pixels), 2)
    both = jax.jit(lambda K, key: [norm(K, case.pixels, key, n) for n in (2, 100)])
    short, long = both(case.K, jax.random.key(0))
    assert max(short, long) <= true * (1 + 1e-14)
    np.testing.assert_allclose(long, true, rtol=1e-9)


def test_float32_images_of_any_rank_keep_shape_and_dtype(case):
    u = np.zeros((2, 3, case.pixels), np.float32)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), case.K)
    for name, more in (("apply", ()), ("adjoint", ()), ("resolvent", (0.5,))):
        for image in (u, u[0, 0]):
            out = jax.eval_shape(lambda K, u, n=name, m=more: getattr(K, n)(u, *m), single, image)
            assert (out.shape, out.dtype) == (image.shape, image.dtype)


@float64
def test_jit_and_vmap_over_leaves(case):
    lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, leaf - 1]), case.K)
    u = normal(0, 3, 2, case.pixels)

    def all_methods(K, u):
        return K.apply(u), K.adjoint(u), K.resolvent(u, 0.7)

    together, one = jax.jit(jax.vmap(all_methods))(lanes, u), jax.jit(all_methods)
    for i in range(3):
        alone = one(jax.tree.map(lambda leaf, i=i: leaf[i], lanes), u[i])
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
        z = K.resolvent(u, 0.8)
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
def test_zero_padded_resolvent_has_the_derivatives_of_a_dense_solve():
    kernel = np.arange(1.0, 7.0).reshape(2, 3) / 10
    K = default_precision(zero_padded_convolution(kernel, (3, 4)))
    u, z = normal(0, 2, 12), normal(1, 2, 12).at[1].mul(1e6)

    def dense_resolvent(K, z, a):
        matrix = K.apply(jnp.eye(12)).T
        return jnp.linalg.solve(jnp.eye(12) + a * matrix.T @ matrix, z.T).T

    @jax.jit
    def both(K, z, a):
        def derivatives(resolvent):
            # Divided by its size, a small image shows whether its neighbour's error reaches it.
            loss = lambda *x: jnp.sum(u * resolvent(*x) / jnp.array([[1], [1e6]]))  # noqa: E731
            return jax.grad(loss, (0, 1, 2))(K, z, a)

        return derivatives(type(K).resolvent), derivatives(dense_resolvent)

    for a in (0.7, 30.0):
        for x, y in zip(*map(jax.tree.leaves, both(K, z, a)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-13)


def test_zero_padded_resolvent_of_nothing_is_nothing():
    K = OPERATORS["diagonal_blur_zero"]((6, 6))
    z = jnp.zeros((2, 36)).at[0].set(1.0)
    x = np.asarray(jax.jit(K.resolvent)(z, 3.0))
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
