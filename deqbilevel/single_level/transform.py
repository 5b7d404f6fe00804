r"""Transform learning, [CF] (2.11): a square operator, kept from zero and well conditioned.

$$ \min_{\Omega, Z} \frac1J \sum_j \Big( \tfrac12 \|\Omega x_j - z_j\|^2 + \beta \|z_j\|_0 \Big) +
\lambda \Big( \tfrac{\xi}{2} \|\Omega\|_F^2 - \log |\det \Omega| \Big) $$

Both steps are exact, so that the objective never rises. The best z_j is Omega x_j where that is
above sqrt(2 beta), and 0 elsewhere. With X^T X / J + lam xi I = L L^T, where x_j are the rows of X,
and the singular values s of L^{-1} X^T Z / J = Q S R^T, the best transform is

    Omega = R diag((s + sqrt(s^2 + 4 lam)) / 2) Q^T L^{-1}
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.single_level.base import Method, Patches, Rows, thresholded


class State(NamedTuple):
    """Omega, square."""

    operator: Rows


def transform(beta: Any, lam: Any, *, xi: Any = 1.0) -> Method:
    """Transform learning, with the weight `lam` of what keeps Omega regular.

    xi: of the Frobenius norm: what lam alone asks for has singular values 1 / sqrt(xi).
    Raises: ValueError for weights that are not above 0, and an operator that is not square.

    >>> X = jnp.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    >>> method = single_level.transform(beta=1.5, lam=0.1)
    >>> omega, objective = single_level.run(method, jnp.eye(2), X, 20)
    >>> print(bool(objective[-1] < objective[0] / 2), bool(jnp.linalg.det(omega) > 0.05))
    True True
    """
    for name, value in {"beta": beta, "lam": lam, "xi": xi}.items():
        checks.one(name, value, above=0)

    def objective(omega: Rows, X: Patches) -> Float[Array, ""]:
        """At the best codes."""
        sparse = jnp.sum(jnp.minimum((X @ omega.T) ** 2 / 2, beta)) / len(X)
        regular = xi / 2 * jnp.sum(omega**2) - jnp.linalg.slogdet(omega)[1]
        return sparse + lam * regular

    def init(omega: Rows, X: Patches) -> State:
        checks.rows("data", X, omega.shape[1])
        checks.shaped("operator", omega, (X.shape[1], X.shape[1]))
        return State(omega)

    def step(state: State, X: Patches) -> tuple[State, Float[Array, ""]]:
        z = thresholded(X @ state.operator.T, beta)
        gram = X.T @ X / len(X) + lam * xi * jnp.eye(X.shape[1], dtype=X.dtype)
        L = jnp.linalg.cholesky(gram)
        correlated = solve_triangular(L, X.T @ z / len(X), lower=True)
        Q, s, R = jnp.linalg.svd(correlated)
        scaled = (R.T * (s + jnp.sqrt(s**2 + 4 * lam)) / 2) @ Q.T
        omega = solve_triangular(L, scaled.T, lower=True, trans="T").T
        return State(omega), objective(omega, X)

    return Method(init, step)
