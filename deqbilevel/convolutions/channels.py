"""Convolutions of images with many channels that are as fast in a loop as outside.

    y[n, p, o] = sum_{r, i} x[n, p + r, i] k[r, i, o]

XLA's CPU compiler has a fast convolution for arrays in this order of axes alone, and brings others
into it only outside of loops. JAX writes the transposes of `conv_general_dilated` in other orders:
in the loop of a solver, a vector-Jacobian product of 16 channels then takes ten times what the
convolution takes. Both transposes are such sums as well,

    of x:   the sum over the padded y, with the flipped kernel, inputs and outputs exchanged
    of k:   the sum over x as the images, one for each of its channels, with y as the kernel

and a primitive whose transposes are written so stays in that order however often it is derived.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from deqbilevel.checks import known
from deqbilevel.convolutions.banks import PAD, Boundary

ORDER = ("NHWC", "HWIO", "NHWC")
"""The axes of images, kernels and what comes of them, as XLA's CPU compiler wants them."""

SMALL_TAPS = 49
"""Up to so many taps a kernel of one input or one output is not left to XLA's convolution."""

SMALL_OUTPUTS = 32
"""Likewise up to so many outputs of one input."""

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Zeros above and below, left and right."""
Features = Float[Array, "batch height width inputs"]
Kernel = Float[Array, "rows columns inputs outputs"]
"""Images of many channels, and what they are convolved with."""


def convolve(
    x: Features, kernel: Kernel, boundary: Boundary = "zero"
) -> Float[Array, "batch height width outputs"]:
    """The images convolved in the sense of networks, without flipping: `scipy.ndimage.correlate`,
    summed over the inputs, centred at (rows - 1) // 2 and (columns - 1) // 2.

    Beyond its border an image is continued as `boundary` says: "circular", "zero", or "reflecting"
    with the outermost pixels repeated. It can be differentiated in both arguments, in forward and
    reverse mode and any number of times, and vmapped.
    Raises: ValueError for another boundary, and for arrays that are not of these shapes.

    >>> x = jnp.arange(4.0).reshape(1, 1, 4, 1)  # [batch, height, width, inputs]
    >>> kernel = jnp.array([1.0, 0.0, 10.0]).reshape(1, 3, 1, 1)
    >>> print(convolutions.channels.convolve(x, kernel).ravel())
    [10. 20. 31.  2.]
    """
    known("boundary", boundary, PAD)
    if jnp.ndim(x) != 4 or jnp.ndim(kernel) != 4 or 0 in kernel.shape[:2]:
        raise ValueError(
            f"x {list(jnp.shape(x))} and kernel {list(jnp.shape(kernel))}: expected [batch, height,"
            " width, inputs] and [rows, columns, inputs, outputs]"
        )
    if x.shape[3] != kernel.shape[2]:
        raise ValueError(
            f"kernel {list(kernel.shape)}: takes {kernel.shape[2]} inputs, and x {list(x.shape)} "
            f"has {x.shape[3]}; both are the third from last and the last axis"
        )
    return padded(x, kernel, PAD[boundary])


def padded(x: Features, kernel: Kernel, mode: str | None) -> Array:
    """The same with a mode of `jnp.pad` for the border; None: only where the kernel lies inside.

    >>> x = jnp.arange(4.0).reshape(1, 1, 4, 1)
    >>> print(convolutions.channels.padded(x, jnp.ones((1, 3, 1, 1)), "wrap").ravel())
    [4. 3. 6. 5.]
    """
    rows, columns = (((size - 1) // 2, size // 2) for size in kernel.shape[:2])
    if mode == "constant":
        return valid(x, kernel, (rows, columns))
    margins = ((0, 0), rows, columns, (0, 0))
    return valid(x if mode is None else jnp.pad(x, margins, mode=mode), kernel)


def valid(
    x: Features, kernel: Kernel, pads: Pads = ((0, 0), (0, 0))
) -> Float[Array, "batch valid_height valid_width outputs"]:
    """The sum above where the kernel lies within x, with that many zeros around it.

    >>> x = jnp.arange(4.0).reshape(1, 1, 4, 1)
    >>> print(convolutions.channels.valid(x, jnp.ones((1, 3, 1, 1))).ravel())
    [3. 6.]
    """
    dtype = jnp.result_type(x, kernel)
    asked = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return _convolution.bind(
        jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), pads=pads, precision=asked
    )


# ---- the primitive

_convolution = Primitive("convolve")


def centred(kernel: Kernel) -> Kernel:
    """Filters less their means, so that each sums to zero.

    >>> print(convolutions.channels.centred(jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)).ravel())
    [-1.  1.]
    """
    return kernel - jnp.mean(kernel, axis=(0, 1))


def _xla(x: Array, kernel: Array, *, pads: Pads, precision: Any) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), pads, dimension_numbers=ORDER, precision=precision
    )


def _on_cpu(x: Array, kernel: Array, *, pads: Pads, precision: Any) -> Array:
    """The fastest way as measured on two cores: with one input a product of each pixel with each
    tap, with one output a product of matrices before the shifts, else XLA's convolution."""
    rows, columns, inputs, outputs = kernel.shape
    few = rows * columns <= SMALL_TAPS
    one_input = few and inputs == 1 and outputs <= SMALL_OUTPUTS
    if not (one_input or (few and outputs == 1)):
        return _xla(x, kernel, pads=pads, precision=precision)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    if not one_input:
        taps = kernel[..., 0].reshape(-1, inputs).T
        x = jnp.matmul(x.reshape(-1, inputs), taps, precision=precision).reshape(*x.shape[:3], -1)
    total = jnp.zeros((), x.dtype)
    for r in range(rows):
        for c in range(columns):
            seen = x[:, r : r + height, c : c + width]
            tap = r * columns + c
            total = total + (seen * kernel[r, c] if one_input else seen[..., tap : tap + 1])
    return total


def _form(x: Any, kernel: Any, *, pads: Pads, precision: Any) -> Any:
    form = jax.eval_shape(
        partial(_xla, pads=pads, precision=precision), *(_shape(a) for a in (x, kernel))
    )
    return ShapedArray(form.shape, form.dtype)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _back_to_x(y: Array, x: Any, kernel: Array, *, pads: Pads, precision: Any) -> Array:
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return _convolution.bind(y, turned, pads=_full(kernel.shape, pads), precision=precision)


def _back_to_kernel(y: Array, x: Array, kernel: Any, *, pads: Pads, precision: Any) -> Array:
    images, taps, flip = x, y, False
    if y.shape[3] < x.shape[3]:  # fewer images in the one that is not the kernel
        images, taps, flip, pads = y, x, True, _full(kernel.aval.shape, pads)
    found = _convolution.bind(
        images.transpose(3, 1, 2, 0), taps.transpose(1, 2, 0, 3), pads=pads, precision=precision
    )
    return found[:, ::-1, ::-1].transpose(1, 2, 3, 0) if flip else found.transpose(1, 2, 0, 3)


def _full(kernel: tuple[int, ...], pads: Pads) -> Pads:
    """The zeros around y where x had `pads`."""
    (top, bottom), (left, right) = pads
    rows, columns = kernel[0] - 1, kernel[1] - 1
    return (rows - top, rows - bottom), (columns - left, columns - right)


def _lanes(arguments: Any, axes: Any, *, pads: Pads, precision: Any) -> tuple[Array, int]:
    """Lanes of images are more images, lanes of kernels more outputs. Of both, one convolution
    after the other: XLA's for groups of channels take eight times as long."""
    x, kernel = (
        a if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arguments, axes, strict=True)
    )
    one = partial(_convolution.bind, pads=pads, precision=precision)
    if axes[1] is None:
        y = one(x.reshape(-1, *x.shape[2:]), kernel)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    if axes[0] is None:
        lanes, outputs = kernel.shape[0], kernel.shape[-1]
        y = one(x, jnp.moveaxis(kernel, 0, 3).reshape(*kernel.shape[1:4], -1))
        return y.reshape(*y.shape[:3], lanes, outputs), 3
    return jax.lax.map(lambda pair: one(*pair), (x, kernel)), 0


_convolution.def_impl(_xla)
_convolution.def_abstract_eval(_form)
ad.defbilinear(_convolution, _back_to_x, _back_to_kernel)
batching.primitive_batchers[_convolution] = _lanes
mlir.register_lowering(_convolution, mlir.lower_fun(_xla, multiple_results=False))
mlir.register_lowering(
    _convolution, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu"
)
