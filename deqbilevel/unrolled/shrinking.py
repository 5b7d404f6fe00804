"""LISTA, the learned iterative shrinkage algorithm, [CF] 7.1:

    z_{t+1} = soft(W f + S z_t, theta),    u = B z_T

with soft(x, theta) = sign(x) max(|x| - theta, 0). It starts as the iterative shrinkage algorithm of
1/2 ||K B z - f||^2 + weight ||z||_1, that is with W = tau (K B)', S = I - tau (K B)' K B and
theta = tau weight, tau = 1/||K B||^2 (Gregor and LeCun, ICML 2010). Tied, W, S and theta are the
same in all iterations, else each has its own. B: [pixels, atoms] is a dictionary, or I.

Rows of codes, `[batch, atoms]`; W: [atoms, data], S: [atoms, atoms], log_theta: [atoms].
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.operators import Operator
from deqbilevel.operators.base import require_linear
from deqbilevel.types import Params
from deqbilevel.unrolled.base import LAYERS, Unrolled, repeated


def soft(x: Float[Array, "*shape"], theta: Any) -> Float[Array, "*shape"]:
    """sign(x) max(|x| - theta, 0), with a theta of 0 or more.

    >>> print(unrolled.soft(jnp.array([-3.0, 0.5, 2.0]), 1.0))
    [-2.  0.  1.]
    """
    return x - jnp.clip(x, -theta, theta)


def lista(
    K: Operator,
    shape: tuple[int, int],
    *,
    iterations: int = 10,
    tied: bool = True,
    weight: float = 0.1,
    dictionary: Float[Array, "pixels atoms"] | None = None,
) -> Unrolled:
    """T iterations from z = 0. Its matrices are dense: for images of a few thousand pixels.

    weight: of the 1-norm at the start; dictionary: B, which is learned too; None: I, which stays.
    Raises: ValueError for a weight of 0 or less, a dictionary of other pixels, and a K that is not
    linear or makes complex data.

    >>> net = unrolled.lista(operators.identity((1, 2)), (1, 2), weight=1.0)
    >>> print(net.learned, net.reconstruct(net.init(jax.random.key(0)), jnp.array([[3.0, 0.5]])))
    ('W', 'S', 'log_theta', 'layers') [[2. 0.]]
    """
    checks.whole("iterations", iterations)
    checks.switch("tied", tied)
    checks.number("weight", weight, above=0)
    require_linear("lista", K)
    pixels = checks.pixels(shape)
    if dictionary is not None:
        checks.shaped("dictionary", dictionary, (pixels, "atoms"))

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        checks.key("key", key)
        B = jnp.eye(pixels) if dictionary is None else jnp.asarray(dictionary, float)
        A = K.apply(B.T).T  # [data, atoms]
        if jnp.iscomplexobj(A):
            raise ValueError("lista: K makes complex data, and its codes are real; take another")
        tau = 1 / jnp.linalg.norm(A, 2) ** 2
        own = {
            "W": tau * A.T,
            "S": jnp.eye(B.shape[1]) - tau * A.T @ A,
            "log_theta": jnp.log(jnp.full(B.shape[1], tau * weight)),
        }
        top = {} if dictionary is None else {"dictionary": B}
        layers = {"log_scale": jnp.zeros(())}  # of theta, so that tied iterations have a length
        if tied:
            return top | own | {LAYERS: repeated(layers, iterations)}
        return top | {LAYERS: repeated(layers | own, iterations)}

    def start(params: Params, f: Array) -> Array:
        return jnp.zeros((len(f), pixels if dictionary is None else dictionary.shape[1]), f.dtype)

    def layer(z: Array, at: Params, f: Array) -> Array:
        theta = jnp.exp(at["log_theta"] + at["log_scale"])
        return soft(f @ at["W"].T + z @ at["S"].T, theta)

    def image(z: Array, params: Params) -> Array:
        return z if dictionary is None else z @ params["dictionary"].T

    own = ("W", "S", "log_theta") if tied else ()
    atoms = ("dictionary",) if dictionary is not None else ()
    return Unrolled(K, shape, init, (*atoms, *own, LAYERS), start, layer, image)
