r"""Gradient flows with a learned stopping time, [CF] 4.4.1:

    u'(t) = -F(u(t)),    F(u) = lam K'D'(K u; f) + gamma N(u),    u* = u(T)

of any regulariser N, such as one with a potential of its own for each filter: the phi_k that the
review prints in its flow are the derivatives of these. T = e^log_time is learned with the rest,

    dl/dT = <grad l(u(T)), u'(T)> = -<grad l, F(u(T))>,

which vanishes where going on in time does not help: the least loss is before the flow ends, at the
minimiser. (Effland, Kobler, Kunisch, Pock, J. Math. Imaging Vis. 62, 2020.)

S steps of length h = T/S: explicit Euler u - h F(u), stable only for h < 2/L with a Lipschitz
constant L of F, or implicit Euler, u + h F(u) at the step's end, stable for every h > 0 where the
cost is convex. `params["layers"]["share"]`: [S] has the share of T that each step takes, 1/S.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks, fidelities, models
from deqbilevel.fidelities import Fidelity
from deqbilevel.hypergradients import METHODS
from deqbilevel.models import Model
from deqbilevel.operators import Operator
from deqbilevel.regularizers import Regularizer
from deqbilevel.solvers import anderson
from deqbilevel.types import Images, Params
from deqbilevel.unrolled.base import LAYERS, Unrolled, iterations, repeated, shared

LIMITS: dict[str, Any] = {"max_evaluations": 100}
"""Of an implicit step and of its adjoint; the tolerance is that of rounding."""


def flow(
    K: Operator,
    R: Regularizer,
    *,
    steps: int = 20,
    time: float | None = None,
    scheme: Literal["explicit", "implicit"] = "explicit",
    D: Fidelity = fidelities.squares,
    given: Mapping[str, Any] | None = None,
) -> Unrolled:
    """The flow from `models.assemble`'s start in so many steps.

    time: T at the start; None: S / (4 L), an eighth of what is stable, as L grows while filters are
    learned. given: as of `gradient`.
    Raises: ValueError for numbers that are none, and with the explicit scheme for params of which
    the steps are longer than 2/L, where they are known, see `check_step`.

    >>> K, u = operators.identity((1, 2)), jnp.array([[4.0, 8.0]])
    >>> R = regularizers.function((1, 2), lambda u, w: w * u, lambda key: jnp.ones(()))
    >>> net = unrolled.flow(K, R, steps=100, time=0.5)
    >>> params = net.init(jax.random.key(0))
    >>> print(net.learned, net.reconstruct(params, u).round(1))  # f / 2 + e^(-2 T) f / 2
    ('network', 'log_time') [[2.7 5.5]]
    """
    checks.whole("steps", steps)
    checks.known("scheme", scheme, ("explicit", "implicit"))
    if time is not None:
        checks.number("time", time, above=0)
    model, fixed = models.assemble(K, R, D=D), dict(given or {})
    explicit = scheme == "explicit"

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        params = R.init(key) | fixed
        T = steps / (4 * model.lipschitz(params)) if time is None else time
        shares = {"share": jnp.full((), 1 / steps)}
        return params | {"log_time": jnp.log(jnp.asarray(T)), LAYERS: repeated(shares, steps)}

    def start(params: Params, f: Array) -> Images:
        if explicit and R.lipschitz is not None and not checks.traced(params):
            check_step(model, params)
        return model.start(f)

    def layer(u: Images, at: Params, f: Array) -> Images:
        h = jnp.exp(at["log_time"]) * at["share"]
        if explicit:
            return u - h * model.stationarity()(u, at, f)
        return _implicit(model, u, at, h, f)

    learned = (*R.learned, "log_time")
    return Unrolled(K, R.shape, init, learned, start, layer, _same, D, R.refresh)


def part_of_bound(model: Model, params: Params) -> float:
    """The longest step over 2/L: below 1 explicit Euler is stable.

    >>> R = regularizers.REGULARIZERS["convolutional"]((8, 8), filters=(3, 2, 2))
    >>> net = unrolled.flow(operators.identity((8, 8)), R, steps=2)
    >>> model = models.assemble(net.K, R)
    >>> print(round(unrolled.part_of_bound(model, net.init(jax.random.key(0))), 6))
    0.125
    """
    h = jnp.exp(params["log_time"]) * jnp.max(params[LAYERS]["share"])
    return float(h * model.lipschitz(params) / 2)


def check_step(model: Model, params: Params) -> None:
    """Raises: ValueError for steps of 2/L or longer, with which explicit Euler is not stable.

    >>> R = regularizers.REGULARIZERS["convolutional"]((8, 8), filters=(3, 2, 2))
    >>> net = unrolled.flow(operators.identity((8, 8)), R, steps=2)
    >>> unrolled.check_step(models.assemble(net.K, R), net.init(jax.random.key(0)))  # no error
    """
    part, count = part_of_bound(model, params), iterations(params)
    if not part < 1:
        T = float(jnp.exp(params["log_time"]))
        h = T * float(jnp.max(params[LAYERS]["share"]))
        raise ValueError(
            f"log_time: T = {T:.4g} in {count} steps is h = {h:.4g}, and explicit steps are stable "
            f"below 2/L = {h / part:.4g}; take more steps, a shorter time, or the scheme implicit"
        )


def stopping_slope(
    model: Model, params: Params, f: Array, u: Images, g: Images
) -> Float[Array, ""]:
    """dl/dT = -<g, F(u)> at u = u(T), with the gradient g of the loss there.

    >>> R = regularizers.function((1, 2), lambda u, w: w * u, lambda key: jnp.ones(()))
    >>> model = models.assemble(operators.identity((1, 2)), R)
    >>> u, g = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0]])
    >>> print(unrolled.stopping_slope(model, {"network": 3.0}, u, u, g))  # F = u - f + 3 u
    -3.0
    """
    own = {name: x for name, x in params.items() if name != LAYERS}
    return -jnp.vdot(g, model.stationarity()(u, own, f))


def refined(params: Params, count: int) -> Params:
    """The params of the same flow in another number of equal steps.

    >>> params = {"log_time": 0.0, "layers": {"share": jnp.full(2, 0.5)}}
    >>> print(unrolled.refined(params, 4)["layers"]["share"])
    [0.25 0.25 0.25 0.25]
    """
    checks.whole("count", count)
    whole = jnp.sum(params[LAYERS]["share"])
    return shared(params) | {LAYERS: {"share": jnp.full(count, whole / count)}}


def _implicit(model: Model, u: Images, at: Params, h: Array, f: Array) -> Images:
    """v with v + h F(v) = u, by a fixed point, and its derivative by the implicit function theorem.

    The step 1/(1 + h L) makes the map a contraction where F is monotone.
    """
    F = model.stationarity()
    slope = model.lipschitz(at) if model.R.lipschitz is not None else jnp.ones(())

    def G(v: Images, at: Params, f: Array) -> Images:
        r = v - at["u_before"] + at["h"] * F(v, at, f)
        return v - jax.lax.stop_gradient(1 / (1 + at["h"] * at["slope"])) * r

    solver = anderson(tolerance=0.0, ridge=1e-8, relative=True, **LIMITS)
    method = METHODS["conjugate_gradient" if model.tied else "gmres"]
    solve = method(G, solver, tolerance=0.0, **LIMITS)
    v, _ = solve(at | {"u_before": u, "h": h, "slope": slope}, f, jax.lax.stop_gradient(u))
    return v


def _same(u: Images, params: Params) -> Images:
    return u
