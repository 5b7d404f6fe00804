"""Plug-and-play by alternating directions: what it solves, its rate, and what is learned of it."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from helpers import float64, normal

from deqbilevel import hypergradients, operators, solvers, variational
from deqbilevel.variational import plug_and_play
from deqbilevel.variational.plug_and_play import image, plug_and_play_admm, rate

SHAPE = (6, 6)
PIXELS = SHAPE[0] * SHAPE[1]


@float64
def test_with_a_proximal_map_it_minimises():
    """Soft thresholds of wavelets, for a mask that loses pixels."""
    omega, threshold = variational.wavelets((4, 4)), 0.3
    K, f = operators.row_mask((4, 4), missing=1), normal(0, 2, 16)

    def denoise(x, params):
        fine, coarse = omega.apply(x)
        kept = jnp.sign(fine) * jnp.maximum(jnp.abs(fine) - params["threshold"], 0)
        return omega.adjoint((kept, coarse))

    G, params = plug_and_play_admm(K, denoise), {"lam": 1.0, "threshold": threshold}
    f = K.apply(f)
    solve = solvers.picard(tolerance=1e-10, max_evaluations=20_000)
    u, info = solve(lambda u: G(u, params, f), jnp.zeros((2, 32)))
    problem = variational.Problem(K, omega)
    at, solved = variational.admm(problem, (threshold, 0.0), f, tolerance=1e-9, balance=0.5)
    assert info.converged and solved.converged.all()
    cost = problem.cost(image(u), (threshold, 0.0), f)
    np.testing.assert_allclose(cost, problem.cost(at.x, (threshold, 0.0), f), rtol=1e-7)


@float64
def test_rates_are_bounds():
    """Of linear denoisers the rate is that of the Jacobian, where one is as slow as is allowed."""
    n, found = 6, []

    @jax.jit
    def jacobian(M, E, lam):
        G = plug_and_play_admm(operators.Matrix(M), lambda x, params: x + x @ E.T)
        rows = G(jnp.eye(2 * n), {"lam": lam}, jnp.zeros((2 * n, n)))
        return rows.T  # as G is linear for f = 0

    for seed, epsilon, lam in ((0, 0.1, 0.5), (1, 0.5, 2.0), (2, 0.9, 9.0)):
        M, E = jnp.eye(n) + 0.3 * normal(seed, n, n) / n**0.5, normal(seed + 9, n, n)
        mu = float(jnp.linalg.svd(M)[1][-1]) ** 2
        for residual in (E / jnp.linalg.norm(E, 2), jnp.eye(n)):
            step = jacobian(M, epsilon * residual, lam)
            radius = np.abs(np.linalg.eigvals(step)).max()
            assert radius <= rate(epsilon, mu, lam) + 1e-12
            found.append(radius / rate(epsilon, mu, lam))
        converges = epsilon / (1 + epsilon - 2 * epsilon**2) < lam * mu
        assert (rate(epsilon, mu, lam) < 1) == converges
    assert max(found) > 0.9


def smoothing(x, params):
    """By a share of four neighbours, which is its strength."""
    u = x.reshape(-1, *SHAPE)
    around = sum(jnp.roll(u, shift, axis) for shift in (1, -1) for axis in (1, 2))
    return (u + jax.nn.sigmoid(params["strength"]) * (around / 4 - u)).reshape(x.shape)


@float64
def test_lam_and_strength_are_learned_through_the_fixed_point():
    K = operators.diagonal_blur(SHAPE, 3)
    truth, G = normal(0, 2, PIXELS), plug_and_play_admm(K, smoothing)
    f = K.apply(truth) + 0.1 * normal(1, 2, PIXELS)
    fixed = hypergradients.METHODS["gmres"](
        G,
        solvers.picard(tolerance=1e-12, max_evaluations=5000),
        tolerance=1e-12,
        max_evaluations=300,
    )

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        u, _ = fixed(params, f, jnp.zeros((2, 2 * PIXELS)))
        return jnp.mean((image(u) - truth) ** 2)

    params, h = {"lam": jnp.array(2.0), "strength": jnp.array(-1.0)}, 1e-5
    before, gradient = loss(params)
    for name in params:
        up, down = (loss(params | {name: params[name] + s * h})[0] for s in (1, -1))
        np.testing.assert_allclose(gradient[name], (up - down) / (2 * h), rtol=1e-6)
    for _ in range(30):
        value, gradient = loss(params)
        params = jax.tree.map(lambda p, g: p - 2 * g, params, gradient)
    assert value < 0.8 * before


@float64
def test_a_schedule_of_equal_strengths_is_the_iteration():
    K = operators.diagonal_blur(SHAPE, 3)
    G, f = plug_and_play_admm(K, smoothing), normal(0, 2, PIXELS)
    start, lam = jnp.zeros((2, 2 * PIXELS)), {"lam": 2.0}
    schedule = {"strength": jnp.full(5, -1.0)}
    u, states = plug_and_play.scheduled(G, lam, schedule, f, start)
    expected = start
    for _ in range(5):
        expected = G(expected, lam | {"strength": -1.0}, f)
    np.testing.assert_allclose(u, expected, rtol=1e-12)
    np.testing.assert_array_equal(states[-1], u)
    of_each = jax.grad(
        lambda s: jnp.sum(plug_and_play.scheduled(G, lam, {"strength": s}, f, start)[0] ** 2)
    )(schedule["strength"])
    assert (np.abs(of_each) > 1e-6).all()
    with pytest.raises(ValueError, match="lam"):
        G(start, {}, f)
    with pytest.raises(ValueError, match="not linear"):
        plug_and_play_admm(operators.diffusion(SHAPE), smoothing)


def test_a_denoiser_of_another_library_is_used_and_has_no_derivative(monkeypatch):
    """A median filter, whose fixed point of a constant is the constant; and lam by differences."""

    def median(image, strength):
        assert image.shape == SHAPE and strength == 0.5
        return scipy.ndimage.median_filter(image, 3)

    D, params = variational.outside(median, SHAPE), {"lam": jnp.asarray(1.0), "strength": 0.5}
    f = jnp.ones((2, PIXELS)).at[:, 14].set(9.0)
    G = plug_and_play_admm(operators.Identity(), D)
    solve = solvers.picard(tolerance=1e-6, max_evaluations=200)
    u, info = jax.jit(lambda p: solve(lambda u: G(u, p, f), jnp.zeros((2, 2 * PIXELS))))(params)
    assert info.converged
    np.testing.assert_allclose(image(u), 1.0, atol=1e-4)
    with pytest.raises(ValueError, match="median: runs outside of JAX and has no derivative"):
        jax.grad(lambda p: jnp.sum(G(u, p, f)))(params)
    wrong = variational.outside(lambda image, strength: image[1:], SHAPE)
    with pytest.raises(Exception, match=r"<lambda>: returns \(5, 6\) for an image of \(6, 6\)"):
        wrong(f, params).block_until_ready()
    seen = {}
    library = types.SimpleNamespace(bm3d=lambda image, sigma, **own: seen.update(own) or image)
    monkeypatch.setitem(sys.modules, "bm3d", library)
    np.testing.assert_array_equal(variational.bm3d(SHAPE, profile="lc")(f, params), f)
    assert seen == {"profile": "lc"}
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(ImportError, match=r"denoiser 'bm3d' needs bm3d.*deqbilevel\[bm3d\]"):
        variational.bm3d(SHAPE)
