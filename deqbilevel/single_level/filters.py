"""From what a single-level method learned to the convolutional regulariser of a reconstruction."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.potentials import CornerRounded, Potential
from deqbilevel.regularizers import convolutional
from deqbilevel.single_level.base import Rows


def filters_of(omega: Rows, size: tuple[int, int]) -> Float[Array, "filters rows columns"]:
    """The filters whose convolution is a product with the rows at each patch: the rows, flipped.

    Raises: ValueError for rows of another size.

    >>> print(single_level.filters_of(jnp.array([[1.0, 2.0, 3.0, 4.0]]), (2, 2)))
    [[[4. 3.]
      [2. 1.]]]
    """
    checks.shaped("omega", omega, ("filters", checks.pixels(size)))
    return jnp.asarray(omega).reshape(-1, *size)[:, ::-1, ::-1]


def params_of(
    c: Float[Array | np.ndarray, "filters rows columns"],
    *,
    phi: Potential | None = None,
    beta_0: float = -4.0,
    beta: Any = 0.0,
    added: Float[Array | np.ndarray, "added rows columns"] | None = None,
) -> dict[str, Any]:
    """`params` of `regularizers.convolutional` with these filters, whose strengths can be learned:
    `beta_0` alone by a search, or each beta_k by a hypergradient.

    phi: None: sqrt(z^2 + 0.01^2). added: handcrafted filters after those that were learned, of
    their size, [CF] 7.5; beta is of both.
    Raises: ValueError for filters, weights and a potential that do not fit.

    >>> differences = regularizers.bases.differences(2, 2)
    >>> params = single_level.params_of(jnp.ones((1, 2, 2)) / 2, added=differences)
    >>> R = regularizers.convolutional.bank_of((4, 4))
    >>> print(params["beta"], R.energy(jnp.ones((1, 16)), params).round(2))  # e^-4 * 16 * 2.02
    [0. 0. 0.] [0.59]
    """
    checks.shaped("filters", c, ("filters", "rows", "columns"))
    if added is not None:
        checks.shaped("added", added, ("added", *c.shape[1:]))
        c = jnp.concatenate((c, added))
    potential = CornerRounded(0.01) if phi is None else phi
    return convolutional.init(c, beta_0=beta_0, beta=beta, phi=potential)
