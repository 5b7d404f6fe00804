"""The deterministic algorithms against what is known of Q1, which has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import float64
from test_algorithms import arrival, run

from deqbilevel import algorithms
from deqbilevel.algorithms.aid import aid
from deqbilevel.algorithms.ba import accelerated_ba, ba
from deqbilevel.algorithms.base import Calls
from deqbilevel.algorithms.hoag import geometric, hoag, polynomial
from deqbilevel.algorithms.itd import itd
from deqbilevel.algorithms.lagrangian import lagrangian
from deqbilevel.algorithms.maid import maid
from deqbilevel.algorithms.penalty import augmented_penalty, contracting, growing, penalty
from deqbilevel.algorithms.surrogate import surrogate


def reaches(method, steps, gradients, products, posed=None):
    """1e-6 is reached within these steps and calls of grad_x Phi and H v: what `run` returns."""
    posed = algorithms.quadratic() if posed is None else posed
    found = run(method, posed, steps)
    gammas, calls, _ = found
    needed = arrival(gammas, posed.solution)
    assert calls.lower_gradients[needed - 1] <= gradients
    assert calls.hessian_products[needed - 1] <= products
    return found


def biased(S, data):
    """The solution of (.1 I + B' S H^-1 B) gamma = B' S (d - H^-1 c)."""
    A = data.ridge * np.eye(2) + data.B.T @ S @ np.linalg.solve(data.H, data.B)
    return np.linalg.solve(A, data.B.T @ S @ (data.d - np.linalg.solve(data.H, data.c)))


@pytest.mark.parametrize(
    ("tolerance", "steps", "gradients", "products"),
    [(polynomial(0.1, 3), 41, 148, 86), (geometric(1e-3, 0.9), 52, 171, 97)],
)
@float64
def test_hoag(tolerance, steps, gradients, products):
    posed = algorithms.quadratic()
    method = hoag(posed.problem, optax.sgd(1.0), tolerance=tolerance)
    _, _, info = reaches(method, 2 * steps, 2 * gradients, 2 * products)
    eps = np.asarray(tolerance(np.arange(2 * steps)))
    assert np.all(info.lower_residual <= posed.problem.strong_convexity * eps)
    gradient_of_x = np.linalg.norm(np.array([-343 / 778, 1420 / 1167, -1025 / 2334]) - posed.data.d)
    assert info.adjoint_residual[-1] * gradient_of_x <= 1.01 * eps[-1]


@float64
def test_hoag_stops_at_its_caps():
    posed = algorithms.quadratic()
    method = hoag(posed.problem, optax.sgd(1.0), lower_iterations=2, adjoint_iterations=1)
    _, calls, _ = run(method, posed, 1)
    assert calls.lower_gradients[0] == 2 and calls.hessian_products[0] == 3


@pytest.mark.parametrize("factory", [hoag, maid])
def test_the_distance_bound_needs_strong_convexity(factory):
    problem = algorithms.quadratic().problem._replace(strong_convexity=None)
    with pytest.raises(ValueError, match="strong_convexity=None"):
        factory(problem, optax.sgd(1.0))
    factory(problem, optax.sgd(1.0), mu=1)


@pytest.mark.parametrize("tolerance", [lambda: geometric(1.0, 1.0), lambda: polynomial(1.0, 1)])
def test_tolerances_are_summable(tolerance):
    with pytest.raises(ValueError, match="the sum is not finite"):
        tolerance()


@pytest.mark.parametrize(
    ("method", "inverse"),
    [(ba, "dense"), (ba, "conjugate_gradient"), (accelerated_ba, "dense")],
)
@float64
def test_ba(method, inverse):
    problem = algorithms.quadratic().problem
    method = method(problem, optax.sgd(1.0), inverse=inverse)
    _, calls, info = reaches(method, 2 * 51, 2 * 676, 2 * 153)
    assert calls.lower_gradients[50] == 676
    assert np.all(info.adjoint_residual < 1e-14)


@float64
def test_ba_stalls_where_the_lower_level_grows_too_slowly():
    posed = algorithms.quadratic()
    slow = lambda u: jnp.ceil((u + 1.0) ** 0.25).astype(int)  # noqa: E731
    gammas, _, _ = run(ba(posed.problem, optax.sgd(1.0), lower_iterations=slow), posed, 4000)
    np.testing.assert_allclose(np.linalg.norm(gammas[-1] - posed.solution), 1.4e-2, rtol=0.05)


def test_ba_names_its_inverses():
    with pytest.raises(ValueError, match="inverse='lu': expected one of dense, conj"):
        ba(algorithms.quadratic().problem, optax.sgd(1.0), inverse="lu")


@float64
def test_acceleration_is_nesterovs():
    """Against the three sequences of Ghadimi and Wang, with exact gradients of l(gamma)."""
    posed = algorithms.quadratic()
    method = accelerated_ba(posed.problem, optax.sgd(0.7), lower_iterations=lambda u: 60)
    gammas, _, _ = run(method, posed, 8)
    hessian, minimiser = np.array([[23 / 30, -1 / 6], [-1 / 6, 3 / 5]]), posed.solution
    gamma = aggregate = np.zeros(2)
    for k in range(1, 9):
        weight = 2 / (k + 1)
        middle = (1 - weight) * aggregate + weight * gamma
        gradient = hessian @ (middle - minimiser)
        gamma, aggregate = gamma - 0.7 / weight * gradient, middle - 0.7 * gradient
        np.testing.assert_allclose(gammas[k - 1], aggregate, atol=1e-12)


@pytest.mark.parametrize("T", [5, 30])
@float64
def test_itd(T):
    """The limit: S = H^-1 (I - (I - H/3)^T), with a bias of .0904 for T = 5."""
    posed = algorithms.quadratic()
    method = itd(posed.problem, optax.sgd(1.0), lower_iterations=T)
    gammas, calls, info = run(method, posed, 60)
    H = np.asarray(posed.data.H)
    power = np.linalg.matrix_power(np.eye(3) - H / 3, T)
    limit = biased(np.linalg.solve(H, np.eye(3) - power), posed.data)
    np.testing.assert_allclose(gammas[-1], limit, atol=1e-10)
    assert [float(count[19]) for count in calls] == [20 * T, 20 * T, 20 * T, 20]
    of_x = np.linalg.solve(H, np.asarray(posed.data.B) @ limit + posed.data.c) - posed.data.d
    lacking = np.linalg.norm(power @ of_x) / np.linalg.norm(of_x)
    np.testing.assert_allclose(info.adjoint_residual[-1], lacking, rtol=2e-5)
    if T == 30:
        assert arrival(gammas, posed.solution) <= 2 * 20
    else:
        np.testing.assert_allclose(np.linalg.norm(limit - posed.solution), 0.0904, rtol=1e-3)


def test_itd_unrolls_an_iteration_at_least():
    with pytest.raises(ValueError, match="lower_iterations=0: expected a whole number, 1"):
        itd(algorithms.quadratic().problem, optax.sgd(1.0), lower_iterations=0)


@float64
def test_itd_checkpoints():
    posed = algorithms.quadratic()
    plain, spare = (
        run(itd(posed.problem, optax.sgd(1.0), lower_iterations=9, checkpoint=how), posed, 2)
        for how in ("none", "sqrt")
    )
    np.testing.assert_allclose(spare[0], plain[0], rtol=1e-12)
    assert spare[1].lower_gradients[0] == 18 and plain[1].lower_gradients[0] == 9


@pytest.mark.parametrize(
    ("T", "of_aid", "of_itd"), [(10, 2.17e-3, 9.88e-3), (20, 8.93e-6, 4.07e-5)]
)
@float64
def test_hypergradients_after_few_iterations(T, of_aid, of_itd):
    posed = algorithms.quadratic()
    exact = np.array([3 / 2, -25 / 18])
    for method, expected in ((aid, of_aid), (itd, of_itd)):
        gammas, _, _ = run(method(posed.problem, optax.sgd(1.0), lower_iterations=T), posed, 1)
        np.testing.assert_allclose(np.linalg.norm(-gammas[0] - exact), expected, rtol=3e-3)


@float64
def test_maid():
    """1.5 times the measured 11 steps, 470 gradients and 113 products."""
    posed = algorithms.quadratic()
    gammas, _, info = reaches(maid(posed.problem), 16, 705, 170)
    gammas = np.concatenate([[posed.gamma], gammas])
    moved = np.any(gammas[1:] != gammas[:-1], axis=1)
    x = np.linalg.solve(posed.data.H, posed.data.B @ gammas.T + posed.data.c[:, None]).T
    losses = jax.vmap(posed.problem.upper, (0, 0, None))(jnp.array(gammas), x, posed.data)
    assert moved.sum() >= 11 and not moved.all()
    assert np.all(np.diff(losses)[moved] < 0)
    true = gammas[:-1] @ np.array([[23 / 30, -1 / 6], [-1 / 6, 3 / 5]]) + [3 / 2, -25 / 18]
    true = np.linalg.norm(true, axis=1)
    assert np.all(np.abs(info.gradient_norm - true)[moved] <= 0.5 * info.gradient_norm[moved])


@pytest.mark.parametrize("step_size", [0.05, 20.0])
@float64
def test_maid_finds_its_step_size(step_size):
    posed = algorithms.quadratic()
    gammas, _, _ = run(maid(posed.problem, step_size=step_size), posed, 50)
    assert arrival(gammas, posed.solution) <= 50


@float64
def test_augmented_penalty():
    posed = algorithms.quadratic()
    np.testing.assert_allclose(contracting(posed.problem)(posed.gamma, 10.0), 1 / 241)
    method = augmented_penalty(posed.problem, optax.sgd(0.5))
    _, calls, info = reaches(method, 2 * 49, 2 * 2499, 2 * 2450)
    assert calls.lower_gradients[48] == 2499
    assert info.adjoint_residual[-1] < 1e-10


@float64
def test_a_penalty_is_biased():
    """Its limit is the minimiser of l + lambda ||H x - B gamma - c||^2."""
    posed = algorithms.quadratic()
    data = posed.data

    @jax.jit
    @jax.vmap
    def limit(weight):
        method = penalty(posed.problem, optax.sgd(0.5), weight=lambda u: weight)
        return run(method, posed, 100)[0][-1]

    weights = np.array([1.0, 10, 100])
    biases = 0.1653, 0.01756, 0.001766
    for weight, gamma, bias in zip(weights, limit(weights), biases, strict=True):
        A = np.block(
            [
                [np.eye(3) + 2 * weight * data.H @ data.H, -2 * weight * data.H @ data.B],
                [-2 * weight * data.B.T @ data.H, 0.1 * np.eye(2) + 2 * weight * data.B.T @ data.B],
            ]
        )
        force = (data.d + 2 * weight * data.H @ data.c, -2 * weight * data.B.T @ data.c)
        np.testing.assert_allclose(gamma, np.linalg.solve(A, np.concatenate(force))[3:], atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(gamma - posed.solution), bias, rtol=1e-3)


def test_a_growing_weight_is_capped_where_it_is_not_told_to_grow_without_bound():
    np.testing.assert_allclose(growing(10.0, 2.0, 30.0)(jnp.arange(4)), [10, 20, 30, 30])
    np.testing.assert_allclose(growing(10.0, 2.0, None)(jnp.arange(4)), [10, 20, 40, 80])
    assert growing()(jnp.array(50)) == 100


@float64
def test_the_bias_of_a_penalty_vanishes_as_its_weight_grows_without_bound():
    """Of order 1 / lambda: 1.8e-5 at 1e4. Capped at 100 it stays at 1.766e-3."""
    posed = algorithms.quadratic()
    for largest, bias in ((None, 9e-6), (100.0, 1.766e-3)):
        weight = growing(10.0, 1.1, largest)
        method = penalty(posed.problem, optax.sgd(0.5), weight=weight, lower_iterations=150)
        gamma = run(method, posed, 80)[0][-1]
        assert np.linalg.norm(gamma - posed.solution) == pytest.approx(bias, rel=0.3)


@float64
def test_newton_on_the_lagrangian():
    posed = algorithms.quadratic()
    gammas, calls, _ = run(lagrangian(posed.problem), posed, 1)
    np.testing.assert_allclose(gammas[0], posed.solution, atol=1e-12)
    assert calls.total()[0] == 4 * 9


def test_the_lagrangian_is_for_small_problems():
    posed = algorithms.quadratic()
    with pytest.raises(ValueError, match="8 unknowns, expected at most 7"):
        run(lagrangian(posed.problem, largest=7), posed, 1)


@pytest.mark.parametrize(("proximity", "steps"), [(0.0, 3), (0.1, 11)])
@float64
def test_surrogate(proximity, steps):
    """At most 1.5 times the measured steps; their calls are known before."""
    posed = algorithms.quadratic()
    method = surrogate(posed.problem, proximity=proximity, adjoint_iterations=3, inner_iterations=2)
    most = 3 * steps // 2
    _, calls, _ = reaches(method, most, 10 * most, 32 * most)
    assert [float(count[0]) for count in calls] == [10, 8 * 4, 8, 4]


METHODS = {
    "hoag": lambda problem, rate: hoag(problem, optax.sgd(rate)),
    "ba": lambda problem, rate: ba(problem, optax.sgd(rate)),
    "accelerated_ba": lambda problem, rate: accelerated_ba(problem, optax.sgd(rate)),
    "itd": lambda problem, rate: itd(problem, optax.sgd(rate), lower_iterations=5),
    "maid": lambda problem, rate: maid(problem, step_size=rate),
    "penalty": lambda problem, rate: penalty(problem, optax.sgd(rate)),
    "augmented_penalty": lambda problem, rate: augmented_penalty(problem, optax.sgd(rate)),
    "lagrangian": lambda problem, rate: lagrangian(problem, optax.sgd(rate)),
    "surrogate": lambda problem, rate: surrogate(problem, optax.sgd(rate)),
}


@pytest.mark.parametrize("name", METHODS)
@float64
def test_lanes_and_pytrees(name):
    """Step sizes as lanes, with gamma a pytree, give what each gives alone, with an array."""
    posed = algorithms.quadratic()

    def flat(gamma):
        return jnp.append(gamma["a"], gamma["b"])

    problem = posed.problem._replace(
        upper=lambda gamma, x, data: posed.problem.upper(flat(gamma), x, data),
        lower_gradient=lambda x, gamma, data: posed.problem.lower_gradient(x, flat(gamma), data),
    )
    gamma = {"a": jnp.zeros(()), "b": jnp.zeros(1)}

    def steps(problem, gamma, rate):
        method = METHODS[name](problem, rate)

        def body(carry, _):
            state, calls = carry
            state, info = method.step(state, posed.data, jax.random.key(0))
            return (state, calls.plus(info.calls)), info

        start = (method.init(gamma, posed.x), Calls(*jnp.zeros(4)))
        (state, calls), info = jax.lax.scan(body, start, None, length=4)
        assert all(getattr(state, row).shape == posed.x.shape for row in method.rows)
        return state.gamma, state.x, calls, info.loss

    rates = jnp.array([0.5, 0.9])
    lanes = jax.jit(jax.vmap(lambda rate: steps(problem, gamma, rate)))(rates)
    alone = jax.jit(lambda rate: steps(posed.problem, posed.gamma, rate))
    for lane, rate in enumerate(rates):
        of_gamma, *rest = jax.tree.map(lambda x: x[lane], lanes)  # noqa: B023
        for mine, expected in zip(
            jax.tree.leaves((flat(of_gamma), *rest)), jax.tree.leaves(alone(rate)), strict=True
        ):
            np.testing.assert_allclose(mine, expected, rtol=1e-9, atol=1e-12)
