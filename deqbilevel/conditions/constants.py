"""The constants of [CF] C.2 for (Ex).

    Phi(u; params) = lam/2 ||K u - f||^2 + gamma e^{beta_0} sum_k e^{beta_k} 1' phi(c_k * u)
    l(params; u) = 1/2 ||u - truth||^2

All are bounds, most of which hold only where images and learned parameters are bounded: on a
`Region`. H = grad_uu Phi, J = grad_{u params} Phi, and A stacks sqrt(w_k) C_k, where w_k = gamma
e^{beta_0 + beta_k}, so that the Hessian of the regulariser is A' diag(phi''(C u)) A.

Where ours differ from those printed in [CF] C.2, N the number of pixels:

    H in u               the printed constant bounds a difference of Hessians and is no Lipschitz
                         constant; ours is Lip(phi'') ||A||^2 max_k ||c_k||
    J, H and J in beta   the printed ones with a bound of |phi'| lack sqrt(N), as phi'(c_k * u) is a
                         vector of N; ours has it, or Lip(phi') ||C_k|| ||u|| where that is less
    J in the filters     needs 2 Lip(phi') ||u||, as c_k is in it twice, not the bound of |phi'|

and where they are tighter: ||A|| is by the transfer functions of all filters together, where (4.19)
adds up the norms of each, and mu counts what the regulariser adds to lam sigma_min(K)^2. (C.1) and
(C.2) hold for correlation, as ours; true convolution turns every shift around. (C.4) is a bound.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks, operators
from deqbilevel.convolutions import PAD_NORM, transfer
from deqbilevel.operators import CircularConvolution, Identity, Mask, Operator
from deqbilevel.operators.base import require_linear
from deqbilevel.potentials import Quadratic
from deqbilevel.regularizers import convolutional
from deqbilevel.regularizers.convolutional import Convolutional
from deqbilevel.rules import Rule, count, real, require
from deqbilevel.types import Params

Scalar = Float[Array, ""]
"""One number."""


class Problem(NamedTuple):
    """A smooth lower-level cost of convolution filters, with 1/2 ||K u - f||^2.

    >>> R = regularizers.convolutional.bank_of((1, 4))
    >>> print(conditions.Problem(operators.identity((1, 4)), R).learned)
    ('filters', 'beta')
    """

    K: Operator
    R: Convolutional
    """As `convolutional.bank_of` makes it."""
    learned: tuple[str, ...] = ("filters", "beta")
    """The entries of params that are learned."""

    @property
    def K_norm(self) -> Float[Array, ""]:
        """||K||, or a bound on it."""
        return operators.norm(self.K, math.prod(self.R.shape))


class Region(NamedTuple):
    """Where the constants hold; it has to hold all that a method passes through.

    >>> print(conditions.Region(pixels=(-1.0, 1.0), beta=0.5).filters)  # filters stay as they are
    0.0
    """

    pixels: tuple[float, float] = (0.0, 1.0)
    """The least and the largest pixel of the images u and of the true ones."""
    filters: float = 0.0
    """How far `params["filters"]` may move, by the norm of all of them."""
    beta: float = 0.0
    """How far each beta_k may move."""
    images: int = 1
    """How many images the costs are summed over."""


def _is_range(pixels: Any) -> bool:
    return len(pixels) == 2 and all(map(real().holds, pixels)) and pixels[0] <= pixels[1]


REGIONS = {
    "pixels": Rule(_is_range, "two numbers, the least pixel and the largest"),
    "filters": real(least=0),
    "beta": real(least=0),
    "images": count(1),
}
"""What a `Region` has to be."""


class Constants(NamedTuple):
    """Bounds over a region. Those of J and "in params" are with respect to the learned entries."""

    strong_convexity: Scalar
    """mu, the least eigenvalue of H; Phi is not shown to be convex where it is not positive."""
    lipschitz: Scalar
    """L, the norm of H."""
    mixed: Scalar
    """The norm of J."""
    hessian_in_u: Scalar
    """The Lipschitz constant of H in u, and so on."""
    mixed_in_u: Scalar
    hessian_in_params: Scalar
    mixed_in_params: Scalar
    loss_gradient: Scalar
    """The norm of grad_u l."""


def least_singular_value(K: Operator, shape: tuple[int, int]) -> Scalar:
    """The least singular value of K on images of a shape; by a dense matrix for unknown kinds.

    Raises: ValueError for a shape that is none of an image, and what is no linear operator.

    >>> K = operators.Matrix(jnp.array([[3.0, 0.0], [0.0, 4.0]]))
    >>> print(conditions.least_singular_value(K, (1, 2)))
    3.0
    """
    pixels = checks.pixels(shape)
    checks.function("K.apply", getattr(K, "apply", None))
    require_linear("K", K)
    if isinstance(K, Identity):
        return jnp.ones(())
    if isinstance(K, Mask):
        return jnp.min(jnp.abs(K.mask))
    if isinstance(K, CircularConvolution):
        response = K.apply(jnp.zeros(pixels).at[0].set(1))
        return jnp.min(jnp.abs(jnp.fft.rfft2(response.reshape(shape))))
    matrix = K.apply(jnp.eye(pixels))
    if jnp.iscomplexobj(matrix):  # of real images
        matrix = jnp.concatenate([matrix.real, matrix.imag], axis=1)
    if matrix.shape[1] < pixels:
        return jnp.zeros(())
    return jnp.linalg.svd(matrix, compute_uv=False)[-1]


class _Sizes(NamedTuple):
    """What the bounds are made of, at its largest over a region."""

    count: int
    """How many pixels u has."""
    pixel: float
    """The largest |u_i|."""
    norm: float
    """The largest ||u||."""
    analysis: Scalar
    """||A||."""
    least: Scalar
    """The least singular value of A, or 0 where it is not known."""
    weight: Scalar
    """The largest w_k."""
    filter_norm: Scalar
    """The largest ||C_k||."""
    taps: Scalar
    """The most that ||c_k||_1, and so ||C_k||, moves where `filters` moves by 1."""
    patch: Scalar
    """The largest ||c_k||, which bounds |c_k * u| / ||u||."""
    features: Scalar
    """The largest |c_k * u|."""


def _sizes(problem: Problem, params: Params, region: Region) -> _Sizes:
    R, c = problem.R, convolutional.filters(params)
    pad = PAD_NORM[R.boundary] ** 0.5
    basis = params["basis"].reshape(len(params["basis"]), -1) if "basis" in params else jnp.eye(1)
    scale = jnp.linalg.norm(basis, 2)
    taps = scale * math.prod(c.shape[1:]) ** 0.5
    w = params["gamma"] * convolutional.weights(params)

    def norm(c: Array, w: Array) -> Array:
        """||A|| by the transfer functions, that is the bound that `Convolutional.lipschitz` is."""
        alone = {"filters": c, "beta": jnp.log(w), "beta_0": 0.0, "phi": Quadratic()}
        return jnp.sqrt(R.lipschitz(alone))

    least = jnp.zeros(())
    if R.boundary == "circular":
        power = jnp.einsum("k,khw->hw", w, jnp.abs(transfer(c, R.shape)) ** 2)
        least = jnp.sqrt(jnp.min(power))
    weight = jnp.max(w)
    moved = pad * taps * jnp.sqrt(weight) * region.filters
    grown = math.exp(region.beta / 2)
    each = jax.vmap(lambda c: norm(c[None], jnp.ones(1)))(c)
    pixel, count = max(abs(x) for x in region.pixels), region.images * math.prod(R.shape)
    sums = jnp.sum(jnp.abs(c), axis=(1, 2))
    return _Sizes(
        count=count,
        pixel=pixel,
        norm=pixel * count**0.5,
        analysis=grown * (norm(c, w) + moved),
        least=jnp.maximum(least - moved, 0) / grown,
        weight=grown**2 * weight,
        filter_norm=jnp.max(each) + pad * taps * region.filters,
        taps=pad * taps,
        patch=pad * (jnp.max(jnp.linalg.norm(c, axis=(1, 2))) + scale * region.filters),
        features=pixel * (jnp.max(sums) + taps * region.filters),
    )


def strong_convexity(
    problem: Problem, params: Params, sigma: Float[Array, ""] | float, region: Region
) -> Scalar:
    """A lower bound on the eigenvalues of H, sigma being the least singular value of K.

    A potential that is not convex takes up to -inf phi'' ||A||^2 away from lam sigma^2. A convex
    one adds inf phi'' sigma_min(A)^2, where phi'' is least at the largest |c_k * u|: the phi'' of
    all our convex potentials falls with |z|.

    >>> c = regularizers.convolutional
    >>> problem = conditions.Problem(operators.identity((1, 4)), c.bank_of((1, 4)))
    >>> params = c.init(jnp.array([[[1.0, -1.0]]]), beta_0=0.0, phi=potentials.Quadratic())
    >>> params |= {"lam": jnp.array(2.0), "gamma": jnp.array(1.0)}
    >>> print(conditions.strong_convexity(problem, params, 1.0, conditions.Region()))  # lam
    2.0
    """
    phi, size = params["phi"], _sizes(problem, params, region)
    fidelity = params["lam"] * jnp.asarray(sigma) ** 2
    if not phi.convex:
        return fidelity + phi.least_curvature * size.analysis**2
    return fidelity + phi.second_derivative(size.features) * size.least**2


def constants(
    problem: Problem, params: Params, sigma: Float[Array, ""] | float, region: Region
) -> Constants:
    """Every constant on a region about `params`, which hold `lam` and `gamma`.

    They follow from ||sum_k sqrt(w_k) C_k' z_k|| <= ||A|| ||z|| and from
    ||c_k||_1 <= sqrt(taps) ||c_k||; one filter (1, -1), phi = z^2 / 2 and stripes of pixels +-1
    attain all.

    Raises: ValueError where more is learned than filters and beta, and for a region that is
    none.

    >>> c = regularizers.convolutional
    >>> problem = conditions.Problem(operators.identity((1, 4)), c.bank_of((1, 4)))
    >>> params = c.init(jnp.array([[[1.0, -1.0]]]), beta_0=0.0, phi=potentials.Quadratic())
    >>> params |= {"lam": jnp.array(2.0), "gamma": jnp.array(1.0)}
    >>> print(conditions.constants(problem, params, 1.0, conditions.Region()).lipschitz)  # 2 + 2^2
    6.0
    """
    if not problem.learned or not set(problem.learned) <= {"filters", "beta"}:
        raise ValueError(f"learned={problem.learned}: the constants are for filters and beta")
    require({"sigma": real(least=0)}, {"sigma": sigma})
    require(REGIONS, region._asdict())
    phi, size = params["phi"], _sizes(problem, params, region)
    second, third, taps = phi.lipschitz, phi.curvature_lipschitz, size.taps
    a, root = size.analysis, jnp.sqrt(size.weight)
    learned = jnp.array([name in problem.learned for name in ("filters", "beta")])

    def together(filters: Array, beta: Array) -> Array:
        return jnp.linalg.norm(jnp.where(learned, jnp.stack([filters, beta]), 0))

    derivative = jnp.minimum(phi.slope * size.count**0.5, second * size.filter_norm * size.norm)
    mixed = 2 * a * root * second * taps * size.norm, a * root * derivative
    twice = taps**2 * size.norm * (2 * size.weight * second + a * root * third * size.pixel)
    blocks = jnp.stack([jnp.stack([twice, mixed[0]]), jnp.stack(mixed)])
    return Constants(
        strong_convexity=strong_convexity(problem, params, sigma, region),
        lipschitz=params["lam"] * problem.K_norm**2 + second * a**2,
        mixed=together(*mixed),
        hessian_in_u=third * a**2 * size.patch,
        mixed_in_u=together(
            a * root * taps * (2 * second + third * size.filter_norm * size.pixel),
            a * root * second * size.filter_norm,
        ),
        hessian_in_params=together(
            a * taps * (2 * root * second + a * third * size.pixel), second * a**2
        ),
        mixed_in_params=jnp.linalg.norm(jnp.where(learned[:, None] & learned[None], blocks, 0), 2),
        loss_gradient=jnp.asarray(size.count**0.5 * (region.pixels[1] - region.pixels[0])),
    )
