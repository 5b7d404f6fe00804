"""Filters for counts: Anscombe's transform, and the experiment that compares likelihoods."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import float64
from PIL import Image

from deqbilevel import fidelities, recipes
from experiments import poisson as experiment
from experiments.poisson import assembling, report
from experiments.poisson.assembling import Run


@float64
def test_stabilised_counts_have_one_variance_and_come_back_without_bias():
    peak = 10.0
    mean = jnp.linspace(0.4, 1.0, 2)[:, None] * jnp.ones((2, 10_000))
    D = assembling.stabilised(peak)
    f = D.measure(mean, 0.0, jax.random.key(0))
    np.testing.assert_allclose(f.std(1), 1 / (4 * peak + 1.5) ** 0.5, rtol=0.05)
    found = assembling.unbiased_inverse(f.mean(1), peak)
    # Four standard errors of a mean; the square of f, its inverse for one count, is off by 1/4.
    assert (np.abs(found - mean[:, 0]) < 4 * (mean[:, 0] / peak / 10_000) ** 0.5).all()
    key = jax.random.key(1)
    fields: Any = dict.fromkeys(Run._fields) | {"peak": peak, "method": "anscombe"}
    run = Run(**fields)
    counts = fidelities.poisson(peak=peak).measure(mean, 0.0, key)
    np.testing.assert_allclose(run.counts(D.measure(mean, 0.0, key)), counts, atol=1e-12)
    plain = f.mean(1) ** 2 * (1 + 0.375 / peak) - 0.375 / peak
    assert (mean[:, 0] - plain > 0.2 / peak).all()


def test_the_experiment_learns_and_goes_on(tmp_path: Path):
    """At its smallest."""
    blocks = np.random.default_rng(0).random((12, 2, 2))
    grey = np.kron(blocks, np.ones((7, 7)))
    np.savez(tmp_path / "x.npz", train=grey[:8], test=grey[8:], range=np.array([0.0, 1.0]))
    out = tmp_path / "run"
    config = experiment.Poisson(
        tasks=("denoising",),
        peaks=(5.0,),
        methods=("poisson",),
        filters=(8, 3, 3),
        beta_0=(1.0, 2.0, 3.0),
        epochs=1,
        train_size=8,
        test_size=4,
        batch_size=4,
        data=f"arrays:{tmp_path / 'x.npz'}",
        out=out,
    )
    numbers = experiment.main(config)
    assert experiment.main(config) == numbers == json.loads((out / "result.json").read_text())
    rows = numbers["denoising"]["5"]
    assert rows["poisson"]["psnr_db"] > rows["poisson"]["psnr_db_counts"]
    assert rows["poisson"]["ssim"] > rows["poisson"]["ssim_counts"]
    assert rows["poisson"]["residual"] < 1e-4
    learned = recipes.load(out, "denoising-5-poisson")
    assert learned.model().nonnegative and learned.recipe.fidelity_options == {"peak": 5.0}
    drawn = Image.open(out / "reconstructions-denoising-5.png").convert("L")
    assert np.asarray(drawn).std() > 10


def test_of_several_runs_mean_and_spread_are_shown():
    rows = [dict.fromkeys(report.ROW, float(x)) | {"diverged": x == 2} for x in range(3)]
    found = report.together(rows)
    assert (found["psnr_db"], found["spread"]["psnr_db"], found["seconds"]) == (1.0, 1.0, 0.0)
    assert found["diverged"] and found["each"]["ssim"] == [0.0, 1.0, 2.0]
    assert report.cell(found, "psnr_db") == "1.00 ± 1.00"
    assert report.together(rows[1:2]) == rows[1] and report.cell(rows[1], "ssim") == "1.000"
    fields: Any = dict.fromkeys(Run._fields) | {"task": "a", "peak": 5.0, "method": "b"}
    labels = [Run(**fields | {"repeat": i}).label for i in (0, 2)]
    assert labels == ["a-5-b", "a-5-b-2"]


def test_a_blur_of_stabilised_counts_is_refused(tmp_path: Path):
    options = {"tasks": ("deblurring",), "methods": ("anscombe",), "out": tmp_path / "run"}
    with pytest.raises(SystemExit, match="--methods anscombe: is for denoising"):
        experiment.main(experiment.Poisson(**options, train_size=2, test_size=1, batch_size=2))
