"""Unrolled, forward, piggyback and derivative-free hypergradients against dense linear algebra."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PIXELS, affine, float64, model_params, normal, small_model

from deqbilevel import maps, operators
from deqbilevel.hypergradients.base import no_info
from deqbilevel.hypergradients.derivative_free import finite_differences, gaussian_smoothing
from deqbilevel.hypergradients.implicit import fixed_point
from deqbilevel.hypergradients.unrolled import forward, piggyback, truncated, unrolled
from deqbilevel.potentials import CornerRounded
from deqbilevel.regularizers import convolutional
from deqbilevel.solvers import (
    ADJOINTS,
    anderson,
    limited_memory_bfgs,
    nonlinear_conjugate_gradient,
    optimized_gradient,
    picard,
)


class Problem(NamedTuple):
    """A lower level, what is learned of its params, and its data."""

    G: object
    params: dict
    learned: dict
    f: jax.Array
    truth: jax.Array


def problem(name):
    """A dense model by its name, the gradient step of filter learning, or any contraction."""
    f, truth = normal(3, 2, PIXELS), normal(2, 2, PIXELS)
    if name == "contraction":

        def G(u, params, f):
            return jnp.tanh(u @ params["A"].T + params["b"]) + f

        f, truth = f[:, :6], truth[:, :6]
        p = {"A": affine(6, symmetric=False)[0], "b": normal(4, 6)}
        names = ("A", "b")
    elif name == "convolutional":
        shape = (6, 6)
        c, phi = 0.5 * normal(0, 3, 3, 2), CornerRounded(0.5)
        p = convolutional.init(c, beta_0=-2.0, beta=np.array([-0.5, 0.0, 0.3]), phi=phi)
        regularizer = convolutional.bank_of(shape)
        scalars = {"lam": jnp.ones(()), "gamma": jnp.ones(())}
        p = p | scalars | {"tau": 1 / (1 + regularizer.lipschitz(p))}
        G = maps.gradient_step(operators.Identity(), regularizer.gradient)
        names = ("filters", "beta", "phi")
    else:
        model = small_model("row_mask", name)
        p, G = model_params(model), model.G
        names = ("b", "gamma", "phi")
    return Problem(G, p, {name: p[name] for name in names}, f, truth)


def loss(u, truth):
    return 0.5 * jnp.sum((u - truth) ** 2)


def derivative(case, solve):
    """learned -> ((value, (u, info)), (gradient, gradient with respect to f, adjoint info))."""

    def of(learned, f, probe):
        u, info = solve(case.params | learned, f, jnp.zeros_like(f), probe)
        return loss(u, case.truth), (u, info)

    run = jax.value_and_grad(of, (0, 1, 2), has_aux=True)
    return lambda learned, f: run(learned, f, no_info(f.dtype))


def gradient_of(case, solve):
    """With respect to what is learned, as one vector, and the adjoint's info."""
    evaluate = jax.jit(lambda learned: derivative(case, solve)(learned, case.f))
    _, (gradient, _, info) = evaluate(case.learned)
    return flat(gradient), info


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@cache
def dense(name):
    """The problem, and by dense matrices: J = dG/du, g, and w -> (dG/dlearned)^T w at u*."""
    case = problem(name)
    solver = anderson(tolerance=1e-14, max_evaluations=4000, relative=True)
    u, info = jax.jit(lambda p, f: solver(lambda u: case.G(u, p, f), 0 * f))(case.params, case.f)
    assert info.converged
    jacobian = jax.jit(jax.jacobian(lambda u: case.G(u, case.params, case.f)))(u)
    _, pull = jax.vjp(lambda learned: case.G(u, case.params | learned, case.f), case.learned)
    g = np.asarray(jax.grad(loss)(u, case.truth)).ravel()
    J = np.asarray(jacobian).reshape(g.size, g.size)
    return case, J, g, lambda w: flat(pull(jnp.asarray(w).reshape(u.shape)))


def exact(name):
    case, J, g, pull = dense(name)
    return case, pull(np.linalg.solve(np.eye(g.size) - J.T, g))


def error(gradient, expected):
    return np.linalg.norm(gradient - expected) / np.linalg.norm(expected)


# ---- through all iterations


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("bilevel", picard(max_evaluations=1500)),
        ("deq", anderson(max_evaluations=200, relative=True)),
        ("convolutional", optimized_gradient(max_evaluations=80)),
        ("convolutional", anderson(max_evaluations=80, relative=True)),
        ("convolutional", nonlinear_conjugate_gradient(max_evaluations=40)),
        ("convolutional", limited_memory_bfgs(max_evaluations=25, memory=3)),
    ],
)
@float64
def test_unrolled_to_convergence_is_the_implicit_gradient(name, solver):
    case, expected = exact(name)
    gradient, info = gradient_of(case, unrolled(case.G, solver))
    assert error(gradient, expected) < 1e-6
    assert info.converged and info.evaluations == solver.max_evaluations


@float64
def test_reverse_checkpointed_and_forward_mode_agree():
    """Far from convergence, where they are not the implicit gradient, and with a remainder."""
    case, expected = exact("contraction")
    solver = optimized_gradient(max_evaluations=5, tolerance=1e-9)
    run = partial(derivative, case)

    @jax.jit
    def all_three(learned, f):
        ways = (
            unrolled(case.G, solver),
            unrolled(case.G, solver, checkpoint="sqrt"),
            forward(case.G, solver, block=16),
        )
        return [run(way)(learned, f) for way in ways]

    reverse, checkpointed, pushed = all_three(case.learned, case.f)
    for other in (checkpointed, pushed):
        close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15)
        jax.tree.map(close, reverse[0], other[0])
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-13), reverse[1][:2],
                     other[1][:2])  # fmt: skip
    assert error(flat(reverse[1][0]), expected) > 1e-4
    infos = [way[1][2] for way in (reverse, checkpointed, pushed)]
    parameters = flat(case.learned).size + case.f.size
    assert [int(info.evaluations) for info in infos] == [5, 10, 5 * parameters]
    assert not any(info.converged for info in infos)
    assert reverse[0][1][1].evaluations == 5


@pytest.mark.parametrize(
    "solver",
    [
        nonlinear_conjugate_gradient(max_evaluations=12),
        limited_memory_bfgs(max_evaluations=12, memory=3),
    ],
    ids=["nonlinear_conjugate_gradient", "limited_memory_bfgs"],
)
@float64
def test_reverse_mode_of_line_searches_through_every_branch(solver):
    """The cost a u - f log u of each pixel: first trials where it is not finite, and too short."""
    u0 = jnp.array([[2.0, 3.0, 5.0], [4.0, 1.5, 2.5], [50.0, 80.0, 60.0]])
    f, truth = jnp.array([[1.0], [1.0], [100.0]]), jnp.zeros(3)

    def G(u, params, f):
        return u - 8 * jnp.where(u > 0, params["a"] - f / u, jnp.nan)

    def upper_level(a, probe):
        u, _ = unrolled(G, solver)({"a": a}, f, u0, probe)
        return loss(u, truth), u

    a, h = jnp.array([1.0, 0.7, 1.3]), 1e-6
    lanes = a + h * jnp.concatenate((jnp.zeros((1, 3)), jnp.eye(3), -jnp.eye(3)))
    derivative = jax.vmap(jax.value_and_grad(upper_level, (0, 1), has_aux=True), (0, None))
    (value, u), (gradient, adjoint) = jax.jit(derivative)(lanes, no_info(a.dtype))
    assert (u[0] > 0).all() and error(u[0], f / a) < 0.5 and np.isfinite(adjoint.residual[0])
    np.testing.assert_allclose(gradient[0], (value[1:4] - value[4:]) / (2 * h), rtol=1e-5)


@float64
def test_the_minimiser_estimate_converges_faster_than_the_unrolled_one():
    """Both at the rate of gradient descent, on a quadratic lower level with known numbers."""
    H = jnp.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 2]])
    B = jnp.array([[1.0, 0], [0, 2], [1, 1]])
    c, d = jnp.array([[1.0, -1, 0]]), jnp.array([[1.0, 2, -1]])

    def G(u, params, f):
        return u - (u @ H - params["gamma"] @ B.T - f) / 3

    def upper_level(gamma, way):
        u, _ = way({"gamma": gamma}, c, 0 * c)
        return loss(u, d) + 0.05 * jnp.sum(gamma**2)

    @jax.jit
    def errors(gamma):
        solvers = [picard(tolerance=0.0, max_evaluations=budget) for budget in (10, 20)]
        ways = [fixed_point(G, solver, ADJOINTS["dense"]()) for solver in solvers]
        ways += [unrolled(G, solver) for solver in solvers]
        exact = jnp.array([3 / 2, -25 / 18])
        return [jnp.linalg.norm(jax.grad(upper_level)(gamma, way) - exact) for way in ways]

    published = [2.17e-3, 8.93e-6, 9.88e-3, 4.07e-5]
    np.testing.assert_allclose(errors(jnp.zeros(2)), published, rtol=2e-3)


@float64
def test_forward_mode_spends_on_what_is_differentiated_only():
    case, expected = exact("contraction")
    solve = forward(case.G, picard(max_evaluations=60))

    def of(learned, probe):
        u, _ = solve(case.params | learned, case.f, case.f, probe)
        return loss(u, case.truth)

    gradient, info = jax.jit(jax.grad(of, (0, 1)))(case.learned, no_info(case.f.dtype))
    assert error(flat(gradient), expected) < 1e-10
    assert info.evaluations == 60 * expected.size and info.converged and info.residual < 1e-8


@float64
def test_what_is_reported_is_the_residual_of_the_adjoint_system():
    case, J, g, _ = dense("contraction")
    solve = unrolled(case.G, picard(max_evaluations=30))

    def of(probe, u0):
        return loss(solve(case.params, case.f, u0, probe)[0], case.truth)

    u = np.linalg.solve(np.eye(g.size) - J.T, g)  # any vector; the fixed point is not needed
    start = jnp.asarray(u).reshape(case.f.shape)
    info, slope = jax.jit(jax.grad(of, (0, 1)))(no_info(start.dtype), start)
    np.testing.assert_array_equal(slope, 0)

    def far(u0):
        for _ in range(30):
            u0 = case.G(u0, case.params, case.f)
        return loss(u0, case.truth), u0

    dropped, end = jax.jit(jax.grad(far, has_aux=True))(start)
    size = np.linalg.norm(end - case.truth)
    np.testing.assert_allclose(info.residual, np.linalg.norm(dropped) / (1e-5 + size), rtol=1e-9)


# ---- the last iterations


@float64
def test_truncated_is_the_neumann_series_and_its_error_geometric():
    case, J, g, pull = dense("bilevel")
    _, expected = exact("bilevel")
    solver = picard(tolerance=1e-13, max_evaluations=5000)
    errors = []
    for last in (10, 40, 70):
        terms = [g]
        for _ in range(last):
            terms.append(J.T @ terms[-1])
        gradient, info = gradient_of(case, truncated(case.G, solver, last=last))
        np.testing.assert_allclose(gradient, pull(sum(terms[:-1])), rtol=1e-8)
        residual = np.linalg.norm(terms[-1]) / (1e-5 + np.linalg.norm(g))
        np.testing.assert_allclose(info.residual, residual, rtol=1e-8)
        assert info.evaluations == last and info.converged == 0
        errors.append(error(gradient, expected))
    rate = np.abs(np.linalg.eigvalsh((J + J.T) / 2)).max()
    assert errors[2] / errors[1] < errors[1] / errors[0] + 0.1 < rate**30 + 0.2
    assert errors[2] < 0.2


@float64
def test_truncated_goes_on_from_the_momentum_of_its_solver():
    case, expected = exact("convolutional")
    solver = optimized_gradient(tolerance=1e-8, max_evaluations=400)
    (_, (_, info)), (gradient, _, adjoint) = jax.jit(
        lambda learned: derivative(case, truncated(case.G, solver, last=15))(learned, case.f)
    )(case.learned)
    assert error(flat(gradient), expected) < 1e-4
    assert info.converged and 15 < info.evaluations < 80 and adjoint.evaluations == 15


# ---- adjoint and primal variables together


@pytest.mark.parametrize("name", ["bilevel", "deq"])
@float64
def test_piggyback(name):
    case, expected = exact(name)

    def run(u0, q0, budget):
        with_options = piggyback(case.G, loss, tolerance=1e-12, max_evaluations=budget)
        return with_options(case.params, case.f, u0, q0, case.truth)

    run, zeros = jax.jit(run), jnp.zeros_like(case.f)
    (value, u, info), (gradient, q, adjoint) = run(zeros, zeros, 5000)
    learned = flat({name: gradient[name] for name in case.learned})
    assert error(learned, expected) < 1e-9 and info.converged and adjoint.converged
    np.testing.assert_allclose(value, loss(u, case.truth), rtol=1e-12)
    _, (_, _, warm) = run(u, q, 5000)
    assert warm.evaluations == 2 and adjoint.evaluations > 100
    assert not run(zeros, zeros, 20)[1][2].converged


# ---- from solutions alone


ACCURATE = {"tolerance": 1e-14, "max_evaluations": 400}


@float64
def test_finite_differences_are_of_second_order():
    case, expected = exact("contraction")

    def at(step):
        solve = finite_differences(case.G, picard(**ACCURATE), step=step)
        _, (gradient, _, info) = derivative(case, solve)(case.learned, case.f)
        return gradient, info

    gradients, infos = jax.jit(jax.vmap(at))(jnp.array([8e-2, 4e-2, 2e-2, 1e-4]))
    errors = [error(flat(jax.tree.map(lambda x, i=i: x[i], gradients)), expected) for i in range(4)]
    ratios = np.array(errors[:2]) / errors[1:3]
    assert (np.abs(ratios - 4) < 0.3).all() and errors[3] < 1e-7
    assert infos.converged.all() and (infos.evaluations > 2 * expected.size * 5).all()


@float64
def test_gaussian_smoothing_is_unbiased_with_the_error_of_its_number_of_directions():
    case, expected = exact("contraction")
    directions, keys = 64, 16

    def at(key):
        solve = gaussian_smoothing(
            case.G, picard(**ACCURATE), directions=directions, width=1e-4, key=key
        )

        def of(learned):
            u, _ = solve(case.params | learned, case.f, case.f)
            return loss(u, case.truth)

        return jax.grad(of)(case.learned)

    lanes = jax.jit(jax.vmap(at))(jax.random.split(jax.random.key(0), keys))
    gradients = [flat(jax.tree.map(lambda x, i=i: x[i], lanes)) for i in range(keys)]
    predicted = ((expected.size + 1) / directions) ** 0.5
    single = np.mean([error(gradient, expected) ** 2 for gradient in gradients]) ** 0.5
    assert abs(single / predicted - 1) < 0.2
    mean = np.mean(gradients, axis=0)
    assert error(mean, expected) < 1.5 * predicted / keys**0.5
    cosine = mean @ expected / np.linalg.norm(mean) / np.linalg.norm(expected)
    assert cosine > 0.95


# ---- properties of all


METHODS = {
    "unrolled": lambda G, solver: unrolled(G, solver),
    "truncated": lambda G, solver: truncated(G, solver, last=3),
    "forward": lambda G, solver: forward(G, solver, block=8),
}


@pytest.mark.parametrize("method", METHODS)
@float64
def test_lanes_are_what_they_are_alone(method):
    """Also with a tolerance of their own: nothing traced is lost."""
    case = problem("contraction")

    def run(b, tolerance):
        solver = picard(tolerance=tolerance, max_evaluations=12)
        solve = METHODS[method](case.G, solver)

        def of(A, probe):
            u, info = solve({"A": A, "b": b}, case.f, jnp.zeros_like(case.f), probe)
            return loss(u, case.truth), info

        return jax.value_and_grad(of, (0, 1), has_aux=True)(case.params["A"], no_info(case.f.dtype))

    bs, tolerances = normal(7, 3, 6), jnp.array([1e-1, 1e-8, 1e-3])
    together, alone = jax.jit(jax.vmap(run))(bs, tolerances), jax.jit(run)
    for i in range(len(bs)):
        lane = jax.tree.map(lambda x, i=i: x[i], together)
        close = partial(np.testing.assert_allclose, rtol=1e-8)
        jax.tree.map(close, lane, alone(bs[i], tolerances[i]))
    assert together[0][1].converged.any()


def temporary_bytes(method, budget):
    case = problem("contraction")

    def of(learned, params, f):
        u, _ = method(case.G, picard(max_evaluations=budget))(params | learned, f, 0 * f)
        return loss(u, case.truth)

    compiled = jax.jit(jax.grad(of)).lower(case.learned, case.params, case.f).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_is_linear_its_root_or_flat_in_the_number_of_iterations():
    def growth(method):
        few, many = temporary_bytes(method, 100), temporary_bytes(method, 1600)
        return many / few

    assert 12 < growth(unrolled) < 17
    # 4, and less by what does not grow, which differs between versions of JAX.
    assert 2 < growth(partial(unrolled, checkpoint="sqrt")) < 5
    assert growth(partial(forward, block=8)) < 1.1
    assert growth(partial(truncated, last=5)) < 1.1


def test_what_cannot_be_unrolled_is_refused():
    G = problem("contraction").G
    for method in (unrolled, forward):
        with pytest.raises(ValueError, match="expected a plain int"):
            method(G, picard(max_evaluations=jnp.array(5)))
        with pytest.raises(ValueError, match="no scheme to unroll"):
            method(G, lambda G, u: (u, no_info()))
    with pytest.raises(ValueError, match="last=0"):
        truncated(G, picard(), last=0)
    with pytest.raises(ValueError, match="directions=0"):
        gaussian_smoothing(G, picard(), directions=0, key=jax.random.key(0))
