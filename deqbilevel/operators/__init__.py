r"""Forward operators K of imaging inverse problems f = K u + noise, [REB] 3.3, as pytrees.

An operator maps images `[..., pixels]` (rows of a flattened height x width image) to data
`[..., data]` of any size, real or complex, by `apply(u)`, which is K u, and `adjoint(v)`, which is
real and K^T v:

$$ \langle K u, v \rangle = \langle u, K^T v \rangle, \qquad
\langle x, y \rangle = \mathrm{Re}\, x^H y \text{ for complex data.} $$

Where it knows them in closed form it has

    bound()            ||K||_2, or a bound on it; None where it is not known after all
    resolvent(z, a)    (I + a K^T K)^{-1} z, the proximal map of a/2 ||K u||^2

Of another operator `norm` and `resolvent` find them by iterations. A map K(u) that is not linear,
such as `Diffusion`, is an operator of models with `gradient_step` by one method more,

    pullback(u)        K(u), and v -> K'(u)^T v; its adjoint is that of K'(0)

Arrays are leaves, so that an
operator can be vmapped over, or learned as `params["K"]`, see `of`; shapes are static.
"""

from collections.abc import Callable
from functools import partial

from deqbilevel.checks import Registry
from deqbilevel.operators.base import (
    Operator,
    derivative,
    linear,
    norm,
    of,
    pullback,
    resolvent,
)
from deqbilevel.operators.blurs import (
    CONVOLUTIONS,
    CircularConvolution,
    PointSpread,
    ZeroPaddedConvolution,
    circular_convolution,
    diagonal_blur,
    point_spread,
    zero_padded_convolution,
)
from deqbilevel.operators.combined import (
    Composition,
    Stack,
    compose,
    gaussian_blur,
    stack,
)
from deqbilevel.operators.elliptic import Diffusion, Elliptic, diffusion, elliptic
from deqbilevel.operators.fourier import (
    Coils,
    ComplexCoils,
    Fourier,
    check_mask,
    coil_maps,
    fourier,
)
from deqbilevel.operators.masks import (
    Identity,
    Mask,
    identity,
    pixel_mask,
    row_mask,
    upper_mask,
)
from deqbilevel.operators.matrices import Matrix, matrix, random_matrix
from deqbilevel.operators.patterns import PATTERNS
from deqbilevel.operators.sampling import Difference, Downsampling, difference, downsampling
from deqbilevel.operators.tomography import (
    ParallelBeam,
    filtered_back_projection,
    parallel_beam,
)

__all__ = [
    "CONVOLUTIONS",
    "OPERATORS",
    "PATTERNS",
    "CircularConvolution",
    "Coils",
    "ComplexCoils",
    "Composition",
    "Difference",
    "Diffusion",
    "Downsampling",
    "Elliptic",
    "Fourier",
    "Identity",
    "Mask",
    "Matrix",
    "Operator",
    "ParallelBeam",
    "PointSpread",
    "Stack",
    "ZeroPaddedConvolution",
    "check_mask",
    "circular_convolution",
    "coil_maps",
    "compose",
    "derivative",
    "diagonal_blur",
    "difference",
    "diffusion",
    "downsampling",
    "elliptic",
    "filtered_back_projection",
    "fourier",
    "gaussian_blur",
    "identity",
    "linear",
    "matrix",
    "norm",
    "of",
    "parallel_beam",
    "pixel_mask",
    "point_spread",
    "pullback",
    "random_matrix",
    "resolvent",
    "row_mask",
    "stack",
    "upper_mask",
    "zero_padded_convolution",
]

OPERATORS: Registry[Callable[..., Operator]] = Registry(
    "operator",
    {
        "identity": identity,
        "matrix": matrix,
        "row_mask": upper_mask,
        "diagonal_blur": diagonal_blur,
        "diagonal_blur_zero": partial(diagonal_blur, boundary="zero"),
        "random_matrix": random_matrix,
        "pixel_mask": pixel_mask,
        "gaussian_blur": gaussian_blur,
        "point_spread": point_spread,
        "downsampling": downsampling,
        "difference": difference,
        "fourier": fourier,
        "elliptic": elliptic,
        "parallel_beam": parallel_beam,
    },
)
"""Every operator, built for an image shape and with options of its own. The shared property tests
walk this table."""
