"""Adjoint solvers on the models: exact, truncated, Jacobian-free and shared; what is refused."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PIXELS, affine, default_precision, float64, model_params, normal, small_model
from jax.flatten_util import ravel_pytree

from deqbilevel import maps, operators
from deqbilevel.hypergradients.implicit import check_symmetric, no_info
from deqbilevel.hypergradients.shine import shine
from deqbilevel.potentials import CornerRounded
from deqbilevel.regularizers import convolutional
from deqbilevel.solvers import (
    ADJOINTS,
    SYMMETRIC,
    asymmetry,
    broyden,
    dense,
    gmres,
    jacobian_free,
    minres,
    neumann,
)

TRUNCATED = ("neumann", "jacobian_free")


def convolutional_step():
    """A gradient step of the filter model on 6x6 images, with its params."""
    regularizer = convolutional.bank_of((6, 6))
    c = 0.5 * normal(0, 3, 3, 2)
    p = convolutional.init(c, beta_0=-1.0, beta=np.array([-0.5, 0.0, 0.3]), phi=CornerRounded(0.5))
    p = default_precision(p | {"lam": 1.0, "gamma": 1.0})
    p["tau"] = 1 / (1 + regularizer.lipschitz(p))
    return maps.gradient_step(operators.Identity(), regularizer.gradient), p


def dense_step(operator, name):
    model = small_model(operator, name)
    return model.G, model_params(model)


MODELS = {
    "tied": lambda: dense_step("row_mask", "bilevel"),
    "untied": lambda: dense_step("row_mask", "deq"),
    "convolutional": convolutional_step,
}
LEARNED = ("A", "C", "b", "filters", "beta")


class System:
    """An upper-level loss 1/2 ||u* - truth||^2, and its gradient from dense float64 algebra."""

    def __init__(self, name):
        self.G, p = MODELS[name]()
        self.weights = {k: p[k] for k in LEARNED if k in p}
        self.p, self.truth, self.f = p, normal(2, 2, PIXELS), normal(3, 2, PIXELS)
        solver = broyden(tolerance=1e-15, max_evaluations=1000)
        self.u, _ = jax.jit(lambda f: solver(lambda u: self.G(u, p, f), f))(self.f)
        self.g = self.u - self.truth

        def one(u, f):
            return self.G(u[None], p, f[None])[0]

        self.J = np.asarray(jax.jit(jax.vmap(jax.jacfwd(one)))(self.u, self.f))
        self.w = np.linalg.solve(np.eye(PIXELS) - self.J.mT, np.asarray(self.g)[..., None])[..., 0]
        self.gradient_at = jax.jit(self.pull)
        self.gradient = self.gradient_at(self.w)

    def pull(self, w):
        (gradient,) = jax.vjp(lambda x: self.G(self.u, self.p | x, self.f), self.weights)[1](w)
        return ravel_pytree(gradient)[0]

    def vjp(self, w):
        return jax.vjp(lambda u: self.G(u, self.p, self.f), self.u)[1](w)[0]


system = cache(System)


def error(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


def cosine(x, y):
    return np.vdot(x, y) / np.linalg.norm(x) / np.linalg.norm(y)


# ---- those that solve the system


@pytest.mark.parametrize("model", ["untied", "convolutional"])
@float64
def test_every_exact_adjoint_gives_the_dense_gradient(model):
    s = system(model)
    refused = TRUNCATED + (SYMMETRIC if model == "untied" else ())
    adjoints = {
        name: ADJOINTS[name](tolerance=1e-11, max_evaluations=3000)
        for name in ADJOINTS
        if name not in refused
    }
    found = jax.jit(lambda g: {name: adjoints[name](s.vjp, g) for name in adjoints})(s.g)
    for name, (w, info) in found.items():
        assert info.converged, name
        assert error(s.gradient_at(w), s.gradient) < 1e-6, name


@pytest.mark.parametrize("symmetric", [True, False])
@float64
def test_residuals_of_minres_and_gmres_are_the_least_in_the_krylov_space(symmetric):
    J, g = affine(n=12, batch=2, symmetric=symmetric, radius=3.0)
    A = np.eye(12) - np.asarray(J).T
    krylov = [np.linalg.matrix_power(A, i) @ np.asarray(g[0]) for i in range(7)]
    methods = [gmres, minres] if symmetric else [gmres]

    def solve(method, count):
        return method(tolerance=0.0, max_evaluations=count + 1)(lambda w: w @ J, g)

    run = jax.jit(solve, static_argnums=0)
    for count in range(1, 7):
        space = np.linalg.qr(np.stack(krylov[1 : count + 1], axis=1))[0]
        least = np.asarray(g[0]) - space @ (space.T @ np.asarray(g[0]))
        for method in methods:
            w, info = run(method, count)
            assert info.evaluations == count + 1  # one checks what comes back
            np.testing.assert_allclose(np.asarray(g[0]) - A @ w[0], least, atol=1e-9)


@float64
def test_gmres_goes_on_where_the_residual_stagnates_and_after_a_restart():
    """A cyclic shift leaves the residual as it is until the last product."""
    shift, g = jnp.roll(jnp.eye(6), 1, axis=0), jnp.eye(6)[:2]
    w, info = gmres(tolerance=1e-12, max_evaluations=20)(lambda w: w - w @ shift, g)
    assert info.converged and info.evaluations == 6 + 1
    np.testing.assert_allclose(w @ shift, g, atol=1e-12)
    J, g = affine(symmetric=False)
    _, info = gmres(tolerance=1e-10, max_evaluations=200, restart=3)(lambda w: w @ J, g)
    assert info.converged and info.evaluations > 8
    with pytest.raises(ValueError, match="restart=0: expected a whole number, 1 or more"):
        gmres(restart=0)


@float64
def test_indefinite_and_singular_systems_are_solved_or_flagged():
    eigenvalues = jnp.array([-3.0, -1.0, 0.0, 0.0, 0.5, 1.0, 2.0, 4.0])
    Q = jnp.linalg.qr(normal(0, 8, 8))[0]
    H = Q @ jnp.diag(eigenvalues) @ Q.T
    x = normal(1, 2, 8)
    adjoints = {
        name: ADJOINTS[name](tolerance=1e-10, max_evaluations=60)
        for name in ADJOINTS
        if name not in TRUNCATED
    }
    solve = jax.jit(lambda g: {n: a(lambda w: w - w @ H, g) for n, a in adjoints.items()})
    consistent, inconsistent = solve(x @ H), solve(x)
    least_norm = x @ H @ jnp.linalg.pinv(H)
    for name in ("minres", "normal_conjugate_gradient"):
        w, info = consistent[name]
        assert info.converged, name
        np.testing.assert_allclose(w, least_norm, atol=1e-7, err_msg=name)
    for name, (w, info) in inconsistent.items():
        assert np.isfinite(w).all() and not info.converged, name
    for name, (w, info) in consistent.items():
        true = np.linalg.norm(w @ H - x @ H) / np.linalg.norm(w - w @ H + x @ H)
        assert np.isfinite(w).all() and (not info.converged or true < 1e-8), name


def test_dense_refuses_large_images():
    with pytest.raises(ValueError, match="20 x 20, expected at most 10 pixels; take an iterative"):
        dense(largest=10)(lambda w: w, jnp.ones((1, 4, 5)))


# ---- those that stop early, by construction


@pytest.mark.parametrize("damping", [1.0, 0.6])
@pytest.mark.parametrize("model", ["tied", "untied"])
@float64
def test_the_error_of_the_neumann_series_is_that_of_theory(model, damping):
    """(damping J^T + (1 - damping) I)^T w: geometric, with the spectral radius as its rate."""
    s = system(model)
    damped = damping * s.J.mT + (1 - damping) * np.eye(PIXELS)
    counts = [1, 2, 10, 400, 440]

    @jax.jit
    @jax.vmap
    def run(terms):
        return neumann(max_evaluations=terms, damping=damping)(s.vjp, s.g)

    w, info = run(jnp.array(counts))
    assert info.evaluations.tolist() == counts
    errors = np.asarray(s.w - w)
    for terms, found in zip(counts, errors, strict=True):
        power = np.linalg.matrix_power(damped, terms)
        np.testing.assert_allclose(found, (power @ s.w[..., None])[..., 0], rtol=1e-6, atol=1e-11)
    radius = np.abs(np.linalg.eigvals(damped)).max()
    rate = (np.linalg.norm(errors[4]) / np.linalg.norm(errors[3])) ** (1 / 40)
    np.testing.assert_allclose(rate, radius, rtol=1e-3)
    residual = np.linalg.norm(s.vjp(w[2]) + s.g - w[2]) / np.linalg.norm(s.vjp(w[2]) + s.g)
    np.testing.assert_allclose(info.residual[2], residual, rtol=1e-4)


@pytest.mark.parametrize("model", MODELS)
@float64
def test_the_jacobian_free_gradient_descends_and_its_residual_is_unknown(model):
    s = system(model)
    w, info = jacobian_free()(s.vjp, s.g)
    np.testing.assert_array_equal(w, neumann(max_evaluations=1)(s.vjp, s.g)[0])
    assert info.evaluations == 0 and not info.converged and info.residual == np.inf
    assert cosine(s.gradient_at(w), s.gradient) > 0.3


# ---- symmetry


@float64
def test_asymmetry_is_the_part_of_the_jacobian_that_is_antisymmetric():
    g = normal(0, 200, 12)
    for part in (0.0, 0.1, 1.0):
        M = normal(1, 12, 12)
        A = M + M.T + part * (M - M.T)
        expected = jnp.linalg.norm(A - A.T) / jnp.sqrt(2) / jnp.linalg.norm(A)
        found = asymmetry(lambda w, A=A: w - w @ A, g, jax.random.key(0))
        np.testing.assert_allclose(found, expected, rtol=0.2, atol=1e-13)


@float64
def test_conjugate_gradients_are_refused_for_a_jacobian_that_is_not_symmetric():
    for model in ("tied", "convolutional"):
        s = system(model)
        check_symmetric(s.G, s.p, s.f, s.u, largest=1e-12)
    s = system("untied")
    with pytest.raises(ValueError, match=r"asymmetry 0\.\d+, expected .* take gmres, bicgstab"):
        check_symmetric(s.G, s.p, s.f, s.u)


# ---- the quasi-Newton estimate shared from the forward solve


def shared_gradient(solve, s, weights):
    def loss(weights, probe):
        u, info = solve(s.p | weights, s.f, jnp.zeros_like(s.f), probe)
        return 0.5 * jnp.sum((u - s.truth) ** 2), (u, info)

    (_, (u, info)), (gradient, adjoint_info) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        weights, no_info(s.f.dtype)
    )
    return ravel_pytree(gradient)[0], adjoint_info, u, info


@float64
def test_shine_is_near_the_gradient_and_refinements_reach_it():
    s, errors = system("untied"), []
    for refinements in (0, 3, 60):
        solve = shine(
            s.G,
            tolerance=1e-8,
            max_evaluations=300,
            refinements=refinements,
            adjoint_tolerance=1e-10,
        )
        gradient, adjoint_info, u, info = jax.jit(
            lambda weights, solve=solve: shared_gradient(solve, s, weights)
        )(s.weights)
        assert info.converged and error(u, s.u) < 1e-6
        assert adjoint_info.converged == (refinements == 60)
        assert adjoint_info.evaluations == 1 + refinements or refinements == 60
        assert cosine(gradient, s.gradient) > 0.9
        errors.append(error(gradient, s.gradient))
    assert errors[2] < 1e-6 < errors[1] < 0.5 * errors[0]


@float64
def test_the_residual_of_shine_is_true():
    """From the gradient with respect to an offset of the map, which is w itself."""
    s = system("untied")

    def G(u, offset, f):
        return s.G(u, s.p, f) + offset["by"][0]

    solve = shine(G, tolerance=1e-4)

    def run(by, probe):
        u, _ = solve({"by": [by]}, s.f, jnp.zeros_like(s.f), probe)
        return 0.5 * jnp.sum((u - s.truth) ** 2), u

    (_, u), (w, info) = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(
        jnp.zeros_like(s.f), no_info(s.f.dtype)
    )
    image = jax.vjp(lambda u: s.G(u, s.p, s.f), u)[1](w)[0] + u - s.truth
    np.testing.assert_allclose(info.residual, error(w, image), rtol=1e-4)
    assert info.evaluations == 1 and info.converged == 0


@float64
def test_shine_lanes_are_what_they_are_alone():
    """Traced options, and parameters that are not all floats; u0 has no gradient."""
    s = system("untied")

    def run(gamma, tolerance):
        def G(u, params, f):
            return s.G(u, params["all"][0], f) / params["one"]

        def loss(gamma, probe, u0):
            solve = shine(G, tolerance=tolerance, max_evaluations=80, refinements=2)
            params = {"all": [s.p | {"gamma": gamma}], "one": 1}
            u, info = solve(params, s.f, u0, probe)
            return 0.5 * jnp.sum((u - s.truth) ** 2), info

        start = no_info(s.f.dtype), jnp.zeros_like(s.f)
        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(gamma, *start)

    gammas, tolerances = jnp.array([0.3, 0.9, 2.0]), jnp.array([1e-2, 1e-4, 1e-6])
    together, single = jax.jit(jax.vmap(run))(gammas, tolerances), jax.jit(run)
    for i in range(3):
        alone = single(gammas[i], tolerances[i])
        lane = jax.tree.map(lambda x, i=i: x[i], together)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-8), lane, alone)
    (_, info), (_, adjoint_info, d_u0) = together
    assert len(set(info.evaluations.tolist())) == 3 and info.converged.all()
    assert (d_u0 == 0).all() and (adjoint_info.evaluations == 3).all()


def test_what_shine_and_broyden_refuse():
    def G(u, params, f):
        return f

    with pytest.raises(ValueError, match="refinements=-1: expected a whole number, 0 or more"):
        shine(G, refinements=-1)
    with pytest.raises(ValueError, match="max_evaluations=0: expected a whole number, 1 or more"):
        shine(G, max_evaluations=0)
    for solve in (shine(G, memory=0), lambda p, f, u: broyden(memory=0)(lambda u: u, u)):
        with pytest.raises(ValueError, match="memory=0: expected a whole number, 1 or more"):
            solve({}, jnp.ones((1, 2)), jnp.ones((1, 2)))
