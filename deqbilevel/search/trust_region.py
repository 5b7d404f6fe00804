r"""A trust region without derivatives, with lower levels solved as accurately as it needs them.

Ehrhardt and Roberts, Inexact derivative-free optimization for bilevel learning, J. Math. Imaging
Vis. 63, 2021 ([CF] 3.2 [27]). The loss is a sum of squares, l = ||r(gamma)||^2. At R + 1 points
residuals are known; with the Jacobian J that interpolates them, around the best point y:

    m(s) = ||r(y) + J s||^2,    s = argmin m(s) for |s_i| <= Delta within the box   (Gauss-Newton)
    rho  = (l(y) - l(y + s)) / (m(0) - m(s))

rho >= ETA_1: y moves; rho >= ETA_2: Delta grows; else the points are spread out anew where they
need it, or Delta is halved. Linear residuals are thus solved by R + 1 points and one step.

Accuracy is dynamic: points of the model to ||x - x*|| <= accuracy Delta^2, and both losses of rho
to ETA_0 (m(0) - m(s)): where residuals are L-Lipschitz in x, ||x - x*|| <= e gives

    |l - l*| <= 2 sqrt(l) L e + (L e)^2
"""

import math
from typing import Any, NamedTuple

import numpy as np
import scipy

from deqbilevel import checks
from deqbilevel.search.base import Outcome, Request, Search

ETA_0, ETA_1, ETA_2 = 0.05, 0.1, 0.7
"""Of the predicted decrease: the error of a loss, and what a step has to reach to be taken, and to
make the region grow."""

SHORT = 0.01
"""Of Delta: a shorter step says nothing new while the region is that large."""

FAR = 2.0
"""Times Delta: a point of the model so far from the best is replaced where the model fails."""

SPREAD = 10.0
"""Of a Lagrange polynomial in the region, from which points are nearly in one plane."""


class State(NamedTuple):
    """The points of the model and what is pending."""

    points: np.ndarray
    """[R + 1, R], in the unit cube."""
    residuals: np.ndarray
    """[R + 1, m]; NaN where they are not known."""
    known: np.ndarray
    """[R + 1], whether they are."""
    bounds: np.ndarray
    """[R + 1], of ||x - x*|| there."""
    best: int
    radius: float
    """Delta"""
    lipschitz: float
    trial: np.ndarray | None = None
    """y + s, while its loss is asked for."""
    predicted: float = 0.0
    """m(0) - m(s)."""


def trust_region(
    R: int,
    *,
    start: Any = None,
    radius: float = 0.1,
    end: float = 1e-4,
    accuracy: float | None = 1.0,
    least: float = 1e-10,
    seed: int = 0,
) -> Search:
    """The search. Nothing is random: there is no seed.

    start: a point of the unit cube; None: its middle. radius, end: Delta at the start, and where it
    ends. accuracy: see above; None: every lower level as accurately as the evaluation can.
    least: no bound below it is asked for.

    >>> asked, _ = (search_for := search.trust_region(2)).ask(search_for.init())
    >>> print(asked.points.tolist(), round(asked.accuracy, 3))
    [[0.5, 0.5], [0.6, 0.5], [0.5, 0.6]] 0.01
    """
    checks.whole("R", R)
    checks.one("radius", radius, above=0, most=0.5)
    checks.one("end", end, above=0, below=radius)
    if accuracy is not None:
        checks.one("accuracy", accuracy, above=0)
    middle = np.full(R, 0.5) if start is None else np.asarray(start, float)
    checks.shaped("start", middle, (R,))
    checks.number("start", middle, least=0, most=1)

    def init() -> State:
        steps = np.where(middle + radius <= 1, radius, -radius)
        points = np.concatenate([middle[None], middle + np.diag(steps)])
        nothing = np.full(R + 1, np.nan)
        known = np.zeros(R + 1, bool)
        return State(points, nothing[:, None], known, nothing, 0, radius, math.nan)

    def ask(state: State) -> tuple[Request | None, State]:
        while state.known.all() and state.radius >= end:
            step, predicted = gauss_newton(state)
            if np.max(np.abs(step)) >= SHORT * state.radius and predicted > 0:
                return asked(state._replace(trial=moved(state, step), predicted=predicted))
            state = reconsidered(state)
        if state.radius < end:
            return None, state
        needed = None if accuracy is None else max(accuracy * state.radius**2, least)
        return Request(state.points[~state.known], needed), state

    def asked(state: State) -> tuple[Request, State]:
        """The trial, and the best point again where its loss is not known as well."""
        assert state.trial is not None
        if accuracy is None:
            return Request(state.trial[None]), state
        loss = float(np.sum(state.residuals[state.best] ** 2))
        slack = math.sqrt(loss + ETA_0 * state.predicted) - math.sqrt(loss)
        needed = max(slack / state.lipschitz, least)
        again = state.bounds[state.best] > needed
        points = [state.points[state.best]] if again else []
        return Request(np.stack([*points, state.trial]), needed), state

    def tell(state: State, request: Request, outcome: Outcome) -> State:
        found = outcome.residuals
        if found is None:
            raise ValueError("trust_region: no residuals; expected a loss that is a sum of squares")
        state = state._replace(lipschitz=outcome.lipschitz)
        met = np.full(len(found), np.inf if request.accuracy is None else request.accuracy)
        bounds = np.where(np.isnan(outcome.bounds), met, outcome.bounds)
        if state.trial is None:
            return filled(state, found, bounds)
        if len(found) > 1:
            state = placed(state, state.best, state.points[state.best], found[0], bounds[0])
        return judged(state, found[-1], bounds[-1])

    return Search(init, ask, tell, of_residuals=True)


def moved(state: State, step: np.ndarray) -> np.ndarray:
    """The best point after a step, in the unit cube whatever the rounding."""
    return np.clip(state.points[state.best] + step, 0, 1)


def placed(state: State, j: int, point: Any, residual: Any, bound: Any) -> State:
    """With another point j of the model."""
    points, residuals, bounds = (x.copy() for x in (state.points, state.residuals, state.bounds))
    points[j], residuals[j], bounds[j] = point, residual, bound
    return state._replace(points=points, residuals=residuals, bounds=bounds)


def filled(state: State, residuals: np.ndarray, bounds: np.ndarray) -> State:
    """With the residuals of the points that had none; the best of all points is the best now.

    A point whose residuals are no numbers is sought again half as far on the other side of the
    best; where there is none with numbers the search has ended.
    """
    there = state.known
    every = np.zeros((len(there), residuals.shape[1]))
    every[there] = state.residuals[there] if there.any() else 0
    every[~there] = residuals
    own = state.bounds.copy()
    own[~there] = bounds
    losses = _comparable(every)
    best, known = int(np.argmin(losses)), np.isfinite(losses)
    y = state.points[best]
    points = np.where(known[:, None], state.points, np.clip(y - (state.points - y) / 2, 0, 1))
    radius = state.radius if known.any() else 0.0
    return State(points, every, known, own, best, radius, state.lipschitz)


def judged(state: State, residual: np.ndarray, bound: float) -> State:
    """After the loss at the trial is known."""
    trial, state = state.trial, state._replace(trial=None)
    assert trial is not None
    before, after = np.sum(state.residuals[state.best] ** 2), _comparable(residual[None])[0]
    rho = float((before - after) / state.predicted)
    length = np.max(np.abs(trial - state.points[state.best]))
    j, worth = _least_useful(state, trial, may_be_best=rho > 0)
    if rho > 0 or (np.isfinite(after) and worth > 1 / SPREAD):
        state = placed(state, j, trial, residual, bound)
        state = state._replace(best=j if rho > 0 else state.best)
    if rho >= ETA_2 and length > 0.99 * state.radius:
        return state._replace(radius=min(2 * state.radius, 0.5))
    return state if rho >= ETA_1 else reconsidered(state)


def reconsidered(state: State) -> State:
    """A point of the model elsewhere, to be evaluated, where they lie too far or too much in one
    plane; else half of the radius."""
    distances = np.max(np.abs(state.points - state.points[state.best]), axis=1)
    others = np.arange(len(distances)) != state.best
    slopes, sizes = lagrange(state)
    j = int(np.argmax(np.where(others, distances / (FAR * state.radius), 0)))
    if distances[j] <= FAR * state.radius:
        j = int(np.argmax(np.where(others, sizes, 0)))
        if sizes[j] <= SPREAD:
            return state._replace(radius=state.radius / 2)
    low, high = region(state)
    ways = [np.where(sign * slopes[j] > 0, high, low) for sign in (1, -1)]
    step = max(ways, key=lambda s: abs(slopes[j] @ s))
    known = state.known.copy()
    known[j] = False
    state = placed(state, j, moved(state, step), np.nan, np.nan)
    return state._replace(known=known)


def gauss_newton(state: State) -> tuple[np.ndarray, float]:
    """The step in the region, and by how much the model decreases."""
    y, r = state.points[state.best], state.residuals[state.best]
    others = np.arange(len(state.points)) != state.best
    D = state.points[others] - y
    J = np.linalg.lstsq(D, state.residuals[others] - r, rcond=None)[0].T
    Q, T = np.linalg.qr(J)  # the step needs J's range only, and m may be large
    low, high = region(state)
    step = scipy.optimize.lsq_linear(T, -Q.T @ r, (low, high), method="bvls", tol=1e-15).x
    change = J @ step
    return step, float(-np.sum(change * (2 * r + change)))


def region(state: State) -> tuple[np.ndarray, np.ndarray]:
    """The steps that stay in the trust region and the unit cube, from and to."""
    y = state.points[state.best]
    return np.maximum(-state.radius, -y), np.minimum(state.radius, 1 - y)


def lagrange(state: State) -> tuple[np.ndarray, np.ndarray]:
    """The slopes of the polynomials that are 1 at one point and 0 at the others, `[R + 1, R]`, and
    how large each gets in the region around the best point."""
    matrix = np.concatenate([np.ones((len(state.points), 1)), state.points], axis=1)
    slopes = np.linalg.pinv(matrix)[1:].T
    return slopes, state.radius * np.sum(np.abs(slopes), axis=1)


def _least_useful(state: State, trial: np.ndarray, *, may_be_best: bool) -> tuple[int, float]:
    """The point whose place the trial takes: far from it, and not needed for a model there; and how
    well the points are spread with it there, where 1 is as well as now."""
    slopes, _ = lagrange(state)
    values = slopes @ (trial - state.points[state.best])
    values[state.best] += 1
    distances = np.max(np.abs(state.points - trial), axis=1)
    worth = np.abs(values) * np.maximum(1, distances / state.radius) ** 2
    if not may_be_best:
        worth[state.best] = -1
    return int(np.argmax(worth)), float(np.max(worth))


def _comparable(residuals: np.ndarray) -> np.ndarray:
    """Losses, with infinity for what is no number."""
    with np.errstate(over="ignore"):
        losses = np.sum(residuals**2, axis=1)
    return np.where(np.isfinite(losses), losses, np.inf)
