r"""Gaussian conditional random fields: weights from edges of the measurement, [CF] 2.3, [56].

$$ \hat u(f) = \arg\min_u \tfrac12 \|u - f\|^2 + \tfrac12 \sum_k \|c_k * u\|^2_{W_k(f)}, \qquad
W_k(f) = \exp\Big( \theta_{k0} + \sum_l \theta_{kl}\, |h_l * f| \Big) $$

at each pixel: where the measurement f has an edge, a filter may count for less. The cost is a
square in u, so that its minimiser solves one linear system, and what is learned, theta and the
filters, is learned by the loss of that minimiser. It is bilevel learning with a lower level in
closed form, after Tappen, Liu, Adelson and Freeman (2007).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.convolutions import Bank, Filters, bank
from deqbilevel.potentials import CornerRounded
from deqbilevel.single_level.base import Descent, Method, descend
from deqbilevel.types import Images, Params

LEARNED = ("filters", "theta")


class GaussianField(NamedTuple):
    """The estimate of images of one shape; params: `filters` c, `edges` h and `theta`.

    >>> field = single_level.gaussian_field((1, 4))
    >>> params = field.start(jnp.array([[[1.0, -1.0]]]), weight=1e6)
    >>> print(field.estimate(params, jnp.array([[0.0, 1.0, 2.0, 3.0]])).round(3))
    [[1.5 1.5 1.5 1.5]]
    """

    bank: Bank
    shape: tuple[int, int]
    tolerance: float
    max_products: int

    def start(
        self,
        filters: Filters,
        edges: Float[Array, "edges _ _"] | None = None,
        weight: Any = 1.0,
    ) -> dict[str, Any]:
        """params with equal weights everywhere; edges: None: the filters themselves."""
        checks.one("weight", weight, above=0)
        edges = filters if edges is None else edges
        theta = jnp.zeros((len(filters), 1 + len(edges))).at[:, 0].set(jnp.log(weight))
        return {"filters": jnp.asarray(filters), "edges": jnp.asarray(edges), "theta": theta}

    def weights(self, params: Params, f: Images) -> Float[Array, "filters batch height width"]:
        """W_k(f) at each pixel."""
        responses = jnp.abs(self.bank.apply(params["edges"], f))
        slopes = jnp.tensordot(params["theta"][:, 1:], responses, 1)
        return jnp.exp(params["theta"][:, :1, None, None] + slopes)

    def estimate(self, params: Params, f: Images) -> Images:
        """The minimiser, differentiable in params and f, by conjugate gradients for each image."""
        c = params["filters"]

        def one(W: Float[Array, "filters height width"], f: Float[Array, " pixels"]) -> Array:
            def normal(u: Float[Array, " pixels"]) -> Array:
                z = self.bank.apply(c, u[None])
                return u + self.bank.adjoint(c, W[:, None] * z)[0]

            limits = {"tol": self.tolerance, "maxiter": self.max_products}
            return jax.scipy.sparse.linalg.cg(normal, f, f, **limits)[0]

        return jax.vmap(one, in_axes=(1, 0))(self.weights(params, f), f)


def gaussian_field(
    shape: tuple[int, int], *, tolerance: float = 1e-5, max_products: int = 300
) -> GaussianField:
    """The field of images of a shape; its linear systems are solved to a relative residual."""
    checks.limits(tolerance, max_products)
    return GaussianField(bank(shape, "reflecting"), shape, tolerance, max_products)


def conditional_field(
    field: GaussianField, optimiser: optax.GradientTransformation, *, eps: float = 0.01
) -> Method:
    """Learning the params of a field by the mean of sqrt((u - truth)^2 + eps^2), on data = (truth,
    f), images of [batch, pixels].

    Raises: ValueError for params without an entry, and images of other shapes.

    >>> field = single_level.gaussian_field((1, 4))
    >>> params = field.start(jnp.array([[[1.0, -1.0]]]))
    >>> data = (jnp.array([[0.0, 0.0, 1.0, 1.0]]), jnp.array([[0.1, -0.1, 0.9, 1.1]]))
    >>> method = single_level.conditional_field(field, optax.adam(0.1))
    >>> params, loss = single_level.run(method, params, data, 50)
    >>> print(loss[-1] < 0.5 * loss[0], params["theta"][0, 1] < 0)  # less weight at edges
    True True
    """
    rounded = CornerRounded(eps)

    def objective(learned: Params, params: Params, data: Any) -> Float[Array, ""]:
        truth, f = data
        return jnp.mean(rounded.value(field.estimate(params | learned, f) - truth))

    def init(params: Params, data: Any) -> Descent:
        checks.entries("params", params, ("filters", "edges", "theta"))
        for name, x in zip(("truth", "f"), data, strict=True):
            checks.rows(name, x, checks.pixels(field.shape))
        return Descent(params, optimiser.init({name: params[name] for name in LEARNED}))

    def step(state: Descent, data: Any) -> tuple[Descent, Float[Array, ""]]:
        return descend(state, data, objective, LEARNED, optimiser)

    return Method(init, step, monotone=False)
