"""The three named settings: how the lower level and its adjoint are solved while training.

    paper      as published with [REB]: absolute ridge, 50 evaluations, 1e-3
    accurate   tolerances that are really met: relative ridge, 1e-4 forward, 5e-4 adjoint, and for
               bilevel learning a preconditioned map
    fast       the least time to a given loss: small budgets that grow where they mislead

A setting is plain data, so a new one is `SETTINGS["fast"]._replace(learning_rate=1e-2)`. Losses
are compared between settings by `converged`, which is the same for all.

Where the values of `paper` are from. The text of [REB]: Anderson acceleration (3.4), at most 50
evaluations to a tolerance of 1e-3, the hypergradient by a second fixed-point equation (2.2, (9)),
Adam with a learning rate of 1e-3, cosine annealing, batches of 100 (4). The code that its authors
published, where the text says nothing:

    ridge             1e-4, absolute
    window            5 residuals
    residual          relative and over the whole batch, see `types.Info`; the text has the change
                      u^k - u^(k-1)
    adjoint           the same solver, with its own 50 and 1e-3
    schedule          falls with every step, over all steps (`learning.cosine`); the text has
                      T_max = 10,000

and outside of this module lam = 1 (`models.hyperparameters`), weights that start uniform in
(-1/28, 1/28) (`regularizers.dense.init`), and the circular boundary of the blur
(`operators.diagonal_blur`). What differs from `paper` in the other two is our own.

>>> setting = settings.SETTINGS["fast"]._replace(learning_rate=1e-2)
>>> print(isinstance(settings.check(setting), settings.Setting), setting.adaptive)
True True
>>> budget = settings.Budget(forward=12, adjoint=6)
>>> print(settings.grow(setting, budget, truncated_loss=1.0, true_loss=2.0).forward)
18
>>> print(settings.converged()(lambda u: 0.5 * u + 1, jnp.zeros((1, 1)))[0])
[[2.]]
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from deqbilevel import checks, hypergradients, linearised, precision
from deqbilevel.checks import Registry
from deqbilevel.solvers import ADJOINTS, DESCENTS, SOLVERS, anderson
from deqbilevel.solvers.base import REMEMBERED, floor_tolerance
from deqbilevel.types import Adjoint, FixedPointMap, Info, Solve, Solver

PUT_TOGETHER = "preconditioned"
"""The hypergradient for a map that puts its Jacobian together, beside `hypergradients.METHODS`."""

MINIMISER = "minimiser"
"""That at the minimiser of a cost, see `hypergradients.minimiser`, which can go on warm."""

NAMES = (*hypergradients.METHODS, PUT_TOGETHER, MINIMISER)
"""All ways to a hypergradient."""

TF32_RESIDUAL = 1e-3
"""The least residual that a solve with products in TF32 is asked for."""


class Budget(NamedTuple):
    """Evaluations that a training step may spend; traced, so that it can grow without compiling."""

    forward: Any
    adjoint: Any


class Setting(NamedTuple):
    """How a lower level and its adjoint are solved.

    Tolerances are those of `types.Info`; None is met by nothing, and the budget is spent.
    """

    forward_tolerance: float | None
    adjoint_tolerance: float | None
    budget: Budget
    """Evaluations to start with."""
    limit: Budget
    """What the budget may grow to; equal to `budget` where it is fixed."""
    evaluation_tolerance: float | None
    evaluation_budget: int
    """The cap on the reconstructions of the reported test loss."""
    ridge: float
    relative_ridge: bool
    preconditioned: bool
    """Train bilevel models through `maps.preconditioned_step`; a DEQ contracts less with it."""
    learning_rate: float
    """Adam's at the start of its schedule, where `params` has none."""
    guard: float | None = None
    """How many times its tolerance the residual of a solve may be for a training step to be taken.
    Else the weights go halfway back to the last where both solves were that near: a DEQ can unlearn
    its fixed point, and what stands for its hypergradient then is none. None: always."""
    window: int = 5
    """Residuals that Anderson mixes; decides shapes, so one of a compiled program."""
    hypergradient: str = "anderson"
    """One of `NAMES`: of `hypergradients.METHODS`, preconditioned for a map that puts its Jacobian
    together, or minimiser of a smooth cost."""
    solver: str = "anderson"
    """Of the lower level: one of `solvers.SOLVERS`, of `solvers.DESCENTS` for a gradient step on an
    energy, of `linearised.SOLVERS` for a map that puts its Jacobian together. Window and ridge are
    Anderson's."""
    precision: str = "highest"
    """One of `precision.PRECISIONS`, of the products of training and evaluation: below a residual
    of 1e-3 TF32, which a GPU takes by itself, converges to nothing."""
    warm: bool = False
    """Whether a step goes on with the lower level, and at a minimiser with its adjoint, where the
    last step with the same image left them; else each starts at `Model.start(f)`."""
    direct: bool = False
    """Whether a study solves runs with the identity activation by `learning.directly`."""

    def of(self, params: Mapping[str, Any]) -> "Setting":
        """The setting of one run, whose `params` may have a ridge and tolerances of their own."""
        names = ("ridge", "forward_tolerance", "adjoint_tolerance")
        return self._replace(**{name: params[name] for name in names if name in params})

    @property
    def adaptive(self) -> bool:
        """Whether the budget grows while training."""
        return self.limit != self.budget

    def solved(self, info: Info, adjoint: Info) -> Bool[Array, ""]:
        """Whether the residuals of a solve and of its adjoint meet the tolerances, or the guard."""
        times = 1 if self.guard is None else self.guard
        dtype = info.residual.dtype
        return (info.residual <= times * floor_tolerance(self.forward_tolerance, dtype)) & (
            adjoint.residual <= times * floor_tolerance(self.adjoint_tolerance, dtype)
        )

    def forward(self, budget: Budget) -> Solver:
        """The lower-level solver of a training step."""
        return self._lower_level(self.forward_tolerance, budget.forward)

    def adjoint(self, budget: Budget) -> Adjoint:
        """The adjoint solver of a training step."""
        return ADJOINTS["anderson"](**self._options(self.adjoint_tolerance, budget.adjoint))

    def differentiable(self, budget: Budget) -> Callable[[FixedPointMap], Solve]:
        """How a training step makes a differentiable solve of a map.

        Methods with a static budget take the one to start with. Raises ValueError where it grows,
        and for `truncated` with Anderson's method, see `hypergradients.truncated`.
        """
        name = self.hypergradient
        if name == "truncated" and self.solver == "anderson":
            raise ValueError(
                "hypergradient 'truncated' with solver 'anderson': its mixing weights come from "
                "residuals before the last evaluations, which are no functions of the parameters, "
                "and the gradient is worse than none; take solver picard, or optimized_gradient"
            )
        if name == "anderson":
            return lambda G: hypergradients.fixed_point(
                G, self.forward(budget), self.adjoint(budget)
            )
        if name in hypergradients.STATIC:
            if self.adaptive:
                raise ValueError(
                    f"hypergradient {name!r}: its budget is static, and this setting's grows; take "
                    "another setting, or one of the implicit methods"
                )
            budget = self.budget
        options = {"tolerance": self.adjoint_tolerance, "max_evaluations": budget.adjoint}
        own = {PUT_TOGETHER: hypergradients.preconditioned}
        if name == MINIMISER:
            raise ValueError(f"hypergradient {name!r}: no differentiable solve; take another")
        method = Registry("hypergradient", {**hypergradients.METHODS, **own})[name]
        return lambda G: method(G, self.forward(budget), **options)

    def evaluation(self) -> Solver:
        """The lower-level solver of the reported test loss."""
        solver = self._lower_level(self.evaluation_tolerance, self.evaluation_budget)
        return precision.at(self.precision, solver)

    def _lower_level(self, tolerance: Any, max_evaluations: Any) -> Solver:
        if self.solver == "anderson":
            return anderson(**self._options(tolerance, max_evaluations))
        known = Registry("solver", {**SOLVERS, **DESCENTS, **linearised.SOLVERS})
        return known[self.solver](tolerance=tolerance, max_evaluations=max_evaluations)

    def _options(self, tolerance: Any, max_evaluations: Any) -> dict[str, Any]:
        return {
            "tolerance": tolerance,
            "max_evaluations": max_evaluations,
            "window": self.window,
            "ridge": self.ridge,
            "relative": self.relative_ridge,
        }


SETTINGS: Registry[Setting] = Registry(
    "setting",
    {
        "paper": Setting(
            forward_tolerance=1e-3,
            adjoint_tolerance=1e-3,
            budget=Budget(50, 50),
            limit=Budget(50, 50),
            evaluation_tolerance=1e-3,
            evaluation_budget=50,
            ridge=1e-4,
            relative_ridge=False,
            preconditioned=False,
            learning_rate=1e-3,
        ),
        "accurate": Setting(
            forward_tolerance=1e-4,
            adjoint_tolerance=5e-4,
            budget=Budget(200, 200),
            limit=Budget(200, 200),
            evaluation_tolerance=1e-4,
            evaluation_budget=300,
            ridge=1e-4,
            relative_ridge=True,
            preconditioned=True,
            learning_rate=1e-3,
            direct=True,
        ),
        "fast": Setting(
            forward_tolerance=1e-3,
            adjoint_tolerance=1e-3,
            budget=Budget(12, 6),
            limit=Budget(200, 100),
            evaluation_tolerance=1e-3,
            evaluation_budget=100,
            ridge=1e-4,
            relative_ridge=True,
            preconditioned=False,
            learning_rate=3e-3,
            precision="tensorfloat32",
            direct=True,
        ),
    },
)
"""The named settings, see above."""


def converged(*, max_evaluations: int = 1000) -> Solver:
    """The common yardstick: reconstructions to a relative residual of 1e-5, in full precision."""
    solver = anderson(tolerance=1e-5, max_evaluations=max_evaluations, ridge=1e-6, relative=True)
    return precision.at("highest", solver)


def check(setting: Setting) -> Setting:
    """The setting, if its values can be used; what is traced is not looked at.

    Raises: ValueError that names the first which cannot, or two that cannot be used together:
    products in TF32, and a tolerance below what they converge to.
    """
    if not isinstance(setting, Setting):
        raise ValueError(f"setting {setting!r}: expected a Setting, such as SETTINGS['fast']")
    for name in ("forward_tolerance", "adjoint_tolerance", "evaluation_tolerance", "guard"):
        if getattr(setting, name) is not None:
            checks.number(name, getattr(setting, name), least=0)
    for name in ("relative_ridge", "preconditioned", "warm", "direct"):
        checks.switch(name, getattr(setting, name))
    for name in ("budget", "limit"):
        if not isinstance(getattr(setting, name), Budget):
            raise ValueError(f"{name}={getattr(setting, name)}: expected Budget(forward, adjoint)")
    checks.number("ridge", setting.ridge, least=0)
    checks.number("learning_rate", setting.learning_rate, above=0)
    checks.whole("window", setting.window, most=REMEMBERED)
    checks.whole("evaluation_budget", setting.evaluation_budget)
    for level, now, most in zip(Budget._fields, setting.budget, setting.limit, strict=True):
        checks.whole(f"budget.{level}", now)
        checks.whole(f"limit.{level}", most, least=now)
    checks.known("precision", setting.precision, precision.PRECISIONS)
    for name in ("forward_tolerance", "adjoint_tolerance", "evaluation_tolerance"):
        tolerance = getattr(setting, name)
        if setting.precision == "highest" or tolerance is None or checks.traced(tolerance):
            continue
        if tolerance < TF32_RESIDUAL:
            raise ValueError(
                f"{name}={tolerance:g} with precision tensorfloat32, whose products converge to "
                f"residuals of {TF32_RESIDUAL:g}: take precision highest, or a tolerance of "
                f"{TF32_RESIDUAL:g} or more"
            )
    checks.known("solver", setting.solver, ("anderson", *SOLVERS, *DESCENTS, *linearised.SOLVERS))
    checks.known("hypergradient", setting.hypergradient, NAMES)
    if setting.hypergradient != MINIMISER:
        setting.differentiable(setting.budget)
    return setting


def grow(setting: Setting, budget: Budget, truncated_loss: Any, true_loss: Any) -> Budget:
    """The budget of the next epoch: half as much again where the truncated loss misleads.

    A budget misleads where the loss of the training steps is more than 5 % below the loss of the
    same model's converged reconstructions on training images: the parameters have then learned
    the truncation instead of the fixed point. Arrays (one entry a lane) grow each by itself.
    """
    truncated, true = jnp.asarray(truncated_loss), jnp.asarray(true_loss)
    misleads = setting.adaptive & (true > truncated + 0.05 * jnp.abs(truncated))
    return Budget(
        *(
            jnp.where(misleads, jnp.minimum(now * 3 // 2, most), now)
            for now, most in zip(budget, setting.limit, strict=True)
        )
    )
