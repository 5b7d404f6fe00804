"""An elliptic equation as the forward model: dense algebra, the adjoint state, learning beta."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import default_precision, float64, normal, untyped

from deqbilevel import adjoints, conditions, learning, maps, models, operators
from deqbilevel import regularizers as R
from deqbilevel.hypergradients import primal_dual_step
from deqbilevel.settings import SETTINGS, Budget

SHAPES: list[tuple[int, int]] = [(9, 1), (4, 5)]


def fluxes(shape):
    """The pairs of neighbours, and the pixels at the border once for each side, but along an axis
    of one pixel."""
    index = np.arange(np.prod(shape)).reshape(shape)
    axes = [np.moveaxis(index, axis, 0) for axis in range(2) if shape[axis] > 1]
    pairs = np.concatenate([np.stack([x[:-1].ravel(), x[1:].ravel()], 1) for x in axes])
    return pairs, np.concatenate([np.concatenate([x[0].ravel(), x[-1].ravel()]) for x in axes])


def matrix(a, shape):
    """-div(a grad .), flux by flux, over its least eigenvalue for a = 1."""
    pairs, border = fluxes(shape)

    def stiffness(a):
        found = np.zeros((a.size, a.size))
        for i, j in pairs:
            found[np.ix_([i, j], [i, j])] += (
                2 / (1 / a[i] + 1 / a[j]) * np.array([[1, -1], [-1, 1]])
            )
        np.add.at(found, (border, border), a[border])
        return found

    return stiffness(a) / np.linalg.eigvalsh(stiffness(np.ones(a.size)))[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@float64
def test_solutions_and_adjoint_states_are_those_of_dense_algebra(shape):
    pixels = np.prod(shape)
    q, v = np.asarray(normal(0, pixels)), np.asarray(normal(1, pixels))
    K, u = operators.Diffusion(jnp.asarray(q), shape), normal(2, 2, pixels)

    @jax.jit
    def found(u):
        y, back = K.pullback(u)
        return y, back(jnp.broadcast_to(jnp.asarray(v), u.shape))

    def known(u):
        """y, and K'(u) by differences of matrices."""
        A = matrix(np.exp(u), shape)
        y, h = np.linalg.solve(A, q), 1e-6 * np.eye(pixels)
        change = [matrix(np.exp(u + d), shape) - matrix(np.exp(u - d), shape) for d in h]
        return y, -np.linalg.solve(A, np.stack([x @ y for x in change], 1)) / 2e-6

    for y, gradient, image in zip(*found(u), u, strict=True):
        solution, derivative = known(np.asarray(image))
        np.testing.assert_allclose(y, solution, rtol=1e-9)
        np.testing.assert_allclose(gradient, v @ derivative, rtol=1e-6, atol=1e-8)
    solution, derivative = known(np.zeros(pixels))
    y = operators.elliptic(shape).apply(jnp.asarray(q))
    np.testing.assert_allclose(y, solution, rtol=1e-12)
    np.testing.assert_allclose(
        jax.jit(K.adjoint)(jnp.asarray(v)), v @ derivative, rtol=1e-6, atol=1e-8
    )
    assert 1 <= float(K.bound()) / np.linalg.norm(derivative, 2) < 2


@pytest.mark.parametrize("shape", [(1, 12), (5, 4)], ids=str)
@float64
def test_beta_of_the_diffusion_coefficient_is_learned_by_the_slope_of_the_loss(shape):
    """All by one compiled step: its gradient, losses beside, and ten steps."""
    built = R.REGULARIZERS["convolutional"](
        shape,
        filters=(2, 2, 2) if shape[0] > 1 else (1, 1, 2),
        basis="differences",
        boundary="reflecting",
        eps=0.3,
        beta_0=-3.0,
    )
    model = models.assemble(operators.diffusion(shape), built)
    params = default_precision(model.init(jax.random.key(0)) | {"noise": 0.02})
    blocks = np.random.default_rng(0).random((4, *(-(-n // 3) for n in shape)))
    images = np.kron(blocks, np.ones((3, 3)))[:, : shape[0], : shape[1]].reshape(4, -1)
    f = model.measure(params, jnp.asarray(images), jax.random.key(1)).reshape(2, 2, -1)
    truth = jnp.asarray(images).reshape(f.shape)
    assert not model.start(f[0]).any()
    budget = Budget(1000, 100)
    setting = SETTINGS["accurate"]._replace(
        solver="optimized_gradient",
        hypergradient="minimiser",
        budget=budget,
        limit=budget,
        forward_tolerance=1e-11,
        adjoint_tolerance=1e-8,
    )
    by_rate = lambda params, step: optax.sgd(params["learning_rate"])  # noqa: E731
    learner = learning.Learner((model,), setting, by_rate, ("beta",))

    @jax.jit
    def step(beta, rate, truth, f):
        state = learning.start(learner, params | {"beta": beta, "learning_rate": rate})
        state, metrics = learning.step(learner, state, truth, f=f)
        return state.params["beta"], metrics.loss, metrics.solved

    beta, one = params["beta"], jnp.ones(())
    moved, first, solved = step(beta, one, truth[0], f[0])
    assert solved == 1
    h = 3e-4
    for i, d in enumerate(h * jnp.eye(len(beta))):
        ahead, behind = (step(beta + x, one, truth[0], f[0])[1] for x in (d, -d))
        np.testing.assert_allclose((beta - moved)[i], (ahead - behind) / (2 * h), rtol=1e-5)
    rate = 1 / jnp.linalg.norm(beta - moved)
    untouched = step(beta, one, truth[1], f[1])[1]
    for _ in range(10):
        beta, last, solved = step(beta, rate, truth[0], f[0])
        assert solved == 1
    learned = step(beta, one, truth[1], f[1])[1]
    assert last < 0.8 * first and learned < 0.9 * untouched


def test_what_needs_a_linear_operator_is_refused_by_name():
    shape = (1, 4)
    K = operators.diffusion(shape)
    built = R.REGULARIZERS["dense"](shape, activation="identity")
    model = models.assemble(K, built)
    N = model.N
    refused = {
        "proximal_step: Diffusion is not linear": lambda: maps.proximal_step(K, N),
        "preconditioned_step: Diffusion is not": lambda: models.assemble(
            K, built, step=maps.preconditioned_step
        ),
        "P: Diffusion is not linear": lambda: models.inverse(K, built, {"gamma": 1.0, "lam": 1.0}),
        "primal_dual_step: Diffusion": lambda: primal_dual_step(K, N),
        "K: Diffusion is not linear": lambda: conditions.least_singular_value(K, shape),
        r"shape=\(1, 1\): an equation": lambda: operators.elliptic((1, 1)),
        "of shape .*expected images of 4": lambda: operators.diffusion(shape, jnp.ones(3)),
        "source: zero everywhere": lambda: operators.diffusion(shape, jnp.zeros(4)),
        "source=nan: expected": lambda: operators.diffusion(shape, jnp.full(4, jnp.nan)),
        "images of shape .*of 4": lambda: operators.elliptic(shape).apply(jnp.ones((1, 5))),
    }
    for said, build in refused.items():
        with untyped(), pytest.raises(ValueError, match=said):
            build()


def test_a_map_of_ones_own_has_the_adjoint_of_its_derivative_at_zero():
    def squared(adjoint):
        pullback = lambda u: (u + u**2, lambda v: (1 + 2 * u) * v)  # noqa: E731
        return SimpleNamespace(apply=lambda u: u + u**2, pullback=pullback, adjoint=adjoint)

    adjoints.check(squared(lambda v: v), 4)
    assert operators.norm(squared(lambda v: v), 4) == pytest.approx(1)
    with pytest.raises(ValueError, match="its adjoint has to be the transpose"):
        adjoints.check(squared(lambda v: 2 * v), 4)


def test_what_is_not_solved_is_no_number():
    K, u = operators.diffusion((1, 40)), jnp.array([[0.0, 100.0] * 20, [0.0, 3.0] * 20])
    y = K.apply(u)
    assert jnp.isnan(y[0]).all() and jnp.isfinite(y[1]).all()
