r"""The exact problem, and how far an x is from its minimum.

Let |d_t| <= w_t at each place, and let res be Omega^T d plus the gradient of 1/2 ||K u - f||^2,
which is 0 in unknowns other than u. As the squares are convex, by mu strongly, and as
$R(x') \ge \langle d, \Omega x' \rangle$, every x' costs

$$ P(x') \ge P(x) - \big(R(x) - \langle d, \Omega x \rangle\big) + \langle res, x' - x \rangle +
   \tfrac{\mu}{2} \|u' - u\|^2. $$

So P(x) is above the least cost of all x' that differ from x by at most `radius` in every unknown by
no more than

$$ \text{gap} = R(x) - \langle d, \Omega x \rangle + \text{radius}\, \|res\|_1. $$

Where mu > 0 the part of u in this norm is replaced by ||res_u||^2 / (2 mu), and res is 0 in other
unknowns for d that are `Analysis.feasible`: for K = I no radius enters, and this is the duality gap
of [CF] App. A. Elsewhere a minimiser that is k >= 1 times as far away costs less by k gaps at most.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int

from deqbilevel.operators import Identity, Operator
from deqbilevel.operators.base import require_linear
from deqbilevel.types import pytree
from deqbilevel.variational.base import Analysis, Terms, Unknowns, Weights

Data = Inexact[Array, "batch data"]


@pytree
@dataclass(frozen=True)
class Problem:
    """min_x 1/2 ||K u - f||^2 + sum_t sum_p w_t[p] |(Omega_t x)[p]|, x = u and what else there is.

    Raises: ValueError for a K that is not linear.

    >>> K, omega = operators.identity((1, 2)), variational.total_variation((1, 2))
    >>> problem = variational.Problem(K, omega)
    >>> print(problem.cost(jnp.zeros((1, 2)), (1.0,), jnp.array([[3.0, 4.0]])))
    [12.5]
    """

    K: Operator
    omega: Analysis = field(metadata={"static": True})

    def __post_init__(self) -> None:
        require_linear("the problem", self.K)

    @property
    def convexity(self) -> float:
        """mu: 1/2 ||K u - f||^2 is strongly convex in u by this much, as far as is known."""
        return 1.0 if isinstance(self.K, Identity) else 0.0

    def image(self, x: Unknowns) -> Float[Array, "batch pixels"]:
        """u of the unknowns."""
        return x[:, : self.omega.pixels]

    def fit(self, x: Unknowns, f: Data) -> Float[Array, " batch"]:
        """1/2 ||K u - f||^2 of each image."""
        return jnp.sum(jnp.abs(self.K.apply(self.image(x)) - f) ** 2, axis=1) / 2

    def slope(self, x: Unknowns, f: Data) -> Unknowns:
        """The gradient of `fit`."""
        return self.omega.start(self.K.adjoint(self.K.apply(self.image(x)) - f))

    def cost(self, x: Unknowns, weights: Weights, f: Data) -> Float[Array, " batch"]:
        """P(x) of each image."""
        return self.fit(x, f) + self.omega.value(x, weights)

    def gap(
        self, x: Unknowns, d: Terms, weights: Weights, f: Data, radius: Any = 1.0
    ) -> Float[Array, " batch"]:
        """How far P(x) may be above the minimum, see above, with `Analysis.feasible` d.

        >>> K, omega = operators.identity((1, 2)), variational.total_variation((1, 2))
        >>> problem = variational.Problem(K, omega)
        >>> u, d = jnp.array([[1.0, 2.0]]), (jnp.array([[[0.0, 0.0], [1.0, 0.0]]]),)
        >>> print(problem.gap(u, d, (1.0,), jnp.array([[0.0, 3.0]])))  # the minimiser
        [0.]
        """
        d = self.omega.feasible(d, weights)
        z = self.omega.apply(x)
        pairs = zip(self.omega.weigh(weights, z), z, d, strict=True)
        # Place by place, where each is 0 or more, as the sums are large and nearly equal.
        excess = sum(
            (
                jnp.sum(w * self.omega.size(a) - _inner(a, b, self.omega.together), axis=(1, 2))
                for w, a, b in pairs
            ),
            jnp.zeros(len(x), x.dtype),
        )
        rest = self.slope(x, f) + self.omega.adjoint(d)
        u, others = rest[:, : self.omega.pixels], rest[:, self.omega.pixels :]
        if self.convexity:
            of_u = jnp.sum(u**2, axis=1) / (2 * self.convexity)
        else:
            of_u = radius * jnp.sum(jnp.abs(u), axis=1)
        return excess + of_u + radius * jnp.sum(jnp.abs(others), axis=1)


def _inner(a: Array, b: Array, together: bool) -> Array:
    return jnp.sum(a * b, axis=1, keepdims=True) if together else a * b


class Saddle(NamedTuple):
    """Where a solver ended, from which another may start."""

    x: Unknowns
    d: Terms
    """|d_t| <= w_t."""


class Certificate(NamedTuple):
    """What a person reads of a solve, for each image."""

    iterations: Int[Array, " batch"]
    """After which it was left."""
    gap: Float[Array, " batch"]
    """P(x) less the minimum is no more, see `problems`."""
    relative_gap: Float[Array, " batch"]
    """gap / P(x)."""
    cost: Float[Array, " batch"]
    """P(x)."""
    converged: Bool[Array, " batch"]
    """Whether the relative gap met the tolerance."""


def certify(
    problem: Problem,
    at: Saddle,
    weights: Weights,
    f: Data,
    *,
    radius: Any,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"], Float[Array, " batch"]]:
    """Gap, gap relative to the cost, and cost, of each image.

    A cost of 0 is taken as rounding of that of x = 0.
    """
    gap = problem.gap(at.x, at.d, weights, f, radius)
    cost = problem.cost(at.x, weights, f)
    least = jnp.finfo(cost.dtype).eps * jnp.sum(jnp.abs(f) ** 2, axis=1) / 2
    scale = jnp.maximum(cost, least)
    return gap, jnp.where(scale > 0, gap / jnp.where(scale > 0, scale, 1), 0), cost
