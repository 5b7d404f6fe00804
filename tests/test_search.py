"""Searches without gradients: their points, what they find, bounds of what is solved inexactly."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64
from jax.sharding import Mesh
from scipy import stats
from scipy.spatial.distance import pdist

from deqbilevel import algorithms, checks, lanes, search
from deqbilevel.lanes import Lanes
from deqbilevel.search.bayesian import expected_improvement, lower_bound
from deqbilevel.search.trust_region import State, gauss_newton

SAMPLED = ("grid", "random", "sobol", "poisson_disk")


def bowl(points: np.ndarray) -> np.ndarray:
    """Least at 0.3, 0.7, 0.3, ...; R + 1 residuals, the last of which is nonlinear."""
    target = np.where(np.arange(points.shape[1]) % 2, 0.7, 0.3)
    linear = (points - target) * (1 + np.arange(points.shape[1]))
    return np.concatenate([linear, np.sum((points - target) ** 2, axis=1, keepdims=True)], axis=1)


def evaluate(request: search.Request) -> search.Evaluated:
    residuals = bowl(request.points)
    losses = np.sum(residuals**2, axis=1)
    return search.Evaluated(search.Outcome(losses, 0 * losses, residuals, 1.0), 0 * losses)


def probe() -> tuple[algorithms.Posed, search.Box, search.Residuals]:
    """Q1, whose residuals are linear in gamma, with gamma as an entry."""
    problem, data, gamma, x, solution = algorithms.quadratic()

    def upper(gamma: Any, x: Any, data: Any) -> Any:
        return problem.upper(gamma["gamma"], x, data)

    def gradient(x: Any, gamma: Any, data: Any) -> Any:
        return problem.lower_gradient(x, gamma["gamma"], data)

    def residuals(gamma: Any, x: Any, data: Any) -> Any:
        of_gamma = jnp.sqrt(data.ridge / 2) * gamma["gamma"]
        return jnp.concatenate([(x[0] - data.d) / jnp.sqrt(2), of_gamma])

    own = problem._replace(upper=upper, lower_gradient=gradient)
    posed = algorithms.Posed(own, data, {"gamma": gamma}, x, solution)
    box = search.Box({"gamma": np.full(2, -5.0)}, {"gamma": np.full(2, 5.0)})
    return posed, box, search.Residuals(residuals, 2**-0.5)


@pytest.mark.parametrize("name", search.SEARCHES)
def test_it_asks_within_the_box_and_goes_the_same_way_again(name: str) -> None:
    """Asked twice in one state it asks the same; a run killed ten times ends as an undisturbed."""

    def going(known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        options = {"count": 9, "batch": 1} if name in SAMPLED else {}
        return search.run(search.SEARCHES[name](2, **options), evaluate, candidates=9, known=known)

    built = search.SEARCHES[name](2)
    state = built.init()
    first, _ = built.ask(state)
    again, _ = built.ask(state)
    assert first is not None and again is not None
    np.testing.assert_array_equal(first.points, again.points)
    whole = list(going([]))
    for record in whole:
        points = np.asarray(record["points"])
        assert points.shape[1] == 2 and points.min() >= 0 and points.max() <= 1
    assert sum(len(record["points"]) for record in whole) <= 9
    known: list[dict[str, Any]] = []
    for _ in range(10):  # each time after one record more
        known = list(itertools.islice(going(known), len(known) + 1))
    ended = list(going(known))
    assert [{**r, "seconds": 0} for r in ended] == [{**r, "seconds": 0} for r in whole]
    losses = [loss for record in whole for loss in record["losses"]]
    assert search.best(whole)[1] < np.median(losses)


def test_records_of_another_search_are_refused() -> None:
    records = list(search.run(search.random(2, seed=1), evaluate, candidates=20))
    with pytest.raises(ValueError, match="known: records of another search"):
        list(search.run(search.random(2, seed=2), evaluate, candidates=20, known=records))
    with pytest.raises(ValueError, match="records: none; expected those of a search"):
        search.best([])


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_points_fill_the_box(name: str) -> None:
    built = search.SEARCHES[name](2, count=64, batch=10)
    records = list(search.run(built, evaluate, candidates=1000))
    points = np.concatenate([record["points"] for record in records])
    assert points.shape == (64, 2) and len(np.unique(points, axis=0)) == 64
    quarters = np.histogram2d(*points.T, bins=2, range=[[0, 1]] * 2)[0]
    assert quarters.min() >= (16 if name in ("grid", "sobol") else 8)


def test_points_of_many_parameters_are_farther_apart_than_by_chance() -> None:
    def least(built: search.Search) -> float:
        request, _ = built.ask(built.init())
        assert request is not None
        return min(pdist(request.points))

    assert least(search.poisson_disk(24, count=16)) > 1.1 * least(search.random(24, count=16))


@pytest.mark.parametrize(
    ("name", "count"), [("cma_es", 200), ("bayesian", 15), ("trust_region", 30)]
)
def test_what_learns_from_losses_beats_random_points(name: str, count: int) -> None:
    _, ours = search.best(search.run(search.SEARCHES[name](3), evaluate, candidates=count))
    _, chance = search.best(search.run(search.random(3, count=count), evaluate, candidates=count))
    assert ours < 0.3 * chance


def test_losses_that_are_no_numbers_are_never_the_best() -> None:
    def half(request: search.Request) -> search.Evaluated:
        found = evaluate(request)
        broken = request.points[:, 0] > 0.5
        outcome = found.outcome
        assert outcome.residuals is not None
        losses = np.where(broken, np.nan, outcome.losses)
        residuals = np.where(broken[:, None], np.nan, outcome.residuals)
        return found._replace(outcome=outcome._replace(losses=losses, residuals=residuals))

    for name in search.SEARCHES:
        point, loss = search.best(search.run(search.SEARCHES[name](2), half, candidates=9))
        assert np.isfinite(loss) and point[0] <= 0.5, name


@float64
def test_linear_residuals_take_a_step_after_as_many_points_as_needed() -> None:
    posed, box, residuals = probe()
    judge = search.evaluator(
        posed, box, residuals=residuals, solver="gradient_descent", accuracy=1e-14
    )
    built = search.trust_region(2, radius=0.25, accuracy=None)
    records = list(search.run(built, judge, candidates=4))
    assert [len(record["points"]) for record in records] == [3, 1]
    point, loss = search.best(records)
    assert loss == pytest.approx(12599 / 7002, abs=1e-14)
    np.testing.assert_allclose(box.value(jnp.asarray(point))["gamma"], posed.solution, atol=1e-13)


@float64
def test_bounds_hold_and_dynamic_accuracy_saves_evaluations() -> None:
    posed, box, residuals = probe()
    judge = search.evaluator(
        posed, box, residuals=residuals, solver="gradient_descent", accuracy=1e-9
    )
    H, B = posed.data.H, posed.data.B
    spent = {}
    for accuracy in (1.0, None):
        built = search.trust_region(2, radius=0.1, accuracy=accuracy)
        records = list(search.run(built, judge, candidates=12))
        assert search.best(records)[1] == pytest.approx(12599 / 7002, rel=1e-4)
        spent[accuracy] = sum(sum(record["evaluations"]) for record in records)
        for record in records:
            for point, parts, bound in zip(
                *(np.asarray(record[name]) for name in ("points", "residuals", "bounds")),
                strict=True,
            ):
                gamma = box.value(jnp.asarray(point))["gamma"]
                exact = jnp.linalg.solve(H, B @ gamma + posed.data.c)
                x = 2**0.5 * parts[:3] + posed.data.d
                assert np.linalg.norm(x - exact) <= bound <= (record["accuracy"] or 1e-9)
    assert spent[1.0] < 0.75 * spent[None]


def test_a_solve_to_a_norm_has_no_bound_and_devices_change_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a known convexity; three candidates over two devices, and one after the other."""
    posed, box, _ = probe()
    loose = posed._replace(problem=posed.problem._replace(strong_convexity=None))
    request = search.Request(np.array([[0.2, 0.4], [0.5, 0.9], [0.6, 0.6]]))
    options = {"solver": "gradient_descent", "accuracy": 1e-3}
    spread = search.evaluator(loose, box, **options)(request)
    assert np.isnan(spread.outcome.bounds).all() and spread.outcome.residuals is None
    assert spread.outcome.losses.shape == spread.evaluations.shape == (3,)
    one_device = Lanes(Mesh(np.asarray(jax.devices()[:1]), ("lane",)), 3, 1)
    monkeypatch.setattr(lanes, "lanes", lambda each, width: one_device)
    found = search.evaluator(loose, box, together=False, **options)(request)
    np.testing.assert_allclose(spread.outcome.losses, found.outcome.losses, rtol=1e-6)
    np.testing.assert_array_equal(spread.evaluations, found.evaluations)


def test_expected_improvement_is_the_mean_of_what_is_gained() -> None:
    rng = np.random.default_rng(0)
    mean, deviation, least = np.array([0.2, 1.0]), np.array([0.5, 0.3]), 0.4
    drawn = np.maximum(least - mean - deviation * rng.standard_normal((10**6, 2)), 0).mean(0)
    found = expected_improvement(mean, deviation, least)
    np.testing.assert_allclose(found, drawn, rtol=0.02)
    low = lower_bound(mean, deviation, least)
    np.testing.assert_allclose(stats.norm.cdf(-low, mean, deviation), stats.norm.cdf(-2))


def test_the_step_is_the_best_of_the_model_in_the_region() -> None:
    rng = np.random.default_rng(3)
    points = np.concatenate([np.full((1, 3), 0.5), 0.5 + 0.1 * np.eye(3)])
    A, b = rng.standard_normal((7, 3)), rng.standard_normal(7)
    known = np.ones(4, bool)
    state = State(points, points @ A.T - b, known, 0 * points[:, 0], 0, 0.1, 1.0)
    step, decrease = gauss_newton(state)
    r = A @ points[0] - b
    others = rng.uniform(-0.1, 0.1, (2000, 3))
    least = np.sum((r + others @ A.T) ** 2, axis=1).min()
    assert np.sum((r + A @ step) ** 2) <= least and np.abs(step).max() <= 0.1 + 1e-15
    assert decrease == pytest.approx(np.sum(r**2) - np.sum((r + A @ step) ** 2))


def test_parameters_of_a_box_are_its_points() -> None:
    low = {"alpha": 1e-6, "beta": np.array([-2.0, 0.0])}
    box = search.Box(low, {"alpha": 1.0, "beta": np.array([2.0, 4.0])}, ("alpha",)).check()
    assert box.names == ("alpha", "beta[0]", "beta[1]") and box.size == 3
    point = np.array([0.5, 0.25, 0.75])
    value = box.value(jnp.asarray(point))
    np.testing.assert_allclose(value["alpha"], 1e-3, rtol=1e-5)
    np.testing.assert_allclose(value["beta"], [-1.0, 3.0])
    np.testing.assert_allclose(box.point(jax.tree.map(np.asarray, value)), point, rtol=1e-5)
    np.testing.assert_array_equal(box.point({"alpha": 9.0, "beta": [-9.0, 0.0]}), [1, 0, 0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: search.Box({}, {}).check(), "expected the same parameters, one or more"),
        (lambda: search.Box({"a": 1.0}, {"a": 1.0}).check(), "a from 1.0 to 1.0; expected low"),
        (lambda: search.Box({"a": 0.0}, {"a": 1.0}, ("a",)).check(), "low a=0.0: expected a fin"),
        (lambda: search.Box({"a": 0.0}, {"a": 1.0}, ("b",)).check(), "logarithmic 'b': expected"),
        (lambda: search.grid(9, count=10**9), "grid of 10 values for each of 9 parameters"),
        (lambda: search.bayesian(21), "bayesian: 21 parameters; expected at most 20"),
        (lambda: search.bayesian(2, acquisition="best"), "acquisition 'best': expected one of"),
        (lambda: search.trust_region(2, radius=0.7), "radius=0.7: expected"),
        (lambda: search.trust_region(2, start=[0.5]), r"start: of shape \[1\]; expected \[2\]"),
        (lambda: search.cma_es(0), "R=0: expected a whole number"),
        (lambda: search.random(2, count=0), "count=0: expected a whole number"),
        (lambda: search.SEARCHES["simplex"], "search 'simplex': expected one of grid"),
    ],
)
def test_what_cannot_be_searched_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_box_of_other_parameters_and_a_library_that_is_missing() -> None:
    posed, _, _ = probe()
    with pytest.raises(ValueError, match=r"box: of \['beta'\]; expected parameters of the problem"):
        search.evaluator(posed, search.Box({"beta": 0.0}, {"beta": 1.0}))
    with pytest.raises(ImportError, match=r"search 'cma_es' needs no_such.*deqbilevel\[search\]"):
        checks.needed("no_such_library", "search 'cma_es'", "search")
    losses = search.Outcome(np.zeros(3), np.zeros(3))
    built = search.trust_region(2)
    request, state = built.ask(built.init())
    assert request is not None
    with pytest.raises(ValueError, match="no residuals; expected a loss that is a sum of squares"):
        built.tell(state, request, losses)
