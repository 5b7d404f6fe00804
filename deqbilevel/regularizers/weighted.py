"""Weighted filters as `params`: what convolutional regularisers learn, and how it is started.

`params` holds `filters`: [filters, rows, columns], `beta`: [filters], `beta_0` and `phi`, and where
they are wanted a `basis`, a `mask` and a `field`, see `regularizers.convolutional`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.potentials import Potential, bending
from deqbilevel.regularizers.bases import BASES, cosines, random
from deqbilevel.types import Params


def drawn(
    key: PRNGKeyArray,
    *,
    filters: tuple[int, int, int],
    basis: str | None,
    potential: str,
    eps: float,
    beta_0: float,
) -> dict[str, Any]:
    """`params` to start from: as many filters as their size has, less one, are cosines without the
    constant, divided by their height; others are random, of norm 1. With a basis of `BASES` they
    are those of it, or random combinations.

    filters: number, height and width; potential: one of `potentials.POTENTIALS`, which bends at
    `eps`.
    Raises: ValueError for counts below 1, a single pixel, and unknown names.

    >>> R = regularizers.convolutional.convolutional((8, 8), filters=(3, 2, 2))
    >>> sums = R.init(jax.random.key(0))["filters"].sum((1, 2))  # of cosines but the constant
    >>> print(bool(jnp.all(jnp.abs(sums) < 1e-6)))
    True
    """
    count, rows, columns = (checks.whole("filters", n) for n in filters)
    if rows * columns < 2:
        raise ValueError(f"filters {filters}: numbers and no filters; take a larger size")
    phi = bending(potential, eps)
    if basis is None:
        plain = cosines(rows, columns) / rows
        c = plain if count == len(plain) else random(key, count, rows, columns)
        return init(c, beta_0=beta_0, phi=phi)
    elements = BASES[basis](rows, columns)
    elements = elements / (rows if "cosines" in basis else 1)
    few = count != len(elements)
    c = random(key, count, 1, len(elements))[:, 0] if few else np.eye(count)
    return init(c, beta_0=beta_0, phi=phi, basis=elements)


def filters(params: Params) -> Float[Array, "filters rows columns"]:
    """The filters c_k. Raises: ValueError for parameters of another regulariser."""
    require(params)
    if "basis" in params:
        return jnp.tensordot(params["filters"], params["basis"], 1)
    return params["filters"] * params.get("mask", 1)


def require(params: Params) -> Params:
    """The parameters. Raises: ValueError for those of another regulariser."""
    checks.entries("params", params, ())
    missing = [name for name in ("filters", "beta", "beta_0", "phi") if name not in params]
    if missing:
        raise ValueError(
            f"params: no {', '.join(missing)}; expected what `regularizers.convolutional.init` "
            "returns"
        )
    return params


def weights(params: Params) -> Float[Array, " filters"]:
    """The weights e^{beta_0 + beta_k}. Raises: ValueError as `filters` does."""
    require(params)
    return jnp.exp(params["beta_0"] + params["beta"])


def varied(
    z: Float[Array, "filters batch height width"], params: Params
) -> Float[Array, "filters batch height width"]:
    """Values at each pixel times e^{field} there, where the weights vary in space: one field for
    all images, or one for each.

    >>> z, field = jnp.ones((1, 1, 1, 4)), jnp.log(jnp.array([[1.0, 3.0]]))
    >>> c = regularizers.convolutional
    >>> print(c.varied(z, {"field": field})[0, 0].round(2), c.varied(z, {})[0, 0])
    [[1.   1.32 2.28 3.  ]] [[1. 1. 1. 1.]]
    """
    if "field" not in params:
        return z
    field = params["field"]
    return z * jnp.exp(jax.image.resize(field, (*field.shape[:-2], *z.shape[2:]), "linear"))


def strengths(params: Params) -> Float[Array, " filters"]:
    """The effective strengths e^{beta_0 + beta_k} ||c_k||, by which filters are ordered."""
    return weights(params) * jnp.linalg.norm(filters(params), axis=(1, 2))


def init(
    c: Any,
    *,
    beta_0: float,
    beta: Any = 0.0,
    phi: Any,
    basis: Any = None,
) -> dict[str, Any]:
    """`params` of the regulariser: filters (coefficients, with a basis), weights and potential.

    Filters of different sizes are filled up with zeros to the largest; the weight of each is
    e^{beta_0 + beta_k}.
    Raises: ValueError for values that are not finite, a potential that is none, and filters,
    weights and a basis whose shapes do not fit.
    """
    if not isinstance(phi, Potential):
        raise ValueError(f"phi={phi!r}: expected a potential, see `potentials`")
    mask = None
    if not hasattr(c, "ndim"):
        if not isinstance(c, list | tuple):
            raise ValueError(f"filters: a {type(c).__name__}; expected an array or a list of them")
        sizes = [np.shape(x) for x in c]
        if not sizes or any(len(size) != 2 or 0 in size for size in sizes):
            raise ValueError(f"filters of shapes {sizes}: expected one or more [rows, columns]")
        margins = [np.max(sizes, axis=0) - size for size in sizes]
        pads = [[(0, n) for n in margin] for margin in margins]
        mask = np.stack([np.pad(np.ones(size), p) for size, p in zip(sizes, pads, strict=True)])
        c = np.stack([np.pad(x, p) for x, p in zip(c, pads, strict=True)])
    shape = ("filters", "rows", "columns") if basis is None else ("filters", "elements")
    checks.shaped("filters", c, shape)
    if basis is not None:
        checks.shaped("basis", basis, (c.shape[1], "rows", "columns"))
    checks.shaped("beta_0", beta_0, ())
    checks.shaped("beta", beta, (len(c),) if np.ndim(beta) else ())
    numbers = {"filters": c, "beta": np.broadcast_to(beta, len(c)), "beta_0": beta_0}
    for name, value in (numbers | ({} if basis is None else {"basis": basis})).items():
        with np.errstate(over="ignore"):  # a number beyond float32 is infinite there
            if not checks.traced(value) and not np.isfinite(_rounded(value)).all():
                raise ValueError(f"{name}: expected finite numbers, found {np.asarray(value)}")
    params: dict[str, Any] = {name: jnp.asarray(x, float) for name, x in numbers.items()}
    constants = {"phi": phi, "basis": basis, "mask": mask}
    return params | {
        name: jax.tree.map(lambda x: jnp.asarray(x, float), x)
        for name, x in constants.items()
        if x is not None
    }


def _rounded(value: Any) -> np.ndarray:
    """In the default precision."""
    return np.asarray(value).astype(jnp.result_type(float))
