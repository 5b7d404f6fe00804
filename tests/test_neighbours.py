"""The comparison of every way to learn the same filters, at its smallest budget."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import neighbours
from experiments.neighbours import judging, memory, ways


def config(**options):
    tiny = {"filters": (3, 2, 2), "shape": (12, 12), "train_size": 4, "test_size": 2}
    tiny |= {"batch_size": 2, "epochs": 1, "steps": 2, "pictures": 1, "iterations": (2,)}
    tiny |= {"tasks": ("denoising",), "test_iterations": (1,), "evaluations": 3}
    tiny |= {"memory": (), "time_noises": (), "time_blurs": (), "learning_rates": (1e-2,)}
    return neighbours.Neighbours(**(tiny | options))


def test_a_flow_is_judged_and_drawn(tmp_path: Path) -> None:
    asked = config(ways=("flow",), time_blurs=(0.5,), epochs=0, out=tmp_path / "run")
    found = neighbours.main(asked)
    assert found["denoising"]["flow"] > found["denoising"]["measured"]
    assert min(found["times"]["deblurring, 0.5"]) > 0
    (row,) = map(json.loads, (tmp_path / "run" / "rows.jsonl").read_text().splitlines())
    assert row["parameters"] == 3 * 2 * 2 + 3 * 7 + 1 and row["step_of_bound"] < 1
    assert row["learning_rate"] == 1e-2
    assert row["psnr_db"] != row["changed_db"]["1"] and row["step_bytes"] > 144 * 8
    for name in ("ways-denoising.png", "pictures-denoising.png", "times.png"):
        picture = Image.open(tmp_path / "run" / name).convert("L")
        assert np.asarray(picture).std() > 5
    assert neighbours.main(asked) == found


def test_the_rate_of_the_least_held_out_loss_is_kept() -> None:
    assert judging.least({0.1: np.nan, 0.03: np.inf, 0.01: 2.0, 0.003: 1.0, 0.001: 3.0}) == 0.003


def test_a_flow_by_reversal_keeps_no_states() -> None:
    asked = config(ways=("flow",))
    found = memory.row(asked, neighbours.load(asked), "flow, by reversal", 1000)
    assert found["bytes"] < 1000 * 144 * 4  # one image for each step


@pytest.mark.parametrize("name", ["deq", "transform", "experts", "learned_adjoint", "primal_dual"])
def test_the_others_start_with_filters_that_their_model_takes(name: str) -> None:
    asked = config(ways=(name,), shape=(16, 16))
    images = neighbours.load(asked)
    (run,) = ways.runs(asked, "deblurring", images)

    def begun() -> jax.Array:
        params = ways.start(asked, run, images)
        model = ways.model(asked, run, (12, 12))  # of pictures, which have a shape of their own
        model.require(params)
        return model.reconstruct(ways.changed(run, params, 2)[1], params, jnp.ones((1, 144)))[0]

    assert bool(jnp.all(jnp.isfinite(begun())))
