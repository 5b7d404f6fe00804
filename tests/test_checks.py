"""Checks of what is given by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqbilevel import checks, convolutions, losses, maps, models, operators, potentials
from deqbilevel.regularizers import convolutional, networks

TABLES = [
    models.TASKS,
    models.MODELS,
    models.ACTIVATIONS,
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
