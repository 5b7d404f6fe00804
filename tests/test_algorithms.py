"""Upper-level algorithms against what is known of the probe problems of [CF]."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import float64

from deqbilevel import algorithms
from deqbilevel.algorithms import Calls
from deqbilevel.algorithms.oracles import lower_level
from deqbilevel.solvers import DESCENTS, LINE_SEARCHES


def run(algorithm, posed, steps):
    """The gammas after each step [steps, r], and the calls up to there."""

    def body(carry, key):
        state, calls = carry
        state, info = algorithm.step(state, posed.data, key)
        calls = calls.plus(info.calls)
        return (state, calls), (state.gamma, calls, info)

    keys = jax.random.split(jax.random.key(0), steps)
    start = (algorithm.init(posed.gamma, posed.x), Calls(*jnp.zeros(4)))
    _, found = jax.jit(lambda start: jax.lax.scan(body, start, keys))(start)
    return found


def arrival(gammas, target, tolerance=1e-6):
    """The number of steps after which gamma is within the tolerance of the target, for good."""
    near = np.linalg.norm(np.asarray(gammas) - np.asarray(target), axis=1) <= tolerance
    assert near[-1], np.linalg.norm(gammas[-1] - target)
    return len(near) - int(np.argmin(near[::-1])) + 1 if not near.all() else 1


@pytest.mark.parametrize(
    ("options", "steps", "gradients", "products"),
    [
        ({"lower_iterations": 10, "adjoint_iterations": 3}, 20, 200, 79),
        ({"lower_iterations": 1, "adjoint_iterations": 1}, 85, 85, 169),
    ],
)
@float64
def test_aid_on_q1(options, steps, gradients, products):
    posed = algorithms.quadratic()
    method = algorithms.aid(posed.problem, optax.sgd(1.0), **options)
    gammas, calls, _ = run(method, posed, 2 * steps)
    needed = arrival(gammas, posed.solution)
    assert needed <= 2 * steps
    assert calls.lower_gradients[needed - 1] <= 2 * gradients
    assert calls.hessian_products[needed - 1] <= 2 * products


@pytest.mark.parametrize("solver", DESCENTS)
@pytest.mark.parametrize("far", [False, True])
@float64
def test_the_lower_level_stops_where_its_gradient_is_small_enough(solver, far):
    # The step 1/3 of Q1 is too long for momentum, which needs 1/L.
    posed = algorithms.quadratic()
    problem = posed.problem._replace(lower_step=lambda gamma: 1 / (3 + 3**0.5))
    x0 = 100.0 + posed.x if far else posed.x
    x, evaluations, residual = lower_level(
        problem, posed.gamma, x0, posed.data, solver=solver, evaluations=1000, tolerance=1e-3
    )
    norm = np.linalg.norm(problem.lower_gradient(x, posed.gamma, posed.data))
    assert 1 < evaluations < 1000
    assert norm <= 1e-3 and residual <= 1e-3
    if solver in LINE_SEARCHES:
        assert norm <= residual <= 1.01 * norm + 1e-12


@float64
def test_aid_without_a_warm_adjoint_has_another_limit():
    posed = algorithms.quadratic()
    cold = {"lower_iterations": 10, "adjoint_iterations": 1, "warm_adjoint": False}
    gammas, _, _ = run(algorithms.aid(posed.problem, optax.sgd(1.0), **cold), posed, 200)
    np.testing.assert_allclose(gammas[-1], gammas[-2], atol=1e-10)
    assert np.linalg.norm(gammas[-1] - posed.solution) == pytest.approx(1.1, abs=0.05)
