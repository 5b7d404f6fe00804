"""Fixed-point and adjoint solvers, walked by their registries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import affine, float64, normal, recorded, residual
from jax.custom_derivatives import linear_call
from jax.experimental import io_callback

from deqbilevel.solvers import (
    ADJOINTS,
    SOLVERS,
    SYMMETRIC,
    anderson,
    as_adjoint,
    bicgstab,
    conjugate_gradient,
    dense,
    gmres,
    minres,
    normal_conjugate_gradient,
    picard,
)

BUDGET = 7

KRYLOV = (conjugate_gradient, minres, normal_conjugate_gradient, gmres, bicgstab)


@pytest.fixture(params=SOLVERS)
def solver(request):
    return SOLVERS[request.param]


@pytest.fixture(params=[name for name in ADJOINTS if name != "jacobian_free"])
def adjoint(request):
    """Those that solve the system; the Jacobian-free one is in test_adjoints.py."""
    return ADJOINTS[request.param]


def affine_solve(J, c):
    """u = u J^T + c, densely."""
    return np.linalg.solve(np.eye(len(J)) - np.asarray(J), np.asarray(c).T).T


# ---- fixed points


@float64
def test_fixed_point_of_a_contraction(solver):
    solve = solver(tolerance=1e-13, max_evaluations=2000)
    run = jax.jit(lambda J, c, u0: solve(lambda u: u @ J.T + c, u0))
    for symmetric in (True, False):
        J, c = affine(symmetric=symmetric)
        u, info = run(J, c, normal(2, *c.shape))
        np.testing.assert_allclose(u, affine_solve(J, c), rtol=1e-10, atol=1e-11)
        assert info.converged and info.residual <= 1e-13


@float64
def test_info_is_true(solver):
    """Evaluations are those that ran, and the residual is that of the last one."""
    J, c = affine(symmetric=False)
    G, inputs = recorded(lambda u: u @ J.T + c)
    run = jax.jit(
        lambda tolerance, budget: solver(tolerance=tolerance, max_evaluations=budget)(G, c)
    )
    for tolerance, budget in ((1e-4, 500), (1e-12, BUDGET)):
        inputs.clear()
        u, info = run(tolerance, budget)
        jax.effects_barrier()
        assert info.evaluations == len(inputs) <= budget
        np.testing.assert_allclose(u, inputs[-1] @ J.T + c, rtol=1e-12)
        np.testing.assert_allclose(info.residual, residual(u, inputs[-1]), rtol=1e-9)
        assert info.converged == (info.residual <= tolerance) == (len(inputs) < budget)


@float64
def test_images_of_any_shape(solver):
    c = normal(0, 2, 3, 4)
    u, _ = solver(tolerance=1e-13, max_evaluations=500)(lambda u: 0.5 * u + c, jnp.zeros_like(c))
    np.testing.assert_allclose(u, 2 * c, rtol=1e-10)


def test_budget_may_be_traced(solver):
    J, c = affine(symmetric=False)
    solve = jax.jit(
        lambda budget: solver(tolerance=0.0, max_evaluations=budget)(lambda u: u @ J.T + c, c)
    )
    for budget in (1, BUDGET):
        assert solve(budget)[1].evaluations == budget
    lanes = jax.jit(jax.vmap(solve))(jnp.array([3, 1, BUDGET]))[1]
    assert lanes.evaluations.tolist() == [3, 1, BUDGET]
    assert not lanes.converged.any()


def test_tolerance_may_be_traced(solver):
    J, c = affine(symmetric=False)
    solve = jax.jit(
        lambda tolerance: solver(tolerance=tolerance, max_evaluations=200)(
            lambda u: u @ J.T + c, jnp.zeros_like(c)
        )
    )
    for tolerance in (1e-1, 1e-3):
        info = solve(tolerance)[1]
        assert info.converged and tolerance / 20 < info.residual <= tolerance


def test_start_at_the_fixed_point(solver):
    c = normal(0, 3, 8).astype(jnp.float32)
    u, info = solver(tolerance=1e-3, max_evaluations=BUDGET)(lambda u: c + 0 * u, c)
    np.testing.assert_array_equal(u, c)
    assert info.evaluations == 1 and info.residual == 0 and info.converged


def test_float32_tolerance_is_floored(solver):
    """1e-9 can never be met in float32; the solver must not burn its budget on it."""
    J, c = affine(symmetric=True)
    J, c = J.astype(jnp.float32), c.astype(jnp.float32)
    solve = solver(tolerance=1e-9, max_evaluations=1000)
    u, info = jax.jit(solve, static_argnums=0)(lambda u: u @ J.T + c, jnp.zeros_like(c))
    assert info.converged and info.evaluations < 100 and info.residual < 4e-6
    np.testing.assert_allclose(u, affine_solve(J, c), rtol=1e-3, atol=1e-5)  # float32


def test_expansive_map_ends_finite_and_says_so(solver):
    """Also where the size overflows before the step does, which makes their ratio 0."""
    c = 1 + jnp.arange(24.0).reshape(3, 8)
    run = solver(tolerance=1e-3, max_evaluations=400)
    solve = jax.jit(
        lambda growth: run(lambda u: growth * u + c * jnp.sign(u) * (1 + jnp.abs(u)) ** 0.9, c)
    )
    for growth in (1e6, 3.0, 1.5):
        u, info = solve(growth)
        assert np.isfinite(u).all() and np.isfinite(info.residual)
        assert not info.converged and info.residual > 1e-3


def test_step_from_a_finite_point_to_infinity_keeps_the_point(solver):
    c = jnp.ones((2, 4))
    u, info = solver(max_evaluations=BUDGET)(lambda u: jnp.where(u == 1, 2.0, jnp.inf), c)
    np.testing.assert_array_equal(u, 2 * c)
    assert not info.converged and info.evaluations == 2
    u, info = solver(max_evaluations=BUDGET)(lambda u: u * jnp.nan, c)
    np.testing.assert_array_equal(u, c)
    assert not info.converged and info.evaluations == 1


# ---- lanes


def lane_maps():
    """A fast, a slow and a diverging affine map, and one whose values overflow."""
    J, c = affine(symmetric=False, radius=1.0)
    J, c = J.astype(jnp.float32), c.astype(jnp.float32)
    return jnp.stack([0.3 * J, 0.9 * J, 1e6 * jnp.eye(len(J)), 0.6 * J]), c


def test_lanes_are_bit_for_bit_what_they_are_alone(solver):
    maps, c = lane_maps()
    run = solver(tolerance=1e-5, max_evaluations=80)

    def solve(J):
        return run(lambda u: u @ J.T + c, jnp.zeros_like(c))

    together, single = jax.jit(jax.vmap(solve))(maps), jax.jit(solve)
    for i in range(len(maps)):
        for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(single(maps[i])), strict=True):
            np.testing.assert_array_equal(x[i], y)
    evaluations = together[1].evaluations
    assert len(set(evaluations.tolist())) == 4, "the lanes were to differ in speed"
    assert together[1].converged.tolist() == [True, True, False, True]


def test_adjoint_lanes_are_bit_for_bit_what_they_are_alone(adjoint):
    J, g = affine(symmetric=True, radius=1.0)
    J, g = J.astype(jnp.float32), g.astype(jnp.float32)
    maps = jnp.stack([0.3 * J, 0.8 * J, -1e6 * jnp.eye(len(J)), 0.6 * J])

    def solve(J):
        return adjoint(tolerance=1e-5, max_evaluations=80)(lambda w: w @ J, g)

    together, single = jax.jit(jax.vmap(solve))(maps), jax.jit(solve)
    for i in range(len(maps)):
        for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(single(maps[i])), strict=True):
            np.testing.assert_array_equal(x[i], y)
    assert together[1].converged[jnp.array([0, 1, 3])].all()


# ---- Anderson


def reference_anderson(G, u0, *, window, ridge, evaluations):
    """[REB]'s scheme, image by image, by the bordered system; the list of evaluated inputs."""
    inputs, images = [u0], [G(u0)]
    inputs.append(images[0])
    images.append(G(inputs[1]))
    for k in range(2, evaluations):
        m = min(window, k)
        recent_u, recent_G = np.stack(inputs[-m:]), np.stack(images[-m:])
        mixed = np.empty_like(u0)
        for image in range(len(u0)):
            r = recent_G[:, image] - recent_u[:, image]
            bordered = np.ones((m + 1, m + 1))
            bordered[0, 0] = 0
            bordered[1:, 1:] = r @ r.T + ridge * np.eye(m)
            alpha = np.linalg.solve(bordered, np.eye(m + 1)[0])[1:]
            mixed[image] = alpha @ recent_G[:, image]
        inputs.append(mixed)
        images.append(G(mixed))
    return inputs


@float64
def test_anderson_is_the_scheme_of_the_paper_iterate_by_iterate():
    J, c = affine(symmetric=False, radius=0.95)

    def G(u, tanh=np.tanh):
        return tanh(u @ J.T) + c

    count = 15
    expected = reference_anderson(
        lambda u: G(u, np.tanh), np.zeros(c.shape), window=5, ridge=1e-4, evaluations=count
    )
    watched, inputs = recorded(lambda u: G(u, jnp.tanh))
    jax.jit(lambda u0: anderson(tolerance=0.0, max_evaluations=count)(watched, u0))(
        jnp.zeros_like(c)
    )
    jax.effects_barrier()
    assert len(inputs) == count
    # The ridge bounds the condition of the system by 1e5: 1e-16 grows to 1e-11 and is carried on.
    np.testing.assert_allclose(np.stack(inputs), np.stack(expected), rtol=1e-9, atol=1e-10)


@float64
def test_anderson_with_window_1_and_mixing_is_damped_picard():
    J, c = affine(symmetric=False)
    iterates = [
        make(tolerance=0.0, max_evaluations=BUDGET, **options)(lambda u: u @ J.T + c, c)[0]
        for make, options in ((anderson, {"window": 1, "mixing": 0.4}), (picard, {"damping": 0.4}))
    ]
    np.testing.assert_allclose(*iterates, rtol=1e-12)


@float64
def test_anderson_solves_an_affine_equation_in_as_many_steps_as_dimensions():
    J, c = affine(n=4, batch=2, symmetric=False, radius=3.0)
    solve = anderson(tolerance=1e-10, max_evaluations=12, window=8, ridge=1e-14, relative=True)
    u, info = solve(lambda u: u @ J.T + c, jnp.zeros_like(c))
    assert info.converged
    np.testing.assert_allclose(u, affine_solve(J, c), rtol=1e-8)


@float64
def test_relative_ridge_does_not_depend_on_the_scale():
    J, c = affine(symmetric=False)
    solve = jax.jit(
        lambda c: anderson(tolerance=0.0, max_evaluations=12, relative=True)(
            lambda u: u @ J.T + c, jnp.zeros_like(c)
        )[0]
    )
    np.testing.assert_allclose(1e6 * solve(1e-6 * c), solve(c), rtol=1e-9)


@pytest.mark.parametrize("relative", [True, False])
def test_anderson_with_an_image_at_its_fixed_point_and_hardly_a_ridge(relative):
    """A singular Gram matrix makes no NaN and, relative, does not stop the other images."""
    c = jnp.array([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    solve = jax.jit(
        lambda ridge: anderson(tolerance=1e-5, max_evaluations=60, ridge=ridge, relative=relative)(
            lambda u: 0.5 * u + c, jnp.zeros_like(c)
        )
    )
    for ridge in (0.0, 1e-10):
        u, info = solve(ridge)
        assert np.isfinite(u).all() and np.isfinite(info.residual)
        if relative:
            assert info.converged
        if info.converged:
            np.testing.assert_allclose(u, 2 * c, rtol=1e-4)


# ---- adjoint systems


def adjoint_residual(J, g, w):
    return residual(np.asarray(w) @ J + g, w)


@float64
def test_adjoint_solves_the_transposed_system(adjoint):
    run = jax.jit(lambda J, g: adjoint(tolerance=1e-13, max_evaluations=1000)(lambda w: w @ J, g))
    for symmetric in (True, False):
        J, g = affine(symmetric=symmetric)
        w, info = run(J, g)
        true = adjoint_residual(J, g, w)
        if symmetric or adjoint not in [ADJOINTS[name] for name in SYMMETRIC]:
            np.testing.assert_allclose(w, affine_solve(J.T, g), rtol=1e-10, atol=1e-11)
            assert info.converged and true < 1e-12
        else:
            # The methods are for symmetric systems; elsewhere they must at least not claim success.
            assert not info.converged or true <= 1e-12


@float64
def test_adjoint_info_is_true(adjoint):
    """After a few steps, where no method has converged: the evaluations and the residual."""
    counts = {dense: vectorised, normal_conjugate_gradient: transposable}
    for symmetric in (True, False):
        J, g = affine(symmetric=symmetric, radius=0.95)
        vjp, inputs = counts[adjoint](J) if adjoint in counts else recorded(lambda w, J=J: w @ J)
        w, info = jax.jit(adjoint(tolerance=1e-13, max_evaluations=4), static_argnums=0)(vjp, g)
        jax.effects_barrier()
        if adjoint is dense:  # a product for each pixel, all at once, and one for the residual
            assert info.evaluations == len(inputs) == 9 and info.converged
            continue
        assert info.evaluations == len(inputs) == 4 and not info.converged
        # Fixed-point solvers report the residual at their last input, the others at w.
        at = inputs[-1] if adjoint in [ADJOINTS[name] for name in SOLVERS] else w
        np.testing.assert_allclose(info.residual, adjoint_residual(J, g, at), rtol=1e-9)


def vectorised(J):
    """w @ J, and the list of the inputs of its products, those under vmap too, in any order."""
    inputs = []

    def vjp(w):
        io_callback(inputs.append, None, w)
        return w @ J

    return vjp, inputs


def transposable(J):
    """w @ J, and the list of the inputs of it and of its transpose, in any order."""
    vjp, inputs = vectorised(J)

    def transpose(v):
        io_callback(inputs.append, None, v)
        return v @ J.T

    return lambda w: linear_call(lambda _, w: vjp(w), lambda _, v: transpose(v), (), w), inputs


@float64
def test_conjugate_gradient_ends_in_as_many_steps_as_dimensions():
    J, g = affine(n=6, symmetric=True)
    _, info = conjugate_gradient(tolerance=1e-9, max_evaluations=50)(lambda w: w @ J, g)
    assert info.converged and info.evaluations <= 6 + 1  # the last checks what comes back


@pytest.mark.parametrize("rank", [0, 3])
@float64
def test_conjugate_gradient_with_a_singular_hessian(rank):
    """I - J = 0 is Softshrink's at the start; the right side is out of the range."""
    H = jnp.diag(jnp.where(jnp.arange(8) < rank, 0.5 + jnp.arange(8.0), 0.0))
    g = 1 + jnp.arange(16.0).reshape(2, 8)
    w, info = conjugate_gradient(tolerance=1e-6, max_evaluations=30)(lambda w: w - w @ H, g)
    assert np.isfinite(w).all() and not info.converged
    np.testing.assert_allclose(info.residual, adjoint_residual(np.eye(8) - H, g, w), rtol=1e-9)
    # In the range of H the same system has a solution, and it is found.
    g = g @ H
    w, info = conjugate_gradient(tolerance=1e-10, max_evaluations=30)(lambda w: w - w @ H, g)
    assert info.converged
    np.testing.assert_allclose(w @ H, g, atol=1e-8)


@float64
def test_conjugate_gradient_freezes_an_image_without_curvature_alone():
    J, g = affine(symmetric=True)
    flat = jnp.array([1.0, 0.0, 0.0])[:, None]  # the first image's I - J vanishes
    w, info = conjugate_gradient(tolerance=1e-12, max_evaluations=30)(
        lambda w: flat * w + (1 - flat) * (w @ J), g
    )
    assert not info.converged and (w[0] == 0).all()
    np.testing.assert_allclose(w[1:], affine_solve(J, g)[1:], rtol=1e-9)


@float64
def test_zero_right_side_has_the_zero_solution(adjoint):
    J, g = affine(symmetric=True)
    w, info = adjoint(tolerance=1e-6, max_evaluations=BUDGET)(lambda w: w @ J, 0 * g)
    assert (w == 0).all() and info.converged
    expected = {dense: 1 + g[0].size} | dict.fromkeys(KRYLOV, 2)
    assert info.evaluations == expected.get(adjoint, 1)


def test_as_adjoint_starts_at_the_right_side():
    vjp, inputs = recorded(lambda w: 0.5 * w)
    g = jnp.ones((2, 3))
    as_adjoint(picard(max_evaluations=1))(vjp, g)
    jax.effects_barrier()
    np.testing.assert_array_equal(inputs[0], g)


# ---- errors


@pytest.mark.parametrize("budget", [0, -3])
def test_budget_below_1_is_refused(solver, budget):
    with pytest.raises(ValueError, match=f"max_evaluations={budget}: expected a whole"):
        solver(max_evaluations=budget)(lambda u: u, jnp.ones((1, 2)))


def test_adjoint_budget_below_1_is_refused(adjoint):
    if adjoint is dense:  # it has none
        return
    with pytest.raises(ValueError, match="max_evaluations=0: expected a whole number, 1 or more"):
        adjoint(max_evaluations=0)(lambda w: w, jnp.ones((1, 2)))


def test_window_below_1_is_refused():
    with pytest.raises(ValueError, match="window=0: expected a whole number, 1 or more"):
        anderson(window=0)
