"""Whether the conditions of [CF] 5.3.1 hold.

BA and the methods after it are proved to converge by Ghadimi and Wang (2018) under conditions on l,
named A_l, and on Phi, named A_Phi, numbered here as theirs.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.conditions.constants import (
    Constants,
    Problem,
    Region,
    constants,
    least_singular_value,
)
from deqbilevel.rules import Rule, real, require
from deqbilevel.types import Params

EVERYWHERE = "all images and parameters"
ANY_IMAGES = "all images"
REGION = "the region"
"""Where a condition holds."""


class Condition(NamedTuple):
    """One condition of [CF] 5.3.1."""

    name: str
    meaning: str
    constants: dict[str, float]
    holds: bool
    where: str
    """`REGION`, `ANY_IMAGES` with the region's parameters, or `EVERYWHERE`."""


class Report(NamedTuple):
    """What is known of a problem on a region."""

    region: Region
    constants: Constants
    conditions: tuple[Condition, ...]
    fixed: tuple[str, ...] = ()
    """What is learned but does not move in the region: of the way there nothing is known."""

    @property
    def failing(self) -> tuple[str, ...]:
        """The names of the conditions that do not hold."""
        return tuple(c.name for c in self.conditions if not c.holds)

    @property
    def condition_number(self) -> float:
        """L / mu, infinite where Phi is not strongly convex."""
        convex = "A_Phi 3" not in self.failing
        mu, L = float(self.constants.strong_convexity), float(self.constants.lipschitz)
        return L / mu if convex else math.inf


def report(
    problem: Problem,
    params: Params,
    region: Region | None = None,
    sigma: Float[Array, ""] | float | None = None,
) -> Report:
    """Whether each condition holds at `params` and about them, over pixels in [0, 1] by default.

    sigma: the least singular value of K, where `least_singular_value` would be costly. For the rest
    see `constants`. lam and gamma are 1 where `params` has none.
    Raises: ValueError for what is no region, params without an entry or not finite, a lam below 0
    and a gamma that is not above it, and as `constants` does.

    >>> c = regularizers.convolutional
    >>> problem = conditions.Problem(operators.identity((1, 4)), c.bank_of((1, 4)))
    >>> params = c.init(jnp.array([[[1.0, -1.0]]]), beta_0=0.0, phi=potentials.Welsch(eps=0.1))
    >>> print(conditions.report(problem, params).failing)  # 1 - 2 exp(-3/2) 2^2 is below 0
    ('A_Phi 3',)
    """
    region = Region() if region is None else region
    require({"region": Rule(lambda x: isinstance(x, Region), "a Region")}, {"region": region})
    missing = [name for name in ("phi", "filters", "beta", "beta_0") if name not in params]
    if missing:
        raise ValueError(f"params: without {', '.join(missing)}, as convolutional.init has them")
    checks.finite("params", params)
    if sigma is None:
        sigma = least_singular_value(problem.K, problem.R.shape)
    params = {"lam": jnp.ones(()), "gamma": jnp.ones(())} | params
    require({"lam": real(least=0), "gamma": real(above=0)}, params)
    found, phi = constants(problem, params, sigma, region), params["phi"]
    mu, L, J, H_in_u, J_in_u, H_in_params, J_in_params, loss = (float(x) for x in found)
    eps = float(jnp.finfo(found.lipschitz.dtype).eps)
    rounding = 10 * eps * float(params["lam"]) * problem.K_norm**2
    smooth, convex = bool(phi.twice_differentiable), mu > rounding
    quadratic = float(phi.curvature_lipschitz) == 0
    fixed = "filters" not in problem.learned

    def images(beyond: bool) -> str:
        return ANY_IMAGES if beyond else REGION

    convex_by_K = phi.convex and float(params["lam"] * jnp.asarray(sigma) ** 2) > rounding
    convexity = EVERYWHERE if convex_by_K else images(quadratic or not phi.convex)
    steady = images(fixed or quadratic)
    bounded = images(fixed and math.isfinite(phi.slope))
    rows = (
        ("A_l 1", "gradients of l Lipschitz in u", {"in u": 1.0, "in params": 0.0}, EVERYWHERE),
        ("A_l 2", "grad_u l bounded", {"bound": loss}, REGION),
        ("A_l 3", "grad_u l Lipschitz in params", {"constant": 0.0}, EVERYWHERE),
        ("A_Phi 1", "Phi twice continuously differentiable", {}, EVERYWHERE),
        ("A_Phi 2", "grad_u Phi Lipschitz in u", {"L": L}, ANY_IMAGES),
        ("A_Phi 3", "Phi strongly convex in u", {"mu": mu}, convexity),
        ("A_Phi 4", "H and J Lipschitz in u", {"H": H_in_u, "J": J_in_u}, steady),
        ("A_Phi 5", "J bounded", {"bound": J}, bounded),
        ("A_Phi 6", "H and J Lipschitz in params", {"H": H_in_params, "J": J_in_params}, bounded),
    )
    fails = {"A_Phi 1": not smooth, "A_Phi 3": not convex}
    conditions = (
        Condition(
            name,
            meaning,
            values,
            not fails.get(name) and all(math.isfinite(x) for x in values.values()),
            where,
        )
        for name, meaning, values, where in rows
    )
    moves = {"filters": region.filters, "beta": region.beta}
    still = tuple(name for name in problem.learned if not moves[name])
    return Report(region, found, tuple(conditions), still)


def text(report: Report) -> str:
    """A report as lines to read.

    >>> c = regularizers.convolutional
    >>> problem = conditions.Problem(operators.identity((1, 4)), c.bank_of((1, 4)))
    >>> params = c.init(jnp.array([[[1.0, -1.0]]]), beta_0=0.0, phi=potentials.Fair())
    >>> print(conditions.text(conditions.report(problem, params)).splitlines()[0])
    The conditions of [CF] 5.3.1; the region: 1 image(s), pixels in [0, 1],
    """
    region = report.region
    least, largest = region.pixels
    lines = [
        f"The conditions of [CF] 5.3.1; the region: {region.images} image(s), pixels in "
        f"[{least:g}, {largest:g}],",
        f"filters within {region.filters:g} and each beta_k within {region.beta:g} of the given "
        "ones. The proofs need all",
        "that a method passes through to lie there.",
        "",
    ]
    for c in report.conditions:
        values = ", ".join(f"{name} {value:.3g}" for name, value in c.constants.items())
        where = f"on {c.where}" if c.holds else "not shown"
        lines.append(f"{'yes' if c.holds else 'NO':4}{c.name:9}{c.meaning:39}{values:26}{where}")
    failing = ", ".join(report.failing)
    verdict = f"not shown to hold: {failing}" if failing else "every condition holds there"
    if report.fixed and not failing:
        verdict = (
            f"every condition holds for the given {' and '.join(report.fixed)} alone, which do not "
            "move in\nthis region: of the way that a method takes to them nothing is shown"
        )
    return "\n".join([*lines, "", f"L / mu {report.condition_number:.3g}; {verdict}"])
