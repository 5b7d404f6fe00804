"""What several ways to a hypergradient share: the probe, and where they write their Info."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from deqbilevel import checks, precision
from deqbilevel.solvers.base import OFFSET, Map
from deqbilevel.types import FixedPointMap, Info, Params, Solve


def no_info(dtype: Any = jnp.float32) -> Info:
    """A probe: an Info of zeros to differentiate with respect to.

    >>> print(hypergradients.no_info().residual)
    0.0
    """
    return Info(*jnp.zeros((3,), dtype))


def as_cotangent(info: Info, probe: Info) -> Info:
    """The Info as a cotangent of the probe."""
    return jax.tree.map(lambda x, slot: jnp.asarray(x, slot.dtype), info, probe)


def scanned(body: Callable[[Any, Any], Any], carry: Any, xs: Any, segment: int) -> Any:
    """The last carry of body(carry, x) over the leading axis of xs, in order.

    Reverse mode keeps what it needs of `segment` of them at once: of the others it keeps one carry
    for each segment, and computes them again.

    >>> total = hypergradients.base.scanned(lambda s, x: s * x, 1.0, jnp.array([2.0, 3.0]), 1)
    >>> print(total)
    6.0
    """

    def run(carry: Any, xs: Any) -> tuple[Any, None]:
        return jax.lax.scan(lambda carry, x: (body(carry, x), None), carry, xs)[0], None

    count = len(jax.tree.leaves(xs)[0])
    if segment >= count:
        return run(carry, xs)[0]
    checkpointed = partial(jax.checkpoint, prevent_cse=False)(run)
    whole = count - count % segment
    parts = jax.tree.map(lambda x: x[:whole].reshape(-1, segment, *x.shape[1:]), xs)
    carry, _ = jax.lax.scan(checkpointed, carry, parts)
    return (
        carry if whole == count else checkpointed(carry, jax.tree.map(lambda x: x[whole:], xs))[0]
    )


# ---- what is given to a solve


def at(G: Callable[..., Array], params: Params, f: Any) -> Callable[[Array], Array]:
    """u -> G(u, params, f). It raises ValueError for params without what the map takes, an f of
    another number of images than u where the map fails for that, and for images of another form."""

    def image(u: Array) -> Array:
        try:
            return Map(lambda u: G(u, params, f))(u)
        except KeyError as error:
            has = ", ".join(map(str, params)) if isinstance(params, dict) else type(params).__name__
            raise ValueError(f"params: no {error}, which the map needs; has {has}") from error
        except ValueError as error:
            # Whether a map takes another number of images, such as one for all, is for it to say.
            given = getattr(f, "shape", ())
            if given[:1] in ((), u.shape[:1]):
                raise
            raise ValueError(
                f"f {list(given)} and u {list(u.shape)}: expected as many images in both, for "
                f"which the map fails ({error})"
            ) from error

    return image


def explicit(
    G: FixedPointMap, params: Params, f: Array, u0: Array
) -> tuple[Callable[..., Array], list[Array]]:
    """`G(u, params, f, *closed)` and `closed`: the map with what it closes over as arguments.

    They may be traced, but not differentiated: the gradient of a solve is with respect to params
    and f, and one with respect to them raises ValueError, instead of JAX's error of a leak. Raises
    it also for a u0 that is no [batch, ...] or not finite, an f of another number of images or not
    finite, for params without what the map takes, and for a map whose images have another form.
    """
    checks.function("map", G)
    checks.batch(u0=u0)
    checks.finite("u0", u0)
    checks.finite("f", f)

    converted, closed = jax.closure_convert(lambda u, params, f: at(G, params, f)(u), u0, params, f)
    return converted, [_constant(x) for x in closed]


@jax.custom_vjp
def _constant(x: Any) -> Any:
    return x


def _refuse(x: Any) -> Any:
    form = f"{jnp.result_type(x)}{list(jnp.shape(x))}"
    raise ValueError(
        f"the map closes over a value that is differentiated ({form}): the gradient of a solve is "
        "with respect to params and f; pass the value to the map through "
        "`params` or `f`, or close over jax.lax.stop_gradient of it"
    )


_constant.defvjp(_refuse, lambda _, g: (g,))


# ---- around an unrolled solve: `u0, link = begin(u0, ...)` and `u = end(u, link)`


@jax.custom_vjp
def begin(
    state: Any, probe: Info, evaluations: Any, tolerance: Any
) -> tuple[Any, Float[Array, ""]]:
    """The state that a solve is unrolled from, without a gradient, and the link to its `end`.

    Its cotangent is what a derivative that went further back would still have to push through the
    map. For Picard iteration u <- G(u) over t evaluations the derivative is (dG/dparams)^T w with
    w = sum_{s < t} J'^s g, and that cotangent is J'^t g = g - (I - J') w, the residual of the
    adjoint system at w. Its norm over that of g is the residual of the Info that the probe gets;
    for a scheme with momentum or a history it is the norm over all of its state, an indication.
    """
    return state, jnp.zeros((), jnp.result_type(float))


def _begin_forward(state: Any, probe: Info, evaluations: Any, tolerance: Any) -> Any:
    return begin(state, probe, evaluations, tolerance), (probe, evaluations, tolerance)


def _begin_backward(saved: Any, cotangent: Any) -> Any:
    probe, evaluations, tolerance = saved
    d_state, size = cotangent
    leaves = [x for x in jax.tree.leaves(d_state) if x.dtype != jax.dtypes.float0]
    dropped = jnp.sqrt(sum((jnp.sum(x * x) for x in leaves), jnp.zeros(())))
    residual = dropped / (OFFSET + size)
    info = Info(evaluations, residual, residual <= tolerance)
    return None, as_cotangent(info, probe), None, None


begin.defvjp(_begin_forward, _begin_backward)


@jax.custom_vjp
def end(u: Array, link: Float[Array, ""]) -> Array:
    """u; it tells `begin` the norm of its cotangent g."""
    return u


def _end_forward(u: Array, link: Float[Array, ""]) -> tuple[Array, None]:
    return u, None


def _end_backward(_: None, g: Array) -> tuple[Array, Array]:
    return g, jnp.linalg.norm(g.ravel()).astype(jnp.result_type(float))


end.defvjp(_end_forward, _end_backward)


# ---- the gradient as a sum over directions


Run = Callable[[Params, Any, Array], tuple[Array, Info]]
"""`run(params, f, u0) -> (u, info)`: a solve that nobody differentiates."""

Direction = Callable[[Int[Array, ""], Array, Any], Array]
"""`direction(i, x, options)`: the i-th direction at the vector x of parameters."""

Push = Callable[[Callable[[Array], tuple[Params, Any, Array]], Array, Array, Any], Any]
"""`push(place, x, d, options) -> (du, info)`: the derivative along d of the u that is found from
`place(x) = (params, f, u0)`."""


def along_directions(
    G: FixedPointMap,
    ways: Callable[[FixedPointMap], tuple[Run, Push]],
    direction: Direction,
    *,
    count: int | None = None,
    options: Any = (),
    block: int = 32,
) -> Solve:
    """A solve whose gradient is `(1/n) sum_i <g, du_i> d_i`, du_i its derivative along d_i.

    The directions are in the space of those entries of `params` and f that are differentiated, and
    of no others: one for each entry, with n = 1, where `count` is None; else n = count random ones.
    They are taken `block` at a time, so that memory does not grow with their number. `ways` makes
    the run and the push of a map; everything else traced that they and `direction` need is in
    `options`.

    The backward pass solves anew; its Info has the evaluations of all directions, the largest
    residual, and whether all converged. Raises ValueError for what `explicit` refuses.
    """
    checks.count("block", block, least=1)

    @precision.highest
    def solve(params: Params, f: Array, u0: Array, probe: Info | None = None) -> tuple[Array, Info]:
        G_of_all, closed = explicit(G, params, f, u0)
        run, push = ways(lambda u, params, f: G_of_all(u, params, f[0], *f[1]))
        differentiable = _along(run, push, direction, count, block)
        probe = no_info(u0.dtype) if probe is None else probe
        return differentiable(params, (f, closed), u0, probe, options)

    return solve


def _along(
    run: Run, push: Push, direction: Direction, count: int | None, block: int
) -> Callable[..., tuple[Array, Info]]:
    def forward(params: Any, f: Any, u0: Any, probe: Any, options: Any) -> Any:
        given = params, f
        moving = jax.tree.map(lambda x: x.value if x.perturbed else None, given)
        fixed = jax.tree.map(lambda x: None if x.perturbed else x.value, given)
        u0, probe, options = jax.tree.map(lambda x: x.value, (u0, probe, options))
        return run(*_merge(moving, fixed), u0), (moving, fixed, u0, probe, options)

    @precision.highest
    def backward(saved: Any, cotangent: Any) -> Any:
        moving, fixed, u0, probe, options = saved
        x, unravel = ravel_pytree(moving)
        g: Any = cotangent[0]
        if isinstance(g, SymbolicZero):
            g = jnp.zeros_like(u0)

        def place(x: Array) -> tuple[Params, Any, Array]:
            return (*_merge(unravel(x), fixed), u0)

        def slope(i: Array) -> tuple[Array, Info]:
            du, info = push(place, x, direction(i, x, options), options)
            return jnp.vdot(g, du), info

        def add(total: Array, term: tuple[Array, Array]) -> tuple[Array, None]:
            i, coefficient = term
            return total + coefficient * direction(i, x, options), None

        index = jnp.arange(x.size if count is None else count)
        slopes, infos = jax.lax.map(slope, index, batch_size=block)
        gradient, _ = jax.lax.scan(add, jnp.zeros_like(x), (index, slopes / (count or 1)))
        info = Info(jnp.sum(infos.evaluations), jnp.max(infos.residual), jnp.all(infos.converged))
        return (*unravel(gradient), None, as_cotangent(info, probe), None)

    differentiable = jax.custom_vjp(lambda params, f, u0, probe, options: run(params, f, u0))
    differentiable.defvjp(forward, backward, symbolic_zeros=True)
    return differentiable


def unit(i: Int[Array, ""], x: Array, options: Any) -> Array:
    """The i-th unit vector: the derivative with respect to one parameter."""
    return jnp.zeros_like(x).at[i].set(1)


def _merge(one: Any, other: Any) -> tuple[Params, Any]:
    """One tree of two, each of which is None where the other is not."""
    return jax.tree.map(lambda x, y: y if x is None else x, one, other, is_leaf=lambda x: x is None)
