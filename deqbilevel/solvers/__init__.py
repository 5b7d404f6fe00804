"""Fixed-point solvers and adjoint solvers. A solver does not know how it is differentiated."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxtyping import Array

from deqbilevel.solvers.anderson import anderson
from deqbilevel.solvers.krylov import conjugate_gradient
from deqbilevel.solvers.picard import picard
from deqbilevel.types import Adjoint, Info, Solver

__all__ = ["ADJOINTS", "SOLVERS", "anderson", "as_adjoint", "conjugate_gradient", "picard"]


def as_adjoint(solver: Solver) -> Adjoint:
    """A fixed-point solver as the adjoint solver of w = (dG/du)^T w + g, started at g."""

    def adjoint(vjp: Callable[[Array], Array], g: Array) -> tuple[Array, Info]:
        return solver(lambda w: vjp(w) + g, g)

    return adjoint


def _as_adjoint_factory(factory: Callable[..., Solver]) -> Callable[..., Adjoint]:
    return lambda **options: as_adjoint(factory(**options))


SOLVERS: Mapping[str, Callable[..., Solver]] = MappingProxyType(
    {"picard": picard, "anderson": anderson}
)
"""Every fixed-point solver; each takes at least `tolerance` and `max_evaluations`."""

ADJOINTS: Mapping[str, Callable[..., Adjoint]] = MappingProxyType(
    {
        "picard": _as_adjoint_factory(picard),
        "anderson": _as_adjoint_factory(anderson),
        "conjugate_gradient": conjugate_gradient,
    }
)
"""Every adjoint solver; each takes at least `tolerance` and `max_evaluations`."""
