"""Every network of the table as a regulariser, and the experiment that compares them."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PIXELS, SHAPE, default_precision, dense, float64, normal
from PIL import Image

from deqbilevel import learning, models, operators, settings
from deqbilevel.regularizers import networks
from deqbilevel.regularizers.networks import NETWORKS
from experiments import networks as experiment
from experiments.networks import assembling, report

UNUSED = {"channels": 8, "layers": 4}
"""Options of networks as they are where nothing is said, for models that are none."""


@pytest.fixture(scope="module", params=NETWORKS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    return NETWORKS[name](SHAPE)


def weights(network, scale=1.0):
    """Params in the default precision, with weights as large as after long training."""
    params = default_precision(network.init(jax.random.key(0)))
    params["network"] = jax.tree.map(
        lambda w: scale * w + 0.1 * normal(w.size, *w.shape), params["network"]
    )
    return params


def test_init_follows_from_the_key(network):
    one, same, other = (network.init(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    kernels = [[w for w in jax.tree.leaves(p["network"]) if w.ndim > 1] for p in (one, other)]
    assert all(np.abs(x - y).max() > 0 for x, y in zip(*kernels, strict=True))


@float64
def test_in_double_precision_all_weights_are_and_a_firm_network_is_nonexpansive(network):
    params = network.init(jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float64")}
    if network.firm:
        assert float(network.lipschitz(params)) <= 1 + 1e-14


@float64
def test_the_lipschitz_constant_bounds_the_jacobian(name, network):
    """Also before a refresh. That of the affine one is attained; others are within a factor."""
    params = weights(network, 2.0)
    jacobian = jax.jit(jax.vmap(jax.jacobian(lambda u: network.gradient(u[None], params)[0])))
    most = float(network.lipschitz(params))
    seen = np.linalg.norm(jacobian(0.5 * normal(1, 8, PIXELS)), 2, axis=(1, 2)).max()
    assert seen <= most * (1 + 1e-12)
    assert seen > {"affine": 1 - 1e-12, "denoiser": 0.1, "convex": 0.8}[name] * most


@float64
def test_firm_networks_are_firmly_nonexpansive_after_a_refresh(network):
    params = network.refresh(weights(network, 3.0))
    assert network.firm == (float(network.lipschitz(params)) <= 1 + 1e-12)
    u, v = 3 * normal(1, 100, PIXELS), 3 * normal(2, 100, PIXELS)
    v = v.at[::2].set(u[::2] + 1e-3 * v[::2])
    N = jax.jit(network.gradient)
    change = N(u, params) - N(v, params)
    excess = np.asarray(jnp.sum(change**2, axis=1) / jnp.sum(change * (u - v), axis=1))
    if network.firm:
        assert 0 < excess.min() and excess.max() <= 1 + 1e-9
    else:
        assert excess.min() < 0 or excess.max() > 1


@float64
def test_not_normalised_a_denoiser_is_not_firm():
    network = networks.denoiser(SHAPE, normalised=False)
    params = weights(network, 2.0)
    assert network.refresh(params) is params and not network.firm
    assert network.lipschitz(params) > 2


@float64
def test_the_convex_potential_and_its_gradient():
    network = NETWORKS["convex"](SHAPE)
    params = network.refresh(weights(network, 3.0))
    energy, N = jax.jit(network.energy), jax.jit(network.gradient)
    u, d = normal(1, 20, PIXELS), normal(2, 20, PIXELS)
    h = 1e-5
    slope = (energy(u + h * d, params) - energy(u - h * d, params)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(N(u, params) * d, axis=1), slope, rtol=1e-7)
    v = 4 * d
    chord = (energy(u, params) + energy(v, params)) / 2 - energy((u + v) / 2, params)
    assert np.all(chord > 1e-3)
    J = jax.jit(jax.jacobian(lambda u: N(u[None], params)[0]))(u[0])
    np.testing.assert_allclose(J, J.T, atol=1e-14)
    assert np.linalg.eigvalsh(J)[0] > 0


@float64
def test_the_others_have_no_energy():
    for name in ("affine", "denoiser"):
        network = NETWORKS[name](SHAPE)
        assert network.energy is None
        params = weights(network)
        jacobian = jax.jit(jax.jacobian(lambda u, N=network.gradient, p=params: N(u[None], p)[0]))
        J = jacobian(jnp.ones(PIXELS))
        assert np.abs(J - J.T).max() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5)])
@float64
def test_the_operator_norm_is_that_of_the_matrix(size):
    shape, (inputs, outputs) = (5, 6), (2, 3)
    kernel = normal(0, *size, inputs, outputs)

    def apply(rows):
        x = jnp.moveaxis(rows.reshape(-1, inputs, *shape), 1, -1)
        padded = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="wrap")
        y = jax.lax.conv_general_dilated(
            padded, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[:, : shape[0], : shape[1]]
        return y.reshape(len(rows), -1)

    matrix = dense(apply, inputs * shape[0] * shape[1])
    expected = np.linalg.norm(matrix, 2)
    np.testing.assert_allclose(networks.operator_norm(kernel, shape), expected, rtol=1e-12)


@float64
def test_a_convolution_is_centred():
    """The filter is centred, and turned about, as a convolution's is."""
    module = networks.Convolution(1, 3)
    x = jnp.zeros((1, 5, 6, 1)).at[0, 2, 3, 0].set(1)
    kernel = normal(0, 3, 3, 1, 1)
    y = module.apply({"params": {"kernel": kernel, "bias": jnp.full(1, 0.5)}}, x)
    expected = np.full((5, 6), 0.5)
    expected[1:4, 2:5] += kernel[..., 0, 0]
    np.testing.assert_allclose(y[0, ..., 0], expected, atol=1e-14)


@float64
def test_lanes_change_nothing(network):
    params = [weights(network, scale) for scale in (0.5, 3.0)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *params)
    u = normal(1, 3, PIXELS)

    def refreshed(params):
        params = network.refresh(params)
        return network.gradient(u, params), network.lipschitz(params)

    alone, together = jax.jit(refreshed), jax.jit(jax.vmap(refreshed))(stacked)
    for i, p in enumerate(params):
        for many, one in zip(together, alone(p), strict=True):
            np.testing.assert_allclose(many[i], one, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (networks.affine, {"size": 7}, "size=7: filters are larger than the image of 6x6"),
        (networks.convex, {"channels": 0}, "channels=0: expected a whole number, 1 or more"),
        (networks.denoiser, {"layers": 0}, "layers=0: expected a whole number, 1 or more"),
    ],
)
def test_what_cannot_be_built_is_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(SHAPE, **options)


def test_training_keeps_a_network_nonexpansive():
    """Some large steps; the norms in `params` are those of the weights."""
    network = networks.denoiser(SHAPE, channels=2, layers=2)
    model = models.assemble(operators.OPERATORS["row_mask"](SHAPE), network)
    assert not model.tied and network.learned == ("network",)
    scalars = {"tau": 0.9, "gamma": 1.0, "noise": 0.1, "learning_rate": 0.1}
    params = network.init(jax.random.key(0)) | models.hyperparameters(activation="relu", **scalars)
    images = jnp.tile(jnp.linspace(-1, 1, PIXELS), (8, 1))
    trainer = learning.trainer(model, settings.SETTINGS["paper"], total_steps=8, batch_size=1)
    order, noise, _, _ = trainer.draw(jax.random.key(1), 0, images)
    state, metrics = trainer.steps(trainer.init(params), images, order[0], noise[0])
    fresh = network.refresh(state.params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), state.params, fresh)
    assert max(float(x) for x in state.params["spectral"].values()) > 1.2
    assert network.lipschitz(state.params) <= 1 + 1e-5
    assert metrics.loss[-1] < 0.5 * metrics.loss[0]


@pytest.fixture
def tiny(tmp_path: Path):
    """Options of the smallest budget, on patches of a picture."""
    (tmp_path / "pictures").mkdir()
    for name in "abcd":
        grey = np.random.default_rng(ord(name)).integers(0, 255, (24, 24), np.uint8)
        Image.fromarray(grey).save(tmp_path / "pictures" / f"{name}.png")
    return {
        "tasks": ("inpainting",),
        "epochs": 1,
        "train_size": 4,
        "test_size": 2,
        "batch_size": 2,
        "channels": 2,
        "layers": 2,
        "data": f"images:{tmp_path / 'pictures'}",
        "patch": 8,
        "out": tmp_path / "run",
    }


def test_the_experiment_compares_its_models_and_goes_on(tiny, capsys, monkeypatch):
    """Interrupted after the training of its only model, it measures what was stored."""
    config = experiment.Networks(models=("plug_and_play",), **tiny)

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(report, "evaluate", stop)
        experiment.main(config)
    trained = (tiny["out"] / "metrics.jsonl").read_text()
    numbers = experiment.main(config)
    assert (tiny["out"] / "metrics.jsonl").read_text() == trained and trained.count("\n") == 2
    assert experiment.main(config) == numbers
    assert list(numbers) == ["inpainting"] and list(numbers["inpainting"]) == ["plug_and_play"]
    out = tiny["out"]
    assert json.loads((out / "result.json").read_text()) == numbers
    for row in numbers["inpainting"].values():
        assert 0 < row["test_loss"] < 10 and row["seconds"] > 0
        assert row["lipschitz"] <= 1.0001 * row["lipschitz_bound"]
        assert row["lipschitz_bound"] == pytest.approx(1, abs=1e-5)
        assert row["residual"] < 1e-4
        assert row["stopped_test_loss"] == pytest.approx(row["test_loss"], rel=0.1)
        assert row["stopped_psnr_db"] == pytest.approx(row["psnr_db"], abs=0.5)
    said = capsys.readouterr().out
    assert "inpainting, plug_and_play, before training" in said
    assert "NO  full rank" in said and "not shown to hold: full rank, contraction" in said
    assert "| plug_and_play |" in (out / "summary.md").read_text()
    assert np.asarray(Image.open(out / "reconstructions-inpainting.png").convert("L")).std() > 10


def test_plug_and_play_is_taught_to_remove_noise_alone(tiny):
    images = experiment.load(experiment.Networks(**tiny))
    run = assembling.build(experiment.Networks(**tiny), "inpainting", "plug_and_play", images)
    f, u = jnp.asarray(images.test), jnp.ones_like(images.test)
    assert isinstance(run.taught.K, operators.Identity)
    D = f - run.model.N(f, run.params)
    np.testing.assert_allclose(run.taught.G(u, run.params, f), D, rtol=1e-6)
    step = u - 0.9 * run.model.K.adjoint(run.model.K.apply(u) - f)
    expected = step - run.model.N(step, run.params)
    np.testing.assert_allclose(run.model.G(u, run.params, f), expected, rtol=1e-5, atol=1e-6)
    assert run.taught_noise == 0.1 and run.model.R.learned == ("network",)


def test_deprox_is_the_map_of_the_paper_and_learned_through_its_fixed_point(tiny):
    """[REB] (10): D(u - tau lam K^T (K u - f))."""
    images = experiment.load(experiment.Networks(**tiny))
    run = assembling.build(experiment.Networks(**tiny), "inpainting", "deprox", images)
    f, u = jnp.asarray(images.test), jnp.ones_like(images.test)
    step = u - 0.9 * run.model.K.adjoint(run.model.K.apply(u) - f)
    expected = step - run.model.N(step, run.params)
    np.testing.assert_allclose(run.model.G(u, run.params, f), expected, rtol=1e-5, atol=1e-6)
    assert run.taught is run.model and not run.model.tied


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"models": ("degrad",), "normalise": False},
            r"degrad: N nonexpansive \(L <= 1, for all images\) is 1\..* of 1; .* train --anyway",
        ),
        (
            {"models": ("convex",), "tau": 1.1, "layers": 4},
            "convex: step size with N .* is 1.1 of 1; change",
        ),
        (
            {"models": ("bilevel",), "tau": 2.1} | UNUSED,
            "bilevel: step size .* is 2.1 of 2; change",
        ),
    ],
)
def test_what_breaks_a_condition_is_not_trained(tiny, options, message):
    with pytest.raises(SystemExit, match=message):
        experiment.main(experiment.Networks(**tiny | options))
    assert not tiny["out"].exists()


def test_unless_it_is_asked_for(tiny, capsys, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "learn", stop)
    options = {"models": ("degrad",), "normalise": False, "anyway": True}
    with pytest.raises(KeyboardInterrupt):
        experiment.main(experiment.Networks(**tiny | options))
    assert "NO  N nonexpansive " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ()}, "--models: expected one value or more"),
        ({"denoiser_noise": -1.0}, "--denoiser-noise -1.0: expected 0 or more"),
        ({"patch": 4}, "size=5: filters are larger than the image of 4x4"),
        ({"batch_size": 0}, "--batch-size 0: expected 1 or more"),
    ],
)
def test_bad_options_end_with_their_message(tiny, options, message):
    with pytest.raises(SystemExit, match=message):
        experiment.main(experiment.Networks(**tiny | {"models": ("degrad",)} | options))
