r"""Fields of experts by contrastive divergence: filters of a prior of images, [CF] 2.3 (2.8), [55].

The negative log-likelihood of images u under exp(-R(u)) / Z has the gradient

$$ \mathbb{E}\, \nabla_\theta R(u; \theta) - \mathbb{E}\, \nabla_\theta R(v; \theta),
\qquad v \sim e^{-R} / Z, $$

and contrastive divergence takes for v what k Langevin steps make of the images u themselves
(Hinton 2002): a few steps tell what the density has too much of where the images are. With the
steps adjusted by Metropolis the gradient vanishes at the density of the images. For one step of a
length h that goes to 0 it is h times that of `score_matching` (Hyvarinen 2007). What is recorded
is R(u) - R(v) per pixel, which has that gradient where v is kept.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks, langevin
from deqbilevel.regularizers import convolutional
from deqbilevel.single_level.base import Descent, Method, descend
from deqbilevel.single_level.experts import LEARNED, prior
from deqbilevel.types import Images, Params


class State(NamedTuple):
    """Params, what moves them, and the key of the next samples."""

    operator: Params
    optimiser: Any
    key: PRNGKeyArray


def contrastive_divergence(
    shape: tuple[int, int],
    optimiser: optax.GradientTransformation,
    key: PRNGKeyArray,
    *,
    steps: int = 1,
    part: float = 1.0,
    adjusted: bool = True,
) -> Method:
    """Contrastive divergence of images of a shape, in [batch, pixels]; the operator are `params`.

    steps: k; part: of their length 1 / (L N^(1/3)), with the Lipschitz constant L of R's gradient
    and N pixels, which is a loose bound: where Metropolis takes nearly all, more is faster.
    Raises: ValueError for numbers that are none, params of another regulariser, and weights that
    vary in space.

    >>> params = single_level.params_of(jnp.ones((1, 1, 1)), phi=potentials.Quadratic(), beta_0=0.0)
    >>> u = 2 * jax.random.normal(jax.random.key(0), (1000, 1))
    >>> key, adam = jax.random.key(1), optax.adam(0.02)
    >>> method = single_level.contrastive_divergence((1, 1), adam, key, steps=3)
    >>> found, _ = single_level.run(method, params, u, 300)
    >>> weight = jnp.exp(found["beta"]) * found["filters"].ravel() ** 2
    >>> print((weight * jnp.mean(u**2)).round(1))  # exp(-weight u^2 / 2) has the variance of u
    [1.]
    """
    checks.key("key", key)
    checks.whole("steps", steps)
    checks.number("part", part, above=0)
    checks.switch("adjusted", adjusted)
    R = convolutional.bank_of(shape)
    pixels = checks.pixels(shape)

    def objective(learned: Params, params: Params, data: tuple[Images, Images]) -> Float[Array, ""]:
        u, v = data
        params = params | learned
        return (jnp.mean(R.energy(u, params)) - jnp.mean(R.energy(v, params))) / pixels

    def init(params: Params, u: Images) -> State:
        checks.rows("data", u, pixels)
        prior(params)
        return State(params, optimiser.init({name: params[name] for name in LEARNED}), key)

    def step(state: State, u: Images) -> tuple[State, Float[Array, ""]]:
        params = state.operator
        begin, move = langevin.transition(
            lambda u, params, f: R.gradient(u, params),
            params,
            None,
            step=part / (R.lipschitz(params) * pixels ** (1 / 3)),
            energy=(lambda u, params, f: R.energy(u, params)) if adjusted else None,
        )
        after, own = jax.random.split(state.key)
        (v, _, _), _ = jax.lax.scan(move, begin(u), jax.random.split(own, steps))
        moved, value = descend(
            Descent(params, state.optimiser), (u, v), objective, LEARNED, optimiser
        )
        return State(*moved, after), value

    return Method(init, step, monotone=False)
