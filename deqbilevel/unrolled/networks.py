"""Variational networks and trainable nonlinear reaction diffusion, [CF] 7.1:

    u_{t+1} = u_t - alpha_t (K'(K u_t - f) + sum_k C_kt' phi_kt'(C_kt u_t))

with filters and a potential of its own for each filter and iteration. With K = I it is the
reaction diffusion of Chen and Pock (IEEE Trans. Pattern Anal. 39, 2017), with any K the variational
network of Hammernik and others (Magn. Reson. Med. 79, 2018). There the influence functions phi'
are sums of Gaussians; here they are odd splines, `potentials.Splines`.
"""

from typing import Any

from jaxtyping import PRNGKeyArray

from deqbilevel.convolutions import Boundary
from deqbilevel.operators import Operator
from deqbilevel.potentials import splines
from deqbilevel.regularizers import Regularizer
from deqbilevel.regularizers.convolutional import convolutional
from deqbilevel.unrolled.base import Unrolled
from deqbilevel.unrolled.gradient import gradient


def of_splines(
    shape: tuple[int, int],
    *,
    filters: tuple[int, int, int] = (24, 5, 5),
    beta_0: float = -4.0,
    boundary: Boundary = "circular",
) -> Regularizer:
    """The convolutional regulariser with a potential of its own for each filter, to be learned in
    the place of its weight; phi_k starts as e^{beta_0} times a Huber function.

    Raises: ValueError as `regularizers.convolutional` does.

    >>> R = unrolled.of_splines((8, 8), filters=(3, 2, 2))
    >>> params = R.init(jax.random.key(0))
    >>> print(R.learned, params["phi"].amplitudes.shape)
    ('filters', 'phi') (3, 7)
    """
    R = convolutional(shape, filters=filters, beta_0=beta_0, boundary=boundary)

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        return R.init(key) | {"phi": splines(filters[0])}

    return R._replace(init=init, learned=("filters", "phi"))


def variational_network(
    K: Operator,
    shape: tuple[int, int],
    *,
    filters: tuple[int, int, int] = (24, 5, 5),
    iterations: int = 10,
    tied: bool = False,
    beta_0: float = -4.0,
    boundary: Boundary = "circular",
) -> Unrolled:
    """The network of so many iterations; with the momentum of `gradient`, which starts at 0.

    Raises: ValueError as `gradient` and `of_splines` do.

    >>> net = unrolled.variational_network(operators.identity((8, 8)), (8, 8), filters=(3, 2, 2))
    >>> layers = net.init(jax.random.key(0))["layers"]
    >>> print(layers["filters"].shape, layers["phi"].amplitudes.shape)
    (10, 3, 2, 2) (10, 3, 7)
    """
    R = of_splines(shape, filters=filters, beta_0=beta_0, boundary=boundary)
    return gradient(K, R, iterations=iterations, tied=tied)
