"""Transforms, analysis K-SVD, fields of experts and conditional random fields on small problems."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deqbilevel import models, operators, potentials, single_level, solvers
from deqbilevel.regularizers import bases, convolutional
from tests.helpers import float64, normal


@float64
def test_transform_learning_never_rises_and_its_update_is_stationary():
    X, beta, lam, xi = normal(0, 50, 5) @ normal(1, 5, 5), 0.2, 0.3, 0.7
    method = single_level.transform(beta, lam, xi=xi)
    omega, objective = single_level.run(method, jnp.eye(5), X, 40)
    assert np.all(np.diff(objective) <= 1e-12) and objective[-1] < 0.98 * objective[0]
    state, _ = method.step(method.init(omega, X), X)
    z = single_level.thresholded(X @ omega.T, beta)

    def cost(omega):
        fit = jnp.sum((X @ omega.T - z) ** 2) / (2 * len(X))
        regular = xi / 2 * jnp.sum(omega**2) - jnp.linalg.slogdet(omega)[1]
        return fit + lam * regular

    np.testing.assert_allclose(jax.jit(jax.grad(cost))(state.operator), 0, atol=1e-10)
    with pytest.raises(ValueError, match=r"operator: of shape \[6, 5\]"):
        method.init(normal(0, 6, 5), X)


@float64
def test_the_projection_annihilates_as_many_independent_rows_as_asked():
    omega, y = normal(2, 8, 6), normal(3, 5, 6)
    omega = omega.at[7].set(-2 * omega[0])  # not independent of the first
    x, zeros = single_level.cosparse(omega, y, 3)
    omega, y, x, zeros = (np.asarray(a) for a in (omega, y, x, zeros))
    for j in range(5):
        rows = omega[zeros[j]]
        assert np.linalg.matrix_rank(rows) == 3 and bool(zeros[j, 0]) == bool(zeros[j, 7])
        np.testing.assert_allclose(rows @ x[j], 0, atol=1e-10)
        expected = y[j] - np.linalg.pinv(rows) @ (rows @ y[j])
        np.testing.assert_allclose(x[j], expected, atol=1e-10)


def test_analysis_ksvd_recovers_the_rows_that_made_the_patches():
    """Signals that each are orthogonal to 3 of 8 rows, and rows moved away from those."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((8, 5))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    signals = []
    for _ in range(600):
        _, _, V = np.linalg.svd(truth[rng.choice(8, 3, replace=False)])
        signals.append(rng.standard_normal(2) @ V[3:])
    start = jnp.asarray(truth + 0.15 * rng.standard_normal(truth.shape), jnp.float32)
    y = jnp.asarray(np.array(signals), jnp.float32)
    method = single_level.analysis_ksvd(3, jax.random.key(0))
    omega, objective = single_level.run(method, start, y, 30)
    found = np.max(np.abs(np.asarray(omega) @ truth.T), axis=0)
    assert not method.monotone and objective[-1] < 0.2 * objective[0]
    assert np.sum(found > 0.99) >= 6
    assert single_level.mutual_coherence(omega) <= 0.98


@float64
def test_the_laplacian_of_the_score_is_the_trace_of_the_hessian():
    c, u = normal(4, 2, 2, 2), normal(5, 1, 12)
    params = single_level.params_of(c, phi=potentials.LogSum(0.7), beta_0=-0.5, beta=[0.1, 0.4])
    method = single_level.score_matching((3, 4), optax.sgd(0.0))
    _, value = jax.jit(method.step)(method.init(params, u), u)
    N = jax.jit(convolutional.bank_of((3, 4)).gradient)
    hessian = jax.jit(jax.jacobian(lambda x: N(x[None], params)[0]))(u[0])
    expected = np.sum(np.asarray(N(u, params)) ** 2) / 2 - np.trace(hessian)
    np.testing.assert_allclose(value, expected / 12)


@float64
def test_contrastive_divergence_of_a_short_step_is_score_matching():
    """The gradients, by what a step of descent takes off; many images, as samples are random."""
    u = jnp.tile(normal(5, 1, 6), (40_000, 1))
    c = normal(4, 2, 1, 2)
    params = single_level.params_of(c, phi=potentials.LogSum(0.7), beta_0=-0.5, beta=[0.1, 0.4])
    part, key = 0.1, jax.random.key(0)
    h = part / (convolutional.bank_of((1, 6)).lipschitz(params) * 6 ** (1 / 3))
    divergence = single_level.contrastive_divergence(
        (1, 6), optax.sgd(1 / h), key, part=part, adjusted=False
    )
    matching = single_level.score_matching((1, 6), optax.sgd(1.0))
    state, _ = jax.jit(divergence.step)(divergence.init(params, u), u)
    moved, expected = state.operator, matching.step(matching.init(params, u), u[:1])[0].operator
    for name in ("filters", "beta"):
        size = jnp.max(jnp.abs(expected[name] - params[name]))
        assert size > 0.02
        np.testing.assert_allclose(moved[name], expected[name], rtol=0, atol=0.1 * size)


def test_experts_are_params_of_the_convolutional_regulariser():
    u = jnp.cumsum(normal(6, 20, 64), axis=1) * 0.3
    start = single_level.params_of(bases.cosines(1, 3), phi=potentials.LogSum(0.5), beta_0=0.0)
    method = single_level.score_matching((1, 64), optax.adam(0.02))
    params, objective = single_level.run(method, start, u, 60)
    assert objective[-1] < objective[0] - 0.1
    R = convolutional.bank_of((1, 64)).regularizer(lambda key: params)
    model = models.assemble(operators.identity((1, 64)), R)
    f = u + 0.3 * normal(7, 20, 64)
    given = params | {"lam": 1.0, "gamma": 0.3**2}
    denoised, _ = model.reconstruct(solvers.DESCENTS["optimized_gradient"](), given, f)
    assert jnp.mean((denoised - u) ** 2) < 0.8 * jnp.mean((f - u) ** 2)


def test_experts_refuse_a_potential_that_is_not_smooth():
    params = single_level.params_of(jnp.ones((1, 1, 2)), phi=potentials.softshrink(0.5))
    method = single_level.score_matching((1, 8), optax.adam(0.02))
    with pytest.raises(ValueError, match="not smooth; score matching takes one such as LogSum"):
        method.init(params, jnp.ones((1, 8)))


@float64
def test_the_estimate_of_a_conditional_field_and_its_gradient_are_exact():
    field = single_level.gaussian_field((3, 4), tolerance=1e-12)
    f, c = normal(8, 2, 12), normal(9, 2, 2, 2)
    params = field.start(c, weight=0.8)
    params["theta"] = params["theta"] + 0.3 * normal(10, 2, 3)

    def normal_map(u):
        W = field.weights(params, f)
        return u + field.bank.adjoint(c, W * field.bank.apply(c, u))

    A = jax.jit(jax.jacobian(normal_map))(f)
    expected = np.linalg.solve(A.reshape(24, 24), f.ravel())
    np.testing.assert_allclose(jax.jit(field.estimate)(params, f).ravel(), expected, atol=1e-9)
    loss = jax.jit(lambda theta: jnp.sum(field.estimate(params | {"theta": theta}, f) ** 3))
    step = 1e-5 * normal(11, 2, 3)
    change = loss(params["theta"] + step) - loss(params["theta"] - step)
    slope = np.vdot(jax.jit(jax.grad(loss))(params["theta"]), 2 * step)
    np.testing.assert_allclose(change, slope, rtol=1e-6)


def test_a_conditional_field_learns_to_smooth_less_at_edges():
    truth = jnp.asarray(np.repeat(np.random.default_rng(0).random((6, 8)), 8, axis=1))
    truth = truth.astype(jnp.float32)
    f = truth + 0.05 * normal(12, 6, 64)
    field = single_level.gaussian_field((1, 64))
    c = jnp.array([[[1.0, -1.0]]])
    method = single_level.conditional_field(field, optax.adam(0.2))
    params, loss = single_level.run(method, field.start(c), (truth, f), 60)
    error = jax.jit(lambda params: jnp.mean((field.estimate(params, f) - truth) ** 2))
    constant = [error(field.start(c, weight=w)) for w in (0.1, 0.3, 1.0, 3.0)]
    assert error(params) < 0.7 * min(constant)
    assert params["theta"][0, 1] < 0 and loss[-1] < loss[0]
