"""Operators of imaging against what is known of them: discs and scikit-image's radon for CT,
numpy's transforms and counts of samples for MRI, blurs and coarser images by scipy."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage
import skimage.transform
from helpers import default_precision, dense, float64, normal, untyped
from PIL import Image

from deqbilevel import data, learning, models, operators, regularizers, settings
from deqbilevel.operators import PATTERNS

# ---- CT


def disc(side: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """A disc around x, y, by eight times eight points in every pixel."""
    fine = (np.arange(8 * side) + 0.5) / 8 - side / 2
    y, x = np.meshgrid(fine, fine, indexing="ij")
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    return inside.reshape(side, 8, side, 8).mean(axis=(1, 3))


@float64
def test_the_sinogram_of_a_disc_is_the_chord() -> None:
    side, radius, centre = 64, 20.0, (5.0, -7.0)
    K = operators.parallel_beam((side, side), angles=12, bins=91)
    image = jnp.asarray(disc(side, centre, radius).reshape(1, -1))
    found = np.asarray(K.apply(image)).reshape(12, 91) * K.scale
    angles = np.deg2rad(K.angles)[:, None]
    t = np.arange(91) - 45 - (centre[0] * np.cos(angles) - centre[1] * np.sin(angles))
    chord = 2 * np.sqrt(np.maximum(radius**2 - t**2, 0))
    smooth = abs(abs(t) - radius) > 2
    assert abs(found - chord)[smooth].max() < 0.02 * 2 * radius
    assert abs(found - chord).mean() < 0.01 * chord.mean()


@float64
def test_the_sinogram_is_that_of_scikit_image() -> None:
    side = 33  # whose middle is a pixel, as scikit-image has it for every size
    image = scipy.ndimage.gaussian_filter(disc(side, (3.0, -2.0), 6.0), 1.0)
    K = operators.ParallelBeam((0.0, 20.0, 45.0, 90.0, 133.0), side, (side, side))
    found = np.asarray(K.apply(jnp.asarray(image.reshape(1, -1)))).reshape(5, side)
    known = skimage.transform.radon(image, theta=np.array(K.angles), circle=True).T
    assert abs(found - known).max() < 0.01 * known.max()


@float64
def test_every_entry_of_the_matrix_is_the_weight_that_is_stated() -> None:
    shape, angles = (5, 4), (0.0, 30.0, 45.0, 80.0, 120.0)
    K = operators.ParallelBeam(angles, 7, shape, scale=2.0)
    y, x = (c.ravel() for c in np.mgrid[:5, :4] - np.array([2.0, 1.5])[:, None, None])
    cosines, sines = np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))
    place = cosines[:, None] * x - sines[:, None] * y
    d = abs(np.arange(7)[:, None] - 3 - place[:, None])
    m = np.maximum(abs(cosines), abs(sines))[:, None, None]
    known = np.maximum(m - d, 0) / m**2 / 2
    np.testing.assert_allclose(dense(K.apply, 20), known.reshape(35, 20), atol=1e-12)
    np.testing.assert_allclose(dense(K.adjoint, 35), known.reshape(35, 20).T, atol=1e-12)


@float64
def test_filtered_back_projection_is_that_of_scikit_image() -> None:
    side, image = 33, scipy.ndimage.gaussian_filter(disc(33, (3.0, -2.0), 9.0), 1.0)
    K = operators.parallel_beam((side, side), angles=45, bins=side)
    f = K.apply(jnp.asarray(image.reshape(1, -1)))
    sinogram = np.asarray(f * K.scale).reshape(45, side).T
    for smooth, name in ((False, "ramp"), (True, "hann")):
        found = operators.filtered_back_projection(K, f, smooth=smooth).reshape(side, side)
        options = {"filter_name": name, "circle": True}
        known = skimage.transform.iradon(sinogram, theta=np.array(K.angles), **options)
        inside = disc(side, (0.0, 0.0), 15.0) == 1
        assert abs(found - known)[inside].max() < 0.01
    narrow = operators.filtered_back_projection(K, f, cutoff=0.2)
    assert float(jnp.std(narrow)) < 0.9 * float(jnp.std(found))


# ---- MRI


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_sample_the_part_that_is_asked_for(name: str) -> None:
    shape = (32, 24)
    for rate in (0.25, 0.5):
        K = operators.fourier(shape, name, rate=rate, seed=3)
        mask = np.asarray(K.mask).reshape(shape)
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert mask[0, 0] == 1 or name == "uniform_points"
        if name == "radial":
            assert 0.75 * rate < mask.mean() <= rate
        else:
            assert mask.mean() == rate
        if "lines" in name:
            assert set(mask.mean(axis=1)) == {0.0, 1.0}
    again = operators.fourier(shape, name, rate=0.5, seed=3)
    np.testing.assert_array_equal(again.mask, K.mask)


@pytest.mark.parametrize("name", ["lines", "points"])
def test_variable_densities_prefer_low_frequencies(name: str) -> None:
    shape = (64, 48)
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij")).ravel()
    masks = [operators.fourier(shape, x, rate=0.3).mask for x in (name, f"uniform_{name}")]
    variable, even = (frequency[np.asarray(mask) == 1].mean() for mask in masks)
    assert variable < 0.85 * even


@float64
def test_the_transform_is_unitary_and_that_of_numpy() -> None:
    shape, u = (6, 5), normal(0, 2, 30)
    K = operators.Fourier(jnp.ones(30), shape)
    known = np.fft.fft2(np.asarray(u).reshape(-1, *shape), norm="ortho")
    np.testing.assert_allclose(K.apply(u).reshape(-1, *shape), known, atol=1e-13)
    np.testing.assert_allclose(K.adjoint(K.apply(u)), u, atol=1e-13)


@float64
def test_coils_together_see_the_whole_image() -> None:
    shape, u = (8, 6), normal(0, 2, 48)
    K = default_precision(operators.fourier(shape, "points", rate=1.0, coils=4))
    np.testing.assert_allclose(K.adjoint(K.apply(u)), u, atol=1e-6)  # maps of single precision
    assert K.apply(u).shape == (2, 4 * 48)
    assert float(jnp.min(jnp.var(jnp.abs(K.maps), axis=1))) > 1e-3


# ---- others


def scanned(angles: Any) -> operators.Operator:
    return operators.parallel_beam((8, 8), angles)


@float64
def test_a_gaussian_blur_is_that_of_scipy() -> None:
    u = normal(0, 1, 20 * 24)
    K = default_precision(operators.gaussian_blur((20, 24), sigma=1.5))
    known = scipy.ndimage.gaussian_filter(
        np.asarray(u).reshape(20, 24), 1.5, mode="wrap", radius=5
    )  # three standard deviations, rounded up
    np.testing.assert_allclose(K.apply(u).reshape(20, 24), known, atol=1e-6)


def test_pixel_masks_keep_as_many_as_they_say() -> None:
    for rate in (0.1, 0.5, 1.0):
        assert operators.pixel_mask((10, 10), rate=rate).mask.sum() == 100 * rate
    assert (operators.pixel_mask((9, 9), seed=1).mask != operators.pixel_mask((9, 9)).mask).any()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: operators.fourier((8, 8), "spiral"), "pattern 'spiral': expected one of lines"),
        (lambda: operators.fourier((8, 8), rate=0.0), "rate=0.0: expected"),
        (lambda: operators.fourier((8, 8), rate=0.01), r"rate=0.01: no sample of 8x8"),
        (lambda: operators.fourier((8, 8), coils=0), "coils=0: expected"),
        (lambda: operators.Fourier(-jnp.ones(64), (8, 8)), "mask=-1.0: expected"),
        (lambda: operators.Fourier(jnp.ones(64).at[3].set(jnp.nan), (8, 8)), "mask=nan: expected"),
        (lambda: operators.Fourier(jnp.ones(64) + 0j, (8, 8)), r"mask=.*: expected a finite"),
        (lambda: operators.Fourier(jnp.ones(63), (8, 8)), "mask of shape .*expected images of 64"),
        (lambda: operators.Fourier(jnp.zeros(64), (8, 8)), "mask: zero everywhere"),
        (lambda: operators.Coils(jnp.ones(4), jnp.ones((1, 4)) * jnp.nan, (2, 2)), "maps: holds"),
        (lambda: operators.Coils(jnp.ones(4), jnp.ones((1, 3)), (2, 2)), "maps of shape"),
        (lambda: operators.parallel_beam((8, 8), angles=0), "angles=0: expected"),
        (lambda: operators.parallel_beam((8, 8), bins=-3), "bins=-3: expected"),
        (lambda: operators.parallel_beam((8, 8), angles=()), r"angles=\(\): expected one or more"),
        (lambda: operators.parallel_beam((8, 8), (0.0, np.inf)), "angles=inf: expected"),
        (lambda: scanned((0.0, 1j)), "angles=1j: expected a finite number"),
        (lambda: scanned(("up",)), "angles=up: expected a finite number"),
        (lambda: scanned(((0.0, 9.0),)), r"angles of shape \[2\]: expected one number"),
        (lambda: scanned(2.5), "angles=2.5: expected a whole number"),
        (
            lambda: operators.filtered_back_projection(
                operators.parallel_beam((8, 8), (0.0, 45.0)), jnp.ones((1, 24))
            ),
            r"angles=\(0.0, 45.0\): expected some equally spaced",
        ),
        (lambda: operators.ParallelBeam((0.0,), 0, (8, 8)), "bins=0: expected"),
        (lambda: operators.ParallelBeam((0.0,), 8, (8, 8), scale=0.0), "scale=0.0: expected"),
        (lambda: operators.downsampling((8, 9), factor=2), "factor=2: does not divide 8x9"),
        (lambda: operators.gaussian_blur((8, 8), sigma=2.0), "a kernel of 13 pixels, larger than"),
        (lambda: operators.gaussian_blur((8, 8), sigma=0.0), "sigma=0.0: expected"),
        (lambda: operators.pixel_mask((8, 8), rate=0.001), "keeps none of 64 pixels"),
        (lambda: operators.compose(), "parts: none"),
        (lambda: operators.compose(operators.Identity(), 3), r"parts\[1\].apply"),
        (
            lambda: operators.stack((8, 8), operators.Identity(), operators.fourier((8, 8))),
            "real beside complex data",
        ),
        (lambda: operators.fourier((8, 8)).apply(jnp.ones((1, 63))), "expected images of 64"),
        (lambda: operators.parallel_beam((8, 8)).adjoint(jnp.ones((1, 9))), "of shape"),
    ],
)
def test_what_is_no_operator_is_refused_by_name(build, said: str) -> None:
    with untyped(), pytest.raises(ValueError, match=said):
        build()


# ---- from files


def test_a_mask_of_a_file_is_sampled_as_it_is_seen(tmp_path: Path) -> None:
    """The mean in the middle, in either kind of file, for one coil, several and complex images."""
    seen = np.array([[0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    np.save(tmp_path / "mask.npy", seen)
    np.save(tmp_path / "bits", seen.astype(bool))
    Image.fromarray(np.uint8(255 * seen)).save(tmp_path / "mask.png")
    for name in ("mask.npy", "bits.npy", "mask.png"):
        K = operators.fourier((3, 4), mask=str(tmp_path / name))
        found = np.fft.fftshift(np.asarray(K.mask).reshape(3, 4))
        np.testing.assert_array_equal(found, seen)
        assert K.mask[0] == 1
    coils = operators.fourier((3, 4), coils=2, mask=str(tmp_path / "mask.npy"))
    pairs = operators.fourier((6, 4), complex_images=True, mask=str(tmp_path / "mask.npy"))
    np.testing.assert_array_equal(coils.mask, K.mask)
    np.testing.assert_array_equal(pairs.mask, K.mask)


@pytest.mark.parametrize("dtype", [np.int16, np.float64, np.complex64])
def test_a_matrix_of_a_file_is_taken_as_it_is(tmp_path: Path, dtype: type) -> None:
    M = (np.arange(12).reshape(3, 4) * (1j if dtype == np.complex64 else 1)).astype(dtype)
    np.save(tmp_path / "K.npy", M)
    K = operators.matrix((2, 2), str(tmp_path / "K.npy"))
    np.testing.assert_array_equal(K.apply(jnp.eye(4)), M.T)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.ones((2, 3, 4)), r"K.npy: array: of shape \(2, 3, 4\); expected \[data, 4\]"),
        (np.ones((4, 3)), r"of shape \(4, 3\); expected \[data .*, 4\]"),
        (np.ones((0, 4)), r"of shape \(0, 4\); expected \[data .*, 4\]"),
        (np.full((2, 4), np.nan), "K.npy: array: expected finite numbers"),
        (np.full((2, 4), np.inf + 1j), "K.npy: array: expected finite numbers"),
        (np.zeros((2, 4)), "K.npy: zero everywhere"),
        (np.full((2, 4), "x"), "of type <U1; expected number"),
        (None, "K.npy: there is no such file"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_no_matrix_is_refused_by_name(tmp_path: Path, content: Any, said: str) -> None:
    if content is not None:
        np.save(tmp_path / "K.npy", content)
    with pytest.raises(ValueError, match=said):
        operators.matrix((2, 2), str(tmp_path / "K.npy"))
    with pytest.raises(ValueError, match="file: none is given"):
        operators.matrix((2, 2))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.ones((4, 3)), r"m: of shape \[4, 3\]; expected a mask \[3, 4\]"),
        (np.ones(12), r"of shape \(12,\); expected \[height, width\]"),
        (np.full((3, 4), 0.5), "12 values such as 0.5; expected 0, and 1 where"),
        (np.full((3, 4), np.nan), "12 values such as nan"),
        (-np.eye(3, 4), "3 values such as -1.0"),
        (np.eye(3, 4) + 0j, "of type complex128; expected floating"),
        (np.zeros((3, 4), bool), "m: samples nothing; expected 1 somewhere"),
        (np.full((3, 4), 128, np.uint8), "12 values such as 0.50.*and white where"),
        (None, "m: there is no such file"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_is_no_mask_is_refused_by_name(tmp_path: Path, content: Any, said: str) -> None:
    """Of bytes other than black and white a picture is made."""
    with (tmp_path / "m").open("wb") as file:
        if content is not None and content.dtype == np.uint8:
            Image.fromarray(content).save(file, "png")
        elif content is not None:
            np.save(file, content)
    if content is None:
        (tmp_path / "m").unlink()
    with pytest.raises(ValueError, match=said):
        operators.fourier((3, 4), mask=str(tmp_path / "m"))


# ---- a blur that is learned


def test_a_blur_keeps_the_light_and_is_found_from_images_and_measurements() -> None:
    """The hypergradient in K leads from a wrong kernel to that of the measurements."""
    shape = (16, 16)
    true = operators.point_spread(shape, size=3, sigma=0.8)
    guess = operators.point_spread(shape, size=3, sigma=0.4)
    kernel = np.exp(-np.add.outer(np.arange(-1, 2) ** 2, np.arange(-1, 2) ** 2) / (2 * 0.8**2))
    same = operators.circular_convolution(kernel / kernel.sum(), shape)
    keys = jax.random.split(jax.random.key(1), 4)
    u = data.phantoms.draw("piecewise_constant", keys, shape).reshape(4, -1)
    np.testing.assert_allclose(true.apply(u), same.apply(u), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(true.apply(u).sum(axis=1), u.sum(axis=1), rtol=1e-4, atol=1e-4)
    assert float(same.bound()) == pytest.approx(float(true.bound()), rel=1e-6)
    R = regularizers.REGULARIZERS["convolutional"](
        shape, filters=(2, 2, 2), basis="differences", eps=0.1, beta_0=-7.0
    )
    model = models.assemble(true, R)
    params = model.init(jax.random.key(0)) | {"K": guess}
    setting = settings.SETTINGS["accurate"]._replace(
        solver="optimized_gradient", hypergradient="minimiser", warm=True
    )
    learner = learning.Learner((model,), setting, learning.fixed(optax.adam(0.1)), ("K",))
    f = true.apply(u)
    state = learning.start(learner, params, f)
    state, metrics = jax.jit(lambda s: learning.steps(learner, s, u, 60, f=f))(state)
    assert metrics.loss[-1] < 0.2 * metrics.loss[0] and metrics.solved.mean() > 0.9
    found, first = state.params["K"].kernel, guess.kernel
    assert jnp.abs(found - true.kernel).max() < 0.1 * jnp.abs(first - true.kernel).max()
    assert float(found.sum()) == pytest.approx(1)
