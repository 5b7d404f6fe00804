"""Rules for values: which pass, what is said of the others, and what is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqbilevel import checks, rules
from deqbilevel.rules import POSITIVE, count, one_of, options, or_function, real

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (
            count(1),
            [1, np.int64(7), np.array(3), jnp.array(2)],
            [0, -1, 2.0, 2.5, True, "3", None, [1], NAN, np.zeros(0, int)],
        ),
        (POSITIVE, [1, 1e-30, np.float32(2), jnp.array(3.0)], [0, -1.0, INF, NAN, 1e39, 1e-50]),
        (POSITIVE, [], [True, "1", None, 1j, [0.0]]),
        (real(least=0), [0, 0.0, 3], [-1e-9, NAN, INF, 1e39]),
        (real(above=0, below=1), [0.5], [0, 1, 1.5]),
        (real(least=0, below=1), [0, 0.5], [1, -0.5]),
        (real(), [-3, 1e30], [INF, -INF, NAN]),
        (one_of(("a", "b")), ["a"], ["c", None, 1]),
        (or_function(count(1)), [2, len], [0, "a"]),
        (rules.SWITCH, [True, np.False_], [0, 1, None, "yes"]),
    ],
)
def test_which_values_pass(rule, good, bad):
    assert [rules.meets(x, rule) for x in good] == [True] * len(good)
    assert [rules.meets(x, rule) for x in bad] == [False] * len(bad)


@options(rate=POSITIVE, trials=count(1))
def search(rate, *, trials=None):
    return rate, trials


def test_arguments_are_checked_by_name_and_what_is_traced_passes():
    assert search(2.0) == (2.0, None) and search(rate=1, trials=3) == (1, 3)
    with pytest.raises(ValueError, match="rate=-1: expected a finite number, above 0"):
        search(-1)
    with pytest.raises(ValueError, match="trials='a': expected a whole number, 1 or more"):
        search(1, trials="a")
    with pytest.raises(ValueError, match="rate=None"):
        search(None)
    with pytest.raises(TypeError, match="'trails'"):
        search(1.0, trails=3)
    assert jax.vmap(lambda rate: search(rate)[0])(jnp.array([-1.0, 1])).tolist() == [-1, 1]


def test_what_is_not_finite_is_named_by_its_place():
    tree = {"a": jnp.ones(2), "b": [np.array([1, NAN]), 3, "text", None, jax.random.key(0)]}
    with pytest.raises(ValueError, match=r"data\['b'\]\[0\]: holds values that are not finite"):
        checks.finite("data", tree)
    checks.finite("data", {"a": jnp.ones(2), "n": jnp.arange(3), "key": jax.random.key(0)})
