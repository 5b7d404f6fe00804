"""Checks of what is given by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import untyped

from deqbilevel import (
    baselines,
    checks,
    contraction,
    convolutions,
    lanes,
    learning,
    losses,
    maps,
    models,
    operators,
    potentials,
    precision,
    settings,
)
from deqbilevel.regularizers import convolutional, dense, networks, normalised
from deqbilevel.studies import grids

TABLES = [
    models.TASKS,
    models.MODELS,
    dense.ACTIVATIONS,
    maps.MAPS,
    operators.OPERATORS,
    operators.CONVOLUTIONS,
    losses.LOSSES,
    potentials.POTENTIALS,
    networks.NETWORKS,
    convolutional.BASES,
    convolutions.VALID,
    convolutions.PAD,
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.what)
def test_an_unknown_name_is_named_with_the_known_ones(table):
    for name in ("moebius", None, 3):
        with pytest.raises(
            ValueError, match=f"{table.what} {name!r}: expected one of .*{next(iter(table))}"
        ):
            table[name]
    assert "moebius" not in table and table.get("moebius") is None


@pytest.mark.parametrize("value", [0, 0.5, 2**20, np.float64(3), jnp.ones(3), np.arange(3)])
def test_numbers_that_are_in_range(value):
    assert checks.number("x", value, least=0) is value


@pytest.mark.parametrize(
    "value", [-1, float("nan"), float("inf"), 1e39, "a", None, 1j, [0.5, 2], True]
)
def test_numbers_that_are_none_or_out_of_range(value):
    with pytest.raises(ValueError, match=r"x=.*: expected a finite number, 0 or more, at most 1"):
        checks.number("x", value, least=0, most=1)


def test_what_is_zero_in_float32_is_not_above_zero():
    checks.number("x", 1e-37, above=0)
    for value in (1e-50, 0.0, -1.0, np.array([1.0, 0.0])):
        with pytest.raises(ValueError, match=r"x=.*: expected a finite number, above 0"):
            checks.number("x", value, above=0)


def test_traced_values_pass():
    def f(x):
        return checks.finite("y", checks.number("x", x, above=0))

    assert jax.jit(f)(-1.0) == -1 and jax.vmap(f)(jnp.zeros(2)).shape == (2,)
    assert jax.grad(f)(-1.0) == 1


@pytest.mark.parametrize("value", [0, -3, 2.0, 2.5, "3", None, True, 2**40, float("nan")])
def test_counts_that_are_none(value):
    with pytest.raises(ValueError, match=f"n={value}: expected a whole number, 1 or more"):
        checks.whole("n", value)


def test_counts_and_shapes():
    assert checks.whole("n", np.int64(3)) == 3 and checks.whole("n", 0, least=0) == 0
    assert checks.pixels((2, 3)) == 6
    for shape in ((0, 3), (2.0, 3), (3,), 3, None, (1, 2, 3), (-1, -1), "ab"):
        with pytest.raises(ValueError, match=r"shape=.*: expected"):
            checks.pixels(shape)


def test_images_are_rows_of_floating_numbers():
    checks.rows("f", jnp.ones((2, 5)), 5)
    for x in (jnp.ones(5), jnp.ones((0, 5)), jnp.ones((2, 4)), jnp.ones((1, 2, 5)), [1.0]):
        with pytest.raises(ValueError, match=r"f: of shape .*expected images \[batch, 5\]"):
            checks.rows("f", x, 5)
    for dtype in (int, bool, complex):
        with pytest.raises(ValueError, match=r"f: of type .*expected floating numbers"):
            checks.rows("f", np.ones((2, 5), dtype))


# ---- one place after another


S, KEY, F = settings.SETTINGS["fast"], jax.random.key(0), jnp.ones((2, 4))
MODEL = models.build("denoising", "bilevel", (2, 2))
LANE = {"task": "denoising", "model": "deq", "noise": 0.1, "tau": 0.1, "gamma": 0.1}
LANE |= {"activation": "relu"}


def trainer(setting=S, **options):
    return learning.trainer(options.pop("model", MODEL), setting, total_steps=3, **options)


def sampled(low, high, **options):
    return grids.sample({options.pop("axis", "tau"): grids.Range(low, high)}, 4, "sobol", 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sampled(2, 1), "tau=2..1: expected finite numbers, low < high"),
        (lambda: sampled("a", 1), "tau=a: expected a finite number"),
        (lambda: sampled(1e-50, 1e-49), "expected finite numbers, low < high"),
        (lambda: sampled(-2, -1), "tau=-2..-1: expected numbers from 0 or more"),
        (lambda: sampled(0.5, 2, axis="adam_b1"), "adam_b1=0.5..2: expected numbers from 0 to 1"),
        (lambda: sampled([1, 2], 3), r"tau=\[1, 2\]: expected one number"),
        (lambda: grids.sample({"tau": 3}, 4, "sobol", 0), r"tau=3: expected a Range\(low, high\)"),
        (lambda: grids.sample({}, 4, "sobol", 0), "ranges: expected one or more"),
        (lambda: grids.sample({"tau": grids.Range(0, 1)}, 2.5, "sobol", 0), "count=2.5"),
        (lambda: grids.grid(None), "axes: a NoneType; expected a dictionary"),
        (lambda: grids.scalars({"tau": 0.1}), "no gamma, activation; expected each of"),
        (lambda: grids.scalars(LANE | {"rigde": 1.0}), "axis 'rigde': expected one of"),
        (lambda: lanes.lanes(True), "each=True: expected a whole number"),
        (lambda: lanes.lanes(1).keys([]), "0 keys: expected"),
        (lambda: learning.keys(-1), "seed=-1: expected a whole number, 0 or more"),
        (lambda: learning.keys(2**32), "seed=4294967296: .* and at most 4294967295"),
        (lambda: learning.keys(1.5), "seed=1.5"),
        (lambda: trainer(S._replace(forward_tolerance=1e-5)), "forward_tolerance=1e-05 with prec"),
        (lambda: trainer(S._replace(adjoint_tolerance=9e-4)), "take precision highest, or a tol"),
        (lambda: trainer(S._replace(evaluation_tolerance=0.0)), "evaluation_tolerance=0 with prec"),
        (lambda: trainer(S._replace(relative_ridge="yes")), "relative_ridge='yes': expected True"),
        (lambda: trainer(S._replace(preconditioned=None)), "preconditioned=None: expected True"),
        (lambda: trainer(S._replace(budget=3)), r"budget=3: expected Budget\(forward, adjoint\)"),
        (lambda: trainer(S._replace(window=10**6)), "window=1000000: .* at most 1000"),
        (lambda: trainer("fast"), "setting 'fast': expected a Setting"),
        (lambda: trainer(model="deq"), "model 'deq': expected what"),
        (lambda: trainer(lanes=3), "lanes 3: expected what"),
        (lambda: trainer(learned="tau"), "learned='tau': expected names of params"),
        (lambda: trainer(loss_function="psnr"), "loss_function: a str; expected a function"),
        (lambda: trainer(schedule=None), "schedule: a NoneType; expected a function"),
        (lambda: trainer().init({"A": F * jnp.nan}), r"params\['A'\]: holds values"),
        (lambda: learning.linear(-1), "part=-1: expected a finite number, 0 or more, at most 1"),
        (lambda: learning.cosine(jnp.ones(()), 0), "total_steps=0"),
        (lambda: learning.steps_per_epoch(4, 2, 0), "passes=0"),
        (lambda: precision.at("half", len), "precision 'half': expected one of highest"),
        (lambda: losses.psnr(F[0], F[0], data_range=2.0), r"u: of shape \[4\]; expected images"),
        (lambda: losses.mean_squared_error(F[:0], F[:0]), "expected images"),
        (lambda: losses.ssim_or_nan(F, F, (2, 3), data_range=2.0), r"expected images \[batch, 6\]"),
        (lambda: losses.quantised(jnp.ones(3, int)), "u: of type int32"),
        (lambda: baselines.baselines(operators.Identity(), F, F, -1.0, KEY), "noise=-1.0"),
        (lambda: baselines.baselines(operators.Identity(), F, F[:, :3], 0.1, KEY), "test: of sh"),
        (lambda: baselines.baselines(operators.Identity(), F * jnp.nan, F, 0.1, KEY), "train: hol"),
        (lambda: contraction.lipschitz(MODEL.G, {}, F, F, KEY, 2), "params: no tau; has"),
        (lambda: convolutions.transfer(jnp.ones((1, 3, 3)), (2, 2)), "no larger than the grid"),
        (lambda: convolutional.filters({}), "params: no filters, beta, beta_0, phi"),
        (lambda: convolutional.random(3, 1, 2, 2), "key: .*expected a random key"),
        (lambda: normalised.scaled({}), "params: no A, c, norm_A"),
        (lambda: operators.Identity().resolvent(F, -1.0), "a=-1.0: expected a finite number, 0 or"),
        (
            lambda: operators.OPERATORS["row_mask"]((2, 2)).apply(F[:, :1]),
            "images of 4 pi",
        ),
        (lambda: operators.circular_convolution(np.ones((1, 1)), (2, 2), 1), "centre=1: expected"),
        (lambda: operators.norm(None, 4), "K.apply: a NoneType; expected a function"),
        (lambda: maps.gradient_step(None, len), "K.apply: a NoneType; expected a function"),
        (lambda: maps.gradient_step(operators.Identity(), None), "N: a NoneType; expected"),
        (
            lambda: maps.preconditioned_step(operators.Identity(), lambda u, p: u)(
                F, {"lam": 1.0, "gamma": 1.0}, F
            ),
            "params: no inverse; has lam, gamma",
        ),
        (lambda: maps.naive_objective(lambda u, p, f: u - f)({}, F, F[:, :3]), "the map fails"),
    ],
)
def test_what_is_none_is_refused_by_name(make, message):
    with untyped(), pytest.raises(ValueError, match=message):
        make()


def test_tf32_goes_with_the_tolerances_that_it_meets():
    settings.check(S)
    settings.check(S._replace(forward_tolerance=None))
    settings.check(S._replace(forward_tolerance=1e-5, precision="highest"))
