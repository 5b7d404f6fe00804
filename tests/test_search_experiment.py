"""`experiments.search`: methods beside each other, interrupted and shown again."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deqbilevel import search
from deqbilevel.disk import checkpoints
from experiments.search import Search, main, methods, problems

SMALL: dict[str, Any] = {"candidates": 6, "images": 2, "size": 12, "lower_evaluations": 200}


def test_methods_are_compared_and_an_interruption_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("sobol", "trust_region", "hypergradient")
    config = Search("filters", methods=names, parameters=(1, 2), out=tmp_path, **SMALL)
    save = checkpoints.save

    def killed(folder: Path, step: int, tree: object) -> None:
        if step == 3 and folder.name == "hypergradient-1":
            raise KeyboardInterrupt
        save(folder, step, tree)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoints, "save", killed)
        main(config)
    before = (tmp_path / "candidates.jsonl").read_text().splitlines()
    numbers = main(config)
    assert set(numbers) == {"1", "2"} and set(numbers["1"]) == set(names)
    after = (tmp_path / "candidates.jsonl").read_text().splitlines()
    assert after[: len(before) - 1] == before[:-1]
    best = min(found["loss"] for found in numbers["2"].values())
    assert any(found["candidates"] is not None for found in numbers["2"].values())
    assert numbers["2"]["hypergradient"]["loss"] <= 1.05 * best
    for name in ("courses-1", "courses-2", "parameters"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).std() > 5

    def refused(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("nothing is left to evaluate")

    monkeypatch.setattr(methods.search, "evaluator", lambda *arguments, **options: refused)
    assert main(config)["1"]["sobol"] == numbers["1"]["sobol"]


def test_three_parameters_of_signals() -> None:
    """The model of the loss is its residuals, and the lower level is its own minimiser."""
    [case] = problems.build(Search("tv1d", **SMALL))
    posed = case.posed
    x = posed.x + 0.1
    loss = posed.problem.upper(posed.gamma, x, posed.data)
    parts = case.residuals.of(posed.gamma, x, posed.data)
    np.testing.assert_allclose(jnp.sum(parts**2), loss, rtol=1e-5)
    judge = search.evaluator(posed, case.box, residuals=case.residuals, accuracy=1e-4)
    start = case.box.point(jax.tree.map(np.asarray, posed.gamma))
    found = judge(search.Request(start[None]))
    assert found.outcome.bounds[0] <= 1e-4
    flat = {"alpha": jnp.array(1e3), "nu": jnp.array(1.0), "xi": jnp.array(1e-7)}
    means = judge(search.Request(case.box.point(jax.tree.map(np.asarray, flat))[None]))
    assert found.outcome.losses[0] < means.outcome.losses[0]
