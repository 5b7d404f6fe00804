"""`experiments.train --algorithm`, and its steps on a model of 4x4 pixels."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqbilevel import learning, models, settings, upper
from deqbilevel.commands import algorithm_choice, common
from deqbilevel.disk import checkpoints
from deqbilevel.learning import State, Trainer
from experiments import train

SMALL = {"train_size": 60, "test_size": 20, "batch_size": 20, "epochs": 2}
TIMED = {"seconds", "evaluation_seconds", "step_ms"}


def test_the_loss_falls_and_a_run_that_goes_on_ends_bit_for_bit_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SMALL | {"task": "deblurring", "gamma": 0.5, "noise": 0.05, "algorithm": "aid"}
    save = checkpoints.save

    def copied(folder: Path, step: int, tree: object) -> None:
        save(folder, step, tree)
        if step == 1 and folder.name == "latest":
            shutil.copytree(tmp_path / "whole", tmp_path / "parts")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save", copied)
        whole = train.main(train.Train(out=tmp_path / "whole", **options))
    assert whole["test_loss"] < 0.5 * whole["test_loss_initial"]
    assert whole["forward_evaluations"] == 10 and whole["adjoint_evaluations"] == 5
    assert 0 < whole["forward_residual"] < 0.1 and not whole["diverged"]

    parts = train.main(train.Train(out=tmp_path / "parts", **options))
    assert parts["test_loss_converged"] == whole["test_loss_converged"]
    records = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    for a, b in zip(*records, strict=True):
        assert {k: a[k] for k in a if k not in TIMED} == {k: b[k] for k in b if k not in TIMED}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "deq", "algorithm": "aid"},
            "minimises no lower-level cost; take a model with an energy",
        ),
        ({"algorithm": "stable"}, "--algorithm stable: too much for a dense A"),
        ({"algorithm": "lagrangian"}, "expected one of hoag, ba, accelerated_ba, aid"),
        ({"algorithm": "aid", "solver": "picard"}, "--algorithm aid with --solver: "),
        (
            {"algorithm": "aid", "hypergradient": "gmres", "products": 5},
            "--algorithm aid with --hypergradient, --products: ",
        ),
    ],
)
def test_what_an_algorithm_cannot_have(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        train.main(train.Train(out=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def small(name: str, total_steps: int, **scalars: float) -> tuple[Trainer, State]:
    """A trainer of a method for 24 images of 4x4 pixels in batches of 8, and its start."""
    model = models.build("denoising", "bilevel", (4, 4))
    base = learning.trainer(
        model, settings.SETTINGS["accurate"], total_steps=total_steps, batch_size=8
    )
    trainer = upper.trainer(base, algorithm_choice.trained(name, total_steps), count=24)
    known = {"tau": 0.3, "gamma": 1.0, "activation": "identity", "noise": 0.5} | scalars
    return trainer, trainer.init(model.init(jax.random.key(2)) | models.hyperparameters(**known))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    """24 of constant rows, each -1 or 1."""
    rows = jax.random.rademacher(jax.random.key(0), (24, 4, 1), "float32")
    return jnp.broadcast_to(rows, (24, 4, 4)).reshape(24, 16)


def test_a_single_loop_trains_too(images: jax.Array) -> None:
    trainer, state = small("ttsa", 600, learning_rate=0.01)
    before = trainer.evaluate(state.params, images, jax.random.key(1))["loss"]
    orders = [jax.random.permutation(key, 24) for key in jax.random.split(jax.random.key(3), 200)]
    order = jnp.stack(orders).reshape(600, 8)
    state, metrics = trainer.steps(state, images, order, jax.random.split(jax.random.key(4), 600))
    after = trainer.evaluate(state.params, images, jax.random.key(1))["loss"]
    assert after < 0.6 * before
    assert set(metrics.forward_evaluations.tolist()) == {1}
    assert 7 < metrics.adjoint_evaluations.mean() < 12  # (20 - 1) / 2, on average
    residual = metrics._asdict()["adjoint_residual"][0]  # of a random product: never known
    assert common.plain({"it": np.asarray(residual)})["it"] is None


def test_steps_keep_the_rows_of_other_images(images: jax.Array) -> None:
    trainer, state = small("aid", 2)
    keys = jax.random.split(jax.random.key(1), 2)
    order = jnp.array([[0, 3, 5, 7, 9, 11, 13, 15], [16, 17, 18, 19, 0, 3, 5, 7]])
    first, _ = trainer.steps(jax.tree.map(jnp.copy, state), images, order[:1], keys[:1])
    kept = np.asarray(first.optimiser.x)
    state, _ = trainer.steps(state, images, order, keys)
    rows = {name: np.asarray(getattr(state.optimiser.inner, name)) for name in ("x", "v")}
    for found in rows.values():
        assert np.flatnonzero(np.abs(found).max(axis=1)).tolist() == sorted(
            set(order.ravel().tolist())
        )
    np.testing.assert_array_equal(rows["x"][9:16:2], kept[9:16:2])
    assert not np.any(rows["x"][:8:7] == kept[:8:7])
    assert int(state.step) == int(state.optimiser.steps) == 2
    np.testing.assert_array_equal(state.params["A"], state.optimiser.gamma["A"])


def test_a_step_that_diverges_is_not_taken(images: jax.Array) -> None:
    trainer, state = small("aid", 6, tau=100.0)
    before = np.asarray(state.params["A"]).copy()
    order = jnp.tile(jnp.arange(24).reshape(3, 8), (2, 1))
    state, metrics = trainer.steps(state, images, order, jax.random.split(jax.random.key(1), 6))
    assert bool(state.diverged) and int(state.step) == 6 and int(state.optimiser.steps) == 0
    np.testing.assert_array_equal(state.params["A"], before)
    assert np.isfinite(state.optimiser.x).all()
    assert np.isfinite(metrics.loss).all()
    assert metrics.forward_evaluations[0] > 0 == metrics.forward_evaluations[1:].max()
