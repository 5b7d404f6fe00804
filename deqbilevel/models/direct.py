"""A lower level that is linear in u, solved by one factorisation for all images and both solves."""

from typing import Any

import jax
from jaxtyping import Array

from deqbilevel import maps, operators
from deqbilevel.fidelities import squares
from deqbilevel.models import matrices
from deqbilevel.models.base import Model
from deqbilevel.operators import Operator
from deqbilevel.regularizers import Regularizer
from deqbilevel.types import FixedPointMap, Images, Params


def direct(model: Model) -> Model:
    """The model whose map is a step of Newton's method, for an N that is affine in u,

        G(u) = u - H^{-1} (lam K^T (K u - f) + gamma N(u)),    H = lam K^T K + gamma N'

    The fixed points are those of the gradient step, and also there where that does not contract.
    dG/du is 0 but for rounding, so that a solver ends at its second evaluation and an adjoint at
    its first: w = g. The factors of H are made once for what `Model.completed` returns and serve
    every solve with it; like `inverse` they are constants of differentiation. In evaluations of a
    gradient step they cost `matrices.evaluations`, which `Model.solve` adds to those of its Info;
    one of this map is half as long again. For [REB]'s 784 pixels and features and batches of 100
    that is 6, and 3 forward and 2 backward.

    Raises: ValueError for a model whose N is not affine, by name for an activation other than the
    identity when the map meets it, and for one that is nonnegative, without squares, or with a K
    that is not linear.

    >>> model, f = models.build("denoising", "deq", (1, 2)), jnp.array([[1.0, 2.0]])
    >>> scalars = models.hyperparameters(tau=9.0, gamma=1.0, activation="identity")
    >>> params = model.init(jax.random.key(0)) | scalars  # a step that is too long
    >>> u, info = models.direct(model).reconstruct(solvers.picard(), params, f)
    >>> print(bool(info.converged), bool(abs(model.stationarity()(u, params, f)).max() < 1e-5))
    True True
    """
    if model.factors is not None:
        return model
    K, R = model.K, model.R
    if R.jacobian is None or R.told is not None:
        raise ValueError(
            "direct: the regulariser of this model is not affine in u; expected regularizers.dense "
            "with activation identity, or take a solver such as anderson"
        )
    if model.nonnegative or model.D is not squares or not operators.linear(K):
        raise ValueError(
            "direct: the lower level of this model is not linear in u; expected squares, a linear "
            "K and u of any sign, or take a solver such as anderson"
        )
    return model._replace(G=_newton_step(K, R), factors=lambda params: _factors(K, R, params))


def _factors(K: Operator, R: Regularizer, params: Params) -> Any:
    return jax.lax.stop_gradient(matrices.factors(K, R, params))


def _newton_step(K: Operator, R: Regularizer) -> FixedPointMap:
    F = maps.stationarity(K, R.gradient)

    def G(u: Images, params: Params, f: Array) -> Images:
        return u - params["factors"].solve(F(u, params, f))

    return G
