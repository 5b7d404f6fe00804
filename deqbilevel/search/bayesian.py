"""Bayesian optimisation: a Gaussian process says where a better loss is likely, [CF] 3.2.2.

Four things in turn. First a model: losses are a Gaussian process with a squared-exponential kernel,
a length of its own for each parameter, fitted by its likelihood to all that was found. Second an
acquisition function of the model's mean m and standard deviation s, with l the least loss:

    expected_improvement   E max(l - loss, 0) = s (z Phi(z) + phi(z)),   z = (l - m) / s
    lower_bound            -(m - 2 s)

Third its maximiser, which is the next point: the best of many, improved by a quasi-Newton method.
Fourth the evaluation of that point, with which the first goes on.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy

from deqbilevel import checks
from deqbilevel.search.base import Outcome, Request, Search
from deqbilevel.search.sampled import balanced

MOST = 20
"""Parameters: beyond, a Gaussian process on so few points knows nothing of most directions."""

CANDIDATES = 1024
"""Points among which the acquisition function is maximised first."""

IMPROVED = 3
"""Of them from which the quasi-Newton method goes on."""

STEP = 1e-7
"""Of the differences that are its slopes."""


class State(NamedTuple):
    """All that was found."""

    points: np.ndarray
    losses: np.ndarray


def bayesian(
    R: int,
    *,
    acquisition: str = "expected_improvement",
    first: int | None = None,
    seed: int = 0,
) -> Search:
    """Bayesian optimisation over at most 20 parameters, by scikit-learn's Gaussian processes.

    first: points of a Sobol sequence before there is a model; None: 2 (R + 1). Losses far above the
    median, and those that are no number, count as ten times as far from the least as the median is:
    how bad a bad point is says nothing of where the best are. It never ends by itself.
    Raises: ImportError without scikit-learn; ValueError for more parameters.

    >>> asked, _ = (ask := search.bayesian(2)).ask(ask.init())
    >>> print(asked.points.shape)
    (6, 2)
    """
    checks.known("acquisition", acquisition, ACQUISITIONS)
    if checks.whole("R", R) > MOST:
        raise ValueError(
            f"bayesian: {R} parameters; expected at most {MOST}, beyond which a Gaussian process "
            "knows nothing of most directions; take cma_es, or a hypergradient"
        )
    _library("sklearn")
    count = 2 * (R + 1) if first is None else checks.whole("first", first)

    def ask(state: State) -> tuple[Request | None, State]:
        known = len(state.points)
        if known < count:
            return Request(balanced(R, count, [seed, 0])[known:]), state
        candidates = balanced(R, CANDIDATES, [seed, known])
        # Matrices of so few points take longer on several threads than on one.
        with _library("threadpoolctl").threadpool_limits(1):
            return Request(_next(state, candidates, acquisition)[None]), state

    def tell(state: State, request: Request, outcome: Outcome) -> State:
        points = np.concatenate([state.points, request.points])
        return State(points, np.concatenate([state.losses, outcome.losses]))

    return Search(lambda: State(np.zeros((0, R)), np.zeros(0)), ask, tell)


def _next(state: State, candidates: np.ndarray, acquisition: str) -> np.ndarray:
    """The point where the acquisition function is largest."""
    finite = state.losses[np.isfinite(state.losses)]
    if not len(finite):
        return candidates[0]
    least = finite.min()
    most = least + 10 * (np.median(finite) - least)
    losses = np.minimum(np.where(np.isfinite(state.losses), state.losses, most), most)
    model = fitted(state.points, losses)
    near = np.clip(state.points[np.argmin(losses)] + 0.05 * (candidates[:64] - 0.5), 0, 1)
    candidates = np.concatenate([candidates, near])

    def value(points: np.ndarray) -> np.ndarray:
        mean, deviation = model.predict(points, return_std=True)
        return ACQUISITIONS[acquisition](mean, np.maximum(deviation, 1e-12), least)

    def downhill(x: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the value and its differences, of one call of the model."""
        steps = np.where(x < 0.5, STEP, -STEP)
        values = value(np.concatenate([x[None], x + np.diag(steps)]))
        return -values[0], (values[0] - values[1:]) / steps

    order = np.argsort(-value(candidates), kind="stable")[:IMPROVED]
    within: Any = {"method": "L-BFGS-B", "bounds": [(0, 1)] * candidates.shape[1]}
    found = [scipy.optimize.minimize(downhill, x, jac=True, **within) for x in candidates[order]]
    ends = np.clip(np.stack([each.x for each in found]), 0, 1)
    return ends[np.argmax(value(ends))]


def fitted(points: np.ndarray, losses: np.ndarray) -> Any:
    """The Gaussian process of losses at points, [n] and [n, R]: lengths between a hundredth of the
    box and ten of it, and a little noise, for what is not solved exactly. Each fit starts anew:
    from the last one it stays with lengths that a few points were too few for."""
    process = _library("sklearn.gaussian_process")
    kernels = process.kernels
    kernel = kernels.ConstantKernel(1.0, (1e-3, 1e3)) * kernels.RBF(
        np.full(points.shape[1], 0.3), (1e-2, 10.0)
    ) + kernels.WhiteKernel(1e-6, (1e-10, 1e-2))
    model = process.GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        # A length at its bound says that a parameter does not matter: nothing to warn of.
        warnings.simplefilter("ignore", _library("sklearn.exceptions").ConvergenceWarning)
        return model.fit(points, losses)


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, least: float) -> np.ndarray:
    """E max(least - loss, 0)."""
    z = (least - mean) / deviation
    return deviation * (z * scipy.stats.norm.cdf(z) + scipy.stats.norm.pdf(z))


def lower_bound(mean: np.ndarray, deviation: np.ndarray, least: float) -> np.ndarray:
    """How low the loss may well be."""
    return 2 * deviation - mean


ACQUISITIONS = {"expected_improvement": expected_improvement, "lower_bound": lower_bound}
"""What is maximised, by name."""


def _library(module: str) -> Any:
    return checks.needed(module, "search 'bayesian'", "search")
