"""Hypergradients from samples, [CF] section 5: what the stochastic upper-level methods share.

Where H = grad_xx Phi, H_1, H_2, ... are the Hessians of samples of their own, b = grad_x l and
0 < eta <= 1/L, two estimates of v = H^{-1} b are

    series     v = eta sum_{q=0}^{Q} r_q,    r_q = (I - eta H_q) ... (I - eta H_1) b   stocBiO [116]
    product    v = eta Q r_p,                p uniform on 0, ..., Q - 1                TTSA, BSA

Over samples both have the mean of a Neumann series, of Q + 1 terms and of Q: they are biased by
(I - eta H)^{Q+1} H^{-1} b and (I - eta H)^Q H^{-1} b. The product has by far the larger variance,
and takes (Q - 1) / 2 products with H on average instead of Q. A larger eta, up to 2/L, may have the
smaller bias and adds to the variance. The hypergradient is grad_gamma l - J^T v.

A key determines all that is drawn, p included: one key at two points is the same sample there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Tree = TypeVar("Tree")

Product = Callable[[Array, PRNGKeyArray], Array]
"""(v, key) -> H v, with the Hessian of the sample that belongs to the key."""


class Solution(NamedTuple):
    """An estimate of H^{-1} b."""

    v: Array
    products: Any
    """Products with H, each of a sample of its own."""
    residual: Any
    """norm(r_Q) / norm(b): the residual of a series without its last term; NaN of a product."""


class Estimate(NamedTuple):
    """An estimate of the hypergradient: at x, which need not be a minimiser."""

    gradient: Any
    """grad_gamma l - J^T v, like gamma."""
    loss: Float[Array, ""]
    products: Any
    residual: Any


def neumann(product: Product, b: Array, key: PRNGKeyArray, *, terms: Any, step: Any) -> Solution:
    """The series: Q = `terms` products with H, each of a fresh sample, and so many more terms."""

    def body(q: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        r, total = carry
        r = _contract(product, r, jax.random.fold_in(key, q), step)
        return r, total + r

    r, total = jax.lax.fori_loop(0, terms, body, (b, b))
    size = jnp.linalg.norm(b.ravel())
    residual = jnp.linalg.norm(r.ravel()) / jnp.where(size == 0, 1, size)
    return Solution(step * total, terms, residual)


def randomised_product(
    product: Product, b: Array, key: PRNGKeyArray, *, terms: Any, step: Any
) -> Solution:
    """One term of the series of Q = `terms` terms, the p-th, times their number."""
    for_length, for_factors = jax.random.split(key)
    p = jax.random.randint(for_length, (), 0, terms)

    def body(q: Array, r: Array) -> Array:
        return _contract(product, r, jax.random.fold_in(for_factors, q), step)

    return Solution(step * terms * jax.lax.fori_loop(0, p, body, b), p, jnp.nan)


def _contract(product: Product, r: Array, key: PRNGKeyArray, step: Any) -> Array:
    return r - step * product(r, key)


def hypergradient(
    problem: Any,
    gamma: Any,
    x: Array,
    data: Any,
    key: PRNGKeyArray,
    *,
    terms: Any,
    step: Any,
    randomised: Any = False,
) -> Estimate:
    """grad_gamma l - J^T v at (gamma, x), with a sample each for l, for J and for every H.

    problem: an `algorithms.base.Problem`, that is its `upper`, `lower_gradient` and `draw`. terms:
    Q; step: eta; randomised: a plain bool, the product instead of the series.
    """
    for_upper, for_cross, for_adjoint = jax.random.split(key, 3)
    loss, (of_gamma, of_x) = jax.value_and_grad(problem.upper, (0, 1))(
        gamma, x, problem.draw(data, for_upper)
    )

    def product(v: Array, key: PRNGKeyArray) -> Array:
        sample = problem.draw(data, key)
        return jax.jvp(lambda x: problem.lower_gradient(x, gamma, sample), (x,), (v,))[1]

    solve = randomised_product if randomised else neumann
    v, products, residual = solve(product, of_x, for_adjoint, terms=terms, step=step)
    sample = problem.draw(data, for_cross)
    _, pull = jax.vjp(lambda gamma: problem.lower_gradient(x, gamma, sample), gamma)
    return Estimate(jax.tree.map(jnp.subtract, of_gamma, pull(v)[0]), loss, products, residual)


def at_both(function: Callable[..., Tree], new: Any, old: Any) -> tuple[Tree, Tree]:
    """function(*new) and function(*old) at once: what a key in it draws is drawn for both."""
    results = jax.vmap(lambda point: function(*point))(
        jax.tree.map(lambda x, y: jnp.stack([x, y]), new, old)
    )
    return tuple(jax.tree.map(lambda x, i=i: x[i], results) for i in range(2))  # pyright: ignore


def recursive_momentum(estimate: Tree, new: Tree, old: Tree, weight: Any) -> Tree:
    """STORM, Cutkosky and Orabona (2019), leaf by leaf; SPIDER where the weight eta is 0.

        h^u = f(z^u; xi) + (1 - eta) (h^{u-1} - f(z^{u-1}; xi))

    estimate: h^{u-1}; new and old: f at z^u and z^{u-1} with the same sample xi, see `at_both`. A
    weight of 1 begins anew. If xi is all of the data, h^u = f(z^u) once this held for one u.
    """
    return jax.tree.map(lambda h, f, g: f + (1 - weight) * (h - g), estimate, new, old)


def require(least: int, **counts: Any) -> None:
    """Raises ValueError for plain ints below `least`, by their names; traced ones may be any."""
    for name, count in counts.items():
        if isinstance(count, int) and count < least:
            raise ValueError(f"{name}={count}: expected {least} or more")


def at(schedule: Any, u: Array, dtype: Any) -> Array:
    """The value of a schedule at step u, or of a number that stands for a constant one."""
    return jnp.asarray(schedule(u) if callable(schedule) else schedule, dtype)
