"""What a regulariser is to everything above: one record of pure functions of u and `params`.

Bilevel learning needs one with an energy R, whose gradient is N; a deep equilibrium model takes any
map N. Whatever else a regulariser can do is there or None, and what needs it says so by name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel.types import Images, Params


def unchanged(params: Params) -> Params:
    """`refresh` of a regulariser that keeps nothing up to date."""
    return params


class Regularizer(NamedTuple):
    """A learned regulariser of images of one shape.

    >>> R = regularizers.REGULARIZERS["dense"]((2, 2), tied=False)
    >>> print(R.shape, R.tied, R.learned)
    (2, 2) False ('A', 'b', 'C')
    """

    shape: tuple[int, int]
    init: Callable[[PRNGKeyArray], dict[str, Any]]
    """key -> the weights that are learned, and what `refresh` keeps up to date."""
    gradient: Callable[[Images, Params], Images]
    """N(u) of each image; where there is an energy, its gradient."""
    learned: tuple[str, ...]
    """The entries of `params` that are learned unless others are asked for."""
    energy: Callable[[Images, Params], Float[Array, " batch"]] | None = None
    """R(u) of each image; None: N is no gradient, or of an energy that is not known."""
    lipschitz: Callable[[Params], Float[Array, ""]] | None = None
    """A Lipschitz constant of N, from which a step size follows."""
    refresh: Callable[[Params], Params] = unchanged
    """params -> params after a step has moved the weights: norms and the like, which the next step
    takes as constants."""
    linearised: Callable[[Images, Params], tuple[Images, Any]] | None = None
    """N(u) and its Jacobian, put together, see `linearised.Jacobian`."""
    preconditioner: Callable[[Images, Params, Any], Callable[[Images], Images]] | None = None
    """(u, params, a) -> about (a I + N'(u))^{-1}, for conjugate gradients."""
    matrix: Callable[[Params], Float[Array, "pixels pixels"]] | None = None
    """params -> about N', one for all images, from which `maps.preconditioned_step` has its P."""
    jacobian: Callable[[Params], Float[Array, "pixels pixels"]] | None = None
    """params -> N' of an N that is affine in u with these params, see `models.direct`."""
    told: Callable[[Params, Images], Params] | None = None
    """(params, K^T f) -> params for each measurement, where the regulariser depends on it; `energy`
    and `gradient` are told what comes back. None: it is the same for all."""
    most_noise: float | None = None
    """N depends on `params["noise"]`, up to this, so that its weight follows the noise by itself;
    None: it does not."""
    descent: str = "optimized_gradient"
    """The one of `solvers.DESCENTS` that suits its energy."""
    firm: bool = False
    """Whether N is firmly nonexpansive with weights as `init` and `refresh` leave them:
    ||N(u) - N(v)||^2 <= <N(u) - N(v), u - v>. N and I - N are then both nonexpansive."""

    @property
    def tied(self) -> bool:
        """Whether N is the gradient of an energy, so that this is bilevel learning."""
        return self.energy is not None


def require_tied(params: Params) -> None:
    """Raises: ValueError for params of an untied regulariser, C^T sigma(A u): it has no energy."""
    if "C" in params:
        raise ValueError(
            "an untied regulariser (params has 'C') is not the gradient of an energy in general; "
            "drop 'C' from params for the tied one"
        )
