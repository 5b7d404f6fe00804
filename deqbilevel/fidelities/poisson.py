r"""The negative logarithm of the probability of Poisson counts, with its curvature bounded.

Of the light that a pixel v of an image in 0..1 sends, peak (v + r) photons are counted in the mean,
with a background r. Measurements are counts over the peak, so that f, K^T f and u are of one scale.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.fidelities.base import Data, Fidelity

ROUNDING = 1e-5
"""How far below zero a mean count over the peak may be."""


def poisson(
    *, peak: float = 10.0, background: float = 0.0, curvature: float | None = None
) -> Fidelity:
    r"""D(v; f) = sum(w - f log w), w = v + r, for peak f counts of mean peak w: [CF] 1.2, 6.2.

    It is -1/peak of the logarithm of their probability, up to a constant, so that a model with
    lam = peak has that of u. f / w^2 has no bound, so below

    $$ w_0 = \sqrt{f / M} $$

    D goes on as the quadratic with its value, gradient and second derivative M there, also for
    w < 0: D'' = min(f / w^2, M), and for f = 0 M below w = 0, where it is a wall. So D is convex
    and its gradient Lipschitz continuous for all w and f; its least w is f wherever f >= 1 / M. M
    is `curvature`; None: peak, the least for which that holds for one count.

    The deviance is 2 peak (w - f + f log(f / w)): its half, the Kullback-Leibler divergence of
    counts and their mean, is 0.50 in the mean for many counts, and 0.52, 0.57, 0.57 and 0.50 for a
    mean of 5, 2, 1 and 1/2.

    Counts have the noise of their number: `noise` is no part of this, and 0. The proximal map is
    the positive root of w^2 + (a - z) w - a f = 0, z = v + r, or that of the quadratic.

    Raises: ValueError for a peak or curvature of 0 or less and a negative background; `measure`
    for a noise that is not 0 and images with negative values, which where they are traced become
    not a number; `check` for an f that is complex, negative or zero everywhere.

    >>> D = fidelities.poisson(peak=50.0)
    >>> v, f = jnp.array([[0.5, 1.0]]), jnp.array([[0.25, 1.0]])
    >>> print(D.gradient(v, f), D.gradient(f, f))
    [[0.5 0. ]] [[0. 0.]]
    >>> print(jnp.round(50 * D.measure(v, 0.0, jax.random.key(1))))  # counts of means 25 and 50
    [[23. 51.]]
    """
    peak = float(checks.one("peak", peak, above=0))
    r = float(checks.one("background", background, least=0))
    M = peak if curvature is None else float(checks.one("curvature", curvature, above=0))

    def parts(v: Data, f: Data) -> tuple[Array, Array, Array, Array]:
        """w, w_0, whether w > w_0, and w where it is, with 1 elsewhere."""
        w, w_0 = v + r, jnp.sqrt(f / M)
        exact = w > w_0
        return w, w_0, exact, jnp.where(exact, w, 1)

    def each(v: Data, f: Data) -> Data:
        w, w_0, exact, safe = parts(v, f)
        below = w_0 - xlogy(f, w_0) + (1 - M * w_0) * (w - w_0) + M / 2 * (w - w_0) ** 2
        return jnp.where(exact, w - f * jnp.log(safe), below)

    def value(v: Data, f: Data) -> Float[Array, " batch"]:
        return jnp.sum(each(v, f), axis=-1)

    def deviance(v: Data, f: Data) -> Data:
        return 2 * peak * (each(v, f) - (f - xlogy(f, f)))

    def gradient(v: Data, f: Data) -> Data:
        w, w_0, exact, safe = parts(v, f)
        return jnp.where(exact, 1 - f / safe, 1 + M * (w - 2 * w_0))

    def hessian(v: Data, f: Data, x: Data) -> Data:
        _, _, exact, safe = parts(v, f)
        return jnp.where(exact, f / safe**2, M) * x

    def proximal(v: Data, f: Data, a: Any) -> Data:
        a = checks.number("a", a, least=0)
        z, w_0 = v + r, jnp.sqrt(f / M)
        exact = a * (1 - M * w_0) + w_0 <= z
        half = (z - a) / 2
        root = jnp.sqrt(half**2 + a * f)
        # The positive root without a difference of numbers that are nearly the same.
        positive = jnp.where(half > 0, half + root, a * f / jnp.where(half > 0, 1, root - half))
        w = jnp.where(exact, positive, (z - a * (1 - 2 * M * w_0)) / (1 + a * M))
        return w - r

    def measure(v: Data, noise: Any, key: PRNGKeyArray) -> Data:
        if not checks.traced(noise) and float(checks.one("noise", noise, least=0)) != 0:
            raise ValueError(
                f"noise={noise}: counts have the noise of their number; expected 0, take another "
                "peak for more or less of it"
            )
        mean = checks.floating("v", v) + r
        if not checks.traced(v) and not np.min(v) >= -ROUNDING - r:
            raise ValueError(
                f"v: from {np.min(v):.3g}; counts have means of 0 or more: take images in 0..1, "
                "and an operator without negative entries"
            )
        counts = jax.random.poisson(checks.key("key", key), peak * jnp.maximum(mean, 0))
        return jnp.where(mean >= -ROUNDING, counts.astype(v.dtype) / peak, jnp.nan)

    return Fidelity(
        value, gradient, hessian, M, measure, proximal, counts=True, deviance=deviance, check=_check
    )


def _check(f: Data) -> None:
    """Raises: ValueError for what are no counts."""
    if jnp.iscomplexobj(f):
        raise ValueError(
            f"f: of type {f.dtype}; expected counts over the peak, real numbers of 0 or more; of "
            "complex data take the fidelity squares"
        )
    if checks.traced(f):
        return
    least, most = (float(x) for x in (np.min(f), np.max(f)))
    if not least >= 0:
        raise ValueError(
            f"f: from {least:.3g}; expected counts over the peak, 0 or more: give counts as they "
            "were taken, with the background that was subtracted as `background` over the peak"
        )
    if not most > 0:
        raise ValueError(
            "f: zero everywhere; expected a count at least somewhere: nothing was measured, take "
            "a longer exposure (a larger peak) or leave the image out"
        )
