"""What is learned and how, what the next step needs, and what a person reads of a step."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from deqbilevel import hypergradients, linearised, losses, models, operators, settings, solvers
from deqbilevel.losses import Loss, mean_squared_error
from deqbilevel.models import Model
from deqbilevel.settings import MINIMISER, PUT_TOGETHER, Budget, Setting
from deqbilevel.types import Images, Params

DIRECTLY = 5
"""Evaluations of a gradient step that both solves take through `models.direct`."""


class Learner(NamedTuple):
    """Everything of an upper-level step that is no array."""

    models: tuple[Model, ...]
    """One for each shape of the images, which differ in nothing else."""
    setting: Setting
    """How lower level and adjoint are solved, and whether from where the last step left them."""
    optimiser: Any
    """See `rates.Optimiser`."""
    learned: tuple[str, ...]
    """The entries of `params` that are learned."""
    loss: Loss = mean_squared_error
    """(u, truth) -> a number, or one that knows more, see `losses`; of several shapes see
    `losses.Additive`."""
    sampling: bool = False
    """Whether the measurements are taken by the learned `params["K"]` too, as when a sampling
    pattern is learned; else K is learned for the reconstruction alone, as an unknown blur is."""


class State(NamedTuple):
    """What the next step needs."""

    params: Params
    optimiser: Any
    step: Int[Array, ""]
    budget: Budget
    diverged: Bool[Array, ""]
    """Once the loss or the hypergradient is no longer finite: no step is taken any more."""
    solved: Params | None = None
    """Of a guarded run: the last weights at which both solves came near enough."""
    u: tuple[Float[Array, "images *further pixels"], ...] | None = None
    """Of a warm run: where the lower level of each image goes on, by shape, with those of the
    further measurements that the loss asks for."""
    v: tuple[Float[Array, "images *further pixels"], ...] | None = None
    """Of a warm run at minimisers: where the solution of each adjoint system goes on."""


class Metrics(NamedTuple):
    """What a person reads of a step, at the params that it started from; of scanned steps, with a
    leading axis. Of images of several shapes: the worst, and the sum of losses."""

    loss: Float[Array, "*steps"]
    gradient_norm: Float[Array, "*steps"]
    """||hypergradient|| / sqrt(number of learned parameters)."""
    forward_evaluations: Float[Array, "*steps"]
    adjoint_evaluations: Float[Array, "*steps"]
    forward_residual: Float[Array, "*steps"]
    adjoint_residual: Float[Array, "*steps"]
    solved: Float[Array, "*steps"]
    """Whether both solves met their tolerance, or in a guarded run came as near as it asks."""
    adjoint_converged: Float[Array, "*steps"]
    lower_gradient_norm: Float[Array, "*steps"]
    """||u - G(u)|| / (tau sqrt(number of pixels)), of a gradient step the gradient of the cost."""
    lower_solves: Float[Array, "*steps"]
    """1, and one for each trial of the optimiser's line search, if it has one."""


def directly(model: Model, setting: Setting, activation: str | None, batch_size: int) -> Model:
    """The model that runs with an activation are trained through: `models.direct` where the lower
    level is linear in u, the setting is `direct` and that costs less than its budget; else as it
    is. Not for denoising, which needs about as few evaluations, nor for a DEQ, whose H is near to
    a singular one when training starts: its exact solutions are far from any image.

    >>> bilevel, fast = models.build("inpainting", "bilevel", (4, 4)), settings.SETTINGS["fast"]
    >>> print(learning.directly(bilevel, fast, "identity", batch_size=100).factors is not None)
    True
    """
    others = {setting.solver, setting.hypergradient} - {"anderson"}
    iterated = isinstance(model.K, operators.Identity) or not model.tied
    if not setting.direct or activation != "identity" or others or iterated:
        return model
    solved = models.direct(model)
    cost = solved.preparation(batch_size) + DIRECTLY
    return solved if cost <= setting.budget.forward + setting.budget.adjoint else model


def groups(x: Any) -> tuple[Any, ...]:
    """Arrays by the shape of their images."""
    return tuple(x) if isinstance(x, list | tuple) else (x,)


def weights_of(learner: Learner, params: Params) -> Params:
    """The learned entries of `params`. Raises: ValueError for those that it has not, or none."""
    missing = [name for name in learner.learned if name not in params]
    if missing or not learner.learned:
        raise ValueError(
            f"learned={learner.learned}: {missing or 'none'} of params, which has {sorted(params)}"
        )
    return {name: params[name] for name in learner.learned}


def check_names(learned: Any) -> None:
    """Raises: ValueError for what is no tuple of names."""
    if not isinstance(learned, tuple) or not all(isinstance(name, str) for name in learned):
        raise ValueError(f"learned={learned!r}: expected names of params, such as ('A',)")


def check(learner: Learner, params: Params) -> None:
    """Raises ValueError for parts that do not go together, naming both and what to take instead.

    >>> model, setting = models.build("denoising", "deq", (1, 2)), settings.SETTINGS["paper"]
    >>> learner = learning.Learner((model,), setting, learning.adam(10), ("A", "b", "C"))
    >>> learning.check(learner, model.init(jax.random.key(0)))  # no error
    """
    setting, (model, *_) = settings.check(learner.setting), learner.models
    for one in learner.models:
        if not isinstance(one, Model):
            raise ValueError(f"model {one!r}: expected what models.build or models.assemble makes")
    losses.require("loss_function", learner.loss)
    check_names(learner.learned)
    weights_of(learner, params)
    if learner.sampling and "K" not in learner.learned:
        raise ValueError("sampling: takes measurements by the learned K, and K is not learned")
    preconditioned = setting.preconditioned and model.tied and model.R.matrix is not None
    asymmetric = not model.tied or preconditioned
    why = "of a preconditioned map" if model.tied else "of a DEQ, which minimises no cost"
    if asymmetric and setting.solver in solvers.DESCENTS:
        raise ValueError(
            f"solver {setting.solver!r}: needs a gradient step on an energy, and this is one "
            f"{why}; take {', '.join(solvers.SOLVERS)}"
        )
    if asymmetric and setting.hypergradient in (*hypergradients.SYMMETRIC, MINIMISER):
        raise ValueError(
            f"hypergradient {setting.hypergradient!r}: needs a symmetric dG/du, which a solve "
            f"{why} has not; take gmres, bicgstab or anderson"
        )
    if model.nonnegative:
        _check_nonnegative(setting)
    if learner.sampling and model.D.counts:
        raise ValueError(
            "sampling: needs a measurement's derivative by K, and counts have none; take the "
            "measurements by a K that stays, or another fidelity"
        )
    phi: Any = params.get("phi")
    if setting.hypergradient == MINIMISER and not getattr(phi, "twice_differentiable", True):
        raise ValueError(
            f"{type(phi).__name__}: not twice differentiable, so the minimiser has no "
            "hypergradient by (4.8); take a smooth potential, such as CornerRounded"
        )
    together = hasattr(model.G, "linearised")
    for what, name, needing in (
        ("solver", setting.solver, linearised.SOLVERS),
        ("hypergradient", setting.hypergradient, (PUT_TOGETHER,)),
    ):
        if name in needing and not together:
            raise ValueError(
                f"{what} {name!r}: needs a map that puts its Jacobian together, as the gradient "
                "step of regularizers.normalised does; take another, such as anderson"
            )


def _check_nonnegative(setting: Setting) -> None:
    """Raises: ValueError for what takes the map for a plain gradient step."""
    if setting.solver in solvers.DESCENTS and setting.solver != "nesterov":
        raise ValueError(
            f"solver {setting.solver!r}: needs a plain gradient step, and that of a nonnegative "
            f"model is projected; take nesterov, or one of {', '.join(solvers.SOLVERS)}"
        )
    if setting.hypergradient in hypergradients.SYMMETRIC:
        raise ValueError(
            f"hypergradient {setting.hypergradient!r}: needs a symmetric dG/du, which a projected "
            f"step has not; take {MINIMISER} of a smooth cost, or gmres, bicgstab or anderson"
        )


def lower_gradient_norm(
    model: Model, params: Params, u: Images, residual: Float[Array, ""]
) -> Float[Array, ""]:
    """||u - G(u)|| / (tau sqrt(number of pixels)), from the residual of a solve."""
    tau = model.completed(params)["tau"]
    return residual * jnp.linalg.norm(u.ravel()) / (tau * u.size**0.5)
