"""`experiments.search`: methods beside each other, interrupted and shown again; its problems."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from deqbilevel import algorithms
from deqbilevel.disk import checkpoints
from experiments.search import Search, gradients, main, methods, problems

SMALL: dict[str, Any] = {"candidates": 6, "images": 2, "size": 8, "lower_evaluations": 200}


def test_methods_are_compared_and_an_interruption_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("bayesian", "trust_region", "hoag")
    config = Search(
        ("filters",), methods=names, parameters=(1, 24), accuracy=1e-3, out=tmp_path, **SMALL
    )
    save = checkpoints.save

    def killed(folder: Path, step: int, tree: object) -> None:
        if step == 6 and folder.name == "hoag-filters-1":
            raise KeyboardInterrupt
        save(folder, step, tree)

    monkeypatch.setattr(methods, "BLOCK", 3)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoints, "save", killed)
        main(config)
    path = tmp_path / "candidates.jsonl"
    before = path.read_text().splitlines()
    numbers = main(config)
    assert set(numbers["filters-1"]) == set(names)
    assert set(numbers["filters-24"]) == {"trust_region", "hoag"}  # too many for the other
    after = path.read_text().splitlines()
    assert after[: len(before) - 3] == before[:-3]
    least = min(found["loss"] for found in numbers["filters-24"].values())
    assert numbers["filters-24"]["hoag"]["loss"] == least
    assert any(found["candidates"] is not None for found in numbers["filters-1"].values())
    for name in ("courses-filters-1", "courses-filters-24", "parameters-filters", "arrivals"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).std() > 5
    assert "filters-24: bayesian: 24 parameters" in (tmp_path / "summary.md").read_text()

    def refused(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("nothing is left to evaluate")

    monkeypatch.setattr(methods, "judge", lambda *arguments: refused)
    monkeypatch.setattr("experiments.search.report.draw", lambda *arguments, **options: True)
    assert main(config)["filters-1"]["bayesian"] == numbers["filters-1"]["bayesian"]


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_a_problem_has_the_residuals_of_its_loss_and_a_step_for_its_lower_level(name: str) -> None:
    """Of a convex cost with an L-Lipschitz gradient that gradient is no longer after 1/L of it."""
    [case] = problems.build(Search((name,), **SMALL))
    posed, rng = case.posed, np.random.default_rng(0)
    problem, point = posed.problem, jnp.asarray(rng.uniform(size=case.box.size), float)

    @jax.jit
    def found(x: Any) -> Any:
        gamma = posed.gamma | case.box.value(point)
        parts = case.residuals.of(gamma, x, posed.data)
        first = problem.lower_gradient(x, gamma, posed.data)
        after = x - problem.lower_step(gamma) * first
        loss = problem.upper(gamma, x, posed.data)
        return loss, parts, first, problem.lower_gradient(after, gamma, posed.data)

    x = posed.x + rng.standard_normal(posed.x.shape)
    loss, parts, first, second = found(x)
    np.testing.assert_allclose(jnp.sum(parts**2), loss, rtol=1e-5)
    assert 0 < jnp.linalg.norm(second) <= 1.0001 * jnp.linalg.norm(first)
    moved = case.residuals.lipschitz * jnp.linalg.norm(x - posed.x)
    assert jnp.linalg.norm(parts - found(posed.x)[1]) <= 1.0001 * moved


@pytest.mark.parametrize("name", gradients.GRADIENTS)
def test_a_method_with_a_hypergradient_steps_in_the_unit_cube(name: str) -> None:
    config = Search(("sampling1d",), parameters=(2,), **SMALL)
    [case] = problems.build(config)
    posed = gradients.relative(case, 2.0)
    method = gradients.GRADIENTS[name](config, posed.problem, 1.0)
    state = method.init(posed.gamma, posed.x)
    after, info = jax.eval_shape(method.step, state, posed.data, jax.random.key(0))
    assert after.gamma.shape == (2,) and info.loss.shape == ()
    np.testing.assert_array_equal(state.gamma, 0.5)


def test_steps_that_leave_the_box_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(config: Any, problem: algorithms.Problem, lipschitz: float) -> algorithms.Algorithm:
        return algorithms.aid(problem, optax.sgd(1e3), lower_iterations=2, adjoint_iterations=1)

    monkeypatch.setitem(gradients.GRADIENTS, "adam", away)
    smaller: dict[str, Any] = SMALL | {"candidates": 2}
    config = Search(("sampling1d",), parameters=(1,), **smaller)
    [case] = problems.build(config)
    judged = methods.judge(config, case)
    rows = methods.run(config, case, "adam", None, judged, tmp_path)
    first, second = (row["losses"][0] for row in rows)
    assert np.isfinite(first) and np.isnan(second)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"problem": ("dense",), "methods": ("bayesian",)}, "--methods bayesian: dense-72: .* 72"),
        ({"problem": ("tgv",), "methods": ("maid",)}, "--methods maid: tgv-2: .*convexity=None"),
        ({"problem": ("filters",), "parameters": (25,)}, "--parameters 25: expected at most 24"),
        (
            {"parameters": (3,)},
            "--parameters 3: has no effect here, only with --problem filters or",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SystemExit, match=f"error: {said}"):
        main(Search(**(SMALL | options)))
