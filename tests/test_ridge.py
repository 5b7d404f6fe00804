"""Ridge regularisers: chains of convolutions, potentials, and what is convex by construction."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from helpers import float64, normal, untyped

from deqbilevel import models, operators, solvers
from deqbilevel.convolutions import PAD, chains, channels
from deqbilevel.potentials import Hubers, Profile
from deqbilevel.regularizers import REGULARIZERS, ridge

SHAPE = (11, 10)
PIXELS = SHAPE[0] * SHAPE[1]
SMALL: dict[str, Any] = {"channels": (2, 2, 3), "size": 3}
MODES: dict[Any, Any] = {"zero": "constant", "circular": "grid-wrap", "reflecting": "reflect"}


def chain(seed: int = 0, size: int = 3) -> list[jax.Array]:
    return [0.5 * normal(seed, size, size, 1, 2), 0.5 * normal(seed + 1, size, size, 2, 3)]


def applied(kernels: list[jax.Array], u: jax.Array, boundary: Any) -> jax.Array:
    """W u, one convolution after the other of an image that is continued far enough."""
    margin = chains.size(kernels) // 2
    pads = ((0, 0), (margin, margin), (margin, margin))
    x = jnp.pad(u, pads, mode=PAD[boundary])[..., None]
    for k in kernels:
        x = channels.valid(x, k)
    return x


@pytest.mark.parametrize("boundary", PAD)
@float64
def test_a_chain_is_the_bank_of_its_composed_filters(boundary):
    kernels, u = chain(), normal(2, 2, *SHAPE)
    filters = chains.composed(kernels)
    assert filters.shape == (3, 5, 5) and chains.size(kernels) == 5
    found = applied(kernels, u, boundary)
    for image, c in itertools.product(range(2), range(3)):
        expected = scipy.ndimage.correlate(
            np.asarray(u[image]), np.asarray(filters[c]), mode=MODES[boundary]
        )
        np.testing.assert_allclose(found[image, ..., c], expected, rtol=1e-11, atol=1e-12)


@float64
def test_power_is_that_of_the_transfer_functions_on_any_grid():
    kernels = chain()
    filters = np.asarray(chains.composed(kernels))
    for grid in ((11, 10), (5, 8), (3, 4)):  # the last is smaller than a filter: it wraps around
        wrapped = np.zeros((3, *grid))
        for r, c in itertools.product(range(5), range(5)):
            wrapped[:, r % grid[0], c % grid[1]] += filters[:, r, c]
        expected = np.abs(np.fft.rfft2(wrapped)) ** 2
        np.testing.assert_allclose(chains.power(kernels, grid), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("boundary", PAD)
@float64
def test_the_norm_is_a_tight_bound(boundary):
    """On images of every size, reflected ones with their flips; of large ones it is met to 2 %."""
    kernels = chain(3)
    bound, fine = float(chains.norm(kernels)), chains.power(kernels, (999, 999))
    most = float(jnp.sqrt(jnp.max(jnp.sum(fine, axis=0))))
    assert most <= bound <= 1.02 * most
    for shape in ((6, 6), (9, 4), SHAPE):
        units = jnp.eye(shape[0] * shape[1]).reshape(-1, *shape)
        seen = [units]
        if boundary == "reflecting":
            seen = [x / 2 for x in (units, units[:, ::-1], units[:, :, ::-1], units[:, ::-1, ::-1])]
        W = jnp.stack([applied(kernels, x, boundary) for x in seen], axis=1)
        W = W.reshape(len(units), -1)
        assert 0.7 * bound < np.linalg.norm(W, 2) <= bound * (1 + 1e-12)


@float64
def test_a_profile_is_the_integral_of_its_slopes():
    psi = Profile(
        Hubers(jnp.array([3.0, 2.0]), jnp.array([0.5, 1.5])),
        Hubers(jnp.array([0.3, 0.4]), jnp.array([0.7, 2.0])),
    )
    z = jnp.linspace(-3, 3, 61) + 0.0123
    for of, slope in ((psi.value, psi.derivative), (psi.derivative, psi.second_derivative)):
        difference = (of(z + 1e-6) - of(z - 1e-6)) / 2e-6
        np.testing.assert_allclose(slope(z), difference, atol=1e-8)
    curvature = psi.second_derivative(jnp.linspace(-3, 3, 999))
    assert curvature.min() >= -psi.concave.curvature and curvature.max() <= psi.convex.curvature
    assert psi.derivative(0 * z).max() == 0


@pytest.mark.parametrize("boundary", ["zero", "reflecting"])
@pytest.mark.parametrize(
    ("name", "modulus"), [("ridge", 0), ("weakly_convex_ridge", 1), ("spline_ridge", 1)]
)
@float64
def test_the_cost_of_denoising_is_convex_whatever_the_weights(name, modulus, boundary):
    """The Hessian of R is at least -1, and far below 0 where psi is concave."""
    R = REGULARIZERS[name](SHAPE, **SMALL, boundary=boundary)
    assert R.lipschitz is not None
    params = R.init(jax.random.key(1))
    params["kernels"] = jax.tree.map(lambda k: 7 * k, params["kernels"])

    @jax.jit
    def hessian(u: jax.Array) -> jax.Array:
        many = jnp.broadcast_to(u, (PIXELS, PIXELS))
        return jax.jvp(lambda u: R.gradient(u, params), (many,), (jnp.eye(PIXELS),))[1]

    least = []
    for scale in (1e-4, 0.01, 0.03, 0.3):
        values = np.linalg.eigvalsh(hessian(scale * normal(4, PIXELS)))
        assert -modulus - 1e-12 <= values[0] and values[-1] <= R.lipschitz(params)
        least.append(values[0])
    assert min(least) < -0.3 * modulus + 1e-12


@float64
def test_the_first_filters_sum_to_zero():
    R = REGULARIZERS["ridge"](SHAPE, **SMALL, boundary="reflecting")
    params = R.init(jax.random.key(1))
    assert R.energy is not None
    np.testing.assert_allclose(R.energy(jnp.full((1, PIXELS), 0.7), params), 0, atol=1e-20)
    np.testing.assert_allclose(chains.norm(ridge.filters(params)), 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": (2, 0, 2)}, "channels=0: expected a whole number, 1 or more"),
        ({"size": 4}, "size=4: expected an odd one"),
        ({"boundary": "mirror"}, "boundary 'mirror': expected one of"),
    ],
)
def test_what_is_no_chain_is_refused(options, said):
    with untyped(), pytest.raises(ValueError, match=said):
        REGULARIZERS["weakly_convex_ridge"](SHAPE, **options)
    with pytest.raises(ValueError, match=r"rho=-1\.0: expected"):
        ridge.ridge(SHAPE, rho=-1.0)


@float64
def test_an_image_stops_by_itself_and_preconditioning_saves_evaluations():
    """Easy and hard ones together as alone; a third of what the optimised gradient method needs."""
    R = REGULARIZERS["weakly_convex_ridge"](SHAPE, **SMALL, boundary="reflecting")
    model = models.assemble(operators.identity(SHAPE), R)
    params = R.init(jax.random.key(1)) | {"bend": jnp.asarray(5.0)}
    f = jnp.stack([0.5 + 1e-3 * normal(5, PIXELS), 0.5 + 0.3 * normal(6, PIXELS)])

    @partial(jax.jit, static_argnums=0)
    def solved(name: str, f: jax.Array) -> Any:
        solver = solvers.DESCENTS[name](tolerance=1e-7, max_evaluations=900)
        return model.reconstruct(solver, params, f)

    u, info = solved(model.descent, f)
    alone = [solved(model.descent, row[None]) for row in f]
    np.testing.assert_allclose(u, jnp.concatenate([x for x, _ in alone]), rtol=0, atol=1e-13)
    spent = [int(x.evaluations) for _, x in alone]
    assert info.converged and info.evaluations == max(spent) > 1.3 * min(spent)
    plain, before = solved("optimized_gradient", f)
    assert info.evaluations < before.evaluations / 2, (info, before)
    np.testing.assert_allclose(u, plain, atol=1e-4)
