"""A regulariser of one's own: a function, or a module of flax or equinox, of either kind:

    energy=False    what it returns is N(u), like u: a deep equilibrium model
    energy=True     it is R(u), a number for each image, and N its gradient: bilevel learning

Nothing is known of the Lipschitz constant of N unless it is given: without it `params` need a step
size `tau`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.regularizers.base import Regularizer
from deqbilevel.types import Images, Params


def function(
    shape: tuple[int, int],
    apply: Callable[[Images, Any], Array],
    init: Callable[[PRNGKeyArray], Any],
    *,
    energy: bool = False,
    lipschitz: Callable[[Any], Float[Array, ""]] | None = None,
) -> Regularizer:
    """The regulariser `apply(u, weights)` of u: [batch, pixels], with weights = init(key).

    The weights, any pytree of arrays, are `params["network"]`. lipschitz: weights -> a Lipschitz
    constant of N.
    Raises: ValueError for what is no function, and where apply does not return the images that N
    would, or the numbers that an energy would.

    >>> R = regularizers.function((1, 2), lambda u, w: w * u, lambda key: jnp.array(3.0))
    >>> params = R.init(jax.random.key(0))
    >>> print(R.gradient(jnp.array([[1.0, 2.0]]), params), R.tied)
    [[3. 6.]] False
    """
    pixels = checks.pixels(shape)
    for name, value in {"apply": apply, "init": init}.items():
        checks.function(name, value)
    checks.switch("energy", energy)
    weights = jax.eval_shape(init, jax.random.key(0))
    u = jax.ShapeDtypeStruct((2, pixels), jnp.result_type(float))
    found = jax.eval_shape(apply, u, weights)
    wanted = (2,) if energy else (2, pixels)
    if getattr(found, "shape", None) != wanted:
        raise ValueError(
            f"apply: returns {getattr(found, 'shape', type(found).__name__)} for u {u.shape}; "
            f"expected {wanted}, {'a number for each image' if energy else 'the form of u'}"
        )

    def value(u: Images, params: Params) -> Float[Array, " batch"]:
        return apply(u, params["network"])

    def gradient(u: Images, params: Params) -> Images:
        if not energy:
            return apply(u, params["network"])
        return jax.grad(lambda u: jnp.sum(apply(u, params["network"])))(u)

    def constant(params: Params) -> Float[Array, ""]:
        assert lipschitz is not None
        return lipschitz(params["network"])

    return Regularizer(
        shape,
        lambda key: {"network": init(key)},
        gradient,
        ("network",),
        energy=value if energy else None,
        lipschitz=None if lipschitz is None else constant,
    )


def flax_module(
    shape: tuple[int, int],
    module: nn.Module,
    *,
    energy: bool = False,
    lipschitz: Callable[[Any], Float[Array, ""]] | None = None,
) -> Regularizer:
    """A flax module of pictures [batch, height, width, 1], which returns such pictures, or as an
    energy a number for each.

    Raises: ValueError as `function` does.

    >>> R = regularizers.flax_module((4, 4), layers.Conv(1, (3, 3)))
    >>> params = R.init(jax.random.key(0))
    >>> print(params["network"]["kernel"].shape, R.gradient(jnp.zeros((1, 16)), params).sum())
    (3, 3, 1, 1) 0.0
    """

    def init(key: PRNGKeyArray) -> Any:
        weights = module.init(key, jnp.zeros((1, *shape, 1)))["params"]
        return jax.tree.map(lambda x: jnp.asarray(x, float), dict(weights))

    def apply(u: Images, weights: Any) -> Array:
        found: Any = module.apply({"params": weights}, u.reshape(-1, *shape, 1))
        return found if energy else found.reshape(u.shape)

    return function(shape, apply, init, energy=energy, lipschitz=lipschitz)


def equinox_module(
    shape: tuple[int, int],
    build: Callable[[PRNGKeyArray], Any],
    *,
    energy: bool = False,
    lipschitz: Callable[[Any], Float[Array, ""]] | None = None,
) -> Regularizer:
    """An equinox module `build(key)` of one picture [1, height, width], as equinox has its layers;
    it returns such a picture, or as an energy a number.

    Raises: ValueError as `function` does, and where equinox is not installed.

    >>> import equinox
    >>> R = regularizers.equinox_module((4, 4), lambda key: equinox.nn.Conv2d(1, 1, 1, key=key))
    >>> N = R.gradient(jnp.array([[0.0] * 8 + [1.0] * 8]), R.init(jax.random.key(0)))
    >>> print(N.shape, len(set(N[0].tolist())))  # a pixel's N depends on that pixel alone
    (1, 16) 2
    """
    try:
        import equinox
    except ImportError as error:
        raise ValueError("equinox: not installed; `pip install equinox`") from error

    def init(key: PRNGKeyArray) -> Any:
        return equinox.filter(build(key), equinox.is_array)

    shapes = equinox.filter_eval_shape(build, jax.random.key(0))
    static = equinox.filter(shapes, lambda x: isinstance(x, jax.ShapeDtypeStruct), inverse=True)

    def apply(u: Images, weights: Any) -> Array:
        module = equinox.combine(weights, static)
        found = jax.vmap(module)(u.reshape(-1, 1, *shape))
        return found.reshape(len(u)) if energy else found.reshape(u.shape)

    return function(shape, apply, init, energy=energy, lipschitz=lipschitz)
