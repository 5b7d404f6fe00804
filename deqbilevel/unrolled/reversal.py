"""The continuous adjoint of a flow, with memory that does not grow with the number of steps.

Along the flow u' = -F(u) backwards from T, with a(T) = grad l,

    a' = H(u) a,    dl/dtheta = -int_0^T a' dF/dtheta dt,    H the Jacobian of F, transposed,

and u itself is recovered on the way instead of kept: [CF] 4.4.1. An explicit step u_{k+1} = u_k -
h F(u_k) is undone by iterating u_k <- u_{k+1} + h F(u_k), which contracts for h < 1/L. Then a and
the integral by the vector-Jacobian products of the steps at the u_k are those of reverse mode.

A gradient flow forgets, and backwards it amplifies: rounding by up to e^{L T}. How far u(0) is from
where it started is known, so it is measured: where it is off by more than `RECOVERED` the gradient
is not a number, which the learner takes for divergence. Take shorter times then, double precision,
or checkpoint="sqrt" of `Unrolled.reconstruct`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.types import Images, Params
from deqbilevel.unrolled.base import LAYERS, Unrolled, shared

RECOVERED = 1e-2
"""Of ||u(0)||: the most that u(0) as it was recovered may be off."""


def reversed_flow(net: Unrolled, *, corrections: int = 3) -> Unrolled:
    """The explicit flow with this derivative, whatever the checkpoint of `reconstruct`.

    corrections: iterations that undo a step; 0 takes u_k = u_{k+1} + h F(u_{k+1}), the explicit
    step backwards, whose gradient is off by O(h).
    Raises: ValueError for corrections that are no count, and an algorithm that is no flow.

    >>> K = operators.identity((1, 2))
    >>> R = regularizers.function((1, 2), lambda u, w: w * u, lambda key: jnp.ones(()))
    >>> net = unrolled.flow(K, R, steps=100, time=0.5)
    >>> params, f = net.init(jax.random.key(0)), jnp.array([[4.0, 8.0]])
    >>> def total(params, net):
    ...     return net.reconstruct(params, f).sum()
    >>> by_reversal = jax.grad(total)(params, unrolled.reversed_flow(net))
    >>> print(by_reversal["log_time"].round(3) == jax.grad(total)(params, net)["log_time"].round(3))
    True
    """
    checks.whole("corrections", corrections, least=0)
    if "log_time" not in net.learned:
        raise ValueError("reversed_flow: the algorithm has no time; take one of unrolled.flow")

    return net._replace(whole=_reversible(net, corrections))


def recovery(net: Unrolled, params: Params, f: Array, corrections: int = 3) -> Float[Array, ""]:
    """How far u(0) as it is recovered from u(T) is off, over ||u(0)||.

    >>> K = operators.identity((1, 2))
    >>> R = regularizers.function((1, 2), lambda u, w: w * u, lambda key: jnp.ones(()))
    >>> net = unrolled.flow(K, R, steps=100, time=0.5)
    >>> off = unrolled.recovery(net, net.init(jax.random.key(0)), jnp.array([[4.0, 8.0]]))
    >>> print(bool(off < 1e-5))
    True
    """
    u0 = net.start(params, f)
    u, _ = jax.lax.scan(_forward(net, params, f), u0, params[LAYERS])
    u, _ = jax.lax.scan(_backward(net, params, f, corrections), u, params[LAYERS], reverse=True)
    return jnp.linalg.norm(u - u0) / jnp.linalg.norm(u0)


def _forward(net: Unrolled, params: Params, f: Array) -> Callable[[Images, Params], Any]:
    top = shared(params)
    return lambda u, at: (net.layer(u, top | at, f), None)


def _undone(net: Unrolled, u: Images, at: Params, f: Array, corrections: int) -> Images:
    """The u before a step that ended here: layer(v) = v - h F(v), so v = u + (v - layer(v))."""
    v = u
    for _ in range(corrections + 1):
        v = u + v - net.layer(v, at, f)
    return v


def _backward(
    net: Unrolled, params: Params, f: Array, corrections: int
) -> Callable[[Images, Params], Any]:
    top = shared(params)
    return lambda u, at: (_undone(net, u, top | at, f, corrections), None)


def _reversible(net: Unrolled, corrections: int) -> Callable[[Params, Images, Array], Images]:
    def run(params: Params, u0: Images, f: Array) -> Images:
        return jax.lax.scan(_forward(net, params, f), u0, params[LAYERS])[0]

    def forward(params: Params, u0: Images, f: Array) -> Any:
        u = run(params, u0, f)
        return u, (params, u0, f, u)

    def backward(saved: Any, g: Images) -> Any:
        params, u0, f, u = saved
        top = shared(params)

        def undo(carry: Any, at: Params) -> Any:
            u, a, gradient, of_f = carry
            v = _undone(net, u, top | at, f, corrections)
            _, pull = jax.vjp(lambda v, top, own, f: net.layer(v, top | own, f), v, top, at, f)
            a, d_top, d_at, d_f = pull(a)
            return (v, a, jax.tree.map(jnp.add, gradient, d_top), of_f + d_f), d_at

        carry = (u, g, jax.tree.map(jnp.zeros_like, top), jnp.zeros_like(f))
        (v, a, gradient, of_f), of_layers = jax.lax.scan(undo, carry, params[LAYERS], reverse=True)
        off = jnp.linalg.norm(v - u0) / jnp.linalg.norm(u0)
        found = (gradient | {LAYERS: of_layers}, a, of_f)
        return jax.tree.map(lambda x: jnp.where(off <= RECOVERED, x, jnp.nan), found)

    differentiable = jax.custom_vjp(run)
    differentiable.defvjp(forward, backward)
    return differentiable
