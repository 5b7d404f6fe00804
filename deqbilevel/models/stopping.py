"""The discrepancy principle: a lower level that stops where its residual is that of the noise."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact

from deqbilevel import checks, fidelities, operators, precision
from deqbilevel.models.base import Model
from deqbilevel.solvers import until
from deqbilevel.types import Images, Info, Params, Solver


def until_noise(
    model: Model,
    solver: Solver,
    params: Params,
    f: Inexact[Array, "batch data"],
    times: float = 1.0,
) -> tuple[Images, Info]:
    """The first iterate from zero whose residual is no larger than the noise, (u_k, info):

        ||K u_k - f||^2 <= times M sigma^2,    sigma = params["noise"], of M data

    Morozov's principle, [CF] 3.1, for the lower level: it regularises where gamma is small or 0. A
    larger residual at the fixed point never comes down to it, and u* is returned. Complex data has
    noise in both parts. u_k depends on params by the count of its iterations, which jumps, and is
    no fixed point, so there is no hypergradient.
    Raises: ValueError for another fidelity than squares, params without noise, one of 0, what
    `Model.reconstruct` refuses, and where it is differentiated.

    >>> model, f = models.build("denoising", "bilevel", (1, 2)), jnp.array([[1.0, 2.0]])
    >>> scalars = models.hyperparameters(tau=0.5, gamma=0.0, activation="identity", noise=0.25)
    >>> params = model.init(jax.random.key(0)) | scalars  # u_k = (1 - 0.5^k) f
    >>> u, info = models.until_noise(model, solvers.picard(), params, f)
    >>> print(u, info.evaluations)  # 5 * 0.25^3 <= 2 * 0.25^2
    [[0.875 1.75 ]] 3
    """
    if model.D is not fidelities.squares:
        raise ValueError(
            "until_noise: of normal noise, and the data fidelity stands for another; take squares"
        )
    model.check(f)
    checks.entries("params", params, ("noise",))
    checks.one("noise", params["noise"], above=0)
    checks.one("times", times, above=0)
    K = operators.of(model.K, params)
    parts = 2 if jnp.iscomplexobj(f) else 1
    _, f = precision.as_weights(params, f)
    most = times * parts * f.shape[-1] * jnp.asarray(params["noise"], f.real.dtype) ** 2

    def enough(u: Images) -> Bool[Array, " batch"]:
        return jnp.sum(jnp.abs(K.apply(u) - f) ** 2, axis=-1) <= most

    from_zero = model._replace(start=lambda f: jnp.zeros_like(model.start(f)))
    u, info = from_zero.reconstruct(until(solver, enough), params, f)
    return _without_derivative(u), info


@jax.custom_jvp
def _without_derivative(u: Images) -> Images:
    return u


@_without_derivative.defjvp
def _refused(primals: Any, tangents: Any) -> Any:
    raise ValueError(
        "until_noise: its last iterate is no fixed point, and has no hypergradient; learn with the "
        "lower level solved, and stop early where pictures are reconstructed"
    )
