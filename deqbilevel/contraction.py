"""Whether a fixed-point map contracts: what is known of it beforehand, and what is measured.

    G(u, params, f) is a contraction where its Lipschitz constant is below 1,

and then it has one fixed point, which Picard's iteration reaches. With s and k the least and the
largest singular value of K, and L a Lipschitz constant of N, it has for any N at most the constant

    max(|1 - tau lam s^2|, |1 - tau lam k^2|) + tau gamma L           gradient step
    (1 + tau gamma L) / (1 + tau lam s^2)                             proximal step
    (1 + L) max(|1 - tau lam s^2|, |1 - tau lam k^2|)                 plug-and-play, D = I - N

[REB] 2.2 asks for a step size below 2 / (lam k^2), strictly, for K^T K of full rank, and for an N
whose Lipschitz constant is small beside lam s^2; a step of exactly 2 / (lam k^2) does not satisfy
it: I - tau lam K^T K then has the eigenvalue -1, and `report` says so. How small is said by the
constants above, which are ours, and tighter ones where N is 1/L-cocoercive, that is
`||N(u) - N(v)||^2 <= L <N(u) - N(v), u - v>`, as the gradient of a convex energy is:

    sqrt(1 - tau lam s^2 (2 - tau (lam k^2 + gamma L)))    for tau <= 2 / (lam k^2 + gamma L)
    1 / (1 + tau lam s^2)                                  for tau <= 2 / (gamma L)
    max(|1 - tau lam s^2|, |1 - tau lam k^2|)              for L <= 2

Where K loses information, s = 0 and only 1 is guaranteed; what is measured, the Jacobian at some
images, says how it is there and no more.

>>> c, A, u = contraction, jnp.array([[0.0, 2.0], [0.0, 0.0]]), jnp.ones((1, 2))
>>> x = c.Sizes(0.5, 1.0, 1.0, least=1.0, norm=1.0, lipschitz=0.5, cocoercive=False)
>>> print(c.gradient_step(x), c.plug_and_play_step(x), c.proximal_step(x) == 1.25 / 1.5)
0.75 0.75 True
>>> at = lambda u, params, f: u @ params["A"], {"A": A}, u, u, jax.random.key(0)
>>> print(c.lipschitz(*at), c.spectral_radius(*at))  # A is nilpotent
[2.] [0.]
>>> model = models.build("denoising", "deq", (1, 2))
>>> scalars = models.hyperparameters(tau=0.5, gamma=0.0, activation="identity")
>>> found = c.report(model, model.init(jax.random.key(0)) | scalars, u, u, jax.random.key(0))
>>> print(c.failing(found), c.text(found)[-8:])  # without N a step is I / 2
() all hold
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks, operators, precision
from deqbilevel.checks import Registry, finite, rows
from deqbilevel.conditions import least_singular_value
from deqbilevel.fidelities import squares
from deqbilevel.hypergradients.base import at
from deqbilevel.models import Model
from deqbilevel.rules import KEY, POSITIVE, count, options, real, require
from deqbilevel.types import FixedPointMap, Images, Params

STEP_SIZE = "step size"
STEP_SIZE_WITH_N = "step size with N"
FULL_RANK = "full rank"
NONEXPANSIVE = "N nonexpansive"
NONEXPANSIVE_MEASURED = "N nonexpansive, measured"
CONTRACTION = "contraction"
CONTRACTION_MEASURED = "contraction, measured"
SPECTRAL_RADIUS = "spectral radius, measured"
"""The names of what `report` finds."""


class Finding(NamedTuple):
    """One condition on `value`, that it be at most `bound`, or below or, for the rank, above it:
    `meaning` says which."""

    name: str
    meaning: str
    value: float
    bound: float
    holds: bool


class Sizes(NamedTuple):
    """What the constants are made of."""

    tau: float
    lam: float
    gamma: float
    least: float
    """s, the least singular value of K."""
    norm: float
    """k = ||K||."""
    lipschitz: float
    """L, of N."""
    cocoercive: bool
    """Whether N is 1/L-cocoercive."""

    @property
    def fidelity_step(self) -> float:
        """The Lipschitz constant of I - tau lam K^T K."""
        step = self.tau * self.lam
        return max(abs(1 - step * self.least**2), abs(1 - step * self.norm**2))


def gradient_step(x: Sizes) -> float:
    """A Lipschitz constant of `maps.gradient_step`."""
    general = x.fidelity_step + x.tau * x.gamma * x.lipschitz
    slack = 2 - x.tau * (x.lam * x.norm**2 + x.gamma * x.lipschitz)
    if not x.cocoercive or slack < 0:
        return general
    return min(general, max(0.0, 1 - x.tau * x.lam * x.least**2 * slack) ** 0.5)


def proximal_step(x: Sizes) -> float:
    """A Lipschitz constant of `maps.proximal_step`."""
    move = x.tau * x.gamma * x.lipschitz
    forward = 1.0 if x.cocoercive and move <= 2 else 1 + move
    return forward / (1 + x.tau * x.lam * x.least**2)


def plug_and_play_step(x: Sizes) -> float:
    """A Lipschitz constant of `maps.plug_and_play_step` with D = I - N."""
    denoiser = 1.0 if x.cocoercive and x.lipschitz <= 2 else 1 + x.lipschitz
    return denoiser * x.fidelity_step


STEPS: Registry[Callable[[Sizes], float]] = Registry(
    "step",
    {
        "gradient_step": gradient_step,
        "proximal_step": proximal_step,
        "plug_and_play_step": plug_and_play_step,
    },
)
"""The maps, by their names in `maps`, whose constant is known."""


@options(iterations=count(1), key=KEY)
def lipschitz(
    G: FixedPointMap, params: Params, f: Array, u: Array, key: Any, iterations: int = 50
) -> Float[Array, " batch"]:
    """||dG/du|| at each image u, by power iteration on J^T J; never larger than the true norm.

    The largest of them is a lower bound on the Lipschitz constant of G. The images of a batch are
    taken as independent, as they are in all our maps. Raises: ValueError for what are no images.
    """
    image = at(G, params, f)
    _check(image, u)
    _, push = jax.linearize(image, u)
    _, pull = jax.vjp(image, u)
    v = _unit(jax.random.normal(key, u.shape, u.dtype))
    v = jax.lax.fori_loop(0, iterations, lambda _, v: _unit(pull(push(v))[0]), v)
    return jnp.linalg.norm(push(v), axis=-1)


@options(iterations=count(2), key=KEY)
def spectral_radius(
    G: FixedPointMap, params: Params, f: Array, u: Array, key: Any, iterations: int = 100
) -> Float[Array, " batch"]:
    """The spectral radius of dG/du at each image, an estimate: the mean growth of J^m v, m large.

    The geometric mean over the last half of the iterations, because a pair of complex eigenvalues
    makes single growths swing. At a fixed point Picard's iteration converges nearby where it is
    below 1, though the norm may be above. Raises: ValueError for what are no images.
    """
    image = at(G, params, f)
    _check(image, u)
    _, push = jax.linearize(image, u)

    def grow(v: Images, _: Any) -> tuple[Images, Float[Array, " batch"]]:
        w = push(v)
        return _unit(w), jnp.log(jnp.linalg.norm(w, axis=-1) + jnp.finfo(w.dtype).tiny)

    v = _unit(jax.random.normal(key, u.shape, u.dtype))
    _, growth = jax.lax.scan(grow, v, length=iterations)
    return jnp.exp(jnp.mean(growth[iterations // 2 :], axis=0))


@options(key=KEY, bound=real(least=0), least=real(least=0), iterations=count(1))
def report(
    model: Model,
    params: Params,
    f: Array,
    u: Array,
    key: Any,
    *,
    step: str = "gradient_step",
    bound: float | None = None,
    cocoercive: bool = False,
    least: float | None = None,
    iterations: int = 50,
) -> list[Finding]:
    """What holds of a model whose map is one of `STEPS`, at images u with measurements f.

    bound: a Lipschitz constant of N, where one is known, such as `Network.lipschitz`; without it
    the measured one takes its place in the step size, and nothing is said of N and G beforehand.
    cocoercive: whether N is 1/L-cocoercive. least: the least singular value of K, where
    `conditions.least_singular_value` would be costly. ||K|| is by `operators.norm`.
    Raises: ValueError for an unknown step, a nonnegative model, one without squares or with a K
    that is not linear, images that are not finite or of another number of pixels, and scalars in
    `params` that are not.
    """
    if not isinstance(model, Model):
        raise ValueError(f"model {model!r}: expected what models.build makes")
    if model.D is not squares or model.nonnegative or not operators.linear(model.K):
        raise ValueError(
            "model: these conditions are of a linear K, squares, u of any sign; see `lipschitz`"
        )
    checks.switch("cocoercive", cocoercive)
    finite("u", rows("u", u, math.prod(model.shape)))
    wanted = jax.eval_shape(model.K.apply, u).shape
    if f.shape != wanted:
        raise ValueError(f"f: of shape {list(f.shape)}; expected {list(wanted)}, as K gives it")
    finite("f", f)
    missing = [name for name in ("tau", "lam", "gamma") if name not in params]
    if missing:
        raise ValueError(f"params: without {', '.join(missing)}; see models.hyperparameters")
    finite("params", params)
    require({"tau": POSITIVE, "lam": real(least=0), "gamma": real(least=0)}, params)
    constant = STEPS[step]
    params, f, u = precision.as_weights(params, f, u)
    if least is None:
        least = float(least_singular_value(model.K, model.shape))
    measured = jax.jit(partial(_measure, model, iterations=iterations))(params, f, u, key)
    norm, N_norm, G_norm, radius = (float(x) for x in measured)
    tau, lam, gamma = (float(params[name]) for name in ("tau", "lam", "gamma"))
    L = N_norm if bound is None else float(bound)
    fidelity, regulariser = lam * norm**2, gamma * L
    steps = {
        "gradient_step": (
            (STEP_SIZE, "tau < 2 / (lam ||K||^2)", fidelity),
            (STEP_SIZE_WITH_N, "tau <= 2 / (lam ||K||^2 + gamma L)", fidelity + regulariser),
        ),
        "proximal_step": ((STEP_SIZE_WITH_N, "tau <= 2 / (gamma L)", regulariser),),
        "plug_and_play_step": ((STEP_SIZE, "tau < 2 / (lam ||K||^2)", fidelity),),
    }
    rounding = 100 * float(jnp.finfo(u.dtype).eps)

    def at_most(name: str, meaning: str, value: float, most: float) -> Finding:
        if name == STEP_SIZE:  # strict, so that what equals it up to rounding does not hold
            return Finding(name, meaning, value, most, value < most * (1 - rounding))
        return Finding(name, meaning, value, most, value <= most * (1 + rounding))

    def below_1(name: str, meaning: str, value: float) -> Finding:
        return Finding(name, meaning, value, 1.0, value < 1)

    zero = rounding * norm**2
    found = [
        *(at_most(name, what, tau, 2 / c if c else math.inf) for name, what, c in steps[step]),
        Finding(FULL_RANK, "least eigenvalue of K'K positive", least**2, zero, least**2 > zero),
        at_most(NONEXPANSIVE_MEASURED, "||dN/du|| <= 1 at the images", N_norm, 1.0),
        below_1(CONTRACTION_MEASURED, "||dG/du|| < 1 at the images", G_norm),
        below_1(SPECTRAL_RADIUS, "radius of dG/du < 1 at the images", radius),
    ]
    if bound is not None:
        sizes = Sizes(tau, lam, gamma, least, norm, L, cocoercive)
        found += [
            at_most(NONEXPANSIVE, "L <= 1, for all images", L, 1.0),
            below_1(CONTRACTION, "constant of G < 1, for all images", constant(sizes)),
        ]
    return found


def _check(at: Callable[[Array], Array], u: Array) -> None:
    """Raises ValueError for what are no images, or a map that gives others."""
    finite("u", rows("u", u))
    checks.same_form(jax.eval_shape(at, u), u)


@precision.highest
def _measure(
    model: Model, params: Params, f: Array, u: Images, key: PRNGKeyArray, *, iterations: int
) -> tuple[Array, ...]:
    """||K||, and the largest over images of ||dN/du||, ||dG/du|| and the latter's radius."""
    keys = jax.random.split(key, 4)

    def N(u: Images, params: Params, f: Array) -> Images:
        return model.N(u, model.told(params, f))

    each = (
        lipschitz(N, params, f, u, keys[1], iterations),
        lipschitz(model.G, params, f, u, keys[2], iterations),
        spectral_radius(model.G, params, f, u, keys[3], 2 * iterations),
    )
    return operators.norm(model.K, u.shape[1]), *(jnp.max(x) for x in each)


def failing(findings: list[Finding]) -> tuple[str, ...]:
    """The names of those that do not hold."""
    return tuple(x.name for x in findings if not x.holds)


def text(findings: list[Finding]) -> str:
    """Findings as lines to read."""
    lines = [
        f"{'yes' if x.holds else 'NO':4}{x.name:27}{x.meaning:37}"
        f"{x.value:<10.4g}bound {x.bound:.4g}"
        for x in findings
    ]
    names = ", ".join(failing(findings))
    return "\n".join([*lines, f"not shown to hold: {names}" if names else "all hold"])


def _unit(v: Images) -> Images:
    norm = jnp.linalg.norm(v, axis=-1, keepdims=True)
    return v / jnp.maximum(norm, jnp.finfo(v.dtype).tiny)
