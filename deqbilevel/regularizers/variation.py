"""Smooth total variation, with an elastic net: of (grad u)[p], the two differences at a pixel,

    R(u) = e^{beta_0} sum_p e^{field[p]} phi(|(grad u)[p]|) + e^{ridge} / 2 ||u||^2

isotropic with their 2-norm, else the sum of phi of both. There is no difference beyond the border.
phi is rounded at its corner, less its value at 0, so that without the ridge R is 0 on constants;
its width `eps` is a leaf, and may be learned or made less while learning. Without smoothing:
`variational`.

`params` holds `beta_0` and `phi`, and where they are wanted `field`: [rows, columns], interpolated
linearly as in `convolutional`, and `ridge`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks, operators
from deqbilevel.potentials import bending
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.types import Images, Params

LEAST = 1e-30
"""Of a squared length, below which phi is as at 0."""


def total_variation(
    shape: tuple[int, int],
    *,
    isotropic: bool = True,
    potential: str = "corner_rounded",
    eps: float = 0.01,
    beta_0: float = -3.0,
    field: tuple[int, int] | None = None,
    ridge: float | None = None,
) -> Regularizer:
    """The regulariser of images of a shape.

    potential: one of `potentials.POTENTIALS` that bends at `eps`; field: rows and columns of the
    points between which the weight varies in space, 0 at first; ridge: of the elastic net.
    Raises: ValueError for an eps that is not above 0, a potential without one, and a field that is
    finer than the image.

    >>> R = regularizers.variation.total_variation((1, 3), eps=3.0, beta_0=0.0)
    >>> params = R.init(jax.random.key(0))
    >>> print(R.energy(jnp.array([[0.0, 4.0, 4.0]]), params))  # sqrt(4^2 + 3^2) - 3
    [2.]
    """
    checks.pixels(shape)
    for n, most in zip(field or (), shape, strict=field is not None):
        checks.whole("field", n, most=most)
    gradient_of = operators.difference(shape)
    phi = bending(potential, eps)

    def differences(u: Images) -> Float[Array, "batch 2 pixels"]:
        return gradient_of.apply(u).reshape(len(u), 2, -1)

    def length(z: Array) -> Array:
        """At each pixel, above 0; of each difference if anisotropic."""
        squared = jnp.sum(z**2, axis=1, keepdims=True) if isotropic else z**2
        return jnp.sqrt(jnp.maximum(squared, LEAST))

    def weight(params: Params) -> Float[Array, "..."]:
        if "field" not in params:
            return jnp.exp(params["beta_0"])
        full = jax.image.resize(params["field"], shape, "linear")
        return jnp.exp(params["beta_0"] + full).reshape(-1)

    def energy(u: Images, params: Params) -> Float[Array, " batch"]:
        value = params["phi"].value
        m = length(differences(u))
        total = jnp.sum(weight(params) * (value(m) - value(jnp.zeros_like(m))), axis=(1, 2))
        if "ridge" not in params:
            return total
        return total + jnp.exp(params["ridge"]) / 2 * jnp.sum(u**2, axis=1)

    def gradient(u: Images, params: Params) -> Images:
        z = differences(u)
        m = length(z)
        slopes = weight(params) * z * (params["phi"].derivative(m) / m)
        found = gradient_of.adjoint(slopes.reshape(len(u), -1))
        return found + jnp.exp(params["ridge"]) * u if "ridge" in params else found

    def lipschitz(params: Params) -> Float[Array, ""]:
        most = 8 * params["phi"].lipschitz * jnp.max(weight(params))
        return most + jnp.exp(params["ridge"]) if "ridge" in params else most

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        params = {"beta_0": jnp.asarray(beta_0, float), "phi": jax.tree.map(jnp.asarray, phi)}
        params |= {} if field is None else {"field": jnp.zeros(field)}
        return params | ({} if ridge is None else {"ridge": jnp.asarray(ridge, float)})

    learned = ("beta_0", *(("field",) if field else ()), *(("ridge",) if ridge is not None else ()))
    return Regularizer(shape, init, gradient, learned, energy=energy, lipschitz=lipschitz)
