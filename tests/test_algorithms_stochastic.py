"""Stochastic upper-level methods against what is known of Q1, which has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import float64, normal
from test_algorithms import arrival, run

from deqbilevel import algorithms
from deqbilevel.algorithms import bsa, mrbo, stable, stocbio, sustain, ttsa, vrbo
from deqbilevel.algorithms.stable import dense
from deqbilevel.algorithms.ttsa import schedules
from deqbilevel.hypergradients.stochastic import hypergradient, neumann, randomised_product

LARGEST = 3 + 3**0.5
"""The largest eigenvalue of H of Q1."""


def linear(u):
    return jnp.ceil((u + 1) / 2)


def decay(value, offset, exponent=1.0):
    return lambda u: value * (offset / (offset + u)) ** exponent


def sampled(batch=2):
    return algorithms.stochastic_quadratic(algorithms.quadratic(), batch=batch)


@pytest.mark.parametrize(
    ("method", "rate", "options", "steps", "gradients", "products"),
    [
        (stocbio, 1.0, {"adjoint_terms": 30}, 20, 200, 600),
        (ttsa, 1.0, {"adjoint_terms": 30, "randomised": False}, 41, 41, 1230),
        (
            bsa,
            1.0,
            {"adjoint_terms": 30, "randomised": False, "lower_iterations": linear},
            51,  # BA with an H^{-1} that is good to 6e-8
            676,
            1530,
        ),
        (mrbo, 1.0, {"adjoint_terms": 30}, 122, 243, 7290),
        (vrbo, 1.0, {"adjoint_terms": 30}, 20, 282, 8430),
        (stable, 1.0, {}, 27, 27, 6 * 27),
        (stable, 0.5, {"correction": 0.0}, 74, 74, 6 * 74),
    ],
)
@float64
def test_with_all_of_the_data_on_q1(method, rate, options, steps, gradients, products):
    posed = algorithms.quadratic()
    found = run(method(posed.problem, optax.sgd(rate), **options), posed, 2 * steps)
    gammas, calls, info = found
    needed = arrival(gammas, posed.solution)
    assert needed <= 2 * steps
    assert calls.lower_gradients[needed - 1] <= 2 * gradients
    assert calls.hessian_products[needed - 1] <= 2 * products
    assert info.gradient_norm[-1] < 1e-5 and info.lower_residual[-1] < 1e-5
    if "adjoint_terms" in options:  # of 30 products, the residual of a sum of 30 terms
        np.testing.assert_allclose(
            info.adjoint_residual[-1], (1 - (3 - 3**0.5) / 3) ** 30, rtol=0.2
        )


@float64
def test_the_limit_of_stocbio_is_that_of_a_truncated_series():
    """(0.1 I + B'S H^{-1} B) gamma = B'S (d - H^{-1} c), S = H^{-1} (I - (I - H/3)^{Q+1})."""
    posed = algorithms.quadratic()
    H, B, c, d, _ = (np.asarray(x) for x in posed.data)
    terms = jnp.array([0, 2, 4, 9])

    def limit(terms):
        method = stocbio(posed.problem, optax.sgd(1.0), lower_iterations=30, adjoint_terms=terms)
        return run(method, posed, 300)[0][-1]

    for Q, gamma in zip(terms, jax.vmap(limit)(terms), strict=True):
        S = np.linalg.solve(H, np.eye(3) - np.linalg.matrix_power(np.eye(3) - H / 3, Q + 1))
        matrix = 0.1 * np.eye(2) + B.T @ S @ np.linalg.solve(H, B)
        expected = np.linalg.solve(matrix, B.T @ S @ (d - np.linalg.solve(H, c)))
        np.testing.assert_allclose(gamma, expected, atol=1e-10)
        bias = {0: 1.06, 2: 0.280, 4: 0.0904, 9: 4.100e-3}[int(Q)]
        np.testing.assert_allclose(np.linalg.norm(gamma - posed.solution), bias, rtol=5e-3)


@pytest.mark.parametrize(
    ("method", "batch", "rate", "options", "steps", "error"),
    [
        (stocbio, 2, decay(0.5, 100), {"lower_schedule": decay(1.0, 100)}, 2000, 2.4e-2),
        (
            ttsa,
            1,
            decay(0.1, 100, 3 / 5),
            {"lower_schedule": decay(1.0, 100, 2 / 5), "adjoint_step": 1 / LARGEST},
            5000,
            6.4e-2,
        ),
        (
            mrbo,
            2,
            decay(0.3, 20, 1 / 3),
            {"lower_schedule": decay(1.0, 20, 1 / 3), "momentum": decay(0.1, 20, 2 / 3)},
            5000,
            9.6e-3,
        ),
        (
            sustain,
            2,
            decay(0.03, 20, 1 / 3),
            {
                "lower_schedule": decay(1.0, 20, 1 / 3),
                "momentum": decay(0.3, 20, 2 / 3),
                "adjoint_step": 1 / LARGEST,
            },
            5000,
            5.2e-2,
        ),
        (vrbo, 2, 0.5, {}, 40, 3.3e-3),
        (stable, 1, decay(0.3, 100), {"lower_schedule": decay(1.0, 100)}, 5000, 2.5e-2),
    ],
)
@float64
def test_from_samples_on_q1(method, batch, rate, options, steps, error):
    """The single loops are listed at 20 000 steps, and are within twice that error at 5000."""
    posed = sampled(batch)
    algorithm = method(posed.problem, optax.sgd(rate), **options)

    def one(key):
        def body(state, key):
            return algorithm.step(state, posed.data, key)[0], None

        keys = jax.random.split(key, steps)
        return jax.lax.scan(body, algorithm.init(posed.gamma, posed.x), keys)[0].gamma

    gammas = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 20))
    errors = np.linalg.norm(gammas - posed.solution, axis=1)
    assert errors.mean() <= 2 * error, (errors.mean(), errors.max())


def shaped(posed):
    """The problem with its first upper-level variable under a name and the other in a list."""

    def flat(gamma):
        return jnp.append(gamma["first"], gamma["other"][0])

    problem = posed.problem._replace(
        upper=lambda gamma, x, data: posed.problem.upper(flat(gamma), x, data),
        lower_gradient=lambda x, gamma, data: posed.problem.lower_gradient(x, flat(gamma), data),
    )
    gamma = {"first": posed.gamma[0], "other": [posed.gamma[1]]}
    return posed._replace(problem=problem, gamma=gamma)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (stocbio, {"lower_iterations": 2, "adjoint_terms": 3}),
        (ttsa, {"adjoint_terms": 4}),
        (bsa, {"adjoint_terms": 4}),
        (mrbo, {"adjoint_terms": 3}),
        (sustain, {"adjoint_terms": 4}),
        (vrbo, {"adjoint_terms": 3, "inner_iterations": 1, "period": 3}),
        (stable, {}),
    ],
)
@float64
def test_lanes_and_trees_are_what_one_run_with_an_array_is(method, options):
    def final(posed, rate, start=0):
        algorithm = method(posed.problem, optax.sgd(rate), **options)

        def body(state, key):
            return algorithm.step(state, posed.data, key)

        state = algorithm.init(posed.gamma, posed.x)
        state, info = jax.lax.scan(body, state, jax.random.split(jax.random.key(1), 5))
        return state.gamma, state.x, info

    posed = sampled()
    rates = jnp.array([0.4, 0.1])
    alone = jax.jit(lambda rate: final(posed, rate))
    gammas, xs, infos = jax.jit(jax.vmap(lambda rate: final(shaped(posed), rate)))(rates)
    for lane in range(2):
        gamma, x, info = alone(rates[lane])
        tree = [gammas["first"][lane], gammas["other"][0][lane]]
        np.testing.assert_allclose(tree, gamma, rtol=1e-12)
        np.testing.assert_allclose(xs[lane], x, rtol=1e-12)
        of_lane = jax.tree.map(lambda y, lane=lane: y[lane], infos)
        for ours, theirs in zip(jax.tree.leaves(of_lane), jax.tree.leaves(info), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10)


@pytest.mark.parametrize("method", [mrbo, sustain, stable])
@float64
def test_the_same_sample_is_taken_at_both_points(method):
    """With one sample in all steps h is f, whatever the momentum: what went before telescopes."""
    posed = sampled(1)
    options = {"mu": 0.1} if method is stable else {"adjoint_terms": 5}

    def final(momentum, keys):
        algorithm = method(posed.problem, optax.sgd(0.1), momentum=momentum, **options)

        def body(state, key):
            return algorithm.step(state, posed.data, key)[0], None

        return jax.lax.scan(body, algorithm.init(posed.gamma, posed.x), keys)[0].gamma

    compiled = jax.jit(jax.vmap(final, (0, None)))
    weights = jnp.array([0.0, 0.3, 1.0])
    key = jax.random.key(2)
    one, two, three = compiled(weights, jnp.broadcast_to(key, 6))
    np.testing.assert_allclose(one, three, rtol=1e-10)
    np.testing.assert_allclose(two, three, rtol=1e-10)
    one, two, three = compiled(weights, jax.random.split(key, 6))
    assert np.linalg.norm(one - three) > 1e-3 and np.linalg.norm(two - three) > 1e-3


@pytest.mark.parametrize(("method", "steps"), [(mrbo, 6), (vrbo, 2)])
@float64
def test_recursive_estimates_are_exact_with_all_of_the_data(method, steps):
    posed = algorithms.quadratic()
    options = {"momentum": 0.1} if method is mrbo else {"period": 100, "inner_iterations": 2}
    algorithm = method(posed.problem, optax.sgd(0.5), adjoint_terms=5, **options)
    step, state = jax.jit(algorithm.step), algorithm.init(posed.gamma, posed.x)
    for _ in range(steps):
        state, _ = step(state, posed.data, jax.random.key(0))
    # MRBO estimates and then moves, VRBO ends at its estimate
    gamma, x = (state.previous_gamma, state.previous_x) if method is mrbo else state[:2]
    found = hypergradient(
        posed.problem, gamma, x, posed.data, jax.random.key(1), terms=5, step=1 / 3
    )
    np.testing.assert_allclose(state.h_gamma, found.gradient, atol=1e-13)
    G = posed.problem.lower_gradient(x, gamma, posed.data)
    np.testing.assert_allclose(state.h_x, G, atol=1e-13)


def test_the_exponents_of_ttsa_are_those_of_the_text():
    known = {"strongly convex": (2 / 3, 1), "convex": (1 / 2, 3 / 4), "nonconvex": (2 / 5, 3 / 5)}
    u = jnp.array([0, 300])
    for upper_loss, exponents in known.items():
        for schedule, p in zip(schedules(upper_loss, 100.0), exponents, strict=True):
            np.testing.assert_allclose(schedule(u), [1, 0.25**p], rtol=1e-6)
    with pytest.raises(ValueError, match="upper_loss='linear': expected one of strong"):
        schedules("linear")
    with pytest.raises(ValueError, match="offset=0: expected a finite number"):
        schedules("convex", 0)


@float64
def test_vrbo_takes_the_large_sample_once_in_a_period():
    posed = algorithms.quadratic()
    method = vrbo(posed.problem, optax.sgd(0.5), period=3, inner_iterations=1, adjoint_terms=2)
    gammas, calls, _ = run(method, posed, 7)
    each = np.diff(np.asarray(calls.upper_gradients), prepend=0)
    np.testing.assert_array_equal(each, [7, 6, 6, 7, 6, 6, 7])
    assert np.isfinite(gammas).all()


@float64
def test_series_and_product():
    H = algorithms.quadratic().data.H
    b = normal(0, 1, 3)

    def product(v, key):
        return v @ H

    contraction = np.eye(3) - np.asarray(H) / 3
    powers = [np.asarray(b) @ np.linalg.matrix_power(contraction, q) for q in range(8)]
    found = neumann(product, b, jax.random.key(0), terms=7, step=1 / 3)
    np.testing.assert_allclose(found.v, sum(powers) / 3, rtol=1e-12)
    np.testing.assert_allclose(
        found.residual, np.linalg.norm(powers[7]) / np.linalg.norm(b), rtol=1e-12
    )
    without_the_last = sum(powers[:7]) / 3
    np.testing.assert_allclose(
        found.residual,
        np.linalg.norm(without_the_last @ np.asarray(H) - b) / np.linalg.norm(b),
        rtol=1e-12,
    )

    keys = jax.random.split(jax.random.key(1), 700)
    many = jax.jit(jax.vmap(lambda key: randomised_product(product, b, key, terms=7, step=1 / 3)))(
        keys
    )
    for v, p in zip(many.v[:50], many.products[:50], strict=True):
        np.testing.assert_allclose(v, 7 / 3 * powers[int(p)], rtol=1e-12)
    counts = np.bincount(np.asarray(many.products), minlength=7)
    assert len(counts) == 7 and np.all(np.abs(counts - 100) < 5 * 100**0.5)
    assert np.isnan(many.residual).all()


@float64
def test_every_factor_has_a_sample_of_its_own():
    def product(v, key):
        return jax.random.normal(key, v.shape)

    b = jnp.zeros((1, 1))
    totals = [
        float(neumann(product, b, jax.random.key(0), terms=terms, step=1.0).v[0, 0])
        for terms in range(4)
    ]
    r = np.diff(totals)  # r_1, r_2, r_3, whose differences are the samples
    samples = np.diff(r, prepend=0)
    assert len(set(samples.round(12))) == 3


@float64
def test_samples_of_q1_have_q1_as_their_mean():
    plain, posed = algorithms.quadratic(), sampled(3)
    gamma, x = normal(0, 2), normal(1, 2, 3)

    def gradients(posed):
        lower = posed.problem.lower_gradient(x, gamma, posed.data)
        return lower, *jax.grad(posed.problem.upper, (0, 1))(gamma, x, posed.data)

    both = jax.jit(lambda: (gradients(posed), gradients(plain)))()
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    keys = jax.random.split(jax.random.key(0), 400)
    draws = jax.jit(jax.vmap(posed.problem.draw, (None, 0)))(posed.data, keys)
    np.testing.assert_allclose(draws.weights.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(draws.weights.mean(0), 1 / 8, atol=0.03)
    assert np.any(draws.weights > 0.5) and not np.any(draws.weights.max(1) < 1 / 3)
    single = posed.problem.draw(posed.data._replace(size=jnp.asarray(1)), keys[0])
    np.testing.assert_array_equal(np.sort(single.weights), [0] * 7 + [1])
    with pytest.raises(ValueError, match="batch=0"):
        sampled(0)


@float64
def test_matrices_of_stable():
    posed = algorithms.coupled()
    gamma, x = normal(0, 3), normal(1, 2, 3)
    hessian, cross = dense(posed.problem, gamma, x, posed.data)
    np.testing.assert_allclose(hessian, [np.diag(1 + np.exp(gamma))] * 2, atol=1e-13)
    np.testing.assert_allclose(cross, [np.diag(np.exp(gamma) * row) for row in x], atol=1e-13)

    posed = algorithms.quadratic()
    method = stable(posed.problem, optax.sgd(0.1), mu=2.0, cross_bound=0.5)
    state = method.init(posed.gamma, posed.x)
    state, _ = jax.jit(method.step)(state, posed.data, jax.random.key(0))
    values = np.linalg.eigvalsh(state.hessian[0])
    np.testing.assert_allclose(values, [2, 3, LARGEST], rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(state.cross), 0.5, rtol=1e-12)


def test_what_cannot_be_run_is_refused():
    posed = algorithms.quadratic()
    problem, optimiser = posed.problem, optax.sgd(0.1)
    with pytest.raises(ValueError, match="strong_convexity"):
        stable(problem._replace(strong_convexity=None), optimiser)
    with pytest.raises(ValueError, match="rows of 3 unknowns and 2 upper-level variables"):
        stable(problem, optimiser, largest=2).init(posed.gamma, posed.x)
    for method in (ttsa, bsa, sustain):
        with pytest.raises(ValueError, match="adjoint_terms=0: expected 1"):
            method(problem, optimiser, adjoint_terms=0)
    for method in (stocbio, mrbo, vrbo):
        with pytest.raises(ValueError, match="adjoint_terms=-1: expected a whole number, 0"):
            method(problem, optimiser, adjoint_terms=-1)
    for method in (stocbio, bsa):
        with pytest.raises(ValueError, match="lower_iterations=0: expected a whole number, 1"):
            method(problem, optimiser, lower_iterations=0)
    with pytest.raises(ValueError, match="period=0: expected a whole number, 1"):
        vrbo(problem, optimiser, period=0)
