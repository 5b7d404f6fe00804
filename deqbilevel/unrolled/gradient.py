r"""Gradient descent with learned steps, momenta and regularisers, [CF] 7.1:

    u_{t+1} = u_t - alpha_t (lam K~'D'(K u_t; f) + gamma N(u_t; theta_t)) + mu_t (u_t - u_{t-1})

for any regulariser N. K~ is K, or learned. Tied, theta is the same in all iterations, and where
mu = 0 and alpha is constant this is T gradient steps of the lower level; untied each has its own.

`params["layers"]` holds `log_step`: [T], log alpha_t, `momentum`: [T], mu_t, and what is untied.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from deqbilevel import checks, fidelities, models, operators
from deqbilevel.fidelities import Fidelity
from deqbilevel.models import Model
from deqbilevel.operators import Operator
from deqbilevel.operators.base import require_linear
from deqbilevel.regularizers import Regularizer
from deqbilevel.regularizers.base import unchanged
from deqbilevel.types import Images, Params
from deqbilevel.unrolled.base import LAYERS, Unrolled, repeated, shared

OWN = ("log_step", "momentum", "adjoint")
"""What params have beside those of the regulariser."""


def gradient(
    K: Operator,
    R: Regularizer,
    *,
    iterations: int = 10,
    tied: bool = True,
    step: float | None = None,
    learned_adjoint: bool = False,
    D: Fidelity = fidelities.squares,
    given: Mapping[str, Any] | None = None,
) -> Unrolled:
    """T iterations from `models.assemble`'s start.

    step: alpha at the start; None: 1 / L of the params that `init` draws. learned_adjoint: K~ is an
    operator like K, `params["adjoint"]`, that starts as K. given: params beside those of R.init,
    such as lam, gamma and the potential of a dense one, or learned ones to start from.
    Raises: ValueError for numbers that are none, a regulariser of no known Lipschitz constant
    without a step, and a learned adjoint of a K that is not linear or has no numbers to learn.

    >>> K = operators.identity((1, 2))
    >>> R = regularizers.function((1, 2), lambda u, w: w * u, lambda key: jnp.zeros(()))
    >>> net = unrolled.gradient(K, R, iterations=2, step=0.5, tied=False)
    >>> params = net.init(jax.random.key(0))
    >>> print(net.learned, params["layers"]["network"])
    ('layers',) [0. 0.]
    >>> print(net.reconstruct(params, jnp.array([[1.0, 2.0]])))  # N = 0: from f to f
    [[1. 2.]]
    """
    checks.whole("iterations", iterations)
    checks.switch("tied", tied)
    if step is not None:
        checks.number("step", step, above=0)
    own = () if tied else R.learned
    kept = () if tied or R.refresh is unchanged else tuple(sorted(_names(R) - set(R.learned)))
    fixed = dict(given or {})
    model = models.assemble(K, R, D=D)
    if checks.switch("learned_adjoint", learned_adjoint):
        _check_adjoint(K)

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        params = R.init(key) | fixed
        alpha = 1 / model.lipschitz(params) if step is None else step
        layers: dict[str, Any] = {"log_step": jnp.log(alpha), "momentum": jnp.zeros(())}
        if learned_adjoint:
            (params if tied else layers)["adjoint"] = K
        layers |= {name: params.pop(name) for name in (*own, *kept)}
        return params | {LAYERS: repeated(layers, iterations)}

    def start(params: Params, f: Array) -> tuple[Images, Images]:
        return (u0 := model.start(f)), u0

    def layer(state: tuple[Images, Images], at: Params, f: Array) -> tuple[Images, Images]:
        u, before = state
        at = at | {name: jax.lax.stop_gradient(at[name]) for name in kept}
        alpha, mu = jnp.exp(at["log_step"]), at["momentum"]
        return u - alpha * _direction(model, u, at, f) + mu * (u - before), u

    names = (*R.learned, *(("adjoint",) if learned_adjoint else ())) if tied else ()
    return Unrolled(
        K,
        R.shape,
        init,
        (*names, LAYERS),
        start,
        layer,
        lambda state, params: state[0],
        D,
        R.refresh if tied else partial(_refreshed, R, (*own, *kept)),
    )


def _direction(model: Model, u: Images, at: Params, f: Array) -> Images:
    """lam K~'D'(K u; f) + gamma N(u)."""
    params = {name: x for name, x in at.items() if name not in OWN}
    if "adjoint" not in at:
        return model.stationarity()(u, params, f)
    params = model.told(models.with_scalars(params), f)
    residual = model.D.gradient(operators.of(model.K, params).apply(u), f)
    # Of what is learned the leaves alone, so that images of another shape are reconstructed too.
    adjoint = jax.tree.unflatten(jax.tree.structure(model.K), jax.tree.leaves(at["adjoint"]))
    return params["lam"] * adjoint.adjoint(residual) + params["gamma"] * model.N(u, params)


def _names(R: Regularizer) -> set[str]:
    return set(jax.eval_shape(R.init, jax.random.key(0)))


def _refreshed(R: Regularizer, names: tuple[str, ...], params: Params) -> Params:
    """`refresh` of each iteration by itself."""
    if R.refresh is unchanged:
        return params

    def one(layer: Params) -> Params:
        found = R.refresh(shared(params) | layer)
        return layer | {name: found[name] for name in names}

    return params | {LAYERS: jax.vmap(one)(params[LAYERS])}


def _check_adjoint(K: Operator) -> None:
    require_linear("learned_adjoint", K)
    leaves = jax.tree.leaves(K)
    if not leaves or not all(jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in leaves):
        raise ValueError(
            f"learned_adjoint: a {type(K).__name__} has no real numbers of its own to learn; leave "
            "it out, or take a matrix or a blur"
        )
