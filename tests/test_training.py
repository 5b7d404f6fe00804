"""Training: what a step does, lanes, divergence, budgets, and restarts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqbilevel import lanes, learning, losses, models, settings
from deqbilevel.disk import checkpoints
from deqbilevel.learning import evaluation
from deqbilevel.settings import SETTINGS, Budget, grow

SHAPE = (8, 8)
LANES = [
    {"noise": 0.1, "tau": 0.1, "gamma": 1.0, "activation": "relu"},
    {"noise": 0.1, "tau": 0.9, "gamma": 0.5, "activation": "relu"},
    {"noise": 0.1, "tau": 0.5, "gamma": 1.0, "activation": "softshrink"},
    {"noise": 0.5, "tau": 0.1, "gamma": 0.1, "activation": "identity"},
]


def images(count: int, seed: int = 0) -> jax.Array:
    """Smooth pictures in [-1, 1]: products of random waves."""
    x = jnp.arange(8) / 8
    frequency, phase = jax.random.uniform(jax.random.key(seed), (2, count, 2, 1), maxval=6.0)
    rows, columns = jnp.moveaxis(jnp.sin(frequency * x + phase), 1, 0)
    return (rows[:, :, None] * columns[:, None, :]).reshape(count, 64)


TRAIN, TEST = images(40), images(20, seed=1)


def outcome(
    trainer: learning.Trainer, setting: settings.Setting, params: dict, epochs: int = 1
) -> list[learning.Epoch]:
    key, train, test, over = jax.random.key(1), TRAIN, TEST, trainer.lanes
    if over:
        key, train, test = over.keys([key] * over.count), over.share(train), over.share(test)
    state = trainer.init(params)
    return list(learning.run(trainer, setting, state, train, test, epochs=epochs, key=key))


@pytest.fixture(scope="module")
def model() -> models.Model:
    return models.build("inpainting", "bilevel", SHAPE)


@pytest.fixture(scope="module")
def paper(model: models.Model) -> learning.Trainer:
    """For two steps in all, compiled for one at a time."""
    return learning.trainer(model, SETTINGS["paper"], total_steps=2, batch_size=10)


def params_of(model: models.Model, lane: dict, learning_rate: float = 1e-2) -> dict:
    return model.init(jax.random.key(0)) | models.hyperparameters(
        **lane, learning_rate=learning_rate
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_training_lowers_the_test_loss_after_an_epoch_0_without_steps(
    model: models.Model, name: str
) -> None:
    params = params_of(model, LANES[1])
    before = np.asarray(params["A"])
    trainer = learning.trainer(model, SETTINGS[name], total_steps=12, batch_size=10)
    epochs = outcome(trainer, SETTINGS[name], params, epochs=3)
    assert [e.record["epoch"] for e in epochs] == [0, 1, 2, 3]
    assert np.isnan(epochs[0].record["step_loss"]) and np.isfinite(epochs[0].record["train_loss"])
    assert epochs[-1].record["test_loss"] < 0.8 * epochs[0].record["test_loss"]
    assert int(epochs[-1].state.step) == 12
    assert not np.array_equal(before, epochs[-1].state.params["A"])
    assert float(epochs[-1].state.params["tau"]) == pytest.approx(0.9)


def test_one_step_is_adam_with_the_cosine_schedule(
    model: models.Model, paper: learning.Trainer
) -> None:
    """The first step of Adam moves every learned entry by the learning rate, whatever the
    gradient; the last step's rate is almost 1e-6."""
    params = params_of(model, LANES[1], learning_rate=1e-2)
    order, keys = jnp.arange(10)[None], jax.random.split(jax.random.key(3), 1)
    first, metrics = paper.steps(paper.init(params), TRAIN, order, keys)
    moved = np.abs(np.asarray(first.params["A"]) - np.asarray(params["A"]))
    np.testing.assert_allclose(np.median(moved), 1e-2, rtol=1e-3)
    f = models.measure(model.K, TRAIN[:10], params["noise"], keys[0])
    u, info = model.reconstruct(SETTINGS["paper"].evaluation(), params, f)
    np.testing.assert_allclose(metrics.loss[0], jnp.mean((u - TRAIN[:10]) ** 2), rtol=1e-5)
    assert metrics.forward_evaluations[0] == info.evaluations
    halfway = np.asarray(first.params["A"])
    second, _ = paper.steps(first, TRAIN, order, keys)
    assert np.abs(np.asarray(second.params["A"]) - halfway).max() < 0.6e-2


def test_any_scalar_can_be_learned(model: models.Model) -> None:
    trainer = learning.trainer(
        model, SETTINGS["paper"], total_steps=2, batch_size=10, learned=("A", "b", "gamma")
    )
    state = trainer.init(params_of(model, LANES[1]))
    order, keys = jnp.arange(10)[None], jax.random.split(jax.random.key(3), 1)
    after, _ = trainer.steps(state, TRAIN, order, keys)
    assert abs(float(after.params["gamma"]) - 0.5) == pytest.approx(1e-2, rel=1e-2)


def test_a_guarded_step_goes_halfway_back_where_a_solve_fails(model: models.Model) -> None:
    """The same as unguarded where both are solved; no gradient and no divergence where not."""
    plain = SETTINGS["accurate"]
    order, keys = jnp.arange(10)[None], jax.random.split(jax.random.key(3), 1)

    def trained(setting: settings.Setting, params: dict) -> tuple:
        trainer = learning.trainer(model, setting, total_steps=8, batch_size=10)
        first, metrics = trainer.steps(trainer.init(params), TRAIN, order, keys)
        return trainer, first, metrics.solved[0]

    params = params_of(model, LANES[0])
    _, expected, solved = trained(plain, params)
    trainer, found, _ = trained(plain._replace(guard=2.0), params)
    assert solved == 1
    np.testing.assert_allclose(found.params["A"], expected.params["A"], atol=1e-7)
    np.testing.assert_array_equal(found.solved["A"], params["A"])
    for worse in (1e3, 1e30):  # slow, and without a finite value
        spoiled = found.params | {"A": worse * found.params["A"]}
        lost = jax.tree.map(jnp.copy, found._replace(params=spoiled))
        back, metrics = trainer.steps(lost, TRAIN, order, keys)
        assert metrics.solved[0] == 0 and not back.diverged
        halfway = (spoiled["A"] + params["A"]) / 2
        np.testing.assert_allclose(back.params["A"], halfway, rtol=1e-6)
        np.testing.assert_array_equal(back.solved["A"], params["A"])
        for new, old in zip(*map(jax.tree.leaves, (back.optimiser, found.optimiser)), strict=True):
            np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(("name", "each", "width"), [("bilevel", 2, 2), ("deq", 2, 1)])
def test_a_lane_of_a_sharded_run_equals_it_alone(name: str, each: int, width: int) -> None:
    """To rounding: batched and single matrix products sum in different orders. Denoising, whose
    solves take the same number of evaluations either way, keeps the difference at rounding."""
    model = models.build("denoising", name, SHAPE)
    over = lanes.lanes(2 * each // jax.device_count(), width)  # a GPU may be alone
    several = [params_of(model, lane, 1e-3) for lane in LANES]
    stacked = over.put(jax.tree.map(lambda *x: np.stack(x), *several))
    setting = SETTINGS["paper"]
    one, all_of_them = (
        learning.trainer(model, setting, total_steps=4, batch_size=10, lanes=way)
        for way in (None, over)
    )
    together = outcome(all_of_them, setting, stacked)[-1]
    for index, params in enumerate(several):
        alone = outcome(one, setting, params)[-1]
        np.testing.assert_allclose(
            together.record["test_loss"][index], alone.record["test_loss"], rtol=1e-4
        )
        evaluations = together.record["forward_evaluations"][index]
        assert evaluations == alone.record["forward_evaluations"]
        np.testing.assert_allclose(
            together.state.params["A"][index], alone.state.params["A"], atol=2e-4
        )


def test_a_lane_whose_loss_is_not_finite_keeps_its_last_weights(
    model: models.Model, paper: learning.Trainer
) -> None:
    params = params_of(model, LANES[1])
    params["A"] = 1e25 * params["A"]
    state = paper.init(params)
    for number in range(2):
        order, keys = 10 * number + jnp.arange(10)[None], jax.random.key(number)[None]
        state, metrics = paper.steps(state, TRAIN, order, keys)
        assert bool(state.diverged)
        np.testing.assert_array_equal(state.params["A"], params["A"])
        assert all(np.all(np.isfinite(m)) for m in metrics)


def test_budgets_grow_only_where_the_truncated_loss_misleads() -> None:
    fast, budget = SETTINGS["fast"], Budget(jnp.array([12, 12, 199]), jnp.array([6, 6, 99]))
    truncated, converged = np.array([0.10, 0.10, 0.10]), np.array([0.104, 0.106, 0.2])
    grown = grow(fast, budget, truncated, converged)
    assert grown.forward.tolist() == [12, 18, 200] and grown.adjoint.tolist() == [6, 9, 100]
    same = grow(SETTINGS["paper"], budget, truncated, converged)
    assert same.forward.tolist() == [12, 12, 199]


def test_evaluation_weighs_every_image_once() -> None:
    """With no noise the mean over batches of 8 and a rest of 4 is that of single images."""
    model = models.build("denoising", "bilevel", SHAPE)
    params = params_of(model, LANES[1] | {"noise": 0.0})
    solver = settings.converged()
    found = evaluation(model, solver, params, TEST, jax.random.key(0), 8)
    one_by_one = jax.vmap(lambda u: model.reconstruct(solver, params, u[None])[0][0])
    expected = jnp.mean((one_by_one(TEST) - TEST) ** 2)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-3)


def test_a_checkpoint_round_trips_a_training_state(model: models.Model, tmp_path) -> None:
    trainer = learning.trainer(model, SETTINGS["fast"], total_steps=2, batch_size=10)
    state = trainer.init(params_of(model, LANES[2]))
    assert checkpoints.latest_step(tmp_path / "none") is None
    checkpoints.save(tmp_path / "latest", 3, state)
    checkpoints.save(tmp_path / "latest", 4, state._replace(step=jnp.int32(7)))
    assert checkpoints.latest_step(tmp_path / "latest") == 4
    back = checkpoints.restore(tmp_path / "latest", state)
    assert int(back.step) == 7
    assert jax.tree.structure(back) == jax.tree.structure(state)
    np.testing.assert_array_equal(back.params["A"], state.params["A"])
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoints.restore(tmp_path / "none", state)


# ---- the loss, the learning rate, and what is refused


def test_the_loss_that_is_learned_by_is_the_one_that_is_reported(model: models.Model) -> None:
    """Above `epochs.DIVERGED` as well: what says that a run diverged is the mean squared error."""

    def scaled(u: jax.Array, truth: jax.Array) -> jax.Array:
        return 1e4 * jnp.mean((u - truth) ** 2)

    setting = SETTINGS["fast"]
    params = params_of(model, LANES[1])
    records = []
    for loss in (scaled, losses.mean_squared_error):
        trainer = learning.trainer(model, setting, total_steps=4, batch_size=10, loss_function=loss)
        records.append(outcome(trainer, setting, params, epochs=0)[0].record)
    found, expected = records
    for column in ("test_loss", "train_loss"):
        np.testing.assert_allclose(found[column], 1e4 * expected[column], rtol=1e-5)
    assert found["test_loss"] > learning.epochs.DIVERGED and not found["diverged"]
    np.testing.assert_allclose(found["test_mean_squared_error"], expected["test_loss"], rtol=1e-5)
    assert set(expected) == {"epoch", *learning.RECORDS}
    with pytest.raises(ValueError, match=r"loss_function: of shape \(10,\); expected one number"):
        vector = learning.trainer(
            model,
            setting,
            total_steps=4,
            batch_size=10,
            loss_function=partial(losses.psnr, data_range=2.0),
        )
        vector.evaluate(params, TEST, jax.random.key(0))


def test_budgets_grow_by_a_negative_loss_as_well() -> None:
    fast, budget = SETTINGS["fast"], Budget(jnp.array([12, 12]), jnp.array([6, 6]))
    grown = grow(fast, budget, np.array([-20.0, -20.0]), np.array([-19.5, -18.5]))
    assert grown.forward.tolist() == [12, 18]


def test_the_learning_rate_is_the_settings_unless_params_have_one(model: models.Model) -> None:
    setting = SETTINGS["paper"]._replace(learning_rate=0.0625)
    trainer = learning.trainer(model, setting, total_steps=2, batch_size=10)
    weights = model.init(jax.random.key(0))
    given = models.hyperparameters(**LANES[1])
    assert "learning_rate" not in given
    assert trainer.init(weights | given).params["learning_rate"] == 0.0625
    own = models.hyperparameters(**LANES[1], learning_rate=0.5)
    assert trainer.init(weights | own).params["learning_rate"] == 0.5


PAPER = SETTINGS["paper"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ridge": float("nan")}, "ridge=nan: expected a finite number, 0 or more"),
        ({"ridge": -1e-4}, "ridge=-0.0001: expected"),
        ({"forward_tolerance": float("nan")}, "forward_tolerance=nan: expected"),
        ({"adjoint_tolerance": float("inf")}, "adjoint_tolerance=inf: expected"),
        ({"evaluation_tolerance": "1e-3"}, "evaluation_tolerance=1e-3: expected"),
        ({"budget": Budget(5.5, 5), "limit": Budget(5.5, 5)}, r"budget.forward=5.5: .*whole"),
        ({"budget": Budget(5, 0)}, "budget.adjoint=0: expected a whole number, 1 or more"),
        ({"limit": Budget(50, 49)}, "limit.adjoint=49: expected a whole number, 50 or more"),
        ({"evaluation_budget": 2.5}, "evaluation_budget=2.5: expected a whole number"),
        ({"window": 0}, "window=0: expected a whole number"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: expected a finite number, above 0"),
        ({"learning_rate": 1e39}, r"learning_rate=1e\+39: expected a finite number"),
        ({"guard": float("nan")}, "guard=nan: expected"),
        ({"precision": "float16"}, "precision 'float16': expected one of highest, tensorfloat32"),
        ({"solver": "newtom"}, "solver 'newtom': expected one of anderson"),
        ({"hypergradient": "adjoint"}, "hypergradient 'adjoint': expected one of"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(model: models.Model, setting, message) -> None:
    with pytest.raises(ValueError, match=message):
        learning.trainer(model, PAPER._replace(**setting), total_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": -3}, "batch_size=-3: expected a whole number, 1 or more"),
        ({"batch_size": True}, "batch_size=True: expected a whole number"),
        ({"total_steps": -5}, "total_steps=-5: expected a whole number"),
        ({"total_steps": 0}, "total_steps=0: expected a whole number"),
        ({"passes": 0}, "passes=0: expected a whole number"),
    ],
)
def test_numbers_that_are_no_counts_are_refused(model: models.Model, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        learning.trainer(model, PAPER, **{"total_steps": 2} | options)
    with pytest.raises(ValueError, match="setting 'papper': expected one of paper"):
        SETTINGS["papper"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"train": np.zeros((9, 64), np.float32)}, "batch_size=10: larger than the number"),
        ({"train": np.zeros((0, 64), np.float32)}, r"of shape \[0, 64\]; expected images"),
        ({"test": np.zeros((0, 64), np.float32)}, r"of shape \[0, 64\]; expected images"),
        (dict.fromkeys(("train", "test"), np.zeros((20, 63), np.float32)), r"of shape \[20, 63\]"),
        ({"test": np.full((20, 64), np.nan, np.float32)}, "test: holds values that are not finite"),
        ({"epochs": -1}, "epochs=-1: expected a whole number"),
    ],
)
def test_images_that_cannot_be_trained_on_are_refused(
    model: models.Model, paper: learning.Trainer, images, message
) -> None:
    state = paper.init(params_of(model, LANES[1]))
    given = {"train": TRAIN, "test": TEST, "epochs": 1, "key": jax.random.key(0)} | images
    with pytest.raises(ValueError, match=message):
        next(iter(learning.run(paper, PAPER, state, **given)))


def test_what_is_learned_and_what_a_model_has_must_be_there(model: models.Model) -> None:
    params = params_of(model, LANES[1])
    for learned in (("A", "threshold"), ("C",), ()):
        trainer = learning.trainer(model, PAPER, total_steps=2, learned=learned)
        with pytest.raises(ValueError, match="learned="):
            trainer.init(params)
    deq = models.build("inpainting", "deq", SHAPE)
    for use in (
        learning.trainer(deq, PAPER, total_steps=2).init,
        lambda params: deq.reconstruct(settings.converged(), params, TEST),
        lambda params: deq.solve(params, PAPER.differentiable(PAPER.budget)),
    ):
        with pytest.raises(ValueError, match=r"params: no C, which|: \['C'\] of params"):
            use(params)
