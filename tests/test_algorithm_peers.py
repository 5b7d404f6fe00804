"""Solvers of a clone of benchopt's bilevel benchmark; the clone here is a small one of our own."""

import json
import math
import sys
from functools import partial
from itertools import count
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64, normal

from deqbilevel.algorithms import cleaning
from deqbilevel.algorithms.judging import Accuracy
from deqbilevel.algorithms.oracles import lower_level
from deqbilevel.commands.records import Log
from experiments.algorithms import clone as clones
from experiments.algorithms import peer_search, peers
from experiments.algorithms.cases import POINT, SEARCH, Case

CLONE = {
    "benchopt/__init__.py": """
class BaseSolver:
    @classmethod
    def get_instance(cls, **given):
        own = cls()
        vars(own).update({name: values[0] for name, values in cls.parameters.items()} | given)
        return own
""",
    "clone/benchmark_utils/__init__.py": "print('SEED = 1')",
    "clone/benchmark_utils/stochastic_jax_solver.py": """
import jax
from benchopt import BaseSolver


class StochasticJaxSolver(BaseSolver):
    parameters = {"eval_freq": [128], "random_state": [1], "batch_size": [64]}

    def set_objective(
        self, f_inner, f_outer, n_inner_samples, n_outer_samples, inner_var0, outer_var0
    ):
        size = self.batch_size
        self.inner_var0, self.outer_var0 = inner_var0, outer_var0
        self.inner = lambda z, gamma: f_inner(z, gamma, start=0, batch_size=size)
        self.outer = lambda z, gamma: f_outer(z, gamma, start=0, batch_size=size)

        def one_epoch(carry, eval_freq):
            return jax.lax.scan(self.step, carry, length=eval_freq)[0]

        self.one_epoch = jax.jit(one_epoch, static_argnums=1)
        self.run(iter([True, True, False]).__next__)

    def run(self, callback):
        carry = self.inner_var0, self.outer_var0, self.step_size, self.step_size / self.outer_ratio
        while callback():
            carry = self.one_epoch(carry, self.eval_freq)
            self.inner_var, self.outer_var = carry[:2]
""",
    "clone/solvers/unrolled.py": """
import jax
from benchmark_utils.stochastic_jax_solver import StochasticJaxSolver


class Solver(StochasticJaxSolver):
    name = "UnRolled"
    parameters = {"step_size": [0.1], "outer_ratio": [1.0], **StochasticJaxSolver.parameters}

    def step(self, carry, _):
        z, gamma, step_size, outer_step_size = carry

        def loss(gamma):
            after = z - step_size * jax.grad(self.inner)(z, gamma)
            return self.outer(after, gamma), after

        gradient, after = jax.grad(loss, has_aux=True)(gamma)
        return (after, gamma - outer_step_size * gradient, step_size, outer_step_size), None
""",
    "clone/solvers/broken.py": "import no_such_module_of_theirs",
    "clone/solvers/failing.py": """
from benchmark_utils.stochastic_jax_solver import StochasticJaxSolver


class Solver(StochasticJaxSolver):
    name = "Failing"
    parameters = {"step_size": [0.1], "outer_ratio": [1.0], **StochasticJaxSolver.parameters}

    def step(self, carry, _):
        raise TypeError("another version of jax")
""",
    "clone/solvers/other.py": "class Solver:\n    name = 'Other'",
    "clone/solvers/template_solver.py": "raise RuntimeError('not to be imported')",
    "clone/config/datacleaning0_5_best_params.yml": """
objective:
  - Bilevel Optimization
solver:
  - UnRolled[batch_size=64,framework=none,eval_freq=512,step_size=0.5,outer_ratio=1e-1,mode=zero]
  # - Commented[step_size=1.0]
  - Other[n=10,random_state=[1, 2, 3],framework=none]
""",
}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder like a clone of theirs, and a package benchopt."""
    for name, text in CLONE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "benchopt", raising=False)
    yield tmp_path / "clone"
    sys.modules.pop("benchopt", None)


def corpus(train=6, validation=6, features=4):
    """Random images, with labels of three classes."""
    rng = np.random.default_rng(0)

    def some(n):
        images = rng.standard_normal((n, features)).astype(np.float32)
        return cleaning.Digits(images, rng.integers(0, 3, n).astype(np.int32))

    return cleaning.Corpus(some(train), None, some(validation), some(3))


def norm_of_gamma(gamma, x):
    assert gamma.shape == (6,) and x.shape == (1, 4, 10)
    return {"loss": jnp.linalg.norm(gamma - 1), "gradient_norm": jnp.array(1.0)}


# ---- their code


def test_solvers_are_loaded_and_leave_nothing_behind(clone, capsys) -> None:
    paths = list(sys.path)
    found = clones.solvers(clone)
    assert list(found) == ["failing", "unrolled"] and found["unrolled"].name == "UnRolled"
    assert sys.path == paths and not any("benchmark_utils" in name for name in sys.modules)
    said = capsys.readouterr()
    assert said.out == "" and "peer broken cannot be imported: ModuleNotFoundError" in said.err


def test_a_folder_that_does_not_do_is_named(clone, monkeypatch) -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder; git clone https"):
        clones.solvers(clone / "nowhere")
    with pytest.raises(ValueError, match="solvers: not a clone of benchopt's bilevel benchmark"):
        clones.solvers(clone / "solvers")
    find_spec = clones.importlib.util.find_spec
    monkeypatch.setattr(
        clones.importlib.util, "find_spec", lambda n: None if n == "benchopt" else find_spec(n)
    )
    with pytest.raises(ValueError, match="benchopt is not installed; pip install benchopt"):
        clones.solvers(clone)


def test_published_options_are_read(clone) -> None:
    best = {"batch_size": 64, "eval_freq": 512, "step_size": 0.5, "outer_ratio": 0.1}
    found = clones.published(clone)
    assert found == {"UnRolled": best | {"mode": "zero"}, "Other": {"n": 10}}
    assert isinstance(found["UnRolled"]["batch_size"], int)
    assert clones.published(clone / "solvers") == {}


# ---- our problem


@float64
def test_the_problem_is_that_of_our_methods() -> None:
    given = corpus(train=12, validation=4)
    posed = cleaning.pose(given, batch=None)
    theirs = peers.objective(given)
    assert (theirs["n_inner_samples"], theirs["n_outer_samples"]) == (12, 4)
    np.testing.assert_array_equal(theirs["outer_var0"], posed.gamma)
    np.testing.assert_array_equal(theirs["inner_var0"].reshape(posed.x.shape), posed.x)
    gamma, x = normal(1, 12), normal(2, *posed.x.shape)
    gradient = jax.jit(jax.grad(partial(theirs["f_inner"], batch_size=12)))
    inner = gradient(x.ravel(), gamma).reshape(x.shape)
    ours = jax.jit(posed.problem.lower_gradient)(x, gamma, posed.data)
    np.testing.assert_allclose(inner, ours, rtol=1e-12, atol=1e-14)
    outer = theirs["f_outer"](x.ravel(), gamma, start=0, batch_size=4)
    np.testing.assert_allclose(outer, posed.problem.upper(gamma, x, posed.data), rtol=1e-12)
    whole = theirs["f_inner"](x.ravel(), gamma, 0, batch_size=12)
    batches = [theirs["f_inner"](x.ravel(), gamma, 3 * i, batch_size=3) for i in range(4)]
    np.testing.assert_allclose(np.mean(batches), whole, rtol=1e-12)
    assert np.std(batches) > 0.01


@float64
def test_the_evaluation_is_at_the_true_minimiser() -> None:
    posed = cleaning.pose(corpus(), batch=3)
    accuracy = Accuracy("limited_memory_bfgs", evaluations=200, products=50, tolerance=1e-8)

    def scores(gamma, x, posed):
        return {"accuracy": cleaning.accuracy(x, posed.data.train.images, posed.data.train.labels)}

    @jax.jit
    def loss(gamma):
        x, *_ = lower_level(posed.problem, gamma, posed.x, posed.data, evaluations=3000)
        return posed.problem.upper(gamma, x, posed.data)

    evaluate = peers.at_minimiser(Case(lambda _: posed, jnp.arange(1), "", scores, accuracy), posed)
    for seed in (1, 2):  # the second from where the first ended
        gamma = normal(seed, 6)
        found = evaluate(gamma, posed.x + jnp.nan)  # a method's own x does not count
        np.testing.assert_allclose(found["loss"], loss(gamma), rtol=1e-8)
        assert found["lower_residual"] <= 1e-8 and 0 <= found["accuracy"] <= 1


# ---- courses


@pytest.fixture
def unrolled(clone):
    return peers.prepared(clones.solvers(clone)["unrolled"], corpus(), batch=6, unknown=1)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by one whenever it is read."""
    monkeypatch.setattr(peers, "time", SimpleNamespace(perf_counter=count().__next__))


def test_a_course_takes_their_steps_and_times_these_alone(unrolled, clock) -> None:
    unrolled.eval_freq = 3
    seen = []

    def evaluate(gamma, x):
        peers.time.perf_counter()  # an evaluation takes time, which is not counted
        seen.append((gamma, x))
        return norm_of_gamma(gamma, x)

    options = {"step_size": 0.2, "outer_ratio": 0.1, "seconds": 5.0}
    rows = peers.course("unrolled", unrolled, evaluate, **options)
    assert [row["step"] for row in rows] == [0, 3, 6, 9, 12, 15]
    assert [row["seconds"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["last"] for row in rows] == 5 * [False] + [True]
    assert all(row["method"] == "peer:unrolled" and row["calls"] == [0.0] * 4 for row in rows)
    assert rows[0]["rates"] == [2.0] and rows[0]["diverged"] == [False]
    assert json.loads(json.dumps(rows)) == rows

    posed = cleaning.pose(corpus(), batch=None)
    gamma, x = posed.gamma, posed.x

    def loss(gamma, x):
        after = x - 0.2 * posed.problem.lower_gradient(x, gamma, posed.data)
        return posed.problem.upper(gamma, after, posed.data), after

    step = jax.jit(jax.grad(loss, has_aux=True))
    for _ in range(15):
        gradient, x = step(gamma, x)
        gamma = gamma - 2.0 * gradient
    np.testing.assert_allclose(seen[-1][0], gamma, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(seen[-1][1], x, rtol=1e-4, atol=1e-6)
    assert jnp.abs(gamma).max() > 0.01
    assert rows[-1]["loss"] == [pytest.approx(float(jnp.linalg.norm(gamma - 1)), rel=1e-4)]

    ends = peers.course("unrolled", unrolled, evaluate, **options, spacing=math.inf)
    assert [row["step"] for row in ends] == [0, 15] and ends[-1] == rows[-1]


def test_a_course_ends_with_its_calls(unrolled, clock, monkeypatch) -> None:
    unrolled.eval_freq = 3
    unrolled.n_hia_steps = 11
    monkeypatch.setattr(peers, "CALLS", {"unrolled": peers.CALLS["ttsa"]})
    options = {"step_size": 0.2, "outer_ratio": 1.0, "seconds": 100.0, "calls": 48}
    rows = peers.course("unrolled", unrolled, norm_of_gamma, **options)
    assert [row["calls"] for row in rows] == [[n, 5.0 * n, n, n] for n in (0, 3, 6)]


def test_a_run_that_diverges_ends_and_stays_finite(unrolled) -> None:
    options = {"step_size": 1e30, "outer_ratio": 1e-9, "seconds": 60.0}
    rows = peers.course("unrolled", unrolled, norm_of_gamma, **options)
    assert rows[-1]["diverged"] == [True] and rows[-1]["last"] and rows[-1]["seconds"] < 30
    assert rows[-1]["loss"] == rows[-2]["loss"] and np.isfinite(rows[-1]["loss"]).all()


def test_a_batch_larger_than_a_level_is_named(clone) -> None:
    solver = clones.solvers(clone)["unrolled"]
    with pytest.raises(ValueError, match="batch=7: expected 1 to 6, the digits of the smaller"):
        peers.prepared(solver, corpus(), batch=7)


@pytest.mark.parametrize(
    ("optimum", "most", "tried", "found"),
    [
        ((0.5, 5.0), math.inf, 9, [0.5, 0.1]),
        ((5.0, 500.0), math.inf, 14, [5.0, 0.01]),
        ((5.0, 500.0), 1.0, 12, [0.5, 0.001]),
        ((5.0, 500.0), 0.0, 14, [0.005, 10]),
    ],
)
def test_a_search_goes_where_it_is_better(monkeypatch, optimum, most, tried, found) -> None:
    """The loss is the distance from the best steps; steps above `most` diverge."""

    def course(name, own, evaluate, *, step_size, outer_ratio, **others):
        rate = step_size / outer_ratio
        loss = math.hypot(step_size - optimum[0], rate - optimum[1])
        return [{"rates": [rate], "loss": [loss], "diverged": [step_size > most], "seconds": 1.0}]

    monkeypatch.setattr(peer_search, "course", course)
    search = peer_search.search("unrolled", None, norm_of_gamma, (0.5, 0.1), seconds=1.0)
    assert len(search["tried"]) == len(search["losses"]) == tried
    assert search["best"] == pytest.approx(found)


def test_a_comparison_searches_is_stored_and_not_done_again(
    clone, tmp_path, clock, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(peers, "EPOCH_SECONDS", 4.0)  # of that clock: epochs of 4 times as many
    prepared, given = peers.prepared, corpus()
    monkeypatch.setattr(peer_search, "prepared", lambda *a, **k: prepared(*a, **k | {"batch": 6}))

    def compare(**options):
        return peer_search.compare(clone, given, norm_of_gamma, tmp_path, seconds=8.0, **options)

    with pytest.raises(ValueError, match="peer adam: expected one of failing, unrolled"):
        compare(names=("adam",))
    rows = compare()
    assert "peer failing does not run: TypeError: another version of jax" in capsys.readouterr().err
    assert {row["method"] for row in rows} == {"peer:unrolled"} and rows[-1]["last"]
    (search,) = Log.of(tmp_path / "searches.jsonl", SEARCH).read()
    assert search["tried"][4] == [0.5, 0.1]  # the published one, in the middle
    assert search["seconds"] == len(search["tried"]) * [2.0]
    best = int(np.argmin(np.where(search["diverged"], np.inf, search["losses"])))
    assert search["best"] == search["tried"][best]
    assert rows[0]["rates"] == [search["rates"][best]]

    with monkeypatch.context() as without:
        without.setattr(peer_search, "prepared", None)
        assert compare(names=("unrolled",)) == rows
    log = Log.of(tmp_path / "courses.jsonl", POINT)
    others = rows[-1] | {"method": "aid"}
    log.keep([*rows[:-1], others])  # an interrupted course begins anew
    monkeypatch.setattr(peer_search, "search", None)
    again = compare(names=("unrolled",))
    assert [row["seconds"] for row in again] == [row["seconds"] for row in rows]
    assert log.read() == [others, *again]
