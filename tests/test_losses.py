"""Losses and measures: values by closed forms and other libraries, slopes by differences."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy
from helpers import float64, normal, untyped
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from deqbilevel import fidelities, losses, models, operators, potentials, regularizers
from deqbilevel.learning import knowing
from deqbilevel.losses import (
    LOSSES,
    Additive,
    Penalised,
    mean_scores,
    mean_squared_error,
    observer,
    psnr,
    scores,
    similarity,
    snr,
    ssim,
    ssim_or_nan,
    without_truth,
)

SHAPE = (12, 13)
PIXELS = SHAPE[0] * SHAPE[1]
OPTIONS = {
    "whiteness": {"size": 3},
    "noise_corridor": {"size": 4},
    "detectability": {"channels": 2},
}
SUPERVISED = [name for name in LOSSES if losses.of_truth(LOSSES[name](SHAPE)) is not None]
BUILT = {name: LOSSES[name](SHAPE, **OPTIONS.get(name, {})) for name in LOSSES}


@pytest.fixture(params=SUPERVISED)
def loss(request):
    return BUILT[request.param]


@float64
def test_loss_is_smallest_at_the_truth(loss):
    truth, noise = jnp.tanh(normal(0, 3, PIXELS)), normal(1, 3, PIXELS)
    value = jax.jit(loss)
    levels = [value(truth + scale * noise, truth) for scale in (0.0, 0.1, 0.2, 0.4)]
    assert (np.diff(levels) > 0).all()
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(truth, truth), 0, atol=1e-12)


def problem():
    """Images of a model with a learned convolutional regulariser, and what is known of them."""
    R = regularizers.REGULARIZERS["convolutional"](SHAPE, filters=(3, 2, 2), eps=0.5, beta_0=-1.0)
    model = models.assemble(operators.identity(SHAPE), R)
    params = model.init(jax.random.key(0)) | {"noise": jnp.asarray(0.3)}
    params = model.completed(jax.tree.map(lambda x: jnp.asarray(x, float), params))
    truth, f = jnp.tanh(normal(0, 5, PIXELS)), jnp.tanh(normal(0, 5, PIXELS)) + normal(1, 5, PIXELS)
    return knowing.known(model, params, truth, f), normal(2, 5, PIXELS)


@pytest.fixture(scope="module")
def posed():
    """`problem`, once for all losses."""
    with jax.enable_x64(True):
        return problem()


@pytest.mark.parametrize("name", LOSSES)
@float64
def test_a_loss_has_the_gradient_of_differences_and_no_order_of_images(name, posed):
    known, u = posed
    rows = knowing.rows(BUILT[name], known)
    u = jnp.asarray(np.repeat(u, len(rows) // len(u), axis=0) + 0.3 * normal(3, *rows.shape))

    @jax.jit
    def value(u, beta, truth, f):
        at = known._replace(params=known.params | {"beta": beta}, truth=truth, f=f)
        return knowing.value(BUILT[name], u, at)

    beta, h, of = known.params["beta"], 1e-5, (known.truth, known.f)
    d, d_beta = normal(4, *u.shape), normal(5, *beta.shape)
    here, slopes = jax.jit(jax.value_and_grad(value, (0, 1)))(u, beta, *of)
    found = np.vdot(slopes[0], d) + np.vdot(slopes[1], d_beta)
    ends = [value(u + s * h * d, beta + s * h * d_beta, *of) for s in (1, -1)]
    np.testing.assert_allclose(found, (ends[0] - ends[1]) / (2 * h), rtol=1e-6)
    turned = (jnp.asarray(np.asarray(x)[::-1]) for x in of)
    rows = jnp.asarray(np.asarray(u).reshape(5, -1, PIXELS)[::-1].reshape(u.shape))
    np.testing.assert_allclose(value(rows, beta, *turned), here, rtol=1e-9)


@float64
def test_losses_of_single_pixels_are_those_of_other_libraries_and_of_closed_forms():
    u, truth = normal(0, 3, PIXELS), normal(1, 3, PIXELS)
    expected = jnp.mean(optax.losses.huber_loss(u, truth, delta=0.4)) / 0.4
    np.testing.assert_allclose(LOSSES["huber"](SHAPE, eps=0.4)(u, truth), expected, rtol=1e-12)
    np.testing.assert_allclose(losses.mean_absolute_error(u, truth), jnp.mean(jnp.abs(u - truth)))
    np.testing.assert_allclose(losses.negative_snr(u, truth), -jnp.mean(snr(u, truth)), rtol=1e-12)
    assert losses.negative_snr(truth, truth) < -300
    wave = jnp.cos(2 * jnp.pi * 2 * jnp.arange(16) / 16)
    errors = jnp.broadcast_to(wave, (16, 16)).reshape(1, -1)
    power = (2 * np.pi * 2 / 16) ** 2
    transfer = power * np.exp(-0.5 * power) * np.e / 2
    found = LOSSES["high_frequency_error"]((16, 16), sigma=1.0)(errors, 0 * errors)
    np.testing.assert_allclose(found, 0.5 * transfer**2, rtol=1e-9)


def test_mean_squared_error_is_a_mean_over_pixels_and_images():
    u, truth = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[0.0, 2.0], [3.0, 1.0]])
    assert mean_squared_error(u, truth) == (1 + 9) / 4


@float64
def test_psnr_is_that_of_scikit_image():
    truth = jnp.tanh(normal(0, 4, 36))
    u = truth + normal(1, 4, 36) * jnp.array([[0.01], [0.1], [0.5], [1.0]])
    for data_range in (2.0, 1.0):
        expected = [
            peak_signal_noise_ratio(np.array(t), np.array(x), data_range=data_range)
            for t, x in zip(truth, u, strict=True)
        ]
        np.testing.assert_allclose(psnr(u, truth, data_range=data_range), expected, rtol=1e-12)
    np.testing.assert_allclose(
        psnr(u, truth, data_range=2.0) - psnr(u, truth, data_range=1.0), 20 * np.log10(2), rtol=1e-9
    )


def test_psnr_of_a_perfect_image_is_infinite():
    assert np.isposinf(psnr(jnp.ones((1, 4)), jnp.ones((1, 4)), data_range=1.0)).all()


@float64
def test_psnr_without_a_range_is_that_of_the_text():
    """N ||truth||_inf^2 / ||u - truth||^2, [CF] (3.2)."""
    truth, u = normal(0, 3, 36), normal(1, 3, 36)
    expected = [
        10 * np.log10(36 * np.abs(t).max() ** 2 / np.sum((x - t) ** 2))
        for t, x in zip(np.array(truth), np.array(u), strict=True)
    ]
    np.testing.assert_allclose(psnr(u, truth, data_range=None), expected, rtol=1e-12)
    for data_range in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"data_range=.*: expected a finite number, above 0"):
            psnr(u, truth, data_range=data_range)


def test_ssim_is_that_of_scikit_image_and_refuses_pictures_below_its_window():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (2, 11 * 13)).astype(np.float32)
    u = truth + 0.3 * rng.standard_normal(truth.shape).astype(np.float32)
    expected = []
    for a, b in zip(u.reshape(2, 11, 13), truth.reshape(2, 11, 13), strict=True):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        found: Any = structural_similarity(a, b, data_range=2.0, full=True, **options)
        expected.append(found[1][5:-5, 5:-5].mean())
    found = ssim(jnp.asarray(u), jnp.asarray(truth), (11, 13), data_range=2.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    again = ssim_or_nan(jnp.asarray(u), jnp.asarray(truth), (11, 13), data_range=2.0)
    np.testing.assert_array_equal(again, found)
    for shape in ((10, 13), (13, 10), (8, 8)):
        x = jnp.ones((2, shape[0] * shape[1]))
        with pytest.raises(ValueError, match=f"pictures of {shape[0]}x{shape[1]}: expected 11x11"):
            ssim(x, x, shape, data_range=2.0)
        assert np.isnan(ssim_or_nan(x, x, shape, data_range=2.0)).all()


def test_scores_of_reports_are_the_measures_in_the_range_that_is_said():
    truth = jnp.asarray(np.random.default_rng(1).uniform(0, 1, (2, 11 * 12)).astype(np.float32))
    u = truth.at[0].add(0.1).at[1].add(-0.2)
    found = scores(u, truth, (11, 12), 1.0)
    expected = {
        "snr_db": snr(u, truth),
        "psnr_db": psnr(u, truth, data_range=1.0),
        "ssim": ssim(u, truth, (11, 12), data_range=1.0),
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert mean_scores(u, truth, (11, 12), 1.0)[name] == pytest.approx(float(values.mean()))
    assert np.isnan(scores(u, truth, (4, 33), 1.0)["ssim"]).all()


@pytest.mark.parametrize("shapes", [((4, 1), (1, 256)), ((4, 256), (1, 256)), ((256,), (1, 256))])
def test_shapes_that_differ_are_refused(shapes):
    u, truth = (np.ones(shape, np.float32) for shape in shapes)
    square = [partial(measure, shape=(16, 16), data_range=2.0) for measure in (ssim, ssim_or_nan)]
    for measure in (
        *(BUILT[name] for name in SUPERVISED),
        partial(psnr, data_range=2.0),
        snr,
        *square,
    ):
        with untyped(), pytest.raises(ValueError, match=r"u \[.*\] and truth \[1, 256\]: expected"):
            measure(jnp.asarray(u), jnp.asarray(truth))


def test_whole_numbers_are_refused():
    """Differences of grey values would wrap around."""
    u, truth = jnp.zeros((1, 4), jnp.uint8), jnp.ones((1, 4), jnp.uint8)
    for measure in (*(BUILT[name] for name in SUPERVISED), partial(psnr, data_range=2.0), snr):
        with untyped(), pytest.raises(ValueError, match=r"u: of type uint8; expected floating"):
            measure(u, truth)


def test_the_range_has_to_be_said():
    """A default would be 6.02 dB off for images in [0, 1] or for those in [-1, 1]."""
    x = jnp.ones((1, 256))
    measures: Any = (psnr, *(partial(x, shape=(16, 16)) for x in (ssim, ssim_or_nan)))
    for measure in measures:
        with untyped(), pytest.raises(TypeError, match="data_range"):
            measure(x, x)


# ---- similarity


def _scikit(x, y, peak):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    x, y = np.asarray(x, float), np.asarray(y, float)
    found: Any = structural_similarity(x, y, data_range=peak, full=True, **options)
    return found[1][5:-5, 5:-5]


@float64
def test_similarity_at_several_scales_is_that_of_its_formula():
    """Against scikit-image: cs is the similarity of images whose luminance is alike."""
    shape = (23, 26)
    rng = np.random.default_rng(3)
    truth = rng.uniform(0, 1, shape)
    u = truth + 0.2 * rng.standard_normal(shape)
    rows: Any = [jnp.asarray(x.reshape(1, -1)) for x in (u, truth)]
    one = jax.jit(losses.multiscale_dissimilarity(shape, scales=1))(rows[0], rows[1])
    np.testing.assert_allclose(1 - one, _scikit(u, truth, 1.0).mean(), rtol=1e-6)
    coarse = [x[:22, :26].reshape(11, 2, 13, 2).mean((1, 3)) for x in (u, truth)]
    compared = jax.jit(similarity.compared, static_argnums=2)
    luminance, structure = (np.asarray(x) for x in compared(u[None], truth[None], 1.0))
    np.testing.assert_allclose((luminance * structure)[0], _scikit(u, truth, 1.0), rtol=1e-6)
    powers = np.array([0.0448, 0.2856]) / (0.0448 + 0.2856)
    expected = (
        np.mean(structure) ** powers[0] * _scikit(coarse[0], coarse[1], 1.0).mean() ** powers[1]
    )
    two = jax.jit(losses.multiscale_dissimilarity(shape, scales=2))(rows[0], rows[1])
    np.testing.assert_allclose(1 - two, expected, rtol=1e-6)
    loss: Any = losses.multiscale_dissimilarity(shape)
    opposite = jax.jit(jax.value_and_grad(loss))(1 - rows[1], rows[1])
    assert opposite[0] == 1 and not np.any(opposite[1])


def test_similarity_refuses_images_that_do_not_hold_its_windows():
    for build in (losses.structural_dissimilarity, losses.multiscale_dissimilarity):
        with pytest.raises(ValueError, match="10x30"):
            build((10, 30))
    with pytest.raises(ValueError, match=r"scales=2 of 21x40 pixels: these hold 1 .*fewer scales"):
        losses.multiscale_dissimilarity((21, 40), scales=2)


# ---- without the truth


def linear_smoother(noise=0.3, images=400):
    """Measurements of smooth images, and a quadratic regulariser, whose reconstruction is a linear
    map of them."""
    R = regularizers.convolutional.bank_of(SHAPE).regularizer(lambda key: {})
    model = models.assemble(operators.identity(SHAPE), R)
    c = 0.5 * normal(7, 2, 2, 2)
    start = regularizers.convolutional.init(c, beta_0=0.0, phi=potentials.Quadratic())
    params = model.completed(start | {"noise": jnp.asarray(noise)})
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    truth = jnp.asarray(np.tile((np.sin(y / 2) + np.cos(x / 3)).reshape(1, -1), (images, 1)))
    f = model.measure(params, truth, jax.random.key(1))
    return knowing.known(model, params, truth, f)


def judged(loss, known):
    """The loss of images, compiled."""
    return jax.jit(lambda u: losses.of(loss, u, known))


@float64
def test_sure_is_exact_for_a_linear_smoother_and_its_probes_agree():
    known = linear_smoother()
    F, f = known.model.stationarity(), np.asarray(known.f)
    H = jax.jit(jax.jacobian(lambda u: F(u[None], known.params, jnp.zeros((1, PIXELS)))[0]))(f[0])
    smooth = np.linalg.inv(H)
    u, of_divergence = f @ smooth, 2 * 0.09 * np.trace(smooth) / PIXELS
    expected = np.mean((u - f) ** 2) - 0.09 + of_divergence
    two = known._replace(f=known.f[:2])
    exact = judged(losses.exact_sure(SHAPE), two)(jnp.asarray(u[:2]))
    own = np.mean((u[:2] - f[:2]) ** 2) - 0.09 + of_divergence
    np.testing.assert_allclose(exact, own, rtol=1e-10)
    # The mean over the noise is the risk; 400 images leave some percent.
    np.testing.assert_allclose(expected, np.mean((u - known.truth) ** 2), rtol=0.05)
    by_probes = losses.monte_carlo_sure(SHAPE, probes=2, eps=0.7)
    rows = np.asarray(knowing.rows(by_probes, known)) @ smooth
    assert rows.shape == (3 * 400, PIXELS)
    found = jax.jit(lambda rows: knowing.value(by_probes, rows, known))(rows)
    np.testing.assert_allclose(found, expected, rtol=0.03)


@float64
def test_probes_are_of_independent_signs_and_stay_with_their_measurement():
    known, _ = problem()
    loss = losses.monte_carlo_sure(SHAPE, probes=4, eps=0.5)
    f = np.asarray(knowing.rows(loss, known)).reshape(5, 5, PIXELS)
    probes = (f[:, 1:] - f[:, :1]) / (0.5 * 0.3)
    np.testing.assert_allclose(np.abs(probes), 1, rtol=1e-9)
    signs = probes.reshape(20, PIXELS)
    assert np.abs(signs @ signs.T / PIXELS - np.eye(20)).max() < 0.5
    turned = knowing.rows(loss, known._replace(f=known.f[::-1]))
    np.testing.assert_array_equal(np.asarray(turned).reshape(f.shape)[::-1], f)


@float64
def test_white_noise_is_white_and_other_residuals_are_not():
    """Half of a squared deviation in units of its standard deviation is 1/2 in the mean."""
    images, sigma = 3000, 0.3
    known = linear_smoother(sigma, images)
    loss = judged(losses.whiteness(SHAPE, size=3), known)
    found = loss(known.truth)
    np.testing.assert_allclose(found, 0.5, rtol=0.05)
    for other in (0.9 * known.truth, known.truth + 0.2, 0.5 * (known.f + known.truth)):
        assert loss(other) > 2 * found


@float64
def test_the_corridor_is_left_by_residuals_that_are_too_large_or_too_small():
    v = jnp.array([0.5, 0.8, 1.0, 1.2, 1.6])
    outside = without_truth.outside(v, 0.8, 1.2)
    np.testing.assert_allclose(outside, [0.045, 0, 0, 0, 0.08], atol=1e-12)
    known = linear_smoother(0.3, 50)
    loss = judged(losses.noise_corridor(SHAPE, size=6), known)
    inside = loss(known.truth)
    assert loss(known.f) > 10 * inside  # no residual at all
    assert loss(known.truth + 0.2) > 2 * inside
    n = np.asarray(known.truth - known.f).reshape(-1, *SHAPE)
    windows = np.lib.stride_tricks.sliding_window_view(n**2 / 0.09, (6, 6), (1, 2)).mean((3, 4))
    width = 2**0.5 / 6
    by_hand = np.maximum(windows - 1 - width, 0) ** 2 + np.minimum(windows - 1 + width, 0) ** 2
    np.testing.assert_allclose(inside, by_hand.mean() / 2, rtol=1e-9)


@float64
def test_the_corridor_of_counts_is_of_their_deviance():
    """Of counts n^2 / sigma^2 is 2 peak KL(f, K u), whose mean and variance are by their series."""
    peak, r, shape = 20.0, 0.1, (40, 50)
    model = models.assemble(
        operators.identity(shape),
        regularizers.REGULARIZERS["convolutional"](shape),
        D=fidelities.poisson(peak=peak, background=r),
    )
    truth = jnp.full((20, 2000), 0.4)
    f = model.measure({}, truth, jax.random.key(0))
    known = knowing.known(model, {}, truth, f)
    k, m = np.arange(200), peak * (0.4 + r)
    by_hand = 2 * (m - k + scipy.special.xlogy(k, k / m))
    probability = scipy.stats.poisson.pmf(k, m)
    mean = probability @ by_hand
    variance = probability @ by_hand**2 - mean**2
    assert mean / 2 == pytest.approx(0.5094, abs=1e-4) and variance == pytest.approx(2.09, abs=0.01)
    found: Any = model.D.deviance(truth, f)
    assert abs(found.mean() - mean) < 4 * (variance / found.size) ** 0.5
    np.testing.assert_allclose(found[0, :9], by_hand[np.round(peak * f[0, :9]).astype(int)])
    loss = judged(losses.noise_corridor(shape, size=5), known)
    inside = loss(truth)
    windows = np.asarray(found).reshape(-1, *shape)
    windows = np.lib.stride_tricks.sliding_window_view(windows, (5, 5), (1, 2)).mean((3, 4))
    width = 2**0.5 / 5
    by_hand = np.maximum(windows - 1 - width, 0) ** 2 + np.minimum(windows - 1 + width, 0) ** 2
    np.testing.assert_allclose(inside, by_hand.mean() / 2, rtol=1e-9)
    assert loss(f) > 5 * inside and loss(0.6 * truth) > inside
    by_name = {
        name: judged(LOSSES[name](shape), known) for name in ("discrepancy", "noise_corridor")
    }
    assert by_name["discrepancy"](truth) < 0.01
    for loss in by_name.values():
        u, d, h = 0.3 + 0.4 * truth, normal(3, *truth.shape), 1e-6
        slope = np.vdot(jax.jit(jax.grad(loss))(u), d)
        ends = [loss(u + s * h * d) for s in (1, -1)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * h), rtol=1e-6)
    for name in ("exact_sure", "monte_carlo_sure", "whiteness"):
        with pytest.raises(ValueError, match="of counts the loss discrepancy or noise_corridor"):
            losses.of(LOSSES[name](shape), truth, known)
    with pytest.raises(ValueError, match="to counts it brings noise of its own"):
        knowing.rows(losses.detectability(shape), known)


@float64
def test_an_observer_finds_a_signal_that_is_not_smoothed_away():
    """With K = I and no regulariser: d^2 of the channels in white noise, up to its sample."""
    known = linear_smoother(0.3, 2000)
    loss = losses.detectability(SHAPE, channels=3, amplitude=0.3, radius=1.5)
    rows = knowing.rows(loss, known)
    C = observer.laguerre_gauss(SHAPE, 3, 6.0)
    signal = np.asarray(rows.reshape(2000, 2, -1)[0, 1] - rows[0])
    expected = 1 / (0.3**-2 * (C @ signal) @ np.linalg.solve(C @ C.T, C @ signal))
    found = jax.jit(lambda rows: knowing.value(loss, rows, known))(rows)
    np.testing.assert_allclose(found, expected, rtol=0.1)
    with pytest.raises(ValueError, match="2 images for the covariance of 3 channels"):
        knowing.value(loss, rows[:4], known._replace(f=known.f[:2], truth=known.truth[:2]))


def test_losses_of_the_noise_refuse_data_that_they_do_not_have():
    model = models.assemble(
        operators.random_matrix(SHAPE), regularizers.REGULARIZERS["convolutional"](SHAPE)
    )
    known = knowing.known(
        model, {"noise": jnp.asarray(0.1)}, None, model.K.apply(jnp.zeros((1, PIXELS)))
    )
    for name in ("whiteness", "noise_corridor"):
        with pytest.raises(ValueError, match="is no image of 156 pixels; take discrepancy"):
            losses.of(BUILT[name], jnp.zeros((1, PIXELS)), known)


# ---- of several, and by name


@float64
def test_images_with_and_without_the_truth_are_each_judged_by_their_own():
    known, u = problem()
    there, gone, truth = [0, 2, 4], [1, 3], np.array(known.truth)
    truth[gone] = np.nan
    known, f = known._replace(truth=jnp.asarray(truth)), np.asarray(known.f)
    loss = losses.semi_supervised(mean_squared_error, BUILT["discrepancy"], weight=0.3)
    value, slope = jax.jit(jax.value_and_grad(judged(loss, known)))(u)
    u, slope = np.asarray(u), np.asarray(slope)
    rest = known._replace(f=jnp.asarray(f[gone]), truth=None)
    expected = np.mean((u - truth)[there] ** 2)
    expected += 0.3 * judged(BUILT["discrepancy"], rest)(u[gone])
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slope[there], 2 * (u - truth)[there] / (3 * PIXELS), rtol=1e-9)
    assert np.isfinite(slope).all() and np.abs(slope[gone]).max() > 0


@float64
def test_a_sum_gives_each_of_its_losses_the_measurements_that_it_asked_for():
    known, _ = problem()
    words = ["monte_carlo_sure:probes=2,weight=0.5", "huber:eps=0.2", "detectability:channels=1"]
    loss = losses.named(words, SHAPE, 2.0)
    rows = knowing.rows(loss, known)
    assert len(rows) == 5 * (1 + 2 + 1)
    u = 0.7 * rows
    parts = [losses.named([word], SHAPE, 2.0) for word in words]
    parts[0] = losses.monte_carlo_sure(SHAPE, probes=2)
    values = [knowing.value(part, 0.7 * knowing.rows(part, known), known) for part in parts]
    expected = 0.5 * values[0] + values[1] + values[2]
    np.testing.assert_allclose(knowing.value(loss, u, known), expected, rtol=1e-12)


def test_words_that_say_no_loss_are_refused():
    for words, said in {
        (): "loss: none",
        ("mse",): "loss 'mse': expected one of",
        ("huber:eps",): "'eps'; expected eps=a number",
        ("huber:eps=big",): "'eps=big'; expected eps=a number",
        ("whiteness:size=2.5",): "'size=2.5'; expected size=a whole number",
        ("huber:width=1",): "loss huber: has no option 'width'; expected eps, weight",
        ("ssim:peak=3",): "loss ssim: has no option 'peak'; expected weight",
        ("huber:eps=-1",): "eps=-1.0: expected",
        ("half_squared_error", "huber"): "a sum needs means over images",
    }.items():
        with pytest.raises(ValueError, match=said):
            losses.named(words, SHAPE, 1.0)


# ---- penalties


def test_a_penalty_is_refused_beside_a_sum_over_images():
    with pytest.raises(ValueError, match="Penalised: of a sum over images"):
        Penalised(Additive(mean_squared_error), lambda params: jnp.zeros(()))
