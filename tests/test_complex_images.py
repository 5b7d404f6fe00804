"""Complex images as pictures with the imaginary part below the real one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import default_precision, float64, normal

from deqbilevel import learning, losses, models, operators, potentials, solvers
from deqbilevel.regularizers import convolutional
from deqbilevel.settings import SETTINGS, Budget

SHAPE = (32, 16)


@float64
@pytest.mark.parametrize("coils", [1, 3])
def test_the_operator_is_that_of_complex_numbers(coils):
    K = default_precision(operators.fourier((8, 5), rate=0.5, coils=coils, complex_images=True))
    u = normal(0, 2, 40)
    image = np.asarray(u[:, :20] + 1j * u[:, 20:]).reshape(2, 1, 4, 5)
    maps, mask = np.asarray(K.maps).reshape(-1, 4, 5), np.asarray(K.mask).reshape(4, 5)
    known = mask * np.fft.fft2(maps * image, norm="ortho")
    np.testing.assert_allclose(K.apply(u), known.reshape(2, -1), atol=1e-12)
    if coils > 1:
        whole = default_precision(operators.fourier((8, 5), "low", 1.0, 3, complex_images=True))
        np.testing.assert_allclose(whole.adjoint(whole.apply(u)), u, atol=1e-6)


@float64
def test_the_modulus_does_not_see_the_phase_and_is_smooth_at_zero():
    R = convolutional.convolutional((8, 5), filters=(3, 2, 2), complex_images=True)
    params = default_precision(R.init(jax.random.key(0)))
    u, zero = normal(1, 1, 40), jnp.zeros((1, 40))
    turned = jnp.concatenate([-u[:, 20:], u[:, :20]], axis=1)  # times i
    np.testing.assert_allclose(R.energy(u, params), R.energy(turned, params), rtol=1e-12)
    _, product = jax.jvp(lambda u: R.gradient(u, params), (zero,), (u,))
    h = 1e-6
    np.testing.assert_allclose(product, R.gradient(h * u, params) / h, rtol=1e-6)


@float64
def test_the_preconditioner_of_a_quadratic_is_the_inverse():
    R = convolutional.bank_of((8, 5), complex_images=True).regularizer(lambda key: {})
    params = convolutional.init(normal(0, 3, 2, 2), beta_0=0.5, phi=potentials.Quadratic())
    u, r = normal(1, 2, 40), normal(2, 2, 40)
    apply = R.preconditioner(u, params, 0.7)
    np.testing.assert_allclose(apply(0.7 * r + R.gradient(r, params)), r, atol=1e-10)


@pytest.mark.parametrize(
    "build",
    [
        lambda: operators.fourier((7, 5), complex_images=True),
        lambda: operators.ComplexCoils(jnp.ones(5), jnp.ones((1, 5), complex), (3, 5)),
        lambda: convolutional.convolutional((7, 5), filters=(3, 2, 2), complex_images=True),
    ],
)
def test_an_odd_height_is_refused_by_name(build):
    with pytest.raises(ValueError, match=r"complex images of shape .*: expected an even height"):
        build()


def test_a_phantom_with_a_smooth_phase_is_better_than_by_zero_filling():
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, 16),) * 2, indexing="ij")
    discs = [np.hypot(rows - y, columns) < r for y, r in ((0.0, 0.8), (0.3, 0.3))]
    phase = np.exp(1j * (rows + 0.5 * columns**2))
    image = (0.6 * discs[0] + 0.4 * discs[1]) * phase
    truth = jnp.asarray(np.concatenate([image.real, image.imag]).reshape(1, -1), jnp.float32)
    K = operators.fourier(SHAPE, "points", 0.5, coils=2, seed=1, complex_images=True)
    R = convolutional.convolutional(
        SHAPE, filters=(2, 2, 2), basis="differences", beta_0=-1.0, complex_images=True
    )
    model = models.assemble(K, R)
    params = R.init(jax.random.key(0)) | {"noise": jnp.float32(0.02)}
    f = model.measure(params, truth, jax.random.key(1))
    budget = Budget(30, 30)
    setting = SETTINGS["paper"]._replace(
        budget=budget,
        limit=budget,
        forward_tolerance=0.0,
        adjoint_tolerance=1e-5,
        solver="optimized_gradient",
        hypergradient="minimiser",
        warm=True,
    )
    adam = learning.fixed(optax.adam(0.2))
    learner = learning.Learner((model,), setting, adam, ("beta_0",))
    state, _ = learning.steps(learner, learning.start(learner, params, f), truth, 20, f=f)
    solver = solvers.optimized_gradient(tolerance=1e-5, max_evaluations=500)
    u, _ = model.reconstruct(solver, state.params, f)
    before, _ = model.reconstruct(solver, params, f)
    errors = [float(losses.mean_squared_error(x, truth)) for x in (u, before, K.adjoint(f))]
    assert errors[0] < 0.5 * errors[1] and errors[0] < 0.2 * errors[2], errors
    assert state.params["beta_0"] < -2
