"""Upper-level steps: the hypergradient at the state, and what an optimiser makes of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from deqbilevel import checks, hypergradients, maps, precision
from deqbilevel.bilevel.base import (
    Problem,
    lower_gradient_norm,
    lower_solver,
    solve,
    upper_loss,
    weights,
    with_scalars,
)
from deqbilevel.types import Images, Info, Params


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
    params = with_scalars(params)
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
    solver = lower_solver(problem)

    def of_image(pair: tuple[Array, Array]) -> Array:
        return solve(problem, params, pair[0][None], pair[1][None], solver)[0][0]

    return jax.lax.map(of_image, (f, u))


@precision.highest
def hypergradient(
    problem: Problem, params: Params, truth: Images, f: Images, u: Images, v: Images
) -> tuple[Params, Images, Images, Metrics]:
    """The hypergradient on images of one shape: `(gradient, u, v, metrics)`.

    Raises: ValueError for a problem whose fields are out of range, and images of other shapes.
    """
    problem.checked()
    checks.alike(truth=truth, u=u, v=v)
    params = with_scalars(params)
    params, truth, f, u, v = precision.as_weights(params, truth, f, u, v)
    way = _at_minimiser if problem.hypergradient == "minimiser" else _through_solver
    gradient, u, v, info, adjoint = way(problem, params, truth, f, u, v)
    metrics = Metrics(
        loss=upper_loss(u, truth),
        gradient_norm=_gradient_norm(gradient),
        lower_gradient_norm=lower_gradient_norm(problem, params, u, info),
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
    u, info = solve(problem, params, f, u, lower_solver(problem))
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
        lower_solver(problem),
        tolerance=problem.adjoint_tolerance,
        max_evaluations=problem.adjoint_evaluations,
    )

    def upper_level(learned: Params, probe: Info) -> tuple[Array, tuple[Images, Info]]:
        found, info = differentiable(params | learned, f, u, probe)
        return upper_loss(found, truth), (found, info)

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
            u, info = solve(p, params, f, u, lower_solver(p))
            stiff = lower_gradient_norm(p, params, u, info) > 10 * part.lower_gradient_norm
            found += jnp.where(stiff, jnp.inf, upper_loss(u, t))
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


def _gradient_norm(gradient: Params) -> Float[Array, ""]:
    return optax.tree.norm(gradient) / sum(x.size for x in jax.tree.leaves(gradient)) ** 0.5
