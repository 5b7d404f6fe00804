"""Whether a linear map of one's own is an operator, whose adjoint is its transpose."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqbilevel import checks, operators
from deqbilevel.operators import (
    CircularConvolution,
    Diffusion,
    Identity,
    Mask,
    ZeroPaddedConvolution,
)

ADJOINT_ERROR = 300
"""Units in the last place of ||K u|| ||v|| by which the two sides of `check` may differ: rounding
makes a few, and an adjoint that is wrong at the border of an image some thousands."""


def check(K: Any, pixels: int) -> None:
    """Whether a linear map of images of so many pixels is an operator, by one pair of vectors,

        <K u, v> = <u, K^T v>

    up to rounding, and where K is not linear of its derivative at 0. Operators of `operators` are
    taken as they are, and where the arrays of K are traced, or it makes traced ones, only shapes
    and types are looked at.

    Raises: ValueError for a map that does not take images `[batch, pixels]`, or gives none back,
    and for an adjoint that is another map's.

    >>> adjoints.check(operators.Matrix(jnp.ones((3, 4))), pixels=4)  # no error: its adjoint is K^T
    """
    checks.whole("pixels", pixels)
    for name in ("apply", "adjoint"):
        if not callable(getattr(K, name, None)):
            raise ValueError(f"{type(K).__name__} has no {name}; see `operators` for what it needs")
    name, u = type(K).__name__, jax.ShapeDtypeStruct((2, pixels), jnp.result_type(float))
    try:
        data = jax.eval_shape(lambda u: K.apply(u), u)
        back = jax.eval_shape(lambda v: K.adjoint(v), data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: does not take images [batch, {pixels}] ({error})") from error
    if (data.shape[:1], back.shape) != ((2,), (2, pixels)):
        raise ValueError(
            f"{name}: makes {list(data.shape)} of images [2, {pixels}], and its adjoint "
            f"{list(back.shape)} of that; expected [2, data] and [2, {pixels}]"
        )
    if type(K) in (Identity, Mask, CircularConvolution, ZeroPaddedConvolution, Diffusion):
        return
    rng = np.random.default_rng(0)
    image, probe = (jnp.asarray(rng.standard_normal(x.shape), x.dtype) for x in (u, data))
    if jnp.iscomplexobj(probe):
        probe = probe + 1j * rng.standard_normal(data.shape).astype(probe.real.dtype)
    with jax.default_matmul_precision("highest"):
        found, sent = operators.derivative(K, image), K.adjoint(probe)
    if checks.traced((K, found, sent)):
        return
    left, right = (
        float(np.vdot(*(np.asarray(x, np.promote_types(x.dtype, float)) for x in pair)).real)
        for pair in ((found, probe), (image, sent))
    )
    scale = float(jnp.linalg.norm(found) * jnp.linalg.norm(probe))
    if not abs(left - right) <= ADJOINT_ERROR * float(jnp.finfo(found.dtype).eps) * scale:
        raise ValueError(
            f"{name}: <K u, v> = {left:.6g} and <u, K^T v> = {right:.6g} for random u and v; its "
            "adjoint has to be the transpose of apply, see `jax.linear_transpose`"
        )
