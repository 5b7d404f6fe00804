"""Bilevel learning through the exact minimiser of a smooth cost, warm from step to step: [CF] (Ex).

    min_params  1/2 ||u*(params) - truth||^2
    u* = argmin_u  lam/2 ||K u - f||^2 + gamma R(u; params)

An upper-level step goes on with the lower level where the step before left it, solves for the
hypergradient from where that left it, and moves the learned entries of `params` by an optax
transformation. Everything that the next step needs is in `State`, so that steps can be scanned,
stored, and vmapped over lanes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from deqbilevel import hypergradients, maps
from deqbilevel.operators import Operator
from deqbilevel.regularizers import convolutional
from deqbilevel.regularizers.convolutional import Convolutional
from deqbilevel.solvers import optimized_gradient
from deqbilevel.types import Images, Info, Params, Solver

BETA_0 = tuple(-6 + 0.1 * i for i in range(21))
"""The values of beta_0 among which [CF] D searches first."""


class Problem(NamedTuple):
    """What is solved, and how accurately."""

    K: Operator
    K_norm: float
    """||K||_2, or a bound on it."""
    regularizer: Convolutional
    learned: tuple[str, ...] = ("filters", "beta")
    """The entries of `params` that are learned; `beta_0` stays, as in [CF]."""
    lower_evaluations: int = 50
    """Evaluations of the lower-level gradient in each upper-level step, at most."""
    lower_tolerance: float = 0.0
    """Where to stop before that, see `types.Info.residual`."""
    adjoint_evaluations: int = 1000
    """Products with the Hessian in each upper-level step, at most."""
    adjoint_tolerance: float = 1e-5
    """norm(H v - g) / norm(g) at which the hypergradient is accepted."""

    def gradient(self) -> Callable[[Images, Params, Images], Images]:
        """F(u, params, f), the gradient of the lower-level cost."""
        return maps.stationarity(self.K, self.regularizer.gradient)

    def lipschitz(self, params: Params) -> Float[Array, ""]:
        """A Lipschitz constant of F."""
        of_regularizer = params["gamma"] * self.regularizer.lipschitz(params)
        return params["lam"] * self.K_norm**2 + of_regularizer

    def energy(self, u: Images, params: Params, f: Images) -> Float[Array, " batch"]:
        """The lower-level cost of each image."""
        fidelity = 0.5 * jnp.sum((self.K.apply(u) - f) ** 2, axis=-1)
        return params["lam"] * fidelity + params["gamma"] * self.regularizer.energy(u, params)


class State(NamedTuple):
    """What the next upper-level step needs."""

    params: Params
    optimiser: optax.OptState
    u: Images
    """Where the lower level goes on."""
    v: Images
    """Where the solution of the adjoint system H v = u - truth goes on."""


class Metrics(NamedTuple):
    """What a person reads of an upper-level step, at the parameters that it started from."""

    loss: Float[Array, "*steps"]
    gradient_norm: Float[Array, "*steps"]
    """||hypergradient|| / sqrt(number of learned parameters)."""
    lower_gradient_norm: Float[Array, "*steps"]
    """||F|| / sqrt(number of pixels)."""
    adjoint_evaluations: Float[Array, "*steps"]
    adjoint_residual: Float[Array, "*steps"]
    adjoint_converged: Float[Array, "*steps"]


def check(problem: Problem, params: Params, truth: Images, f: Images) -> None:
    """Raises ValueError for images or a potential that this approach cannot be used with."""
    for name, images in (("truth", truth), ("f", f)):
        if not bool(jnp.isfinite(images).all()):
            raise ValueError(f"{name}: holds values that are not finite; mend the images first")
    if not params["phi"].twice_differentiable:
        raise ValueError(
            f"{type(params['phi']).__name__}: not twice differentiable, so the minimiser has no "
            "hypergradient by (4.8); take a smooth potential, such as CornerRounded"
        )
    problem.regularizer.bank.apply(convolutional.filters(params), problem.K.adjoint(f))


def weights(problem: Problem, params: Params) -> Params:
    """The learned entries of `params`."""
    return {name: params[name] for name in problem.learned}


def start(
    problem: Problem, params: Params, optimiser: optax.GradientTransformation, f: Images
) -> State:
    """The state before the first step: the lower level starts at K^T f."""
    u = problem.K.adjoint(f)
    params = _with_scalars(params, f)
    return State(params, optimiser.init(weights(problem, params)), u, jnp.zeros_like(u))


def _with_scalars(params: Params, f: Images) -> Params:
    """`params` with lam = 1 and gamma = 1 where it has none, as in [CF]."""
    return {"lam": jnp.ones((), f.dtype), "gamma": jnp.ones((), f.dtype)} | params


def solve(
    problem: Problem, params: Params, f: Images, u: Images, solver: Solver
) -> tuple[Images, Info]:
    """The lower level from u, by a solver of `solvers.DESCENTS` with the step 1/L."""
    params = params | {"tau": 1 / problem.lipschitz(params)}
    G = maps.gradient_step(problem.K, problem.regularizer.gradient)
    return solver(lambda u: G(u, params, f), u)


def step(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    state: State,
    truth: Images,
    f: Images,
) -> tuple[State, Metrics]:
    """One upper-level step on images truth: [batch, pixels] and their measurements f."""
    solver = optimized_gradient(
        tolerance=problem.lower_tolerance, max_evaluations=problem.lower_evaluations
    )
    u, info = solve(problem, state.params, f, state.u, solver)
    learned = weights(problem, state.params)
    gradient, v, adjoint = hypergradients.minimiser(
        problem.gradient(),
        learned,
        state.params,
        f,
        u,
        u - truth,
        state.v,
        tolerance=problem.adjoint_tolerance,
        max_evaluations=problem.adjoint_evaluations,
    )
    updates, optimiser_state = optimiser.update(gradient, state.optimiser, learned)
    moved: Any = optax.apply_updates(learned, updates)
    count = sum(x.size for x in jax.tree.leaves(learned))
    size = jnp.linalg.norm(u.ravel())
    metrics = Metrics(
        loss=0.5 * jnp.sum((u - truth) ** 2),
        gradient_norm=optax.tree.norm(gradient) / count**0.5,
        lower_gradient_norm=info.residual * size * problem.lipschitz(state.params) / u.size**0.5,
        adjoint_evaluations=adjoint.evaluations.astype(u.dtype),
        adjoint_residual=adjoint.residual,
        adjoint_converged=adjoint.converged.astype(u.dtype),
    )
    return State(state.params | moved, optimiser_state, u, v), metrics


def steps(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    state: State,
    truth: Images,
    f: Images,
    count: int,
) -> tuple[State, Metrics]:
    """`count` steps, scanned; the metrics have a leading axis of steps."""
    return jax.lax.scan(
        lambda state, _: step(problem, optimiser, state, truth, f), state, None, length=count
    )


def search(
    problem: Problem, params: Params, truth: Images, f: Images, values: Any = BETA_0
) -> tuple[Float[Array, ""], Float[Array, " values"]]:
    """The value of beta_0 with the least upper-level loss, and the losses of all."""
    solver = optimized_gradient(tolerance=0.0, max_evaluations=4 * problem.lower_evaluations)
    fixed = _with_scalars(params, f)

    def loss(beta_0: Array) -> Array:
        u, _ = solve(problem, fixed | {"beta_0": beta_0}, f, problem.K.adjoint(f), solver)
        return 0.5 * jnp.sum((u - truth) ** 2)

    values = jnp.asarray(values, f.dtype)
    losses = jax.lax.map(loss, values)
    return values[jnp.argmin(losses)], losses
