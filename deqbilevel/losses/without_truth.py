"""Losses without the truth: of the measurement f alone, whose noise has the standard deviation
sigma = params["noise"], [CF] 3.1 and 6.2.

All are for f = K u + N(0, sigma^2), and refuse other fidelities by name; those that only ask how
large the residual is take counts of photons too, [CF] 6.2 [142]: for (K u - f)^2 / sigma^2 they
have twice the Kullback-Leibler divergence of counts and their mean, see `fidelities.poisson`, whose
mean is about 1 and whose standard deviation about sqrt(2), as those of a squared normal number.
Complex data counts by its real and imaginary parts; those that look at neighbouring residuals need
data that is an image.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Inexact

from deqbilevel import checks, fidelities
from deqbilevel.losses.base import Informed, Known
from deqbilevel.types import Images


def discrepancy(shape: tuple[int, int]) -> Informed:
    """The mean of (||K u - f||^2 / (M sigma^2) - 1)^2, of M data: the residual is to be as large as
    the noise, [CF] 3.1. Of counts by their deviance.

    >>> model, f = models.build("denoising", "bilevel", (1, 2)), jnp.array([[1.0, 2.0]])
    >>> known = losses.Known(None, f, {"noise": jnp.array(0.5)}, model)
    >>> print(losses.of(losses.discrepancy((1, 2)), f - 0.5, known))  # it is as large as the noise
    0.0
    """
    checks.pixels(shape)

    def loss(u: Images, known: Known) -> Float[Array, ""]:
        return jnp.mean((jnp.mean(_squares(u, known), axis=-1) - 1) ** 2)

    return Informed(loss)


def exact_sure(shape: tuple[int, int]) -> Informed:
    """Stein's unbiased estimate of the risk, [CF] (3.3), with the exact trace:

        ||K u - f||^2/M - sigma^2 + 2 sigma^2/M tr(K du/df),   du/df = -(dF/du)^{-1} dF/df

    with F the lower-level gradient. Its mean over the noise is that of ||K u - K truth||^2/M: for
    K = I the mean squared error, and for others the part of it that K sees. It puts dF/du together
    for each image, [pixels, pixels].

    >>> model, f = models.build("denoising", "bilevel", (1, 2)), jnp.array([[1.0, 2.0]])
    >>> scalars = models.hyperparameters(tau=1.0, gamma=0.0, activation="identity", noise=0.5)
    >>> known = losses.Known(None, f, model.init(jax.random.key(0)) | scalars, model)
    >>> print(losses.of(losses.exact_sure((1, 2)), f, known))  # u* = f has the risk sigma^2
    0.25
    """
    checks.pixels(shape)

    def loss(u: Images, known: Known) -> Float[Array, ""]:
        n, variance = _residual(u, known)
        F, K, params = known.model.stationarity(), known.model.K, known.params
        complex_data = jnp.iscomplexobj(known.f)

        def divergence(u: Array, f: Array) -> Array:
            def by_parts(y: Array) -> Array:
                return F(u[None], params, _joined(y, complex_data)[None])[0]

            by_u = jax.jacfwd(lambda x: F(x[None], params, f[None])[0])(u)
            moved = -jnp.linalg.solve(by_u, jax.jacfwd(by_parts)(_parts(f)))
            at = jnp.broadcast_to(u, moved.T.shape)
            return jnp.trace(_parts(jax.jvp(K.apply, (at,), (moved.T,))[1]))

        trace = jax.vmap(divergence)(u, known.f)
        return _risk(n, variance, trace / n.shape[-1])

    return Informed(loss)


def monte_carlo_sure(
    shape: tuple[int, int], *, probes: int = 1, eps: float = 0.1, seed: int = 0
) -> Informed:
    """`exact_sure` with the trace by probes, [CF] (3.4): b of independent signs,

        tr(K du/df) = E b^T (K u(f + e b) - K u(f)) / e,    e = eps sigma

    The reconstruction of f + e b is solved beside that of f, with the same b of the same
    measurement in every step, so that both can go on warm. Both have to be solved far better than
    e: --lower-tolerance 1e-6 or below. A larger e is biased where u bends within it: with a
    log-sum potential that bends at 0.02, eps = 0.5 takes 0.5 dB.
    Raises: ValueError for a count of probes below 1, and an eps that is not above 0.

    >>> model, f = models.build("denoising", "bilevel", (1, 2)), jnp.array([[1.0, 2.0]])
    >>> known = losses.Known(None, f, {"noise": jnp.array(0.5)}, model)
    >>> loss = losses.monte_carlo_sure((1, 2))
    >>> rows = learning.knowing.rows(loss, known)  # f and f + e b, which u* = f returns
    >>> print(learning.knowing.value(loss, rows, known).round(3))
    0.25
    """
    checks.pixels(shape)
    checks.whole("probes", probes)
    checks.number("eps", eps, above=0)
    key = jax.random.key(checks.whole("seed", seed, least=0))

    def signs(f: Array) -> Array:
        def of_image(f: Array) -> Array:
            bits = jax.lax.bitcast_convert_type(f.astype(jnp.float32), jnp.uint32)
            own = jax.random.fold_in(key, jnp.sum(bits, dtype=jnp.uint32))
            return jax.random.rademacher(own, (probes, len(f)), f.dtype)

        return jax.vmap(of_image)(_parts(jax.lax.stop_gradient(f)))

    def further(known: Known) -> Array:
        b = _joined(signs(known.f), jnp.iscomplexobj(known.f))
        return known.f[:, None] + eps * _sigma(known) * b

    def loss(u: Images, known: Known) -> Float[Array, ""]:
        n, variance = _residual(u, known)
        K, b = known.model.K, signs(known.f)
        change = _parts(K.apply(known.further_u) - K.apply(u)[:, None])
        trace = jnp.mean(b * change, axis=(1, 2)) / (eps * _sigma(known))
        return _risk(n, variance, trace)

    return Informed(loss, further)


def whiteness(shape: tuple[int, int], *, size: int = 5) -> Informed:
    """How far the residual is from white noise, [CF] 6.2 [145]: with filters f_i, cosines of
    size x size pixels and n = K u - f,

        sum_i (||f_i * n||^2 - N sigma^2 ||f_i||^2)^2 / (2 v_i),   v_i = 2 sigma^4 sum_w |f_i^(w)|^4

    a squared deviation in units of its own standard deviation, over the number of filters, in the
    mean over the images. v_i is the variance of ||f_i * n||^2; the printed one is another.
    Raises: ValueError for a size that images do not hold, and for data that is no image.

    >>> model, f = models.build("denoising", "bilevel", (1, 2)), jnp.array([[1.0, 2.0]])
    >>> known = losses.Known(None, f, {"noise": jnp.array(0.5)}, model)
    >>> loss = losses.whiteness((1, 2), size=1)
    >>> print(losses.of(loss, f - 0.5, known).round(6))  # ||n||^2 = N sigma^2
    0.0
    """
    pixels = checks.pixels(shape)
    checks.whole("size", size, most=min(shape))
    units = np.eye(size * size).reshape(-1, size, size)
    grid = np.zeros((size * size, *shape))
    grid[:, :size, :size] = scipy.fft.idctn(units, axes=(1, 2), norm="ortho")
    power = np.abs(np.fft.fft2(grid)) ** 2

    def loss(u: Images, known: Known) -> Float[Array, ""]:
        n, variance = _residual(u, known)
        _pictured(n, pixels)
        spectrum = jnp.abs(jnp.fft.fft2(n.reshape(-1, *shape), norm="ortho")) ** 2
        own = jnp.asarray(power, n.dtype)
        # Of the unit noise n / sigma: ||f_i||^2 N is the sum of the power, by Parseval.
        seen = jnp.einsum("khw,bhw->bk", own, spectrum) / variance
        deviation = seen - jnp.sum(own, axis=(1, 2))
        return jnp.mean(deviation**2 / (4 * jnp.sum(own**2, axis=(1, 2))))

    return Informed(loss)


def noise_corridor(shape: tuple[int, int], *, size: int = 9, width: float = 1.0) -> Informed:
    """How far local variances of the residual n = K u - f leave a corridor, [CF] (6.2) [141]:

        mean F(w * n^2),  F(v) = 1/2 max(v - s_up^2, 0)^2 + 1/2 min(v - s_low^2, 0)^2

    over sigma^4, with means w over windows of size x size pixels inside the image, and corridor
    s^2 = sigma^2 (1 +- width sqrt(2)/size): so many standard deviations of w * n^2 for white noise.
    Of counts n^2 / sigma^2 is their deviance.
    Raises: ValueError for a size that images do not hold, a width below 0, and for data that is no
    image.

    >>> model, f = models.build("denoising", "bilevel", (1, 2)), jnp.array([[1.0, 2.0]])
    >>> known = losses.Known(None, f, {"noise": jnp.array(0.5)}, model)
    >>> print(losses.of(losses.noise_corridor((1, 2), size=1), f - 0.5, known))  # n^2 = sigma^2
    0.0
    """
    pixels = checks.pixels(shape)
    checks.whole("size", size, most=min(shape))
    checks.number("width", width, least=0)
    margin = width * 2**0.5 / size

    def loss(u: Images, known: Known) -> Float[Array, ""]:
        squares = _squares(u, known)
        _pictured(squares, pixels)
        local = local_means(squares.reshape(-1, *shape), size)
        return jnp.mean(outside(local, 1 - margin, 1 + margin))

    return Informed(loss)


def outside(v: Float[Array, "*shape"], low: float, high: float) -> Float[Array, "*shape"]:
    """1/2 max(v - high, 0)^2 + 1/2 min(v - low, 0)^2, the function of [CF] Figure 6.4."""
    return 0.5 * (jnp.maximum(v - high, 0) ** 2 + jnp.minimum(v - low, 0) ** 2)


def local_means(
    x: Float[Array, "batch height width"], size: int
) -> Float[Array, "batch rows columns"]:
    """Of every window of size x size pixels inside the image."""
    sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, size, size), (1, 1, 1), "VALID")
    return sums / size**2


def _squares(u: Images, known: Known) -> Float[Array, "batch parts"]:
    """Squares of the residual over the variance of the noise, of counts the deviance."""
    K, D = known.model.K, known.model.D
    if D.deviance is not None:
        return D.deviance(K.apply(u), known.f)
    n, variance = _residual(u, known)
    return n**2 / variance


def _residual(u: Images, known: Known) -> tuple[Float[Array, "batch parts"], Float[Array, ""]]:
    """K u - f in real numbers, and sigma^2. Raises: ValueError for another fidelity."""
    if known.model.D is not fidelities.squares:
        raise ValueError(
            "loss: of normal noise, and the data fidelity stands for another; take fidelity "
            "squares, or of counts the loss discrepancy or noise_corridor"
        )
    return _parts(known.model.K.apply(u) - known.f), _sigma(known) ** 2


def _sigma(known: Known) -> Float[Array, ""]:
    checks.entries("params", known.params, ("noise",))
    return jnp.asarray(known.params["noise"], known.f.real.dtype)


def _risk(
    n: Float[Array, "batch parts"], variance: Float[Array, ""], trace: Float[Array, " batch"]
) -> Float[Array, ""]:
    """trace: over the number of parts."""
    return jnp.mean(n**2) - variance + 2 * variance * jnp.mean(trace)


def _parts(v: Inexact[Array, "*batch data"]) -> Float[Array, "*batch parts"]:
    """Complex numbers as their real, then their imaginary parts."""
    return jnp.concatenate([v.real, v.imag], axis=-1) if jnp.iscomplexobj(v) else v


def _joined(v: Float[Array, "*batch parts"], complex_data: bool) -> Inexact[Array, "*batch data"]:
    """The inverse of `_parts`."""
    if not complex_data:
        return v
    real, imaginary = jnp.split(v, 2, axis=-1)
    return real + 1j * imaginary


def _pictured(n: Array, pixels: int) -> None:
    if n.shape[-1] != pixels:
        raise ValueError(
            f"loss: looks at neighbouring residuals, and the data of K is no image of {pixels} "
            "pixels; take discrepancy, exact_sure or monte_carlo_sure"
        )
