"""Orthonormal transforms as analysis operators: wavelets, and the discrete Fourier transform.

Where Omega is orthonormal the analysis problem is that of synthesis with D = Omega^T, [CF] (2.2) to
(2.5), and for K = I its minimiser is Omega^T of the soft threshold of Omega f.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.variational.base import Analysis, Terms, Unknowns

LOWPASS = {
    "haar": np.array([1.0, 1.0]) / 2**0.5,
    "daubechies_4": np.array([1 + 3**0.5, 3 + 3**0.5, 3 - 3**0.5, 1 - 3**0.5]) / (4 * 2**0.5),
}
"""Filters of scaling functions; those of wavelets are (-1)^k h[n - 1 - k]. Daubechies, Comm. Pure
Appl. Math. 41 (1988)."""


@lru_cache
def wavelets(shape: tuple[int, int], kind: str = "haar", levels: int = 1) -> Analysis:
    """Two terms: coefficients of wavelets, from the finest on, and those of the coarsest scaling
    function, whose weight is 0 as a rule. Images are continued periodically.

    Raises: ValueError for another kind than haar or daubechies_4, and a shape that cannot be halved
    so often.

    >>> omega = variational.wavelets((2, 2))
    >>> fine, coarse = omega.apply(jnp.array([[1.0, 1.0, 1.0, 5.0]]))
    >>> print(fine[0], coarse[0])
    [[-2. -2.  2.]] [[4.]]
    """
    low = LOWPASS[checks.known("kind", kind, LOWPASS)]
    checks.whole("levels", levels)
    if any(n % 2**levels for n in shape):
        raise ValueError(
            f"levels={levels}: {shape[0]}x{shape[1]} cannot be halved so often; take fewer"
        )
    high = low[::-1] * (-1) ** np.arange(len(low))

    def halved(x: Array, axis: int) -> tuple[Array, Array]:
        """The half by `low`, and that by `high`, along an axis."""
        pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
        even, odd = (jnp.take(pairs, i, axis + 1) for i in (0, 1))
        parts = [jnp.zeros_like(even), jnp.zeros_like(even)]
        for k in range(len(low) // 2):
            for i, h in enumerate((low.tolist(), high.tolist())):
                parts[i] += jnp.roll(h[2 * k] * even + h[2 * k + 1] * odd, -k, axis)
        return parts[0], parts[1]

    def apply(x: Unknowns) -> Terms:
        coarse, fine = x.reshape(-1, *shape), []
        for _ in range(levels):
            (a, b), (c, d) = (halved(half, 2) for half in halved(coarse, 1))
            coarse = a
            fine += [y.reshape(len(x), 1, -1) for y in (b, c, d)]
        return jnp.concatenate(fine, axis=2), coarse.reshape(len(x), 1, -1)

    pixels = checks.pixels(shape)
    return Analysis(shape, pixels, apply, (1.0, 1.0), together=False, orthonormal=True)


@lru_cache
def fourier(shape: tuple[int, int]) -> Analysis:
    """The moduli of the orthonormal discrete Fourier transform, the mean first.

    >>> omega = variational.fourier((1, 2))
    >>> print(omega.value(jnp.array([[1.0, 3.0]]), (1.0,)))  # (4 + 2) / sqrt(2)
    [4.2426]
    """

    def apply(x: Unknowns) -> tuple[Float[Array, "batch 2 places"]]:
        spectrum = jnp.fft.fft2(x.reshape(-1, *shape), norm="ortho")
        parts = jnp.stack((spectrum.real, spectrum.imag), axis=1)
        return (parts.reshape(len(x), 2, -1),)

    return Analysis(shape, checks.pixels(shape), apply, (1.0,), together=True)
