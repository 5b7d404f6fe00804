import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    KINDS,
    PIXELS,
    SHAPE,
    WrongAdjoint,
    default_precision,
    float64,
    measurements,
    model_params,
    normal,
    small_model,
    untyped,
)

from deqbilevel import fidelities, losses, maps, models, operators, solvers
from deqbilevel.hypergradients import fixed_point
from deqbilevel.models import MODELS, TASKS
from deqbilevel.operators import OPERATORS
from deqbilevel.regularizers import convolutional, dense, function, networks, normalised
from deqbilevel.regularizers.dense import ACTIVATIONS
from deqbilevel.solvers import ADJOINTS, anderson, gmres

GOOD = {"tau": 0.9, "gamma": 0.1, "activation": "relu"}


# ---- building


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", MODELS)
def test_build_makes_the_model_that_is_named(task, name):
    model = models.build(task, name, SHAPE)
    assert isinstance(model.K, type(OPERATORS[TASKS[task]](SHAPE)))
    assert (model.tied, model.shape) == (name == "bilevel", SHAPE)
    params = model.init(jax.random.key(0)) | models.hyperparameters(**GOOD)
    assert ("C" in params) == (name == "deq")
    u = jnp.asarray(normal(0, 2, PIXELS), jnp.float32)
    step = u - 0.9 * (
        model.K.adjoint(model.K.apply(u) - u) + jnp.float32(0.1) * dense.gradient(u, params)
    )
    np.testing.assert_allclose(model.G(u, params, u), step, rtol=1e-4, atol=1e-5)  # float32


def test_build_refuses_unknown_names():
    with pytest.raises(ValueError, match="task 'sharpening': expected one of denoising, inpaint"):
        models.build("sharpening", "bilevel", SHAPE)
    with pytest.raises(ValueError, match="model 'trilevel': expected one of bilevel, deq"):
        models.build("denoising", "trilevel", SHAPE)


@pytest.mark.parametrize(
    ("shape", "features", "message"),
    [
        (SHAPE, -1, "features=-1: expected a whole number, 1 or more"),
        (SHAPE, 0, "features=0"),
        ((0, 5), None, "shape=0: expected a whole number"),
        ((5, -5), 3, "shape=-5"),
    ],
)
def test_build_refuses_sizes(shape, features, message):
    with pytest.raises(ValueError, match=message):
        models.build("denoising", "deq", shape, features)
    with pytest.raises(ValueError, match=message):
        dense.dense(shape, features=features)


def test_an_operator_with_the_adjoint_of_another_is_refused():
    for R in (dense.dense(SHAPE), normalised.normalised(SHAPE)):
        with pytest.raises(ValueError, match=r"WrongAdjoint: <K u, v> = .* has to be the transp"):
            models.assemble(WrongAdjoint(), R)


def test_kernels_and_filters_that_images_do_not_hold_are_refused():
    with pytest.raises(ValueError, match="kernels of 7x7 pixels are larger than the image of 6x6"):
        normalised.normalised(SHAPE, kernels=(2, 7))
    with pytest.raises(ValueError, match="kernels=0: expected a whole number, 1 or more"):
        normalised.normalised(SHAPE, kernels=(0, 3))
    with pytest.raises(ValueError, match="filters of 7x1 pixels are larger than the image of 6x6"):
        convolutional.convolutional(SHAPE, filters=(3, 7, 1))


def test_reconstruct_refuses_measurements_of_other_images():
    model = small_model("row_mask", "bilevel")
    params, solver = model_params(model), anderson(max_evaluations=1)
    f = jnp.ones((2, PIXELS))
    for bad in (f[0], f[:0], f[:, :5], f[None], f.reshape(2, *SHAPE)):
        with untyped(), pytest.raises(ValueError, match=r"f: of shape .*; expected measurements"):
            model.reconstruct(solver, params, bad)
    with untyped(), pytest.raises(ValueError, match="f: of type int32; expected floating"):
        model.reconstruct(solver, params, jnp.ones((2, PIXELS), int))
    with pytest.raises(ValueError, match="f: holds values that are not finite"):
        model.reconstruct(solver, params, f.at[1, 3].set(jnp.nan))


BILEVEL = model_params(small_model("identity", "bilevel"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": None}, "params: no A, which the weights of this model have"),
        ({"tau": None}, None),
        ({"phi": None}, "params: no phi"),
        ({"C": jnp.ones((PIXELS, PIXELS))}, "params: C, which a tied model has not; take a deq"),
        (
            {"A": jnp.full((PIXELS, PIXELS), jnp.nan)},
            r"params\['A'\]: holds values that are not",
        ),
        ({"tau": float("nan")}, r"params\['tau'\]: holds values that are not finite"),
        ({"A": jnp.ones((PIXELS, PIXELS), int)}, "params: of type int32; expected floating"),
        (
            {"A": jnp.ones((PIXELS, 3))},
            rf"A \[{PIXELS}, 3\] and b .* expected \[features, ",
        ),
        ({"b": jnp.ones(3)}, r"b \[3\]: expected"),
        ({"tau": jnp.ones(3)}, "the map of this model fails"),
        ({"phi": 3}, "the map of this model fails"),
        ({"unheard": jnp.ones(3)}, None),
    ],
)
def test_params_that_are_none_of_the_model(change, message):
    params = {name: x for name, x in (BILEVEL | change).items() if x is not None}
    model, f = small_model("identity", "bilevel"), jnp.ones((2, PIXELS))
    solver = anderson(max_evaluations=1)
    if message is None:
        assert model.reconstruct(solver, params, f)[1].evaluations == 1
        return
    with untyped(), pytest.raises(ValueError, match=message):
        model.reconstruct(solver, params, f)
    with untyped(), pytest.raises(ValueError, match=message):
        model.solve(params, lambda G: fixed_point(G, solver, solver))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _reconstruct(gmres()), "solver gmres: solves the linear system of an adjoint"),
        (lambda: _reconstruct(anderson), "solver anderson: .*made as a call"),
        (lambda: _reconstruct(None), "solver None: expected one of"),
        (
            lambda: dense.dense(SHAPE, tied="yes"),
            "tied='yes': expected True or False",
        ),
        (
            lambda: models.assemble(operators.Identity(), dense.dense(SHAPE), step=None),
            "step: a NoneType; expected a function",
        ),
        (lambda: small_model("identity", "deq").init(3), "key: .*expected a random key"),
        (lambda: _measure(noise=-1.0), "noise=-1.0: expected a finite number, 0 or more"),
        (lambda: _measure(noise=float("nan")), "noise=nan"),
        (lambda: _measure(noise=np.ones(3)), r"noise of shape \[3\]: expected one number"),
        (lambda: _measure(key=3), "key: .*expected a random key"),
        (lambda: _measure(u=jnp.ones((2, PIXELS), int)), "u: of type int32"),
        (lambda: _measure(u=jnp.full((2, PIXELS), jnp.nan)), "u: holds values that are not finite"),
        (lambda: _measure(u=jnp.ones((2, 3))), rf"expected images of {PIXELS} pixels"),
        (lambda: _measure(K=None), "K.apply: a NoneType"),
        (
            lambda: models.assemble(operators.Identity(), dense.dense),
            "R: a function; expected a Regularizer, such as one of",
        ),
        (
            lambda: models.inverse(operators.Identity(), dense.dense(SHAPE), {}),
            "params: no gamma, lam",
        ),
        (
            lambda: models.inverse(
                operators.Identity(), dense.dense(SHAPE), {"gamma": 1.0, "lam": 1.0}
            ),
            "params: no A",
        ),
        (
            lambda: models.inverse(
                operators.Identity(), networks.affine(SHAPE), {"gamma": 1.0, "lam": 1.0}
            ),
            "P: this regulariser has no matrix; take a gradient step instead",
        ),
        (
            lambda: small_model("identity", "bilevel").energy(F, BILEVEL, F[:1]),
            r"K u \[2, .*and f \[1, .*expected arrays of one shape",
        ),
        (
            lambda: models.hyperparameters(**GOOD | {"tau": [0.1]}),
            r"tau=\[0.1\]: expected a",
        ),
    ],
)
def test_more_that_a_model_refuses(make, message):
    with untyped(), pytest.raises(ValueError, match=message):
        make()


F = jnp.ones((2, PIXELS))


def _reconstruct(solver):
    return small_model("identity", "bilevel").reconstruct(solver, BILEVEL, F)


def _measure(**other):
    given = {"K": OPERATORS["row_mask"](SHAPE), "u": F, "noise": 0.1, "key": jax.random.key(0)}
    return models.measure(**given | other)


def test_features_may_differ_from_pixels():
    model = models.build("denoising", "deq", SHAPE, features=5)
    weights = model.init(jax.random.key(0))
    assert {name: x.shape for name, x in weights.items()} == {
        "A": (5, PIXELS),
        "b": (5,),
        "C": (5, PIXELS),
    }
    params = weights | models.hyperparameters(**GOOD)
    assert model.G(jnp.ones((2, PIXELS)), params, jnp.ones((2, PIXELS))).shape == (2, PIXELS)


# ---- initial weights


def test_same_key_gives_tied_and_untied_the_same_analysis_weights():
    tied, untied = (models.build("denoising", m, SHAPE).init(jax.random.key(3)) for m in MODELS)
    assert set(untied) - set(tied) == {"C"}
    for name, x in tied.items():
        np.testing.assert_array_equal(x, untied[name])
    assert not np.isclose(untied["A"], untied["C"]).all()
    other = models.build("denoising", "deq", SHAPE).init(jax.random.key(4))
    assert all((other[name] != x).mean() > 0.9 for name, x in untied.items())


def test_initial_weights_are_uniform_within_one_over_root_pixels():
    weights = dense.init(jax.random.key(0), 100, tied=False)
    for x in weights.values():
        x = np.asarray(x)
        assert np.abs(x).max() <= 0.1 and np.abs(x).max() > 0.09
        # A mean of n uniform numbers has the standard deviation 0.1 / sqrt(3 n); five of them.
        assert abs(x.mean()) < 5 * 0.1 / np.sqrt(3 * x.size)
    np.testing.assert_allclose(np.var(weights["A"]), 0.1**2 / 3, rtol=0.05)


# ---- hyperparameters


def test_hyperparameters_are_float32_leaves():
    params = models.hyperparameters(**GOOD, lam=2.0, noise=0.5, learning_rate=1e-2)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in jax.tree.leaves(params))
    assert {name: float(params[name]) for name in ("tau", "gamma", "lam", "noise")} == {
        "tau": np.float32(0.9),
        "gamma": np.float32(0.1),
        "lam": 2.0,
        "noise": 0.5,
    }


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_takes_the_step_size_for_its_threshold(activation):
    phi = models.hyperparameters(tau=0.5, gamma=1.0, activation=activation)["phi"]
    z = jnp.array([-2.0, -0.25, 0.25, 2.0])
    expected = {
        "identity": z,
        "relu": jnp.maximum(z, 0),
        "softshrink": jnp.array([-1.5, 0, 0, 1.5]),
        "clipping": jnp.array([-0.5, -0.25, 0.25, 0.5]),
    }[activation]
    np.testing.assert_array_equal(phi.derivative(z), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau", 0.0),
        ("tau", 1e-50),
        ("threshold", -1.0),
        ("threshold", float("nan")),
        ("learning_rate", 0.0),
        *(
            (name, value)
            for name in ("tau", "gamma", "lam", "noise", "learning_rate")
            for value in (-0.1, float("inf"), float("nan"), 1e39)
        ),
    ],
)
def test_hyperparameters_refuse_numbers(name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name}={value}: expected a finite number, ")):
        models.hyperparameters(**GOOD | {name: value})


def test_hyperparameters_refuse_an_unknown_activation():
    with pytest.raises(ValueError, match="activation 'tanh': expected one of identity, relu"):
        models.hyperparameters(tau=1.0, gamma=1.0, activation="tanh")


# ---- measurements


@pytest.mark.parametrize("operator", KINDS)
@float64
def test_measure_adds_the_same_noise_to_every_pixel_also_where_k_is_zero(operator):
    K = default_precision(KINDS[operator]((20, 20)))
    u, key = normal(0, 10, 400), jax.random.key(0)
    np.testing.assert_array_equal(models.measure(K, u, jnp.asarray(0.0), key), K.apply(u))
    noise = np.asarray(models.measure(K, u, jnp.asarray(0.3), key) - K.apply(u))
    parts = [noise[:, :140], noise[:, 140:]]  # the masked rows are the first 140 pixels
    if np.iscomplexobj(noise):
        parts = [y for x in parts for y in (x.real, x.imag)]
    for part in parts:
        # Standard errors of the deviation and the mean of n numbers; five of them.
        assert abs(part.std() / 0.3 - 1) < 5 / np.sqrt(2 * part.size)
        assert abs(part.mean() / 0.3) < 5 / np.sqrt(part.size)
    again = models.measure(K, u, jnp.asarray(0.3), jax.random.key(1)) - K.apply(u)
    assert not np.isclose(noise, again).any(axis=1).all()


# ---- energy, preconditioner, solve


def test_an_untied_model_has_no_energy():
    model = small_model("identity", "deq")
    params = model.init(jax.random.key(0)) | models.hyperparameters(**GOOD)
    u = jnp.zeros((1, PIXELS))
    with pytest.raises(ValueError, match="energy: this model is a DEQ, whose fixed p"):
        model.energy(u, params, u)


@pytest.mark.parametrize("operator", KINDS)
@float64
def test_preconditioner_is_the_inverse_of_its_matrix(operator):
    model = small_model(operator, "deq")
    params = model_params(model)
    K = np.asarray(model.K.apply(jnp.eye(PIXELS))).T
    M = 0.45 * params["C"].T @ params["A"] + 0.1 * np.eye(PIXELS)
    P = params["lam"] * (K.conj().T @ K).real + M
    inverse = models.inverse(model.K, model.R, params, damping=0.1)  # 0.45 is gamma / 2
    np.testing.assert_allclose(inverse @ P, np.eye(PIXELS), atol=1e-11)


@pytest.mark.parametrize("name", MODELS)
@float64
def test_preconditioned_solve_has_the_same_fixed_point_in_fewer_evaluations(name):
    model = small_model("row_mask", name)
    params, f = model_params(model), normal(2, 2, PIXELS)
    del params["inverse"]
    solver = anderson(tolerance=1e-10, max_evaluations=500, relative=True)
    results = {}
    for preconditioned in (False, True):
        solve, its_params = model.solve(
            params,
            lambda G: fixed_point(G, solver, ADJOINTS["anderson"]()),
            preconditioned=preconditioned,
        )
        results[preconditioned] = jax.jit(solve)(its_params, f, jnp.zeros_like(f))
        assert ("inverse" in its_params) == (preconditioned and model.tied)
    np.testing.assert_allclose(results[True][0], results[False][0], atol=1e-8)
    plain, quick = (results[p][1].evaluations for p in (False, True))
    assert quick < plain if model.tied else quick == plain


@pytest.mark.parametrize("name", MODELS)
@float64
def test_reconstruct_solves_from_zero(name):
    model = small_model("diagonal_blur", name)
    params, f = model_params(model), normal(2, 2, PIXELS)
    solver = anderson(tolerance=1e-12, max_evaluations=500, relative=True)
    u, info = model.reconstruct(solver, params, f)
    assert info.converged
    np.testing.assert_allclose(model.G(u, params, f), u, atol=1e-10)
    first, _ = model.reconstruct(anderson(max_evaluations=1), params, f)
    np.testing.assert_allclose(first, model.G(jnp.zeros_like(f), params, f), rtol=1e-12)


@pytest.mark.parametrize("operator", KINDS)
@float64
def test_any_parts_assembled_start_at_the_adjoint_and_reach_the_minimiser(operator):
    """Of data of any kind, with a step size that follows from the norms."""
    K = default_precision(KINDS[operator](SHAPE))
    R = convolutional.convolutional(SHAPE, filters=(3, 2, 2), eps=0.5, beta_0=-1.0)
    model, f = models.assemble(K, R), measurements(K, 2)
    params = default_precision(model.init(jax.random.key(0)))
    np.testing.assert_array_equal(model.start(f), K.adjoint(f))
    assert "tau" not in params and "lam" not in params
    solver = solvers.DESCENTS["optimized_gradient"](tolerance=1e-11, max_evaluations=20000)
    u, info = jax.jit(lambda f: model.reconstruct(solver, params, f))(f)
    assert info.converged
    F = model.stationarity()
    np.testing.assert_allclose(F(u, params, f), 0, atol=1e-8)
    slope = jax.grad(lambda u: jnp.sum(model.energy(u, params, f)))
    moved = u + 0.1 * normal(5, 2, PIXELS)
    np.testing.assert_allclose(F(moved, params, f), slope(moved), rtol=1e-9, atol=1e-12)
    assert (model.energy(u, params, f) < model.energy(moved, params, f)).all()


@pytest.mark.parametrize("operator", KINDS)
@float64
def test_the_step_size_of_params_without_one_is_that_of_the_norms(operator):
    model = small_model(operator, "bilevel")
    params = model_params(model)
    given = float(params.pop("tau"))
    F = model.stationarity()
    L = 1 / float(model.completed(params)["tau"])
    u, v = normal(4, 20, PIXELS), normal(5, 20, PIXELS)
    f = model.K.apply(normal(3, 20, PIXELS))
    change = F(u, params, f) - F(v, params, f)
    assert (jnp.linalg.norm(change, axis=1) <= L * jnp.linalg.norm(u - v, axis=1)).all()
    kept = model.completed(params | {"tau": given})
    assert kept["tau"] == given
    assert model.completed({x: params[x] for x in ("A", "b", "phi")})["lam"] == 1
    slope = jax.grad(lambda A: model.completed(params | {"A": A})["tau"])(params["A"])
    assert not slope.any()  # a constant of differentiation


def test_without_a_lipschitz_constant_params_need_a_step_size():
    own = function(SHAPE, lambda u, w: w * u, lambda key: jnp.ones(()))
    model, f = models.assemble(operators.Identity(), own), jnp.ones((2, PIXELS))
    params = own.init(jax.random.key(0))
    with pytest.raises(ValueError, match="no tau, and of this regulariser no Lipschitz constant"):
        model.reconstruct(anderson(), params, f)
    u, info = model.reconstruct(anderson(tolerance=1e-5), params | {"tau": 0.5}, f)
    assert info.converged
    np.testing.assert_allclose(u, 0.5, rtol=1e-4)


@float64
def test_the_operator_can_be_learned_as_an_entry_of_params():
    """Its derivative through the fixed point, against finite differences."""
    model = small_model("random_matrix", "bilevel", maps.gradient_step)
    K = default_precision(model.K)
    params, truth = model_params(model), normal(7, 2, PIXELS)
    solver = anderson(tolerance=1e-13, max_evaluations=3000, relative=True)
    adjoint = ADJOINTS["anderson"](tolerance=1e-12, max_evaluations=3000, relative=True)
    solve, params = model.solve(params, lambda G: fixed_point(G, solver, adjoint))
    f, way = measurements(K, 3), normal(8, *K.M.shape)

    @jax.jit
    def loss(M):
        u, _ = solve(params | {"K": operators.Matrix(M)}, f, model.start(f))
        return losses.mean_squared_error(u, truth)

    slope, h = jnp.vdot(jax.jit(jax.grad(loss))(K.M), way), 1e-5
    difference = (loss(K.M + h * way) - loss(K.M - h * way)) / (2 * h)
    np.testing.assert_allclose(slope, difference, rtol=1e-5)


@float64
def test_about_the_inverse_of_the_hessian_for_conjugate_gradients():
    """Exact for a quadratic potential on a circular image, and the identity without one."""
    R = convolutional.convolutional(SHAPE, filters=(3, 2, 2), potential="corner_rounded", eps=1e6)
    model = models.assemble(operators.Identity(), R)
    params = default_precision(model.init(jax.random.key(0)) | {"gamma": 1e6, "lam": 1.3})
    r = normal(2, 2, PIXELS)
    F = model.stationarity()
    product = F(r, params, 0 * r)  # linear, but for 1e-12
    np.testing.assert_allclose(model.preconditioner(r, params)(product), r, rtol=1e-6, atol=1e-8)
    tied = small_model("identity", "bilevel")
    np.testing.assert_array_equal(tied.preconditioner(r, model_params(tied))(r), r)


# ---- stopping at the noise


@float64
def test_each_image_stops_where_its_residual_is_as_large_as_the_noise():
    """Gradient descent without a regulariser, iterated by hand, of real and of complex data."""
    for name in ("diagonal_blur", "coils"):
        K = default_precision(KINDS[name](SHAPE))
        R = convolutional.convolutional(SHAPE, filters=(3, 2, 2))
        model = models.assemble(K, R)
        params = default_precision(model.init(jax.random.key(0)))
        params |= {"gamma": jnp.asarray(0.0), "tau": jnp.asarray(0.3), "noise": jnp.asarray(0.3)}
        f = K.apply(jnp.asarray([[0.5], [5.0]]) * normal(1, 1, PIXELS)) + 0.3 * measurements(K, 2)
        u, info = models.until_noise(model, solvers.picard(max_evaluations=500), params, f, 1.3)
        most = 1.3 * f.shape[1] * 0.3**2 * (2 if jnp.iscomplexobj(f) else 1)
        for i in range(2):
            x, before = jnp.zeros((1, PIXELS)), np.inf
            while (size := float(jnp.sum(jnp.abs(K.apply(x) - f[i]) ** 2))) > most:
                x, before = x - 0.3 * K.adjoint(K.apply(x) - f[i]), size
            np.testing.assert_allclose(u[i], x[0], rtol=1e-9, atol=1e-12)
            assert before > most
        assert info.converged and info.evaluations < 500 and (u[0] != u[1]).any()


def test_stopping_at_the_noise_is_refused_where_it_means_nothing():
    model = models.build("denoising", "bilevel", SHAPE)
    params = model.init(jax.random.key(0)) | models.hyperparameters(**GOOD, noise=0.3)
    f, solver = jnp.asarray(normal(0, 1, PIXELS), jnp.float32), solvers.picard()

    def stopped(params, solver=solver, model=model):
        return models.until_noise(model, solver, params, f)[0].sum()

    with pytest.raises(ValueError, match=r"until_noise: .*no fixed point, and has no hyper"):
        jax.grad(lambda gamma: stopped(params | {"gamma": gamma}))(params["gamma"])
    with pytest.raises(ValueError, match=r"noise=0.0: expected a finite number, above 0"):
        stopped(params | {"noise": 0.0})
    with pytest.raises(ValueError, match="its iterates are not seen from outside; take another"):
        stopped(params, solver=lambda G, u0: (u0, None))
    with pytest.raises(ValueError, match="of normal noise, and the data fidelity stands for anoth"):
        stopped(params, model=model._replace(D=fidelities.huber()))
