"""What upper-level algorithms refuse, with what was given, what is expected and what to do."""

import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import PIXELS, float64, model_params, small_model, untyped

from deqbilevel import algorithms, models, operators
from deqbilevel.algorithms import METHODS, aid, cleaning, guarded, minibatches, run
from deqbilevel.algorithms.checked import RULES
from deqbilevel.potentials import POTENTIALS, CornerRounded
from deqbilevel.regularizers import convolutional

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)


def q1():
    return algorithms.quadratic()


def test_every_option_of_every_method_has_a_rule():
    for method in METHODS.values():
        names = set(inspect.signature(method).parameters) - {"options"}
        assert names <= set(RULES) and {"problem", "optimiser"} <= names


def test_names_that_there_are_not_are_answered_with_those_that_there_are():
    with pytest.raises(ValueError, match="method 'adi': expected one of hoag, ba, accelerated_ba"):
        METHODS["adi"]
    with pytest.raises(ValueError, match="problem 'q3': expected one of q1, q2"):
        algorithms.PROBLEMS["q3"]


BAD = {
    "lower_iterations": [0, -1, 2.5, True, "ten"],
    "adjoint_iterations": [0, -1, 2.5],
    "adjoint_terms": [-1, 1.5],
    "inner_iterations": [-1, 0.5],
    "period": [0],
    "backtracks": [0],
    "tightenings": [0],
    "power_iterations": [0],
    "largest": [0],
    "mu": [0.0, -1.0, math.nan, math.inf],
    "adjoint_step": [0.0, -0.1, math.nan],
    "step_size": [0.0, -0.1, math.nan, 1e39],
    "accuracy": [0.0, math.nan],
    "adjoint_accuracy": [-1.0],
    "smoothness": [-1.0, math.nan],
    "cross_bound": [0.0, math.nan],
    "correction": [math.nan, math.inf],
    "proximity": [-0.1, math.nan],
    "inner_tolerance": [-1.0],
    "eta": [0.0, 1.0],
    "decrease": [1.5],
    "backtracking": [1.0],
    "tightening": [1.0],
    "growth": [0.5],
    "loosening": [0.9],
    "momentum": [-0.1, 1.1, math.nan],
    "lower_momentum": [2.0],
    "lower_schedule": [0.0, math.nan],
    "tolerance": [1e-3],
    "weight": [10.0],
    "large": [64],
    "lipschitz": [1.0, (1.0, -1.0, 0.0, 0.0)],
    "lower_solver": ["newton", None, 3],
    "inverse": ["lu"],
    "checkpoint": ["all"],
    "warm_adjoint": [2],
    "randomised": ["yes"],
    "restart": [0],
    "optimiser": [0.1, "adam"],
}


@pytest.mark.parametrize("name", METHODS)
def test_options_that_make_no_method_are_named(name):
    problem, factory = q1().problem, METHODS[name]
    for option in inspect.signature(factory).parameters:
        for value in BAD.get(option, []):
            options = {"optimiser": SGD} | {option: value}
            with pytest.raises(ValueError, match=f"{option}=.*: expected "):
                factory(problem, **options)
    with pytest.raises(
        ValueError, match=r"problem=a Posed: expected algorithms.Problem, as posed.p"
    ):
        factory(q1(), SGD)
    with pytest.raises(ValueError, match=r"mu=-1.0"):
        factory(problem._replace(strong_convexity=-1.0), SGD)


@pytest.mark.parametrize("name", METHODS)
def test_starts_and_data_that_do_not_fit_are_named(name):
    posed = q1()
    method = METHODS[name](posed.problem, SGD)
    for gamma, x, named in (
        (posed.gamma, jnp.zeros(3), r"x: of shape \(3,\), expected \[batch, ...\]"),
        (posed.gamma, jnp.zeros((0, 3)), r"x: of shape \(0, 3\)"),
        (posed.gamma, jnp.zeros((1, 3), int), "x: has int32, expected floating-point"),
        ("a", posed.x, "gamma and x: expected arrays of numbers"),
        (posed.gamma, None, "gamma and x: expected arrays of numbers"),
        (jnp.zeros(2, int), posed.x, "gamma: has int32, expected floating-point"),
        (posed.gamma + jnp.nan, posed.x, "gamma: holds values that are not finite"),
        (posed.gamma, posed.x + jnp.inf, "x: holds values that are not finite"),
        ({}, posed.x, "gamma: has no numbers"),
        (posed.gamma.astype(jnp.bfloat16), posed.x, "gamma in bfloat16 and x in float32"),
    ):
        with pytest.raises(ValueError, match=named):
            method.init(gamma, x)
    for gamma, x in ((posed.gamma, jnp.zeros((1, 4))), (jnp.zeros(5), posed.x)):
        with pytest.raises(ValueError, match="the problem does not take gamma float32"):
            run(method, method.init(gamma, x), posed.data, KEY, 1)
    bad = posed.data._replace(d=jnp.full(3, jnp.nan))
    with pytest.raises(ValueError, match=r"data.d: holds values that are not finite"):
        run(method, method.init(posed.gamma, posed.x), bad, KEY, 1)
    with pytest.raises(ValueError, match=r"state: a .*, expected what init"):
        method.step(posed.gamma, posed.data, KEY)


def test_problems_whose_functions_give_other_shapes_are_named():
    posed = q1()
    for change, named in (
        ({"upper": lambda gamma, x, data: x}, r"problem.upper: gives float32\[1, 3\] for gamma"),
        (
            {"lower_gradient": lambda x, gamma, data: x[0]},
            r"problem.lower_gradient: gives float32\[3\] for gamma",
        ),
        (
            {"lower_step": lambda gamma: -1.0},
            r"lower_step\(gamma\)=-1.0: expected a finite number, above 0",
        ),
        ({"lower_step": lambda gamma: gamma}, r"lower_step\(gamma\)="),
    ):
        method = aid(posed.problem._replace(**change), SGD)
        with pytest.raises(ValueError, match=named):
            run(method, method.init(posed.gamma, posed.x), posed.data, KEY, 1)


def test_plain_numbers_are_a_start():
    """As a gamma of Python's numbers, and of numpy's in double precision."""
    posed = q1()
    problem = posed.problem._replace(
        upper=lambda g, x, data: posed.problem.upper(jnp.stack(g), x, data),
        lower_gradient=lambda x, g, data: posed.problem.lower_gradient(x, jnp.stack(g), data),
    )
    method = aid(problem, SGD)
    found, _ = run(method, method.init([0.0, 0.0], np.zeros((1, 3))), posed.data, KEY, 3)
    plain = aid(posed.problem, SGD)
    expected, _ = run(plain, plain.init(posed.gamma, posed.x), posed.data, KEY, 3)
    np.testing.assert_allclose(found.gamma, expected.gamma, rtol=1e-6)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None, "ten", np.zeros((0, 2), int)])
def test_runs_of_no_steps_are_refused(steps):
    posed = q1()
    method = aid(posed.problem, SGD)
    with pytest.raises(ValueError, match=r"expected (a whole number, 1 or more|whole numbers)"):
        run(method, method.init(posed.gamma, posed.x), posed.data, KEY, steps)


def test_a_run_takes_whole_numbers_of_every_kind():
    posed = q1()
    method = aid(posed.problem, SGD)
    state = method.init(posed.gamma, posed.x)
    for steps in (2, np.int64(2), jnp.array(2)):
        assert run(method, state, posed.data, KEY, steps)[1].loss.shape == (2,)


@pytest.mark.parametrize("key", [3, None, jax.random.split(KEY, 2), np.zeros(2)])
def test_what_is_no_key_is_refused(key):
    posed = q1()
    method = aid(posed.problem, SGD)
    with pytest.raises(ValueError, match=r"key=.*: expected one key, such as jax.random.key"):
        run(method, method.init(posed.gamma, posed.x), posed.data, key, 1)


def test_the_size_of_a_batch_is_kept_between_one_and_the_batch():
    posed = algorithms.stochastic_quadratic(q1())
    for size, kept in ((0, 1), (-5, 1), (1, 1), (2, 2), (100, 2)):
        draws = [posed.problem.draw(posed.data._replace(size=x), KEY) for x in (size, kept)]
        np.testing.assert_array_equal(draws[0].weights, draws[1].weights)
        assert jnp.sum(draws[0].weights) == 1


def test_indices_that_name_no_rows_are_refused():
    posed = q1()
    x = jnp.zeros((4, 3))
    method = minibatches(aid(posed.problem, SGD))
    state = method.init(posed.gamma, x)
    for indices, named in (
        ([[0, 4]], "indices: from 0 to 4, expected rows 0 to 3"),
        ([[-1, 2]], "indices: from -1 to 2"),
        ([[1, 1]], "none of them twice in a batch"),
        ([[0, 1, 2, 3, 0]], "indices: batches of 5, expected at most 4 rows"),
        ([[0.5, 1.0]], "indices: expected whole numbers"),
        ([0, 1], r"expected whole numbers \[steps, batch\]"),
        ([[[0, 1]]], r"expected whole numbers \[steps, batch\]"),
    ):
        with pytest.raises(ValueError, match=named):
            run(method, state, posed.data, KEY, np.array(indices))
    with pytest.raises(
        ValueError, match=r"expected \(indices, all of the data\); give run the ind"
    ):
        run(method, state, posed.data, KEY, 3)


def test_wrappers_of_what_is_no_method_are_refused():
    posed = q1()
    method = aid(posed.problem, SGD)
    for make, named in (
        (lambda: guarded(aid), "algorithm=.*: expected what a method gives"),
        (lambda: minibatches(posed), "algorithm=.*: expected what a method gives"),
        (lambda: guarded(method, loss=math.nan), "loss=nan"),
        (lambda: guarded(method, gradient_norm=-1.0), "gradient_norm=-1.0"),
        (lambda: guarded(method, relative_change=math.nan), "relative_change=nan"),
        (lambda: guarded(method, calls=-5), "calls=-5"),
        (lambda: algorithms.growing(method, 5), "size=5: expected a function"),
        (lambda: algorithms.enlarging(method, initial=0, largest=5), "initial=0"),
        (lambda: algorithms.enlarging(method, initial=1, largest=5, factor=1.0), "factor=1.0"),
        (
            lambda: algorithms.scheduled(partial(aid, posed.problem, SGD), lower_iterations=3),
            "lower_iterations=3: expected a function",
        ),
        (lambda: run(None, None, None, KEY, 3), "algorithm=None"),
    ):
        with pytest.raises(ValueError, match=named):
            make()


def corpus(**changes):
    digits = cleaning.Digits(np.ones((4, 2), np.float32), np.arange(4, dtype=np.int32))
    return cleaning.Corpus(digits, np.zeros(4, bool), digits, digits)._replace(**changes)


def test_what_cannot_be_cleaned_is_refused():
    images, labels = np.ones((4, 2), np.float32), np.arange(4)
    for make, named in (
        (lambda: cleaning.digits(wrong=math.nan), "wrong=nan"),
        (lambda: cleaning.digits(seed=-1), "seed=-1"),
        (lambda: cleaning.digits(train_size=2.5), "train_size=2.5"),
        (lambda: cleaning.pose(corpus(), batch=0), "batch=0: expected a whole number, 1"),
        (lambda: cleaning.pose(corpus(), batch=2.5), "batch=2.5"),
        (lambda: cleaning.pose(corpus(), regularisation=math.inf), "regularisation=inf"),
        (lambda: cleaning.pose(3), "corpus=3: expected what digits"),
        (lambda: pose(cleaning.Digits(images * np.nan, labels)), "train images: holds values"),
        (lambda: pose(cleaning.Digits(images, labels + 7)), "train: labels of int64, expected"),
        (lambda: pose(cleaning.Digits(images, labels[:2])), r"train: images \(4, 2\) and labels"),
        (lambda: algorithms.stochastic_quadratic(q1(), batch=1.5), "batch=1.5"),
        (lambda: algorithms.stochastic_quadratic(algorithms.coupled()), "data: a Coupled"),
    ):
        with pytest.raises(ValueError, match=named):
            make()


def pose(train):
    return cleaning.pose(corpus(train=train))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("double", [False, True])
@float64
def test_either_precision_is_kept_under_x64(name, double):
    """What is posed in float32 stays there, in the states and in what is read of them."""
    posed = q1()
    dtype = jnp.float64 if double else jnp.float32
    data, gamma, x = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype), (posed.data, posed.gamma, posed.x)
    )
    method = guarded(METHODS[name](posed.problem, optax.sgd(lambda u: 0.1 / (1 + u))))
    state, info = jax.jit(lambda: run(method, method.init(gamma, x), data, KEY, 2))()
    assert state.gamma.dtype == state.x.dtype == info.loss.dtype == dtype
    assert np.isfinite(info.loss).all() and not state.diverged


def test_images_and_params_that_are_not_learned_from_are_named():
    R = convolutional.convolutional((4, 4), filters=(2, 2, 2))
    model = models.assemble(operators.Identity(), R)
    p = convolutional.init(np.ones((2, 2, 2)), beta_0=-1.0, phi=CornerRounded(0.1))
    u = jnp.ones((2, 16))
    for change, params, truth, f, named in (
        ({"learned": ("x",)}, p, u, u, r"learned=\('x',\): \['x'\] of params"),
        ({"learned": ()}, p, u, u, r"learned=\(\): none of params"),
        ({}, p | {"phi": POTENTIALS["clipping"]()}, u, u, "phi=.*: expected a smooth potential"),
        ({}, p | {"lam": -1.0}, u, u, "lam=-1.0"),
        ({}, p | {"filters": p["filters"] * jnp.nan}, u, u, "params.*filters.*: holds values"),
        ({}, {"phi": p["phi"]}, u, u, "params: no beta, beta_0, filters, which the weights"),
        ({}, p, u[0], u[0], r"truth: of shape \[16\]"),
        ({}, p, u[:, :9], u[:, :9], r"truth: of shape \[2, 9\]; expected images \[batch, 16\]"),
        ({}, p, u, u[:1], r"f \(1, 16\): expected \(2, 16\), as K gives it"),
        ({}, p, u * jnp.nan, u, "truth: holds values that are not finite"),
        ({}, p, u, u * jnp.inf, "f: holds values that are not finite"),
    ):
        with untyped(), pytest.raises(ValueError, match=named):
            algorithms.posed(model, params, truth, f, **change)
    built = small_model("identity", "bilevel")
    params, u = model_params(built), jnp.ones((2, PIXELS))
    for name, value in (("tau", -1.0), ("A", None), ("b", jnp.full(PIXELS, jnp.nan))):
        other = {k: v for k, v in params.items() if k != name}
        other |= {} if value is None else {name: value}
        with pytest.raises(
            ValueError, match=f"tau=-1.0|params: no {name}, which|params.*{name}.*: holds"
        ):
            algorithms.posed(built, other, u, u)
