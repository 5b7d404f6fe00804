"""Every map with tied and untied regularisers: what their fixed points solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    KINDS,
    PIXELS,
    dense,
    float64,
    measurements,
    model_params,
    normal,
    small_model,
    zeros,
)

from deqbilevel import maps
from deqbilevel.fidelities import squares
from deqbilevel.maps import MAPS
from deqbilevel.models import MODELS
from deqbilevel.operators import Identity
from deqbilevel.potentials import POTENTIALS, PiecewiseQuadratic, identity
from deqbilevel.solvers import anderson


@pytest.fixture(scope="module", params=KINDS)
def operator(request):
    return request.param


@pytest.fixture(scope="module", params=MODELS)
def model(request, operator):
    return small_model(operator, request.param)


@pytest.fixture(scope="module")
def solve_all(model):
    """(params, f) -> the fixed point of every map in the table and whether it was reached."""
    run = anderson(tolerance=1e-13, max_evaluations=2000, ridge=1e-8, relative=True)

    @jax.jit
    def solutions(params, f):
        def solve(step):
            G = step(model.K, model.N)
            u, info = run(lambda u: G(u, params, f), zeros(f))
            return u, info.converged

        return {name: solve(step) for name, step in MAPS.items()}

    return solutions


@float64
def test_every_map_has_the_stationary_point_for_its_fixed_point(model, solve_all):
    # Not smooth, and strongly convex so that there is one fixed point.
    params = model_params(model, PiecewiseQuadratic(0.8, 1.0, 0.5, 0.2))
    f = measurements(model.K, 2)
    F = jax.jit(maps.stationarity(model.K, model.N))
    assert np.abs(F(zeros(f), params, f)).max() > 0.1
    solutions = solve_all(params, f)
    for u, converged in solutions.values():
        assert converged
        np.testing.assert_allclose(F(u, params, f), 0, atol=1e-11)
        np.testing.assert_allclose(u, solutions["gradient_step"][0], rtol=1e-9, atol=1e-10)


@float64
def test_identity_activation_has_a_closed_form(model, solve_all):
    params, f = model_params(model, identity()), measurements(model.K, 2)
    K, A, C = dense(model.K.apply, PIXELS), params["A"], params.get("C", params["A"])
    lam, gamma = params["lam"], params["gamma"]
    left = np.asarray(lam * (K.conj().T @ K).real + gamma * C.T @ A)
    right = np.asarray(lam * (f @ K.conj()).real - gamma * params["b"] @ C)
    expected = np.linalg.solve(left, right.T).T
    for u, _ in solve_all(params, f).values():
        np.testing.assert_allclose(u, expected, rtol=1e-9, atol=1e-10)


@float64
def test_tied_gradient_step_descends_the_energy(operator):
    model = small_model(operator, "bilevel")
    u, f = normal(2, 2, PIXELS), measurements(model.K, 3)

    @jax.jit
    def both(u, params, f):
        slope = jax.grad(lambda u: jnp.sum(model.energy(u, params, f)))(u)
        return u - params["tau"] * slope, model.G(u, params, f)

    for potential in POTENTIALS.values():
        params = model_params(model, potential())
        np.testing.assert_allclose(*both(u, params, f), rtol=1e-11, atol=1e-12)


@float64
def test_proximal_and_preconditioned_steps_are_their_formulas(model):
    params, u, f = model_params(model), normal(2, 2, PIXELS), measurements(model.K, 3)
    K, eye = dense(model.K.apply, PIXELS), np.eye(PIXELS)
    tau, lam, gamma = (float(params[name]) for name in ("tau", "lam", "gamma"))
    N = np.asarray(model.N(u, params))
    right = u - tau * gamma * N + tau * lam * (f @ K.conj()).real
    KK = (K.conj().T @ K).real
    expected = np.linalg.solve(eye + tau * lam * KK, right.T).T
    G = maps.proximal_step(model.K, model.N)
    np.testing.assert_allclose(G(u, params, f), expected, rtol=1e-10, atol=1e-12)

    F = lam * ((u @ K.T - f) @ K.conj()).real + gamma * N
    P = lam * KK + gamma / 2 * params.get("C", params["A"]).T @ params["A"] + 0.3 * eye
    expected = u - np.linalg.solve(P, F.T).T
    G = maps.preconditioned_step(model.K, model.N)
    np.testing.assert_allclose(G(u, params, f), expected, rtol=1e-9, atol=1e-11)


@float64
def test_proximal_step_uses_the_resolvent():
    class Spy:
        def apply(self, u):
            raise AssertionError("the proximal step needs no K u")

        def adjoint(self, v):
            return 2 * v

        def resolvent(self, z, a):
            return z + 100 * a

    params = {"tau": 0.5, "lam": 3.0, "gamma": 1.0}
    G = maps.proximal_step(Spy(), lambda u, params: 0 * u)
    u, f = normal(0, 2, 3), normal(1, 2, 3)
    np.testing.assert_allclose(G(u, params, f), u + 3 * f + 150, rtol=1e-14)


@float64
def test_plug_and_play_step_is_its_formula(model):
    params, u, f = model_params(model), normal(2, 2, PIXELS), measurements(model.K, 3)
    K = dense(model.K.apply, PIXELS)
    tau, lam = float(params["tau"]), float(params["lam"])
    z = u - tau * lam * ((u @ K.T - f) @ K.conj()).real
    expected = z - model.N(z, params)
    G = maps.plug_and_play_step(model.K, model.N)
    np.testing.assert_allclose(G(u, params, f), expected, rtol=1e-10, atol=1e-12)


@float64
def test_plug_and_play_with_a_proximal_map_has_the_stationary_point(operator):
    """I - N the proximal map of tau gamma R, for the R with gradient A^T (A u + b)."""
    model = small_model(operator, "bilevel")
    params, f = model_params(model, identity()), measurements(model.K, 2)
    A, move = params["A"], params["tau"] * params["gamma"]

    def N(u, params):
        left = jnp.eye(PIXELS) + move * A.T @ A
        return u - jnp.linalg.solve(left, (u - move * params["b"] @ A).T).T

    G = maps.plug_and_play_step(model.K, N)
    run = anderson(tolerance=1e-13, max_evaluations=2000, ridge=1e-8, relative=True)
    u, info = jax.jit(lambda f: run(lambda u: G(u, params, f), zeros(f)))(f)
    assert info.converged and np.abs(u).max() > 0.1
    F = maps.stationarity(model.K, model.N)
    np.testing.assert_allclose(F(u, params, f), 0, atol=1e-11)


@pytest.mark.parametrize("step", MAPS)
@pytest.mark.parametrize("name", MODELS)
@float64
def test_naive_objective_vanishes_where_the_truth_is_a_fixed_point(step, name):
    model = small_model("identity", name)
    params, truth = model_params(model), normal(2, 2, PIXELS)
    objective = jax.jit(maps.naive_objective(MAPS[step](model.K, model.N)))
    f = truth + params["gamma"] / params["lam"] * model.N(truth, params)
    assert objective(params, truth, f) < 1e-28
    assert objective(params, truth, f + 0.1) > 1e-4


@float64
def test_naive_objective_of_the_gradient_step_is_the_mean_squared_step(model):
    params, truth, f = model_params(model), normal(2, 2, PIXELS), measurements(model.K, 3)
    F = maps.stationarity(model.K, model.N)(truth, params, f)
    expected = params["tau"] ** 2 * jnp.mean(F**2)
    np.testing.assert_allclose(
        maps.naive_objective(model.G)(params, truth, f), expected, rtol=1e-10
    )


@float64
def test_an_operator_of_params_takes_the_place_of_the_models(model):
    params, u = model_params(model), normal(2, 2, PIXELS)
    f = measurements(model.K, 3)
    halved = jax.tree.map(lambda x: x / 2, model.K)
    for step in (*MAPS.values(), maps.plug_and_play_step, maps.stationarity):
        expected = step(halved, model.N)(u, params, f)
        found = step(model.K, model.N)(u, params | {"K": halved}, f)
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_the_proximal_step_has_no_other_fidelity_than_squares():
    other = squares._replace(curvature=2.0)
    with pytest.raises(ValueError, match=r"proximal_step: needs the proximal map .* gradient_step"):
        maps.proximal_step(Identity(), lambda u, params: u, other)
