"""The vocabulary that every layer shares. Imports nothing of ours."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Params = dict[str, Any]
"""One pytree of everything that a map depends on: what is learned (`A`, `C`, `b`) and the scalar
hyperparameters (`tau`, `gamma`, `lam`, the potential `phi`). A grid is a `vmap` over its leaves,
and any of its scalars can itself be learned."""

Images = Float[Array, "batch pixels"]
TrainImages = Float[Array | np.ndarray, "train pixels"]
TestImages = Float[Array | np.ndarray, "test pixels"]
"""Images as rows of pixels: a batch, those for training, those for test."""


class Info(NamedTuple):
    """What a person reads of a solve; never an input of the next step.

    The adjoint's info leaves a backward pass as a cotangent, so there all three are floats.
    """

    evaluations: Int[Array, ""] | Float[Array, ""]
    """Evaluations of the map (forward) or of its vector-Jacobian product (adjoint)."""
    residual: Float[Array, ""]
    """norm(G(u) - u) / (1e-5 + norm(G(u))) over the whole batch, at the last evaluation."""
    converged: Bool[Array, ""] | Float[Array, ""]
    """Whether the residual met the tolerance within the budget."""


@runtime_checkable
class FixedPointMap(Protocol):
    """`G(u, params, f) -> u`, with u: [batch, ...] and f in the range of the forward operator."""

    def __call__(self, u: Array, params: Params, f: Array) -> Array: ...


class At(NamedTuple):
    """A map at its params and f: u -> G(u), and its Jacobian where it puts that together."""

    G: Any
    params: Params
    f: Array

    def __call__(self, u: Array) -> Array:
        return self.G(u, self.params, self.f)

    def linearised(self, u: Array) -> tuple[Array, Any]:
        """See `linearised.LinearisedMap`."""
        return self.G.linearised(u, self.params, self.f)

    @property
    def preconditioner(self) -> Callable[[Array], Callable[[Array], Array]]:
        """u -> about (I - dG/du)^{-1} there, a pytree. Raises: AttributeError of a map without."""
        of_map = self.G.preconditioner
        return lambda u: of_map(u, self.params, self.f)


Solver = Callable[[Callable[[Array], Array], Array], tuple[Array, Info]]
"""`solve(G_of_u, u0) -> (u, info)`, on a whole batch at once."""


@dataclass(frozen=True, eq=False)
class Adjoint:
    """`adjoint(vjp, g) -> (w, info)` with w = vjp(w) + g, that is (I - dG/du)^T w = g.

    A class of its own, as it takes what a `Solver` takes and is none: see `solvers.as_adjoint`.
    """

    name: str
    solve: Callable[[Callable[[Array], Array], Array], tuple[Array, Info]]

    def __call__(self, vjp: Callable[[Array], Array], g: Any) -> tuple[Array, Info]:
        return self.solve(vjp, g)


@runtime_checkable
class Solve(Protocol):
    """A differentiable solve: `(params, f, u0, probe) -> (u, info)`."""

    def __call__(
        self, params: Params, f: Array, u0: Array, probe: Info | None = None
    ) -> tuple[Array, Info]: ...


Class = TypeVar("Class", bound=type)


def pytree(kind: Class) -> Class:
    """A dataclass as a pytree of its fields but the static ones, which belong to its structure.

    Two classes of `jax.tree_util.register_dataclass` with as many leaves have equal structures
    (JAX 0.10.2), and the cache of a jitted function may then take one for the other. Here the class
    is a part of the structure.
    """
    static = [f.name for f in fields(kind) if f.metadata.get("static")]
    leaves = [f.name for f in fields(kind) if f.name not in static]

    def flatten(x: Any) -> tuple[Any, Any]:
        structure = (kind, *(getattr(x, name) for name in static))
        return [(jax.tree_util.GetAttrKey(name), getattr(x, name)) for name in leaves], structure

    def unflatten(structure: Any, values: Any) -> Any:
        # Without __init__, and so the checks of a class: JAX's leaves may be no numbers.
        made = object.__new__(kind)
        for name, value in zip([*leaves, *static], [*values, *structure[1:]], strict=True):
            object.__setattr__(made, name, value)
        return made

    jax.tree_util.register_pytree_with_keys(kind, flatten, unflatten)
    return kind
