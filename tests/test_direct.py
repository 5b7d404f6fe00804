"""Lower levels that are linear in u, by one factorisation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal

from deqbilevel import learning, models, operators, regularizers, solvers
from deqbilevel.models import matrices
from deqbilevel.settings import SETTINGS
from deqbilevel.studies import grids

SHAPE = (5, 6)
SCALARS = {"tau": 0.4, "gamma": 0.5, "activation": "identity", "noise": 0.1}


def problem(task: str, kind: str, **scalars):
    """Model, params whose H is far from singular, and images."""
    model = models.build(task, kind, SHAPE)
    params = model.init(jax.random.key(0)) | models.hyperparameters(**(SCALARS | scalars))
    params |= {name: x + 2 * jnp.eye(30) for name, x in params.items() if name in ("A", "C")}
    return model, params, normal(1, 4, 30)


@pytest.mark.parametrize(
    ("task", "kind"), [("denoising", "deq"), ("inpainting", "bilevel"), ("deblurring", "deq")]
)
@float64
def test_it_is_the_fixed_point_and_its_gradient(task, kind):
    """Those of the gradient step, solved by Picard's method to rounding."""
    model, params, u = problem(task, kind, tau=0.1)
    f, weights = model.K.apply(u), {name: params[name] for name in model.R.learned}
    budget = SETTINGS["paper"].budget._replace(forward=3000, adjoint=3000)
    setting = SETTINGS["paper"]._replace(
        solver="picard", hypergradient="picard", forward_tolerance=1e-13, adjoint_tolerance=1e-13
    )

    def loss(model, weights):
        solve, given = model.solve(params, setting.differentiable(budget))
        found, info = solve(given | weights, f, jnp.zeros_like(u))
        return jnp.sum((found - u) ** 2), (found, info)

    of = [
        jax.jit(jax.value_and_grad(partial(loss, m), has_aux=True))(weights)
        for m in (model, models.direct(model))
    ]
    (_, (slow, _)), expected = of[0]
    (_, (fast, info)), found = of[1]
    np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-10)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-9), found, expected)
    assert info.evaluations == matrices.evaluations(30, 4) + 2
    assert np.abs(model.stationarity()(fast, params, f)).max() < 1e-12


def test_a_step_of_training_says_what_it_spent():
    """In float32, warm, and over lanes with other hyperparameters as alone."""
    model, params, u = problem("deblurring", "deq")
    direct, setting = models.direct(model), SETTINGS["fast"]._replace(warm=True)
    trainer = learning.trainer(direct, setting, total_steps=2, batch_size=4)
    order, keys = jnp.arange(4)[None], jax.random.split(jax.random.key(1), 1)
    f, cost = model.K.apply(u), matrices.evaluations(30, 4)
    state, first = trainer.steps(trainer.init(params, f), u, order, keys, f)
    state, second = trainer.steps(state, u, order, keys, f)
    for found in (first, second):
        assert found.forward_evaluations == cost + 2
        assert found.adjoint_evaluations == 1
        assert found.solved == 1
        assert found.adjoint_residual < 1e-4
    tested = trainer.evaluate(state.params, jnp.concatenate([u, u[:2]]), keys[0])
    np.testing.assert_array_equal(tested["spent"], [cost + 2, 2])
    assert tested["evaluations"] == pytest.approx(2 + 4 * cost / 6)

    taus = jnp.array([0.4, 9.0])

    def solved(tau):
        return direct.reconstruct(solvers.picard(), params | {"tau": tau}, f)[0]

    together, alone = jax.jit(jax.vmap(solved))(taus), jax.jit(solved)
    for one, tau in zip(together, taus, strict=True):
        np.testing.assert_allclose(one, alone(tau), rtol=1e-5, atol=1e-5)


def test_a_singular_system_is_no_solution():
    """H = I - u u^T has no inverse: nothing is returned that the residual does not show."""
    model, params, u = problem("denoising", "deq", gamma=1.0)
    ones = jnp.ones((30, 30)) / 30
    params |= {"A": -jnp.eye(30), "C": ones, "b": jnp.ones(30)}
    found, info = jax.jit(partial(models.direct(model).reconstruct, solvers.picard()))(params, u)
    assert jnp.all(jnp.isfinite(found))
    assert not info.converged or jnp.abs(found).max() > 1e3


@pytest.mark.parametrize("activation", ["relu", "softshrink", "clipping"])
def test_another_activation_is_refused_by_name(activation):
    model, params, u = problem("denoising", "deq", activation=activation)
    direct = models.direct(model)
    with pytest.raises(ValueError, match=f"activation {activation}: N is not affine"):
        direct.reconstruct(solvers.picard(), params, u)
    with pytest.raises(ValueError, match=f"activation {activation}"):
        learning.trainer(direct, SETTINGS["fast"], total_steps=1).init(params)


def test_other_models_are_refused():
    K, R = operators.identity(SHAPE), regularizers.REGULARIZERS
    for other, words in (
        (models.assemble(K, R["normalised"](SHAPE)), "not affine in u"),
        (models.assemble(K, R["dense"](SHAPE), nonnegative=True), "not linear in u"),
        (models.assemble(operators.diffusion(SHAPE), R["dense"](SHAPE)), "not linear in u"),
    ):
        with pytest.raises(ValueError, match=words):
            models.direct(other)


def test_who_is_solved_directly():
    model = models.build("deblurring", "bilevel", SHAPE)
    fast, accurate = SETTINGS["fast"], SETTINGS["accurate"]
    direct = learning.directly(model, fast, "identity", 100)
    assert models.direct(direct) is direct
    assert direct is not model
    for setting, of in (
        (SETTINGS["paper"], model),
        (fast._replace(hypergradient="gmres"), model),
        (fast, models.build("denoising", "bilevel", SHAPE)),
        (fast, models.build("deblurring", "deq", SHAPE)),
    ):
        assert learning.directly(of, setting, "identity", 100) is of
    assert learning.directly(model, fast, "identity", 1) is model  # 20 evaluations for H and L U
    assert learning.directly(model, accurate, "identity", 1) is not model
    lanes = [{"task": "t", "model": "bilevel", "activation": x} for x in ("identity", "relu")]
    name = ("t", "bilevel")
    assert list(grids.groups(lanes, direct=True)) == [(*name, "identity"), name]
    assert list(grids.groups(lanes)) == [name]
    assert not grids.linear(lanes[0] | {"ridge": 1e-3})


def test_factors_of_several_blocks():
    x, r = normal(3, 250, 250), normal(4, 3, 250)
    H = jnp.eye(250) + x.T @ x / 250
    np.testing.assert_allclose(matrices.factorised(H).solve(r @ H), r, atol=1e-4)
