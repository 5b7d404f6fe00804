"""What is given to solvers and hypergradients: refused by name, or right; never wrong and sure."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import affine, float64, normal, recorded, untyped

from deqbilevel import (
    checks,
    hypergradients,
    learning,
    linearised,
    models,
    settings,
    solvers,
)
from deqbilevel.hypergradients import no_info
from deqbilevel.solvers import ADJOINTS, DESCENTS, SOLVERS
from deqbilevel.types import Adjoint, At

KRYLOV = ("conjugate_gradient", "minres", "normal_conjugate_gradient", "gmres", "bicgstab")
OPTIONS = {"tolerance": 1e-9, "max_evaluations": 200}


def linear(u, p, f):
    return p["p"] * jnp.roll(u, 1, axis=-1) + f


def gradient(solve, f, p=0.5):
    """d/dp of sum(u^2) and the Infos of both solves."""

    def loss(p, probe):
        u, info = solve({"p": p}, f, jnp.zeros_like(f), probe)
        return jnp.sum(u**2), info

    (_, info), (g, back) = jax.value_and_grad(loss, (0, 1), has_aux=True)(p, no_info(f.dtype))
    return g, info, back


def exact(G, f, p=0.5, h=1e-5):
    @jax.jit
    def value(p):
        u = jax.lax.fori_loop(0, 200, lambda _, u: G(u, {"p": p}, f), jnp.zeros_like(f))
        return jnp.sum(u**2)

    return (value(p + h) - value(p - h)) / (2 * h)


# ---- the residual is that of what comes back


@pytest.mark.parametrize("name", KRYLOV)
@float64
def test_an_adjoint_that_mixes_images_says_what_it_is(name):
    """The residual is of the whole array, from a product of its own that is counted."""
    J, g = affine(symmetric=True)
    watched, inputs = recorded(lambda w: 0.6 * w @ J + 0.3 * jnp.mean(w, axis=0))

    def transposable(w):
        return 0.6 * w @ J + 0.3 * jnp.mean(w, axis=0)

    vjp = transposable if name == "normal_conjugate_gradient" else watched
    w, info = ADJOINTS[name](tolerance=1e-10, max_evaluations=40)(vjp, g)
    jax.effects_barrier()
    image = transposable(w) + g
    true = jnp.linalg.norm(image - w) / (1e-5 + jnp.linalg.norm(image))
    np.testing.assert_allclose(info.residual, true, rtol=1e-6, atol=1e-13)
    assert info.converged == (true <= 1e-10) and info.evaluations <= 40
    if inputs:
        assert info.evaluations == len(inputs)
        np.testing.assert_array_equal(inputs[-1], w)


def test_the_residual_of_conjugate_gradients_is_true_where_rounding_is_not_small():
    """In float32 at condition 1e6, where their recursion says that they have converged."""
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(60, 60)))[0]
    B = jnp.asarray(Q @ np.diag(np.logspace(-6, 0, 60)) @ Q.T, jnp.float32)
    b = normal(1, 1, 60).astype(jnp.float32)
    limits = {"tolerance": 1e-5, "max_evaluations": 4000}

    def product(x):
        return x @ B

    for start in (None, jnp.ones_like(b)):
        w, info = solvers.symmetric_solve(product, b, start, **limits)
        exact = np.asarray(b, np.float64) - np.asarray(w, np.float64) @ np.asarray(B, np.float64)
        true = np.linalg.norm(exact) / np.linalg.norm(b)
        np.testing.assert_allclose(info.residual, true, rtol=0.2)
        assert not info.converged and true > 1e-3
    _, unchecked = solvers.symmetric_solve(product, b, **limits, checked=False)
    assert (unchecked.converged and unchecked.evaluations == info.evaluations - 1) or True


@float64
def test_budgets_hold_every_product():
    J, g = affine(symmetric=True)
    for budget in (1, 2, 3, 5):
        H, inputs = recorded(lambda w: w - w @ J)
        for start, others in ((None, 1), (g, 2)):
            inputs.clear()
            limits = {"tolerance": 1e-13, "max_evaluations": budget}
            _, info = solvers.symmetric_solve(H, g, start, **limits)
            jax.effects_barrier()
            assert info.evaluations == len(inputs) == max(budget, others + 1)


# ---- batches


@pytest.mark.parametrize("name", hypergradients.METHODS)
def test_a_vector_is_refused_and_what_to_do_is_said(name):
    solve = hypergradients.METHODS[name](linear, solvers.picard(**OPTIONS), **OPTIONS)
    with pytest.raises(ValueError, match=r"u0: .*\[8\]; expected a batch .*u0\[None\].*vmap"):
        gradient(solve, jnp.ones(8))


@float64
def test_pictures_as_rows_and_images_that_are_mixed_are_right_or_not_converged():
    f = normal(0, 3, 6)
    J, _ = affine(n=6, symmetric=True)

    def rows(u, p, f):
        return p["p"] * u @ J + f

    def mixing(u, p, f):
        return 0.5 * p["p"] * u @ J + 0.6 * p["p"] * jnp.mean(u, axis=0, keepdims=True) + f

    for G in (rows, mixing):
        true = exact(G, f)
        for name in (*KRYLOV, "dense", "picard", "anderson", "broyden"):
            solve = hypergradients.METHODS[name](G, solvers.picard(**OPTIONS), **OPTIONS)
            found, _, back = jax.jit(gradient, static_argnums=0)(solve, f)
            assert not back.converged or abs(found / true - 1) < 1e-5, name
            assert back.converged or G is mixing, name


@pytest.mark.parametrize(
    ("u0", "message"),
    [
        (jnp.ones((2, 3), int), "floating numbers"),
        (jnp.ones((2, 3), complex), "floating numbers"),
        ([[1.0, 2.0]], "u0: a list; expected an array"),
        (jnp.ones((0, 3)), "one image or more"),
        (jnp.ones((3, 0)), "one image or more"),
        (jnp.ones(()), r"expected a batch of images \[batch, \.\.\.\]"),
    ],
)
def test_a_start_of_another_kind_is_refused(u0, message):
    for solver in (solvers.picard(), linearised.newton()):
        with pytest.raises(ValueError, match=message):
            solver(lambda u: u, u0)
    with pytest.raises(ValueError, match=message.replace("u0", "g")):
        solvers.gmres()(lambda u: u, u0)


@pytest.mark.parametrize(
    "G",
    [
        lambda u: u[:1],
        lambda u: u.reshape(3, 2),
        lambda u: u.astype(jnp.float16),
        lambda u: (u, u),
        lambda u: jnp.sum(u),
        lambda u: None,
    ],
)
def test_a_map_whose_images_have_another_form_is_refused(G):
    u0 = jnp.ones((2, 3))
    for make in (*SOLVERS.values(), *DESCENTS.values()):
        with pytest.raises(ValueError, match=r"the map returns .* for float32 of shape \[2, 3\]"):
            make()(G, u0)
    for name in (*KRYLOV, "neumann", "dense", "picard"):
        with pytest.raises(ValueError, match="the map returns"):
            ADJOINTS[name]()(G, u0)
    with pytest.raises(ValueError, match="the map returns"):
        hypergradients.unrolled(lambda u, p, f: G(u), solvers.picard())({}, u0, u0)


def test_a_solver_that_needs_a_jacobian_says_so():
    for make in linearised.SOLVERS.values():
        with pytest.raises(ValueError, match="does not put its Jacobian together"):
            make()(lambda u: u, jnp.ones((2, 3)))


# ---- two kinds of solvers


@float64
def test_a_fixed_point_solver_as_the_adjoint_is_taken_for_one():
    f = normal(0, 3, 6)
    true = exact(linear, f)
    for make in SOLVERS.values():
        solve = hypergradients.fixed_point(linear, solvers.picard(**OPTIONS), make(**OPTIONS))
        found, info, back = jax.jit(gradient, static_argnums=0)(solve, f)
        assert info.converged and back.converged
        np.testing.assert_allclose(found, true, rtol=1e-6)
    assert isinstance(solvers.gmres(), Adjoint)
    assert solvers.as_adjoint(adjoint := solvers.minres()) is adjoint
    own = Adjoint("own", lambda vjp, g: solvers.gmres(**OPTIONS)(vjp, g))
    solve = hypergradients.fixed_point(linear, solvers.picard(**OPTIONS), own)
    found, *_ = jax.jit(gradient, static_argnums=0)(solve, f)
    np.testing.assert_allclose(found, true, rtol=1e-6)


def test_an_adjoint_solver_as_the_solver_is_refused_by_name():
    wrong = solvers.gmres(**OPTIONS)
    makers = [
        lambda: hypergradients.fixed_point(linear, wrong, wrong),
        *(
            lambda method=method: method(linear, wrong, **OPTIONS)
            for method in hypergradients.METHODS.values()
        ),
    ]
    for make in makers:
        with pytest.raises(ValueError, match=r"solver gmres: .*take one of picard, anderson"):
            make()


def test_a_function_as_the_adjoint_is_refused():
    """It may be either kind; and newton is no adjoint solver."""
    for adjoint in (lambda vjp, g: (g, no_info()), linearised.newton(), solvers.gmres):
        with pytest.raises(ValueError, match=r"expected an adjoint solver, one of .*types.Adjoint"):
            hypergradients.fixed_point(linear, solvers.picard(), adjoint)


@pytest.mark.parametrize("kind", ["solver", "hypergradient"])
def test_unknown_names_are_listed(kind):
    setting = settings.SETTINGS["fast"]._replace(**{kind: "gmress"})
    with pytest.raises(ValueError, match=f"{kind} 'gmress': expected one of"):
        setting.differentiable(setting.budget)(linear)


@pytest.mark.parametrize(
    "table", [hypergradients.METHODS, ADJOINTS, SOLVERS, DESCENTS, linearised.SOLVERS]
)
def test_every_table_lists_what_it_has(table):
    with pytest.raises(ValueError, match=f"'gmress': expected one of {next(iter(table))}"):
        table["gmress"]


# ---- values that are closed over


CLOSED = {
    "fixed_point": lambda G: hypergradients.fixed_point(G, solvers.picard(), solvers.gmres()),
    "shine": hypergradients.shine,
    "truncated": lambda G: hypergradients.truncated(G, solvers.picard(), last=3),
    "forward": lambda G: hypergradients.forward(G, solvers.picard(max_evaluations=5)),
    "finite_differences": lambda G: hypergradients.finite_differences(G, solvers.picard()),
}


@pytest.mark.parametrize("method", CLOSED)
def test_a_derivative_of_what_the_map_closes_over_is_refused(method):
    """Its own derivative alone: under jit and vmap it is a value like others."""
    f = jnp.ones((2, 3))

    def loss(closed, p):
        solve = CLOSED[method](lambda u, p, f: closed * p["p"] * 0.5 * u + f)
        return jnp.sum(solve({"p": p}, f, jnp.zeros_like(f))[0] ** 2)

    ways = [
        jax.grad(loss),
        jax.jit(jax.grad(loss)),
        jax.grad(jax.jit(loss)),
        jax.vmap(jax.grad(loss), (0, None)),
        jax.grad(lambda c, p: jax.vmap(loss, (0, None))(c * jnp.ones(2), p).sum()),
    ]
    for i, way in enumerate(ways):
        with pytest.raises(ValueError, match=r"closes over a value .*through `params` or `f`"):
            way(jnp.ones(2) if i == 3 else 1.0, 0.5)
    derivative = jax.jit(jax.vmap(jax.grad(loss, 1), (0, None)))
    one = jax.jit(jax.grad(loss, 1))
    alone = [one(c, 0.5) for c in (0.5, 1.0)]
    np.testing.assert_allclose(derivative(jnp.array([0.5, 1.0]), 0.5), alone, rtol=1e-5)


# ---- numbers


@pytest.mark.parametrize("budget", [2.5, 0, -1, float("nan"), None, "5", True, jnp.ones(2, int)])
def test_budgets_that_are_none(budget):
    message = r"max_evaluations=.*: expected a whole number, 1 or more"
    for make in (*SOLVERS.values(), *DESCENTS.values(), *linearised.SOLVERS.values()):
        with pytest.raises(ValueError, match=message):
            make(max_evaluations=budget)(At(linear, {"p": 0.5}, jnp.ones((2, 3))), jnp.ones((2, 3)))
    for name in ADJOINTS:
        if name != "jacobian_free" or str(budget) != "0":
            message = r"max_evaluations=.*: expected a whole number, [01] or more"
            with pytest.raises(ValueError, match=message):
                ADJOINTS[name](max_evaluations=budget)


@pytest.mark.parametrize("tolerance", [float("nan"), -1e-3, float("inf"), "1e-3", True, 1j])
def test_tolerances_that_are_none(tolerance):
    for table in (SOLVERS, DESCENTS, ADJOINTS, linearised.SOLVERS):
        for make in table.values():
            with pytest.raises(ValueError, match=r"tolerance=.*: expected a finite number, 0 or"):
                make(tolerance=tolerance)
    with pytest.raises(ValueError, match=r"tolerance of shape \[2\]: expected one number"):
        solvers.picard(tolerance=jnp.ones(2))
    with pytest.raises(ValueError, match="tolerance="):
        solvers.symmetric_solve(lambda x: x, jnp.ones((1, 2)), tolerance=tolerance)
    with pytest.raises(ValueError, match="tolerance="):
        hypergradients.shine(linear, adjoint_tolerance=tolerance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: solvers.picard(damping=float("nan")), "damping=nan: expected a finite"),
        (lambda: solvers.picard(damping=0), "damping=0: .*above 0"),
        (lambda: solvers.neumann(damping=-1.0), "damping=-1.0: .*above 0"),
        (lambda: solvers.anderson(ridge=-1.0), "ridge=-1.0: .*0 or more"),
        (lambda: solvers.anderson(ridge=float("nan")), "ridge=nan"),
        (lambda: solvers.anderson(mixing=float("nan")), "mixing=nan"),
        (lambda: solvers.anderson(window=0), "window=0: expected a whole number, 1 or more"),
        (lambda: solvers.preconditioned_anderson(mixing=0.0), "mixing=0.0: .*above 0"),
        (
            lambda: solvers.preconditioned_anderson(refresh=0),
            "refresh=0: expected a whole number, 1",
        ),
        (lambda: solvers.backtracking(growth=0.5), "growth=0.5: .*1 or more"),
        (lambda: solvers.limited_memory_bfgs(under=float("nan")), "under=nan"),
        (lambda: solvers.nonlinear_conjugate_gradient(sigma=0.0), "sigma=0.0: .*above 0"),
        (lambda: solvers.dense(largest=0), "largest=0"),
        (lambda: solvers.gmres(restart=0), "restart=0"),
        (
            lambda: hypergradients.finite_differences(linear, solvers.picard(), step=0.0),
            "step=0.0: .*above 0",
        ),
    ],
)
def test_numbers_out_of_their_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_traced_limits_pass():
    def run(tolerance, budget, ridge):
        solve = solvers.anderson(tolerance=tolerance, max_evaluations=budget, ridge=ridge)
        return solve(lambda u: 0.5 * u + 1, jnp.ones((1, 2)))[1].evaluations

    lanes = jax.jit(jax.vmap(run))(jnp.zeros(2), jnp.array([2, 3]), jnp.full(2, 1e-4))
    assert lanes.tolist() == [2, 3]
    assert run(np.float64(0), np.int64(2), 1e-4) == 2


# ---- what is given to a hypergradient, and to a model


@pytest.mark.parametrize("name", hypergradients.METHODS)
def test_every_method_refuses_limits_that_are_none(name):
    method = partial(hypergradients.METHODS[name], linear, solvers.picard(**OPTIONS))
    for budget in (0, 2.5, -1, 10**12, None, True):
        with pytest.raises(ValueError, match=f"max_evaluations={budget}: expected a whole"):
            method(tolerance=1e-3, max_evaluations=budget)
    for tolerance in (float("nan"), -1.0, "1e-3"):
        with pytest.raises(ValueError, match=f"tolerance={tolerance}: expected a finite number"):
            method(tolerance=tolerance, max_evaluations=3)
    with untyped(), pytest.raises(ValueError, match="map: a NoneType; expected a function"):
        hypergradients.METHODS[name](None, solvers.picard(), tolerance=1e-3, max_evaluations=3)


F = jnp.ones((3, 4))
NAN = F.at[1, 2].set(jnp.nan)


@pytest.mark.parametrize(
    ("params", "f", "u0", "message"),
    [
        ({"p": 0.5}, F, F[:2], r"f \[3, 4\] and u \[2, 4\]: expected as many images in both"),
        ({"p": 0.5}, F[:2], F, r"f \[2, 4\] and u \[3, 4\]: expected as many images in both"),
        ({"p": 0.5}, F, NAN, "u0: holds values that are not finite"),
        ({"p": 0.5}, NAN, F, "f: holds values that are not finite"),
        ({"q": 0.5}, F, F, "params: no 'p', which the map needs; has q"),
    ],
)
def test_what_a_map_is_solved_at_is_refused_by_name(params, f, u0, message):
    for name in ("gmres", "shine", "finite_differences"):
        solve = hypergradients.METHODS[name](linear, solvers.picard(**OPTIONS), **OPTIONS)
        with untyped(), pytest.raises(ValueError, match=message):
            solve(params, f, u0)


def test_a_minimiser_takes_weights_that_can_be_differentiated_by():
    for weights, message in (
        ({}, "weights: expected one entry"),
        ({"p": 1}, "weights: of type int"),
    ):
        with pytest.raises(ValueError, match=message):
            hypergradients.minimiser(linear, weights, {"p": 0.5}, F, F, F, F)
    with pytest.raises(ValueError, match="params: no 'p'"):
        hypergradients.minimiser(linear, {"q": 0.5}, {}, F, F, F, F)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: solvers.anderson(window=10**6), "window=1000000: .* and at most 1000"),
        (lambda: solvers.gmres(restart=10**6), "restart=1000000: .* and at most 1000"),
        (lambda: solvers.limited_memory_bfgs(memory=10**6), "memory=1000000: .* and at most 1000"),
        (lambda: solvers.picard(max_evaluations=10**12), "and at most 2147483647"),
        (lambda: solvers.gmres(max_evaluations=np.int64(10**12)), "and at most 2147483647"),
        (lambda: solvers.anderson(relative="yes"), "relative='yes': expected True or False"),
        (lambda: solvers.anderson(ridge=np.ones(2)), r"ridge of shape \[2\]: expected one number"),
        (lambda: solvers.picard(damping=[0.5]), r"damping of shape \[1\]: expected one number"),
        (lambda: solvers.picard()(None, F), "map: a NoneType; expected a function"),
        (lambda: solvers.picard()(lambda u: u, NAN), "u0: holds values that are not finite"),
        (lambda: solvers.picard()(lambda u: u + F[:2], F), "the map fails for float32 of shape"),
        (lambda: solvers.as_solver(solvers.anderson), "solver anderson: .*made as a call"),
        (lambda: solvers.as_solver("picard"), "solver 'picard': .*made as a call"),
        (lambda: solvers.asymmetry(lambda w: w, F, 3), "key: .*expected a random key"),
        (lambda: hypergradients.shine(linear, refinements=10**9), "refinements=.* at most 1000"),
        (
            lambda: hypergradients.unrolled(linear, solvers.picard(), checkpoint="all"),
            "checkpoint 'all': expected one of none, sqrt",
        ),
        (
            lambda: hypergradients.check_symmetric(linear, {"p": 0.5}, F, F, largest=float("nan")),
            "largest=nan",
        ),
    ],
)
def test_more_that_is_none(make, message):
    with untyped(), pytest.raises(ValueError, match=message):
        make()


# ---- keys of another time, and no compilation


def test_keys_of_another_time_are_those_of_today():
    f = jnp.ones((1, 3))
    found = []
    for key in (jax.random.key(3), jax.random.PRNGKey(3)):
        solve = hypergradients.gaussian_smoothing(linear, solvers.picard(), directions=2, key=key)
        model = models.build("denoising", "bilevel", (2, 3))
        trainer = learning.trainer(model, settings.SETTINGS["fast"], total_steps=2, batch_size=2)
        drawn = trainer.draw(key, 1, jnp.ones((4, 6)))
        found.append((gradient(solve, f)[0], drawn[0], jax.random.key_data(drawn[1])))
    jax.tree.map(np.testing.assert_array_equal, *found)
    for key in (3, jnp.ones(2), jnp.ones(3, jnp.uint32), None):
        with pytest.raises(ValueError, match=r"key: .*expected a random key, jax.random.key"):
            checks.key("key", key)


@pytest.mark.parametrize("name", ["gmres", "shine"])
def test_without_compilation_gradients_are_the_same(name):
    f = jnp.linspace(0, 1, 6).reshape(2, 3)
    limits = {"tolerance": 1e-2, "max_evaluations": 5}
    solve = hypergradients.METHODS[name](linear, solvers.anderson(**limits), **limits)
    compiled = jax.jit(lambda f: gradient(solve, f))(f)
    with jax.disable_jit():
        plain = gradient(solve, f)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, compiled, plain)


def test_without_compilation_training_is_the_same():
    setting = settings.SETTINGS["fast"]._replace(forward_tolerance=1e-2, adjoint_tolerance=1e-2)
    model = models.build("denoising", "bilevel", (2, 3))
    trainer = learning.trainer(model, setting, total_steps=1, batch_size=2)
    scalars = models.hyperparameters(tau=0.5, gamma=0.1, activation="relu", noise=0.1)
    images, key = normal(0, 2, 6).astype(jnp.float32), jax.random.key(0)

    def train():
        state = trainer.init(model.init(key) | scalars)
        ahead = learning.compiled(trainer, state, images, key)
        run = learning.run(ahead, setting, state, images, images, epochs=1, key=key)
        return [record["test_loss"] for _, record in run]

    compiled = train()
    with jax.disable_jit():
        np.testing.assert_allclose(train(), compiled, rtol=1e-5)
