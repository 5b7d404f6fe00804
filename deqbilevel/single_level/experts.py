r"""Fields of experts by score matching: filters of a prior of images, [CF] 2.3 (2.8), [55].

The density exp(-R(u)) / Z of images, with R of `regularizers.convolutional`, is fitted without its
Z, which nobody knows, through the score, by the estimate of Hyvarinen (2005)

$$ \min_{c, \beta} \frac1N \mathbb{E} \Big[ \tfrac12 \|\nabla R(u)\|^2 - \Delta R(u) \Big], \qquad
\Delta R = \sum_k e^{\beta_0 + \beta_k} \|c_k\|^2\, 1'\varphi''(c_k * u) $$

of images of N pixels that are continued circularly. It is half the mean squared distance of the two
scores, up to a constant of the images. What comes out is `params` of that regulariser: a start for
bilevel learning, where exp(-R) stands beside exp(-||K u - f||^2 / (2 sigma^2)), so that lam = 1
goes with gamma = sigma^2.
"""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.regularizers import convolutional
from deqbilevel.single_level.base import Descent, Method, descend
from deqbilevel.types import Images, Params

LEARNED = ("filters", "beta")


def prior(params: Params) -> Params:
    """`params` of the convolutional regulariser whose weights are the same at every pixel.

    Raises: ValueError for others.

    >>> print(sorted(single_level.experts.prior(single_level.params_of(jnp.ones((1, 1, 2))))))
    ['beta', 'beta_0', 'filters', 'phi']
    """
    if {"field", "network"} & set(convolutional.require(params)):
        raise ValueError("params: weights that vary in space have no one prior; leave them out")
    return params


def score_matching(shape: tuple[int, int], optimiser: optax.GradientTransformation) -> Method:
    """Score matching of images of a shape, in [batch, pixels]; the operator are `params`.

    phi has to be bent twice, such as `potentials.LogSum`, and images need a little noise: where
    they have one value exactly, a density of any height fits.
    Raises: ValueError for params of another regulariser, a potential that is not smooth, and
    weights that vary in space.

    >>> params = single_level.params_of(jnp.ones((1, 1, 1)), phi=potentials.Quadratic(), beta_0=0.0)
    >>> u = 2 * jax.random.normal(jax.random.key(0), (1, 1000))
    >>> method = single_level.score_matching((1, 1000), optax.adam(0.05))
    >>> found, _ = single_level.run(method, params, u, 200)
    >>> weight = jnp.exp(found["beta"]) * found["filters"].ravel() ** 2
    >>> print((weight * jnp.mean(u**2)).round(3))  # exp(-weight u^2 / 2) has the variance of u
    [1.]
    """
    R = convolutional.bank_of(shape)

    def objective(learned: Params, params: Params, u: Images) -> Float[Array, ""]:
        params = params | learned
        c, phi = convolutional.filters(params), params["phi"]
        z = R.bank.apply(c, u)
        sizes = convolutional.weights(params) * jnp.sum(c**2, axis=(1, 2))
        laplacian = sizes @ jnp.sum(phi.second_derivative(z), axis=(1, 2, 3))
        return (jnp.sum(R.gradient(u, params) ** 2) / 2 - laplacian) / u.size

    def init(params: Params, u: Images) -> Descent:
        checks.rows("data", u, checks.pixels(shape))
        phi: Any = prior(params)["phi"]
        if not phi.twice_differentiable:
            raise ValueError(f"phi={phi!r}: not smooth; score matching takes one such as LogSum")
        return Descent(params, optimiser.init({name: params[name] for name in LEARNED}))

    def step(state: Descent, u: Images) -> tuple[Descent, Float[Array, ""]]:
        return descend(state, u, objective, LEARNED, optimiser)

    return Method(init, step, monotone=False)
