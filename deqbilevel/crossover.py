"""What was learned for one problem, used for another: a regulariser of denoising for any operator.

    u, info = crossover.reconstruct("weakly-convex-ridge", K, f, (64, 64), noise=0.05)

u* is the minimiser of

    (sigma / noise)^2 lam D(K u; f) + weight gamma R(u)

with R, lam and gamma as they were learned for noise of the standard deviation sigma, so that u*
stays the most probable image; a regulariser that knows the noise follows it by itself. weight is
the one number that is left to tune for another K.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Inexact

from deqbilevel import checks, models, recipes, solvers
from deqbilevel.operators import Operator
from deqbilevel.recipes import Learned
from deqbilevel.types import Images, Info


def at_noise(learned: Learned, noise: float) -> Learned:
    """What was learned, for measurements of another noise, see the module.

    Raises: ValueError where either noise is not above zero, and for more than a regulariser that
    follows the noise knows.

    >>> learned = crossover.at_noise(recipes.load("natural"), 50 / 255)  # of 25 / 255
    >>> print(round(float(learned.params["lam"]), 4))
    0.25
    """
    known = float(learned.params.get("noise", 0.0))
    if not (known > 0 and noise > 0):
        raise ValueError(f"noise={noise}: of learning it was {known}; both have to be above 0")
    changed = {"noise": jnp.asarray(noise, float)}
    most = learned.model().R.most_noise
    if most is None:
        changed["lam"] = learned.params["lam"] * (known / noise) ** 2
    elif noise > most * (1 + 1e-6):
        raise ValueError(
            f"noise={noise}: {learned.recipe.regularizer} was learned for noise up to {most:.4g}; "
            "take a model of one level, whose weight is changed"
        )
    return learned._replace(params=learned.params | changed)


def reconstruct(
    by: str | Path | Learned,
    K: Operator,
    f: Inexact[Array, "batch data"],
    shape: tuple[int, int],
    *,
    noise: float,
    weight: float = 1.0,
    tolerance: float = 1e-6,
    max_evaluations: int = 1000,
) -> tuple[Images, Info]:
    """u* of measurements f = K u + noise, and how its lower level was solved.

    by: what `recipes.load` takes, learned for a cost; shape: of the images, whose values are in the
    range of what was learned; noise: its standard deviation; weight: of the regulariser, beside
    what follows from the noise; tolerance: of the relative residual, a small one: where K sees
    nothing a step is short.
    Raises: ValueError for a model without a cost, and for measurements that are not K's.

    >>> u = jnp.linspace(0.2, 0.8, 64)[None]
    >>> K = operators.OPERATORS["gaussian_blur"]((8, 8))
    >>> f = K.apply(u) + 0.05 * jax.random.normal(jax.random.key(0), (1, 64))
    >>> found, info = crossover.reconstruct("natural", K, f, (8, 8), noise=0.05)
    >>> print(bool(jnp.mean((found - u) ** 2) < jnp.mean((f - u) ** 2) / 2), bool(info.converged))
    True True
    """
    learned = at_noise(by if isinstance(by, Learned) else recipes.load(by), noise)
    checks.one("weight", weight, above=0)
    R = learned.model(shape).R
    if not R.tied:
        raise ValueError(
            f"{learned.recipe.regularizer}: of no cost, so that it is of the operator that it was "
            "learned for; take what was learned for a cost"
        )
    model = models.assemble(K, R, start=K.adjoint)
    params: dict[str, Any] = dict(learned.params)
    params |= {"gamma": params["gamma"] * weight}
    params.pop("tau", None)  # 1/L of this K
    descent = solvers.DESCENTS[model.descent]
    return model.reconstruct(
        descent(tolerance=tolerance, max_evaluations=max_evaluations), params, f
    )
