"""A nonnegative lower level: what it minimises, its hypergradients, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PIXELS, SHAPE, default_precision, float64, normal, untyped

from deqbilevel import (
    algorithms,
    contraction,
    fidelities,
    learning,
    maps,
    models,
    operators,
    solvers,
)
from deqbilevel.hypergradients import METHODS, SYMMETRIC, minimiser
from deqbilevel.learning import Learner, gradients
from deqbilevel.models import Model
from deqbilevel.regularizers import REGULARIZERS
from deqbilevel.settings import MINIMISER, SETTINGS, Budget, Setting

TOLERANCE = {"tolerance": 1e-13, "max_evaluations": 3000}
FILTERS = {"filters": (3, 3, 3), "eps": 0.3, "beta_0": -1.0}


def problem(D: Any = fidelities.squares, tied: bool = True) -> tuple[Model, Any, Any, Any]:
    """A blurred model, its params, true images and measurements; part of u* is zero."""
    K = default_precision(operators.diagonal_blur(SHAPE, 3))
    name, options = ("convolutional", FILTERS) if tied else ("affine", {"size": 3})
    R = REGULARIZERS[name](SHAPE, **options)
    model = models.assemble(K, R, D=D, nonnegative=True)
    params = default_precision(R.init(jax.random.key(1)))
    if not tied:
        params["network"]["kernel"] = 0.2 * params["network"]["kernel"].at[1, 1].add(5.0)
        params |= {"tau": jnp.asarray(0.3)}
    params = default_precision(models.with_scalars(params | {"noise": jnp.asarray(0.0)}))
    truth = jnp.maximum(0.5 * normal(2, 2, PIXELS), 0)
    f = K.apply(truth) + 0.2 * normal(3, 2, PIXELS)
    return model, params, truth, jnp.maximum(f, 0.0) if D.counts else f - 0.2


def setting(way: str, solver: str) -> Setting:
    budget = Budget(600 if way in ("unrolled", "forward") else 3000, 500)
    changed = {"forward_tolerance": 1e-13, "adjoint_tolerance": 1e-12, "budget": budget}
    options = {"limit": budget, "solver": solver, "hypergradient": way, "ridge": 0.0}
    return SETTINGS["accurate"]._replace(**changed, **options, preconditioned=False)


POISSON = fidelities.poisson(peak=10.0, background=0.1)


@pytest.mark.parametrize("D", [fidelities.squares, POISSON], ids=["squares", "poisson"])
@float64
def test_it_minimises_among_images_that_are_not_negative(D):
    model, params, _, f = problem(D)
    u, info = model.reconstruct(solvers.nesterov(**TOLERANCE), params, f)
    zero = np.asarray(u == 0)
    assert info.converged and (u >= 0).all() and 5 < zero.sum() < 2 * PIXELS - 5
    slope = np.asarray(model.stationarity()(u, params, f))
    np.testing.assert_allclose(slope[~zero], 0, atol=1e-10)
    assert slope[zero].min() > 1e-4, "degenerate, which is no case for derivatives"
    again, _ = model.reconstruct(solvers.anderson(**TOLERANCE, relative=True), params, f)
    np.testing.assert_allclose(again, u, atol=1e-9)


@pytest.mark.parametrize(
    ("D", "tied", "way", "solver"),
    [
        (POISSON, True, MINIMISER, "nesterov"),
        (POISSON, True, "gmres", "nesterov"),
        (fidelities.squares, True, MINIMISER, "anderson"),
        (fidelities.squares, True, "unrolled", "picard"),
        (fidelities.squares, False, "anderson", "picard"),
        (fidelities.squares, False, "bicgstab", "anderson"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
@float64
def test_hypergradients_are_slopes_by_finite_differences(D, tied, way, solver):
    model, params, truth, f = problem(D, tied)
    learner = Learner((model,), setting(way, solver), learning.adam(1), model.R.learned)
    learning.check(learner, params)
    images = gradients.Measured(truth, f)

    @jax.jit
    def found(params: Any) -> Any:
        budget = learner.setting.budget
        return gradients.hypergradient(learner, model, learner.setting, params, budget, images)

    here = found(params)
    d = jax.tree.map(lambda x: normal(x.size, *x.shape), here.gradient)

    def loss_at(t: float) -> float:
        moved = jax.tree.map(lambda x, d: x + t * d, {k: params[k] for k in d}, d)
        return float(found(params | moved).loss)

    pairs = zip(*map(jax.tree.leaves, (here.gradient, d)), strict=True)
    slope, by_differences = (
        sum(float(jnp.vdot(a, b)) for a, b in pairs),
        (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5,
    )
    assert abs(slope) > 1e-4 and (here.u == 0).any()
    assert abs(slope - by_differences) < 1e-6 * abs(slope)


@float64
def test_a_way_that_forgets_what_is_not_free_is_another_gradient():
    """So that the test above can fail."""
    model, params, truth, f = problem()
    u, _ = model.reconstruct(solvers.nesterov(**TOLERANCE), params, f)
    weights = {"beta": params["beta"]}
    F, zero = model.stationarity(), jnp.zeros_like(u)
    options = {"tolerance": 1e-10, "max_evaluations": 500}
    all_free, *_ = minimiser(F, weights, params, f, u, u - truth, zero, **options)
    known, v, _ = minimiser(F, weights, params, f, u, u - truth, zero, free=u > 0, **options)
    assert (v[u == 0] == 0).all()
    assert jnp.linalg.norm(all_free["beta"] - known["beta"]) > 0.01 * jnp.linalg.norm(known["beta"])


def refusal(**changed: Any) -> str:
    model, params, *_ = problem()
    learner = Learner((model,), setting("gmres", "picard")._replace(**changed), None, ("beta",))
    with pytest.raises(ValueError) as caught:
        learning.check(learner, params)
    return str(caught.value)


def test_what_is_for_a_plain_gradient_step_is_refused():
    for name in set(solvers.DESCENTS) - {"nesterov"}:
        assert "projected; take nesterov" in refusal(solver=name)
    for name in SYMMETRIC:
        assert "minimiser of a smooth cost, or gmres" in refusal(hypergradient=name)
    assert "puts its Jacobian together" in refusal(solver="newton")
    assert set(SYMMETRIC) < set(METHODS)


def test_what_a_nonnegative_model_has_not_is_refused():
    model, params, truth, f = problem()
    with pytest.raises(ValueError, match=r"nonnegative with proximal_step.*take gradient_step"):
        models.assemble(model.K, model.R, step=maps.proximal_step, nonnegative=True)
    with pytest.raises(ValueError, match=r"u: from -0.5; this model is nonnegative.*0..1"):
        model.measure(params, truth - 0.5, jax.random.key(0))
    with pytest.raises(ValueError, match="a nonnegative model: upper-level algorithms"):
        algorithms.posed(model, params, truth, f)
    with pytest.raises(ValueError, match="conditions are of a linear K, squares, u of any sign"):
        contraction.report(model, params, f, truth, jax.random.key(0))
    plain = model._replace(K=operators.identity(SHAPE), nonnegative=False)
    for D, mu in ((fidelities.squares, params["lam"]), (POISSON, None)):
        posed = algorithms.posed(plain._replace(D=D), params, truth, truth)
        assert posed.problem.strong_convexity == mu
    wrong: Any = "yes"
    with untyped(), pytest.raises(ValueError, match="nonnegative='yes': expected True or False"):
        models.assemble(model.K, model.R, nonnegative=wrong)


def test_counts_are_asked_for_where_they_are_measured():
    model, params, truth, _ = problem(POISSON)
    noisy = params | {"noise": jnp.asarray(0.3)}  # of another fidelity: counts have their own
    f = model.measure(noisy, truth, jax.random.key(0))
    np.testing.assert_allclose(10 * f, jnp.round(10 * f), atol=1e-5)
    with pytest.raises(ValueError, match="f: from -1; expected counts over the peak"):
        model.reconstruct(solvers.nesterov(), params, jnp.full_like(f, -1.0))
    learner = Learner((model,), setting("gmres", "picard"), None, ("K",), sampling=True)
    with pytest.raises(ValueError, match=r"sampling: .*counts have none"):
        learning.check(learner, params | {"K": model.K})
    with pytest.raises(ValueError, match="Fourier: makes complex data, and D is of counts"):
        models.assemble(operators.fourier(SHAPE), model.R, D=POISSON)
