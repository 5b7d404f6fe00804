"""Implicit hypergradients against differences of converged solves, and the adjoint's Info."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    PIXELS,
    SHAPE,
    default_precision,
    float64,
    model_params,
    normal,
    small_model,
)

from deqbilevel.hypergradients import fixed_point, no_info
from deqbilevel.losses import mean_squared_error
from deqbilevel.maps import MAPS
from deqbilevel.models import MODELS, assemble, measure
from deqbilevel.potentials import clipping, softshrink
from deqbilevel.regularizers.dense import dense
from deqbilevel.settings import SETTINGS, Budget
from deqbilevel.solvers import ADJOINTS, SYMMETRIC, anderson

STENCIL = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
"""Fourth-order central differences: truncation h^4, rounding 1e-14 / h."""


def data():
    return normal(2, 2, PIXELS), normal(3, 2, PIXELS)


def derivative(G, forward, adjoint):
    """(params, f, truth) -> loss, (u, info), gradient with respect to (params, f), adjoint info."""
    solve = fixed_point(G, forward, adjoint)

    def loss(params, f, probe, truth):
        u, info = solve(params, f, jnp.zeros_like(f), probe)
        return mean_squared_error(u, truth), (u, info)

    def run(params, f, truth):
        value, (d_params, d_f, adjoint_info) = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
            params, f, no_info(f.dtype), truth
        )
        return *value, (d_params, d_f), adjoint_info

    return run


@cache
def program(operator, name, step, relative_ridge, adjoint=None):
    """A compiled derivative at lanes of (params, f), solved to double precision."""
    G = small_model(operator, name, MAPS[step]).G
    budget = Budget(4000, 4000)

    def run(point, truth, ridge):
        setting = SETTINGS["paper"]._replace(
            forward_tolerance=1e-14,
            adjoint_tolerance=1e-14,
            budget=budget,
            ridge=ridge,
            relative_ridge=relative_ridge,
        )
        backward = adjoint or setting.adjoint(budget)
        return derivative(G, setting.forward(budget), backward)(*point, truth)

    return jax.jit(jax.vmap(run, in_axes=(0, None, None)))


def shifted(point, h):
    """Lanes: the point itself, then a stencil along a random direction of each leaf in turn."""
    leaves, structure = jax.tree.flatten(point)
    random = np.random.default_rng(0)
    directions = [random.standard_normal(x.shape) for x in leaves]
    directions = [d / np.linalg.norm(d) * max(1, np.sqrt(d.size) / 10) for d in directions]
    lanes = []
    for i, (x, d) in enumerate(zip(leaves, directions, strict=True)):
        shifts = [h * k * (i == j) for j in range(len(leaves)) for k in STENCIL]
        lanes.append(jnp.asarray(np.stack([x, *(np.asarray(x) + shift * d for shift in shifts)])))
    return jax.tree.unflatten(structure, lanes), directions


def check_gradient(run, point, truth, ridge, h=1e-3):
    """The gradient at the point, every leaf of it right to a relative error of 1e-6."""
    lanes, directions = shifted(point, h)
    losses, (_, info), gradients, adjoint_info = run(lanes, truth, ridge)
    assert info.converged.all() and adjoint_info.converged.all()
    gradient = jax.tree.map(lambda g: g[0], gradients)
    weights = np.array(list(STENCIL.values())) / h
    expected = np.asarray(losses[1:]).reshape(-1, len(STENCIL)) @ weights
    for (path, g), d, difference in zip(
        jax.tree.leaves_with_path(gradient), directions, expected, strict=True
    ):
        # Derivatives are 1e-3 to 1; where they vanish only the rounding of differences is left.
        np.testing.assert_allclose(
            np.vdot(d, g), difference, rtol=1e-6, atol=1e-13 / h, err_msg=jax.tree_util.keystr(path)
        )
    return gradient


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("step", MAPS)
@pytest.mark.parametrize("name", MODELS)
@float64
def test_gradient_with_respect_to_every_parameter_and_the_data(name, step, setting):
    setting = SETTINGS[setting]
    truth, f = data()
    point = model_params(small_model("row_mask", name)), f
    run = program("row_mask", name, step, setting.relative_ridge)
    d_params, d_f = check_gradient(run, point, truth, setting.ridge)
    assert min(np.abs(g).max() for g in (d_f, *map(d_params.get, ("A", "b", "gamma")))) > 1e-4
    # The fixed points depend neither on the step size nor on the preconditioner.
    assert abs(d_params["tau"]) < 1e-12
    assert (d_params["inverse"] == 0).all()


@pytest.mark.parametrize("phi", [softshrink(0.1), clipping(0.4)], ids=["softshrink", "clipping"])
@float64
def test_gradient_with_respect_to_the_threshold(phi):
    truth, f = data()
    point = model_params(small_model("identity", "deq"), phi), f
    run = program("identity", "deq", "gradient_step", True)
    # A small step, so that no feature crosses a kink.
    d_params, _ = check_gradient(run, point, truth, 1e-4, h=1e-5)
    assert abs(d_params["phi"].t) > 1e-3


class Projections(NamedTuple):
    """An operator of a user: a matrix, and neither a resolvent nor as many data as pixels."""

    matrix: jax.Array

    def apply(self, u):
        return u @ self.matrix.T

    def adjoint(self, v):
        return v @ self.matrix


@pytest.mark.parametrize("name", sorted(set(ADJOINTS) - {*SYMMETRIC, "jacobian_free"}))
@float64
def test_an_operator_needs_its_adjoint_and_no_resolvent(name):
    K = Projections(normal(4, 20, PIXELS) / 10)
    model = assemble(K, dense(SHAPE, tied=False, activation=None))
    params = model_params(small_model("identity", "deq"))
    truth, u0 = normal(2, 2, PIXELS), jnp.zeros((2, PIXELS))
    limits = {"tolerance": 1e-13, "max_evaluations": 2000}
    relative = {"relative": True} if name == "anderson" else {}
    f = measure(K, truth, 0.1, jax.random.key(0))
    adjoint = ADJOINTS[name](**limits, **relative)
    solve = fixed_point(model.G, anderson(**limits, relative=True), adjoint)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def gradient(params, f):
        u, info = solve(params, f, u0)
        return mean_squared_error(u, truth), info

    def moved(h):
        return gradient(params | {"A": params["A"] + h * direction}, f)

    direction = normal(5, *params["A"].shape) / PIXELS
    (_, info), slopes = moved(0.0)
    h = 1e-4
    expected = (moved(h)[0][0] - moved(-h)[0][0]) / (2 * h)
    assert info.converged and abs(expected) > 1e-3
    np.testing.assert_allclose(jnp.vdot(slopes["A"], direction), expected, rtol=1e-6)


@float64
def test_scalar_closed_form():
    """u = (lam f - gamma c b) / (lam + gamma c a) for one pixel with the identity activation."""

    def G(u, params, f):
        N = params["c"] * (params["a"] * u + params["b"])
        return u - 0.3 * (params["lam"] * (u - f) + params["gamma"] * N)

    params = default_precision({"a": 0.7, "b": 0.2, "c": 0.9, "lam": 1.1, "gamma": 0.6})
    f, truth = jnp.full((1, 1), 1.5), jnp.full((1, 1), 0.4)
    solver = {"tolerance": 1e-14, "max_evaluations": 500, "relative": True}
    run = derivative(G, anderson(**solver), ADJOINTS["anderson"](**solver))
    gradient = jax.jit(run)(params, f, truth)[2]

    def closed_form(params, f):
        scale = params["lam"] + params["gamma"] * params["c"] * params["a"]
        u = (params["lam"] * f - params["gamma"] * params["c"] * params["b"]) / scale
        return mean_squared_error(u, truth)

    expected = jax.jit(jax.grad(closed_form, (0, 1)))(params, f)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), gradient, expected)


def at(run, point, truth):
    """The derivative at one point, by a program that is compiled for the lanes of `shifted`."""
    lanes, _ = shifted(point, 0.0)
    return jax.tree.map(lambda x: x[0], run(lanes, truth, 1e-4))


@pytest.mark.parametrize("adjoint", ["picard", "conjugate_gradient", "normal_conjugate_gradient"])
@float64
def test_other_adjoint_solvers_give_the_bilevel_gradient(adjoint):
    """The gradient by Anderson acceleration is that of the differences above.

    Every adjoint solver on every model is in test_adjoints.py.
    """
    truth, f = data()
    point = model_params(small_model("row_mask", "bilevel")), f
    case = ("row_mask", "bilevel", "gradient_step", True)
    adjoint = ADJOINTS[adjoint](tolerance=1e-13, max_evaluations=4000)
    _, _, exact, _ = at(program(*case), point, truth)
    _, _, gradient, info = at(program(*case, adjoint), point, truth)
    assert info.converged == 1
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-11), gradient, exact)


@float64
def test_untied_model_at_c_equal_a_is_the_bilevel_model():
    truth, f = data()
    params = model_params(small_model("row_mask", "bilevel"))
    tied, untied = (program("row_mask", name, "gradient_step", True) for name in MODELS)
    loss, (u, _), (d_tied, _), _ = at(tied, (params, f), truth)
    twin = params | {"C": params["A"]}
    twin_loss, (twin_u, _), (d_untied, _), _ = at(untied, (twin, f), truth)
    np.testing.assert_allclose(twin_u, u, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(twin_loss, loss, rtol=1e-12)
    np.testing.assert_allclose(d_untied["A"] + d_untied["C"], d_tied["A"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(d_untied["b"], d_tied["b"], rtol=1e-9, atol=1e-12)
    assert np.abs(d_untied["C"]).max() > 1e-3


def test_start_has_no_gradient():
    model = small_model("identity", "deq")
    params, (truth, f) = model_params(model), data()
    solve = fixed_point(model.G, anderson(), ADJOINTS["anderson"]())
    slope = jax.jit(jax.grad(lambda u0: mean_squared_error(solve(params, f, u0)[0], truth)))
    np.testing.assert_array_equal(slope(f), 0)


# ---- the probe


def adjoint_by_hand(model, adjoint, params, f, truth, u):
    """The Info of the adjoint system, posed without the decorator."""
    g = jax.grad(mean_squared_error)(u, truth)
    vjp = jax.vjp(lambda u: model.G(u, params, f), u)[1]
    return adjoint(lambda w: vjp(w)[0], g)[1]


@float64
@pytest.mark.parametrize("adjoint", ["picard", "anderson", "conjugate_gradient"])
def test_gradient_of_the_probe_is_the_info_of_the_adjoint(adjoint):
    model = small_model("row_mask", "bilevel")
    params, (truth, f) = model_params(model), data()
    forward = anderson(tolerance=1e-5, max_evaluations=200, relative=True)

    @jax.jit
    def both(budget):
        solve_adjoint = ADJOINTS[adjoint](tolerance=1e-4, max_evaluations=budget)
        _, (u, _), _, info = derivative(model.G, forward, solve_adjoint)(params, f, truth)
        return info, adjoint_by_hand(model, solve_adjoint, params, f, truth, u)

    for budget in (3, 500):
        info, expected = both(budget)
        assert info.evaluations == expected.evaluations <= budget
        assert info.converged == expected.converged == (budget == 500)
        # sums of the same numbers in another order
        np.testing.assert_allclose(info.residual, expected.residual, rtol=1e-6)


@float64
def test_probe_under_vmap_is_that_of_each_lane():
    model = small_model("row_mask", "deq")
    params, (truth, f) = model_params(model), data()
    setting = SETTINGS["accurate"]
    solvers = setting.forward(setting.budget), setting.adjoint(setting.budget)

    def run(tau):
        loss, (_, info), _, adjoint_info = derivative(model.G, *solvers)(
            params | {"tau": tau}, f, truth
        )
        return {"loss": loss, "info": info, "adjoint": adjoint_info}

    taus = jnp.array([0.05, 0.3, 0.6])
    together, single = jax.jit(jax.vmap(run))(taus), jax.jit(run)
    for i in range(len(taus)):
        lane, alone = jax.tree.map(lambda x, i=i: x[i], together), single(taus[i])
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8), lane, alone)
    assert len(set(together["adjoint"].evaluations.tolist())) > 1
    assert together["adjoint"].converged.all()


def test_solve_without_a_probe():
    model = small_model("identity", "bilevel")
    params, (_, f) = model_params(model), data()
    solve = fixed_point(model.G, anderson(tolerance=1e-4, relative=True), ADJOINTS["anderson"]())
    u, info = jax.jit(solve)(params, f, jnp.zeros_like(f))
    assert info.converged and info.evaluations.dtype == jnp.int32
    np.testing.assert_allclose(model.G(u, params, f), u, atol=1e-3)


# ---- memory


def test_memory_is_flat_in_the_number_of_iterations():
    model = small_model("row_mask", "deq")
    params, (truth, f) = model_params(model), data()

    def temporary_bytes(cap):
        setting, budget = SETTINGS["paper"], Budget(cap, cap)
        run = derivative(model.G, setting.forward(budget), setting.adjoint(budget))
        compiled = jax.jit(run).lower(params, f, truth).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(10) == temporary_bytes(1000) > 0
