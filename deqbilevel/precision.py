"""The precision of products, and the dtype of numbers.

A GPU multiplies float32 matrices in TF32 unless told otherwise, with a relative error of 1e-3: a
solve to a smaller residual then never ends. Products and convolutions take their precision from
JAX's context (`jax.default_matmul_precision`) at the time that they are traced. So it is set around
the functions that are traced, in few places: `at` the precision of a `Setting` around a training
step and a solver, `highest` around what has no setting. A CPU computes in float32 whatever is asked
for, and so does everything here where the weights are float64. FFTs have no such choice.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from deqbilevel import checks
from deqbilevel.types import Params

PRECISIONS = ("highest", "tensorfloat32")
"""float32 in full, and with the 10 bits of TF32 where the machine has it: several times as fast."""

Function = TypeVar("Function", bound=Callable[..., Any])


def at(precision: str, function: Function) -> Function:
    """`function`, whose products have this precision wherever it is called or traced.

    Raises: ValueError for a precision that is none of `PRECISIONS`.

    >>> precise = precision.at("highest", lambda: jax.config.jax_default_matmul_precision)
    >>> print(precise())
    highest
    """
    checks.known("precision", precision, PRECISIONS)

    @wraps(function)
    def precisely(*arguments: Any, **options: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*arguments, **options)

    return precisely  # type: ignore[return-value]


def highest(function: Function) -> Function:
    """`function` in full precision, unless the context that it is called in names another.

    >>> precise = precision.highest(lambda: jax.config.jax_default_matmul_precision)
    >>> with jax.default_matmul_precision("tensorfloat32"):
    ...     print(precise())
    tensorfloat32
    >>> print(precise())
    highest
    """

    @wraps(function)
    def precisely(*arguments: Any, **options: Any) -> Any:
        asked: Any = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        with jax.default_matmul_precision("highest" if asked is None else asked):
            return function(*arguments, **options)

    return precisely  # type: ignore[return-value]


@contextlib.contextmanager
def float64(wanted: bool = True) -> Iterator[None]:
    """Numbers are in float64 meanwhile, or in float32; for all threads, unlike `jax.enable_x64`.

    >>> with precision.float64():
    ...     print(jnp.ones(1).dtype)
    float64
    """
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", wanted)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def dtype_of(params: Params) -> Any:
    """The dtype of the weights: of the arrays in `params`, or of its scalars where there are none.

    Scalars do not decide, so that float32 weights stay float32 where JAX makes float64 scalars.

    >>> print(precision.dtype_of({"A": jnp.ones((2, 2), jnp.float16), "tau": 0.5}))
    float16
    """
    leaves = [x for x in jax.tree.leaves(params) if _floating(x)]
    arrays = [x for x in leaves if jnp.ndim(x)] or leaves
    return jnp.result_type(*arrays) if arrays else jnp.result_type(float)


def as_weights(params: Params, *arrays: Any) -> tuple[Any, ...]:
    """`(params, *arrays)`, all that is floating in the dtype of the weights, and what is complex in
    the complex one of that precision.

    >>> params, f = precision.as_weights({"A": jnp.ones((2, 2))}, np.ones((1, 2)))  # of float64
    >>> print(f.dtype)
    float32
    """
    dtype = dtype_of(params)

    def cast(x: Any) -> Any:
        if jnp.iscomplexobj(x):
            return jnp.asarray(x, jnp.result_type(dtype, jnp.complex64))
        return jnp.asarray(x, dtype) if _floating(x) else x

    return jax.tree.map(cast, (params, *arrays))


def _floating(x: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", None) or jnp.result_type(x), jnp.floating)
