"""Lower levels that are small enough for the exact hypergradient, and estimates of it.

Deblurring with the dense models of [REB], bilevel and DEQ, denoising with the convolutional
regulariser of [CF], and a quadratic cost of three unknowns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from deqbilevel import data, hypergradients, models, operators, potentials, precision
from deqbilevel.regularizers import convolutional
from deqbilevel.solvers import DESCENTS, SOLVERS, anderson
from deqbilevel.types import FixedPointMap, Params

PROBLEMS = ("dense-bilevel", "dense-deq", "filters")


class Case(NamedTuple):
    """A lower level, its data, and where it is differentiated."""

    G: FixedPointMap
    params: Params
    learned: tuple[str, ...]
    f: Array
    truth: Array
    symmetric: bool
    """Whether dG/du is symmetric, as conjugate gradients need it."""

    @property
    def weights(self) -> Params:
        """The entries of `params` that are learned."""
        return {name: self.params[name] for name in self.learned}


def case(name: str, *, size: int, images: int, features: int, seed: int) -> Case:
    """One of PROBLEMS, with that many digits of size x size pixels."""
    truth, shape = _digits(images, size), (size, size)
    keys = jax.random.split(jax.random.key(seed), 2)
    if name == "filters":
        truth = (truth + 1) / 2
        f = truth + 25 / 255 * jax.random.normal(keys[0], truth.shape)
        c = convolutional.random(keys[1], 4, 3, 3)
        params = convolutional.init(c, beta_0=-3.0, phi=potentials.CornerRounded(0.05))
        params = params | {"lam": jnp.ones(()), "gamma": jnp.ones(())}
        R = convolutional.bank_of(shape).regularizer(lambda key: params)
        model = models.assemble(operators.Identity(), R)
        # The step is a constant: what is differentiated is the minimiser, not how it is reached.
        return Case(model.G, model.completed(params), R.learned, f, truth, symmetric=True)
    tied = name == "dense-bilevel"
    model = models.build("deblurring", "bilevel" if tied else "deq", shape, features)
    scalars = models.hyperparameters(tau=0.9, gamma=0.5, activation="relu", noise=0.1)
    params = jax.tree.map(lambda x: jnp.asarray(x, float), model.init(keys[1]) | scalars)
    if not tied:
        # As after some training; of two random factors a fixed point need not exist.
        params["C"] = params["A"] + 0.2 * params["C"]
    f = model.measure(params, truth, keys[0])
    return Case(model.G, params, model.R.learned, f, truth, symmetric=tied)


def quadratic() -> Case:
    """1/2 u'Hu - u'(B gamma + f) by steps of 1/3, which contract by 1 - tau mu = 1 / sqrt(3)."""
    H = jnp.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 2]])
    B = jnp.array([[1.0, 0], [0, 2], [1, 1]])

    def G(u: Array, params: Params, f: Array) -> Array:
        return u - (u @ H - params["gamma"] @ B.T - f) / 3

    f, truth = jnp.array([[1.0, -1, 0]]), jnp.array([[1.0, 2, -1]])
    return Case(G, {"gamma": jnp.zeros(2)}, ("gamma",), f, truth, symmetric=True)


def _digits(images: int, size: int) -> Array:
    """Digits whose pixels are means over squares, in [-1, 1]: [images, size^2]."""
    digits = data.load("sample", train_size=images, test_size=1).train
    pictures = jnp.asarray(digits, float).reshape(-1, 28, 28)
    shape = (len(pictures), size, size)
    return jax.image.resize(pictures, shape, "linear").reshape(len(pictures), -1)


class Exact(NamedTuple):
    """What dense linear algebra says of a case."""

    gradient: Array
    """Of the mean loss, as one vector."""
    rate: float
    """The spectral radius of dG/du at the fixed points: 1 - tau mu for gradient descent."""


def exact(case: Case) -> Exact:
    """The gradient by Newton's method and a dense solve, image by image.

    Anderson's method goes ahead: from far away the kinks of a ReLU lead Newton's in circles.
    Raises: ValueError where they do not arrive.
    """
    eye = jnp.eye(case.f.shape[1])
    ahead = anderson(tolerance=1e-10, max_evaluations=2000, ridge=1e-10, relative=True)

    def residual(u: Array, f: Array) -> Array:
        return u - case.G(u[None], case.params, f[None])[0]

    def solve(f: Array) -> Array:
        def newton(u: Array, _: Any) -> tuple[Array, None]:
            return u - jnp.linalg.solve(jax.jacobian(residual)(u, f), residual(u, f)), None

        near, _ = ahead(lambda u: case.G(u, case.params, f[None]), jnp.zeros_like(f)[None])
        return jax.lax.scan(newton, near[0], length=20)[0]

    def of_image(f: Array, truth: Array) -> Any:
        u = solve(f)
        J = eye - jax.jacobian(residual)(u, f)
        w = jnp.linalg.solve((eye - J).T, (u - truth) / case.f.size)
        _, pull = jax.vjp(lambda p: case.G(u[None], case.params | p, f[None])[0], case.weights)
        return ravel_pytree(pull(w)[0])[0], jnp.abs(residual(u, f)).max(), J

    gradients, residuals, J = jax.lax.map(lambda x: of_image(*x), (case.f, case.truth))
    if not float(residuals.max()) < 1e-10:
        raise ValueError(
            f"the lower level was solved to {float(residuals.max())}, not to 1e-10; it is singular "
            "where --size is a multiple of 5: take another, or more --features"
        )
    rate = float(np.abs(np.linalg.eigvals(np.asarray(J))).max())
    return Exact(gradients.sum(axis=0), rate)


def estimate(
    case: Case, method: str, solver: str, budget: Any, tolerance: float = 1e-12
) -> Callable[[Params, Array], Any]:
    """(weights, f) -> the gradient of the mean loss, forward and adjoint Info; to be jitted.

    The lower level starts at zero; the budget is its own and that of the backward pass.
    """
    make = ({**DESCENTS, **SOLVERS})[solver]
    solve = hypergradients.METHODS[method](
        case.G,
        make(tolerance=tolerance, max_evaluations=budget),
        tolerance=tolerance,
        max_evaluations=budget,
    )

    def loss(weights: Params, probe: Any, f: Array) -> tuple[Array, Any]:
        u, info = solve(case.params | weights, f, jnp.zeros_like(f), probe)
        return 0.5 * jnp.mean((u - case.truth) ** 2), info

    @precision.highest
    def run(weights: Params, f: Array) -> Any:
        derivative = jax.grad(loss, (0, 1), has_aux=True)
        (gradient, adjoint), info = derivative(weights, hypergradients.no_info(f.dtype), f)
        return gradient, info, adjoint

    return run


def relative_error(gradient: Any, best: Array) -> Array:
    """||gradient - best|| / ||best||."""
    found, _ = ravel_pytree(gradient)
    return jnp.linalg.norm(found - best) / jnp.linalg.norm(best)
