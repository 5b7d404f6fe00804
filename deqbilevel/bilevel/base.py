"""The lower level: what is solved and how accurately, its checks, and its solution."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import adjoints, checks, hypergradients, maps, operators, precision
from deqbilevel.operators import Identity, Operator
from deqbilevel.regularizers import convolutional
from deqbilevel.regularizers.convolutional import Convolutional
from deqbilevel.solvers import DESCENTS
from deqbilevel.types import Images, Info, Params, Solver


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
    lower_solver: str = "optimized_gradient"
    """One of `solvers.DESCENTS`."""
    hypergradient: str = "minimiser"
    """That, (4.8) warm, or one of `hypergradients.METHODS` on the gradient step of the solver."""

    def gradient(self) -> Callable[[Images, Params, Images], Images]:
        """F(u, params, f), the gradient of the lower-level cost."""
        F = maps.stationarity(self.K, self.regularizer.gradient)
        return lambda u, params, f: F(u, with_scalars(params), f)

    def lipschitz(self, params: Params) -> Float[Array, ""]:
        """A Lipschitz constant of F."""
        params = with_scalars(params)
        of_regularizer = params["gamma"] * self.regularizer.lipschitz(params)
        return params["lam"] * self.K_norm**2 + of_regularizer

    def preconditioner(self, u: Images, params: Params) -> Callable[[Images], Images]:
        """An approximation of the inverse Hessian, with K^T K replaced by ||K||^2 / 2 where K is
        not the identity: half-way between what K sees and what it does not."""
        params = with_scalars(params)
        seen = 1.0 if isinstance(self.K, Identity) else self.K_norm**2 / 2
        scaled = params | {"beta_0": params["beta_0"] + jnp.log(params["gamma"])}
        return self.regularizer.preconditioner(u, scaled, params["lam"] * seen)

    def energy(self, u: Images, params: Params, f: Images) -> Float[Array, " batch"]:
        """The lower-level cost of each image."""
        params = with_scalars(params)
        fidelity = 0.5 * jnp.sum((self.K.apply(u) - f) ** 2, axis=-1)
        return params["lam"] * fidelity + params["gamma"] * self.regularizer.energy(u, params)

    def checked(self) -> "Problem":
        """Itself. Raises: ValueError for a field that is out of range, or a name unheard of."""
        checks.number("K_norm", self.K_norm, above=0)
        for name in ("lower_evaluations", "adjoint_evaluations"):
            checks.whole(name, getattr(self, name))
        for name in ("lower_tolerance", "adjoint_tolerance"):
            checks.number(name, getattr(self, name), least=0)
        checks.known("lower_solver", self.lower_solver, DESCENTS)
        checks.known("hypergradient", self.hypergradient, ["minimiser", *hypergradients.METHODS])
        return self


def check(problem: Problem, params: Params, truth: Images, f: Images) -> None:
    """Raises ValueError for what this approach cannot be used with: images that are none, a
    potential that is not smooth, parameters that are missing, an operator whose adjoint is that of
    another, or a K_norm below its norm."""
    K, pixels = problem.checked().K, checks.pixels(problem.regularizer.shape)
    checks.finite("truth", checks.rows("truth", truth, pixels))
    adjoints.check(K, pixels)
    checks.finite("f", checks.rows("f", f))
    if f.shape != jax.eval_shape(K.apply, truth).shape:
        raise ValueError(f"f: of shape {list(f.shape)}; expected the measurements of {len(truth)}")
    norm = operators.norm(K, pixels, jax.random.key(0), iterations=20)
    if not checks.traced((problem.K_norm, norm)) and problem.K_norm < 0.999 * norm:
        raise ValueError(f"K_norm={problem.K_norm}: expected at least ||K||, which is {norm:.4g}")
    weights(problem, params)
    if not params["phi"].twice_differentiable:
        raise ValueError(
            f"{type(params['phi']).__name__}: not twice differentiable, so the minimiser has no "
            "hypergradient by (4.8); take a smooth potential, such as CornerRounded"
        )
    params, f = precision.as_weights(params, f)
    problem.regularizer.bank.apply(convolutional.filters(params), problem.K.adjoint(f))


def weights(problem: Problem, params: Params) -> Params:
    """The learned entries of `params`. Raises: ValueError for those that it has not."""
    params = with_scalars(params)
    return {checks.known("learned", name, params): params[name] for name in problem.learned}


def with_scalars(params: Params) -> Params:
    """`params` with lam = 1 and gamma = 1 where it has none, as in [CF], whose cost has neither.

    Raises: ValueError for parameters of another regulariser.
    """
    convolutional.require(params)
    one = jnp.ones((), params["filters"].dtype)
    return {"lam": one, "gamma": one} | params


@precision.highest
def solve(
    problem: Problem, params: Params, f: Images, u: Images, solver: Solver
) -> tuple[Images, Info]:
    """The lower level from u, by a solver of `solvers.DESCENTS` with the step 1/L.

    lam and gamma are 1 where `params` has none. Raises: ValueError for a K_norm that is not above
    0, and images `[batch, pixels]` that are none.
    """
    checks.number("K_norm", problem.K_norm, above=0)
    checks.rows("f", f)
    checks.rows("u", u, checks.pixels(problem.regularizer.shape))
    params = with_scalars(params)
    params, f, u = precision.as_weights(params, f, u)
    params = params | {"tau": 1 / problem.lipschitz(params)}
    G = maps.gradient_step(problem.K, problem.regularizer.gradient)
    return solver(lambda u: G(u, params, f), u)


def lower_solver(problem: Problem) -> Solver:
    """The one that the problem names, as accurate as it says."""
    return DESCENTS[problem.lower_solver](
        tolerance=problem.lower_tolerance, max_evaluations=problem.lower_evaluations
    )


def lower_gradient_norm(
    problem: Problem, params: Params, u: Images, info: Info
) -> Float[Array, ""]:
    """||F|| / sqrt(number of pixels), which a solve's Info has relative to u and divided by L."""
    norm = info.residual * jnp.linalg.norm(u.ravel()) * problem.lipschitz(params)
    return norm / u.size**0.5


def upper_loss(u: Images, truth: Images) -> Float[Array, ""]:
    """1/2 ||u - truth||^2. Raises: ValueError for other shapes."""
    checks.alike(u=u, truth=truth)
    return 0.5 * jnp.sum((u - truth) ** 2)
