"""The loss of an observer: how well a signal is found in reconstructions, [CF] 7.5."""

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.losses.base import Informed, Known
from deqbilevel.types import Images

RIDGE = 1e-6
"""Added to covariances of channels, over their mean variance."""


def detectability(
    shape: tuple[int, int],
    *,
    amplitude: float = 0.2,
    radius: float = 2.0,
    channels: int = 4,
) -> Informed:
    """1/d^2, with the detectability d of a known signal by a channelised Hotelling observer:

        d^2 = (mean v_1 - mean v_0)^T S^{-1} (mean v_1 - mean v_0),   v_i = C u*(f_i)

    f_0 are the measurements and f_1 = f_0 + K s those with the signal s: a Gaussian of an
    `amplitude` and a standard deviation of `radius` pixels in the middle. Each channel, a row of C,
    is an orthonormal Laguerre-Gauss function about it; S is the mean of the covariances of v_0 and
    v_1 over the images.

    Raises: ValueError for numbers not above 0, and where it is taken for batches of less than two
    images for each channel.

    >>> loss = losses.detectability((1, 2), channels=1, amplitude=1.0, radius=1.0)
    >>> model, f = models.build("denoising", "bilevel", (1, 2)), jnp.array([[1.0, 2.0], [2.0, 4.0]])
    >>> known = losses.Known(None, f, {}, model)
    >>> print(learning.knowing.rows(loss, known).shape)  # each with the signal and without
    (4, 2)
    """
    checks.pixels(shape)
    checks.number("amplitude", amplitude, above=0)
    checks.number("radius", radius, above=0)
    checks.whole("channels", channels)
    signal = amplitude * np.exp(-0.5 * _squares(shape) / radius**2).ravel()
    C = laguerre_gauss(shape, channels, 4 * radius)

    def further(known: Known) -> Array:
        if known.model.D.counts:
            raise ValueError(
                "loss: adds a signal to measurements, and to counts it brings noise of its own; "
                "take another fidelity, or a loss of the truth"
            )
        seen = known.model.K.apply(jnp.asarray(signal, known.f.real.dtype)[None])
        return (known.f + seen)[:, None]

    def loss(u: Images, known: Known) -> Float[Array, ""]:
        if len(u) < 2 * channels:
            raise ValueError(
                f"loss: {len(u)} images for the covariance of {channels} channels; take batches of "
                f"{2 * channels} or more"
            )
        rows = jnp.asarray(C, u.dtype)
        v_0, v_1 = u @ rows.T, known.further_u[:, 0] @ rows.T
        S = (jnp.cov(v_0.T) + jnp.cov(v_1.T)).reshape(channels, channels) / 2
        S = S + RIDGE * jnp.trace(S) / channels * jnp.eye(channels, dtype=S.dtype)
        difference = jnp.mean(v_1 - v_0, axis=0)
        return 1 / (difference @ jnp.linalg.solve(S, difference))

    return Informed(loss, further)


def laguerre_gauss(
    shape: tuple[int, int], count: int, width: float
) -> Float[np.ndarray, "channels pixels"]:
    """sqrt(2)/a exp(-pi r^2/a^2) L_p(2 pi r^2/a^2) for p = 0, 1, ..., r pixels from the middle,
    with a = `width` and Laguerre's polynomials L_p: orthonormal in the plane."""
    r = _squares(shape).ravel() / width**2
    order = np.arange(count)[:, None]
    return 2**0.5 / width * np.exp(-np.pi * r) * scipy.special.eval_laguerre(order, 2 * np.pi * r)


def _squares(shape: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Squared distances from the middle."""
    y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    return x**2 + y**2
