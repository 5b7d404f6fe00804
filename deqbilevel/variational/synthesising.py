r"""Synthesis: images that are few atoms of a dictionary D: [pixels, atoms], [CF] 2.2.

    (2.2)   x = D z,  min_z 1/2 ||K D z - f||^2 + w ||z||_1
    (2.3)   min_{x, z} 1/2 ||x - f||^2 + beta/2 ||x - D z||^2 + w ||z||_1
    (2.4)   min_z ||D z - f||^2,  z with at most kappa entries that are not 0

(2.2) is a `Problem` with K D for its operator and Omega = I. So every solver of problems solves it,
and through `differentiable` D is learned as a leaf of that operator. For D = Omega^(-1) it is the
analysis problem with Omega.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks, operators
from deqbilevel.operators import Identity, Operator
from deqbilevel.types import FixedPointMap, Params
from deqbilevel.variational.base import Analysis, Terms, Unknowns
from deqbilevel.variational.problems import Data, Problem

Dictionary = Float[Array, "pixels atoms"]
Coefficients = Float[Array, "batch atoms"]


@lru_cache
def coefficients(atoms: int) -> Analysis:
    """Omega = I of so many coefficients: R(z) = w ||z||_1.

    >>> print(variational.coefficients(2).value(jnp.array([[3.0, -4.0]]), (0.5,)))
    [3.5]
    """

    def apply(z: Unknowns) -> Terms:
        return (z[:, None],)

    shape = (1, checks.whole("atoms", atoms))
    return Analysis(shape, atoms, apply, (1.0,), together=False, orthonormal=True)


def synthesis(K: Operator, D: Dictionary) -> Problem:
    """(2.2), whose unknowns are the coefficients z; the image is z @ D.T.

    Its operator is the matrix D for K = I, else the composition of K and that matrix.
    Raises: ValueError for a K that is not linear.

    >>> problem = variational.synthesis(operators.Identity(), jnp.eye(2))
    >>> solve = variational.differentiable(variational.proximal_gradient)
    >>> print(solve(problem, (1.0,), jnp.array([[3.0, 0.5]]))[0])  # a soft threshold
    [[2. 0.]]
    """
    matrix = operators.Matrix(D)
    whole = matrix if isinstance(K, Identity) else operators.compose(K, matrix)
    return Problem(whole, coefficients(D.shape[1]))


def relaxed(z: Coefficients, D: Dictionary, f: Data, beta: Any) -> Float[Array, "batch pixels"]:
    """The image x of (2.3), (f + beta D z) / (1 + beta), where z solves (2.2) for K = I with the
    weight w (1 + beta) / beta.

    Raises: ValueError for a beta that is not above 0.

    >>> z, f = jnp.array([[2.0]]), jnp.array([[5.0]])
    >>> print(variational.synthesising.relaxed(z, jnp.eye(1), f, 2.0))
    [[3.]]
    """
    checks.number("beta", beta, above=0)
    return (f + beta * z @ D.T) / (1 + beta)


def largest(z: Coefficients, kappa: int) -> Coefficients:
    """The kappa entries of each row that are largest in modulus, and 0 for the others: what solves
    (2.4) for an orthonormal D, of z = D^T f.

    Raises: ValueError for a kappa below 1, or above the number of entries.

    >>> print(variational.synthesising.largest(jnp.array([[1.0, -3.0, 2.0]]), 2))
    [[ 0. -3.  2.]]
    """
    checks.whole("kappa", kappa, most=z.shape[1])
    _, kept = jax.lax.top_k(jnp.abs(z), kappa)
    rows = jnp.arange(len(z))[:, None]
    return jnp.zeros_like(z).at[rows, kept].set(z[rows, kept])


def hard_threshold_step(K: Operator, kappa: int) -> FixedPointMap:
    """z -> the `largest` of z + tau D^T K^T (f - K D z): iterative hard thresholding for (2.4).

    A map G(z, params, f) for any solver and hypergradient, with the dictionary as `params["D"]`. Of
    its fixed points, minimisers on their own support, the one that is reached depends on the start.
    Blumensath and Davies, J. Fourier Anal. Appl. 14 (2008); tau < 1 / ||K D||^2.
    Raises: ValueError for a kappa that is none, and params without tau and D.

    >>> G = variational.synthesising.hard_threshold_step(operators.Identity(), 1)
    >>> params, f = {"tau": 1.0, "D": jnp.eye(2)}, jnp.array([[3.0, 0.5]])
    >>> print(G(jnp.zeros((1, 2)), params, f))
    [[3. 0.]]
    """

    def G(u: Coefficients, params: Params, f: Data) -> Coefficients:
        checks.entries("params", params, ("tau", "D"))
        D = params["D"]
        pushed = K.adjoint(f - K.apply(u @ D.T)) @ D
        return largest(u + params["tau"] * pushed, kappa)

    return G
