"""What the single-level methods share: steps with an objective, and patches to learn from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.types import Images, Params

Rows = Float[Array, "filters taps"]
"""An analysis operator Omega, a filter a row."""

Patches = Float[Array, "samples taps"]
"""Patches of images, or signals, a row each."""


class Method(NamedTuple):
    """A single-level method. Every State has the field `operator`, what is learned.

    >>> method = single_level.analysis(single_level.CONSTRAINTS["unit_rows"])
    >>> state = method.init(jnp.array([[2.0, 0.0]]), jnp.ones((1, 2)))
    >>> print(state.operator, method.monotone)
    [[1. 0.]] True
    """

    init: Callable[[Any, Any], Any]
    """(operator, data) -> State."""
    step: Callable[[Any, Any], tuple[Any, Float[Array, ""]]]
    """(state, data) -> (State, the objective there)."""
    monotone: bool = True
    """Whether no step increases the objective."""


class Descent(NamedTuple):
    """A State of params, some of whose entries an optimiser moves, and the optimiser's own."""

    operator: Params
    optimiser: Any


def descend(
    state: Descent,
    data: Any,
    objective: Callable[[Params, Params, Any], Float[Array, ""]],
    learned: tuple[str, ...],
    optimiser: optax.GradientTransformation,
) -> tuple[Descent, Float[Array, ""]]:
    """A step on objective(learned entries, params, data), and its value before.

    >>> state = single_level.base.Descent({"w": jnp.array(3.0)}, optax.sgd(0.5).init({"w": 3.0}))
    >>> square = lambda learned, params, x: (learned["w"] - x) ** 2 / 2
    >>> state, before = single_level.base.descend(state, 1.0, square, ("w",), optax.sgd(0.5))
    >>> print(state.operator["w"], before)
    2.0 2.0
    """
    params = state.operator
    own = {name: params[name] for name in learned}
    value, gradient = jax.value_and_grad(objective)(own, params, data)
    updates, moved = optimiser.update(gradient, state.optimiser, own)
    own: Any = optax.apply_updates(own, updates)
    return Descent(params | own, moved), value


def run(method: Method, operator: Any, data: Any, steps: int) -> tuple[Any, Float[Array, " steps"]]:
    """What is learned after so many steps from an operator, and the objective after each.

    Raises: ValueError for fewer than one step.

    >>> X = jnp.array([[1.0, 1.0], [2.0, 2.0]])
    >>> method = single_level.analysis(single_level.CONSTRAINTS["unit_rows"])
    >>> omega, objective = single_level.run(method, jnp.array([[1.0, 0.0]]), X, 50)
    >>> print(jnp.abs(omega), bool(objective[-1] <= objective[0]))  # a difference of neighbours
    [[0.7071 0.7071]] True
    """
    checks.whole("steps", steps)
    state = method.init(operator, data)
    state, objective = jax.lax.scan(lambda state, _: method.step(state, data), state, length=steps)
    return state.operator, objective


def patches(
    images: Images,
    shape: tuple[int, int],
    size: tuple[int, int],
    key: PRNGKeyArray,
    count: int,
    *,
    centred: bool = True,
) -> Patches:
    """Patches of a size at random places of images of a shape; centred: less their means.

    Raises: ValueError for images of another shape, a size beyond them, and a count below 1.

    >>> image = jnp.arange(16.0)[None]
    >>> x = single_level.patches(image, (4, 4), (2, 2), jax.random.key(0), 3)
    >>> print(x[0])
    [-2.5 -1.5  1.5  2.5]
    """
    checks.rows("images", images, checks.pixels(shape))
    for n, most in zip(size, shape, strict=True):
        checks.whole("size", n, most=most)
    checks.whole("count", count)
    keys = jax.random.split(checks.key("key", key), 3)
    which = jax.random.randint(keys[0], (count,), 0, len(images))
    top = jax.random.randint(keys[1], (count,), 0, shape[0] - size[0] + 1)
    left = jax.random.randint(keys[2], (count,), 0, shape[1] - size[1] + 1)
    pictures = jnp.asarray(images).reshape(-1, *shape)

    def cut(i: Array, row: Array, column: Array) -> Array:
        return jax.lax.dynamic_slice(pictures[i], (row, column), size).ravel()

    found = jax.vmap(cut)(which, top, left)
    return found - jnp.mean(found, axis=1, keepdims=True) if centred else found


def thresholded(z: Float[Array, "*shape"], beta: Any) -> Float[Array, "*shape"]:
    """argmin_y (y - z)^2 / 2 + beta [y is not 0]: z where |z| > sqrt(2 beta), and 0 elsewhere.

    >>> print(single_level.thresholded(jnp.array([-3.0, 1.0, 2.5]), 2.0))
    [-3.   0.   2.5]
    """
    return jnp.where(z**2 > 2 * beta, z, 0)
