"""Bilevel learning through the exact minimiser of a smooth cost, warm from step to step: [CF] (Ex).

    min_params  1/2 ||u*(params) - truth||^2
    u* = argmin_u  lam/2 ||K u - f||^2 + gamma R(u; params)

An upper-level step goes on with the lower level where the step before left it, solves for the
hypergradient from where that left it, and moves the learned entries of `params` by an optax
transformation. Everything that the next step needs is in `State`, so that steps can be scanned,
stored, and vmapped over lanes. A step may take a minibatch of the images; the others keep where
they are. Images of several shapes are a list with an entry for each shape: of problems, of true
images, of measurements. Everything is computed in the dtype of the weights, products in full
precision (`precision.highest`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from deqbilevel import checks, hypergradients, maps, operators, precision
from deqbilevel.operators import Identity, Operator
from deqbilevel.regularizers import convolutional
from deqbilevel.regularizers.convolutional import Convolutional
from deqbilevel.solvers import DESCENTS
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
    lower_solver: str = "optimized_gradient"
    """One of `solvers.DESCENTS`."""
    hypergradient: str = "minimiser"
    """That, (4.8) warm, or one of `hypergradients.METHODS` on the gradient step of the solver."""

    def gradient(self) -> Callable[[Images, Params, Images], Images]:
        """F(u, params, f), the gradient of the lower-level cost."""
        F = maps.stationarity(self.K, self.regularizer.gradient)
        return lambda u, params, f: F(u, _with_scalars(params), f)

    def lipschitz(self, params: Params) -> Float[Array, ""]:
        """A Lipschitz constant of F."""
        params = _with_scalars(params)
        of_regularizer = params["gamma"] * self.regularizer.lipschitz(params)
        return params["lam"] * self.K_norm**2 + of_regularizer

    def preconditioner(self, u: Images, params: Params) -> Callable[[Images], Images]:
        """An approximation of the inverse Hessian, with K^T K replaced by ||K||^2 / 2 where K is
        not the identity: half-way between what K sees and what it does not."""
        params = _with_scalars(params)
        seen = 1.0 if isinstance(self.K, Identity) else self.K_norm**2 / 2
        scaled = params | {"beta_0": params["beta_0"] + jnp.log(params["gamma"])}
        return self.regularizer.preconditioner(u, scaled, params["lam"] * seen)

    def energy(self, u: Images, params: Params, f: Images) -> Float[Array, " batch"]:
        """The lower-level cost of each image."""
        params = _with_scalars(params)
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


class State(NamedTuple):
    """What the next upper-level step needs."""

    params: Params
    optimiser: optax.OptState
    u: Images | list[Array]
    """Where the lower level goes on."""
    v: Images | list[Array]
    """Where the solution of the adjoint system H v = u - truth goes on."""


class Metrics(NamedTuple):
    """What a person reads of an upper-level step, at the parameters that it started from; of images
    of several shapes the sum of losses, else the worst."""

    loss: Float[Array, "*steps"]
    gradient_norm: Float[Array, "*steps"]
    """||hypergradient|| / sqrt(number of learned parameters)."""
    lower_gradient_norm: Float[Array, "*steps"]
    """||F|| / sqrt(number of pixels)."""
    adjoint_evaluations: Float[Array, "*steps"]
    adjoint_residual: Float[Array, "*steps"]
    adjoint_converged: Float[Array, "*steps"]
    lower_solves: Float[Array, "*steps"]
    """1, and one for each trial of the optimiser's line search, if it has one."""


def check(problem: Problem, params: Params, truth: Images, f: Images) -> None:
    """Raises ValueError for what this approach cannot be used with: images that are none, a
    potential that is not smooth, parameters that are missing, an operator whose adjoint is that of
    another, or a K_norm below its norm."""
    K, pixels = problem.checked().K, checks.pixels(problem.regularizer.shape)
    checks.finite("truth", checks.rows("truth", truth, pixels))
    operators.check(K, pixels)
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
    params = _with_scalars(params)
    return {checks.known("learned", name, params): params[name] for name in problem.learned}


@precision.highest
def start(
    problem: Problem | list[Problem],
    params: Params,
    optimiser: optax.GradientTransformation,
    f: Images | list[Array],
    *,
    evaluations: int = 0,
) -> State:
    """The state before the first step: the lower level starts at K^T f.

    evaluations: as many are spent at most on solving it for each image beforehand, as in [CF] D;
    from far away a hypergradient may be none, and a non-convex cost have an indefinite Hessian.
    """
    params, f = precision.as_weights(params, f)
    problems, (fs,), listed = _listed(problem, f)
    checks.whole("evaluations", evaluations, least=0)
    u = [problem.K.adjoint(f) for problem, f in zip(problems, fs, strict=True)]
    params = _with_scalars(params)
    if evaluations:
        u = [
            _solved(p._replace(lower_evaluations=evaluations), params, *x)
            for p, *x in zip(problems, fs, u, strict=True)
        ]
    v = jax.tree.map(jnp.zeros_like, u)
    learned = weights(problems[0], params)
    return State(params, optimiser.init(learned), *(x if listed else x[0] for x in (u, v)))


def _solved(problem: Problem, params: Params, f: Images, u: Images) -> Images:
    """The lower level of one image after the other, so that memory does not grow with them."""
    solver = _lower_solver(problem)

    def of_image(pair: tuple[Array, Array]) -> Array:
        return solve(problem, params, pair[0][None], pair[1][None], solver)[0][0]

    return jax.lax.map(of_image, (f, u))


def _with_scalars(params: Params) -> Params:
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
    params = _with_scalars(params)
    params, f, u = precision.as_weights(params, f, u)
    params = params | {"tau": 1 / problem.lipschitz(params)}
    G = maps.gradient_step(problem.K, problem.regularizer.gradient)
    return solver(lambda u: G(u, params, f), u)


@precision.highest
def hypergradient(
    problem: Problem, params: Params, truth: Images, f: Images, u: Images, v: Images
) -> tuple[Params, Images, Images, Metrics]:
    """The hypergradient on images of one shape: `(gradient, u, v, metrics)`.

    Raises: ValueError for a problem whose fields are out of range, and images of other shapes.
    """
    problem.checked()
    checks.alike(truth=truth, u=u, v=v)
    params = _with_scalars(params)
    params, truth, f, u, v = precision.as_weights(params, truth, f, u, v)
    way = _at_minimiser if problem.hypergradient == "minimiser" else _through_solver
    gradient, u, v, info, adjoint = way(problem, params, truth, f, u, v)
    metrics = Metrics(
        loss=_loss(u, truth),
        gradient_norm=_gradient_norm(gradient),
        lower_gradient_norm=_lower_gradient_norm(problem, params, u, info),
        adjoint_evaluations=adjoint.evaluations.astype(u.dtype),
        adjoint_residual=adjoint.residual,
        adjoint_converged=adjoint.converged.astype(u.dtype),
        lower_solves=jnp.ones((), u.dtype),
    )
    return gradient, u, v, metrics


def _at_minimiser(
    problem: Problem, params: Params, truth: Images, f: Images, u: Images, v: Images
) -> tuple[Params, Images, Images, Info, Info]:
    """By (4.8), from u and v: `(gradient, u, v, info, adjoint info)`.

    The gradient is zero, and v starts anew, where the adjoint's residual is above 1, that of v = 0:
    there the Hessian is indefinite or singular, and the direction would be worse than none.
    """
    u, info = solve(problem, params, f, u, _lower_solver(problem))
    gradient, v, adjoint = hypergradients.minimiser(
        problem.gradient(),
        weights(problem, params),
        params,
        f,
        u,
        u - truth,
        v,
        tolerance=problem.adjoint_tolerance,
        max_evaluations=problem.adjoint_evaluations,
        precondition=problem.preconditioner(u, params),
    )
    usable = adjoint.residual <= 1
    gradient, v = jax.tree.map(lambda x: jnp.where(usable, x, 0), (gradient, v))
    return gradient, u, v, info, adjoint


def _through_solver(
    problem: Problem, params: Params, truth: Images, f: Images, u: Images, v: Images
) -> tuple[Params, Images, Images, Info, Info]:
    """By one of `hypergradients.METHODS`, from u; v is left alone. The step 1/L is a constant: what
    is differentiated is where the solver goes, not how fast."""
    params = params | {"tau": jax.lax.stop_gradient(1 / problem.lipschitz(params))}
    differentiable = hypergradients.METHODS[problem.hypergradient](
        maps.gradient_step(problem.K, problem.regularizer.gradient),
        _lower_solver(problem),
        tolerance=problem.adjoint_tolerance,
        max_evaluations=problem.adjoint_evaluations,
    )

    def upper_level(learned: Params, probe: Info) -> tuple[Array, tuple[Images, Info]]:
        found, info = differentiable(params | learned, f, u, probe)
        return _loss(found, truth), (found, info)

    derivative = jax.grad(upper_level, (0, 1), has_aux=True)
    probe = hypergradients.no_info(u.dtype)
    (gradient, adjoint), (u, info) = derivative(weights(problem, params), probe)
    return gradient, u, v, info, adjoint


@precision.highest
def step(
    problem: Problem | list[Problem],
    optimiser: optax.GradientTransformation,
    state: State,
    truth: Images | list[Array],
    f: Images | list[Array],
) -> tuple[State, Metrics]:
    """One upper-level step on images truth: [batch, pixels] and their measurements f.

    An optimiser with a line search is given the upper-level loss as a function; each trial solves
    the lower level from where this step left it. A trial is worth nothing, its loss infinite, where
    that ends at ten times this step's lower-level gradient: a lower level too stiff for its budget
    leaves u where it was, and so would feign a good loss.
    """
    _, truth, f = precision.as_weights(state.params, truth, f)
    problems, (truths, fs, us, vs), listed = _listed(problem, truth, f, state.u, state.v)
    images = list(zip(problems, truths, fs, us, vs, strict=True))
    parts = [hypergradient(p, state.params, truth, f, u, v) for p, truth, f, u, v in images]
    gradients, us, vs, metrics = (list(x) for x in zip(*parts, strict=True))
    gradient = jax.tree.map(lambda *x: sum(x), *gradients)
    learned = weights(problems[0], state.params)

    def loss_at(learned: Params) -> Array:
        params, found = state.params | learned, jnp.zeros(())
        for p, f, u, t, part in zip(problems, fs, us, truths, metrics, strict=True):
            u, info = solve(p, params, f, u, _lower_solver(p))
            stiff = _lower_gradient_norm(p, params, u, info) > 10 * part.lower_gradient_norm
            found += jnp.where(stiff, jnp.inf, _loss(u, t))
        return found

    loss = sum((part.loss for part in metrics), jnp.zeros(()))
    updates, optimiser_state = optax.with_extra_args_support(optimiser).update(
        gradient, state.optimiser, learned, value=loss, grad=gradient, value_fn=loss_at
    )
    moved: Any = optax.apply_updates(learned, updates)
    worst = jax.tree.map(lambda *x: jnp.max(jnp.stack(x), axis=0), *metrics)
    trials = optax.tree.get(optimiser_state, "num_linesearch_steps", 0)
    worst = worst._replace(
        loss=loss,
        gradient_norm=_gradient_norm(gradient),
        adjoint_converged=jnp.min(jnp.stack([part.adjoint_converged for part in metrics])),
        lower_solves=worst.lower_solves + trials,
    )
    u, v = (x if listed else x[0] for x in (us, vs))
    return State(state.params | moved, optimiser_state, u, v), worst


def steps(
    problem: Problem | list[Problem],
    optimiser: optax.GradientTransformation,
    state: State,
    truth: Images | list[Array],
    f: Images | list[Array],
    batches: int | Int[Array, "steps batch"] | list[Array],
) -> tuple[State, Metrics]:
    """Steps, scanned; the metrics have a leading axis of steps.

    batches: a number of steps on all images, or the indices of the images of each step.
    Raises: ValueError for fewer than one step, and for indices that no image has.
    """
    if not isinstance(batches, list) and np.ndim(batches) == 0:
        batches = checks.whole("batches", batches)
    if isinstance(batches, int):
        return jax.lax.scan(
            lambda state, _: step(problem, optimiser, state, truth, f), state, None, batches
        )

    _check_batches(batches, truth)

    def on_minibatch(state: State, chosen: Any) -> tuple[State, Metrics]:
        def take(images: Any) -> Any:
            return jax.tree.map(lambda x, i: x[i], images, chosen)

        def put(images: Any, part: Any) -> Any:
            return jax.tree.map(lambda x, new, i: x.at[i].set(new), images, part, chosen)

        part = state._replace(u=take(state.u), v=take(state.v))
        part, metrics = step(problem, optimiser, part, take(truth), take(f))
        return part._replace(u=put(state.u, part.u), v=put(state.v, part.v)), metrics

    return jax.lax.scan(on_minibatch, state, batches)


def _check_batches(batches: Any, truth: Any) -> None:
    groups = zip(jax.tree.leaves(batches), jax.tree.leaves(truth), strict=True)
    for chosen, images in groups:
        if chosen.ndim != 2 or 0 in chosen.shape or not jnp.issubdtype(chosen.dtype, jnp.integer):
            raise ValueError(
                f"batches: {chosen.dtype} of shape {list(chosen.shape)}; expected whole numbers "
                "[steps, batch], the images of each step"
            )
        if not checks.traced(chosen) and not 0 <= chosen.min() <= chosen.max() < len(images):
            raise ValueError(
                f"batches: from {chosen.min()} to {chosen.max()}; expected indices of "
                f"{len(images)} images, from 0"
            )


def _listed(problem: Any, *images: Any) -> tuple[list[Problem], list[list[Any]], bool]:
    """Problem and images as lists with an entry for each shape, and whether they came so."""
    listed = isinstance(problem, list)
    return (problem, list(images), True) if listed else ([problem], [[x] for x in images], False)


def _lower_solver(problem: Problem) -> Solver:
    return DESCENTS[problem.lower_solver](
        tolerance=problem.lower_tolerance, max_evaluations=problem.lower_evaluations
    )


def _lower_gradient_norm(
    problem: Problem, params: Params, u: Images, info: Info
) -> Float[Array, ""]:
    """||F|| / sqrt(number of pixels), which a solve's Info has relative to u and divided by L."""
    norm = info.residual * jnp.linalg.norm(u.ravel()) * problem.lipschitz(params)
    return norm / u.size**0.5


def _loss(u: Images, truth: Images) -> Float[Array, ""]:
    checks.alike(u=u, truth=truth)
    return 0.5 * jnp.sum((u - truth) ** 2)


def _gradient_norm(gradient: Params) -> Float[Array, ""]:
    return optax.tree.norm(gradient) / sum(x.size for x in jax.tree.leaves(gradient)) ** 0.5


class Search(NamedTuple):
    """What `search` found."""

    beta_0: Float[Array, "*lanes"]
    """The value with the least upper-level loss."""
    losses: Float[Array, "*lanes values"]
    """Of all values."""

    @property
    def at_edge(self) -> Bool[Array, "*lanes"]:
        """Whether the best value is the first or the last, so that the best of all may lie beyond;
        also where no loss is a number."""
        best = jnp.argmin(_comparable(self.losses), axis=-1)
        return (best == 0) | (best == self.losses.shape[-1] - 1)


@precision.highest
def search(
    problem: Problem, params: Params, truth: Images, f: Images, values: Any = BETA_0
) -> Search:
    """The value of beta_0 with the least upper-level loss, and the losses of all.

    values: a rising grid; see `Search.at_edge` for a best value at its edge.
    Raises: ValueError for values that do not rise.
    """
    problem.checked()
    if not checks.traced(values):
        grid = np.asarray(checks.number("values", values), float)
        if grid.ndim != 1 or not len(grid) or not (grid[1:] > grid[:-1]).all():
            raise ValueError(f"values={values}: expected one or more, each above the last")
    values = jnp.asarray(values, f.dtype)
    solver = _lower_solver(problem._replace(lower_evaluations=4 * problem.lower_evaluations))
    params, truth, f = precision.as_weights(params, truth, f)
    fixed = _with_scalars(params)

    def loss(beta_0: Array) -> Array:
        u, _ = solve(problem, fixed | {"beta_0": beta_0}, f, problem.K.adjoint(f), solver)
        return _loss(u, truth)

    losses = jax.lax.map(loss, values)
    return Search(values[jnp.argmin(_comparable(losses))], losses)


def _comparable(losses: Array) -> Array:
    """With infinity for what is no number."""
    return jnp.where(jnp.isnan(losses), jnp.inf, losses)
