"""The benchmark at its smallest budget: what it says must be consistent."""

import importlib.util
import sys
import types

import pytest

from experiments import benchmark
from experiments.benchmark import imaging, peers

TINY = {"steps": 1, "warm_up": 1, "batch_size": 10, "train_size": 20}


def test_the_numbers_are_consistent_and_memory_is_flat(tmp_path) -> None:
    config = benchmark.Benchmark(
        settings=("paper",), models=("bilevel",), cases=("denoising",), out=tmp_path, **TINY
    )
    summary = benchmark.main(config)
    record = summary["cases"]["denoising"]["bilevel"]["paper"]
    evaluations = record["forward_evaluations"] + record["adjoint_evaluations"]
    assert 2 <= evaluations <= 100 and record["step_ms"] > 0
    assert record["floor_ms"] == pytest.approx(evaluations * record["floor_ms_per_evaluation"])
    assert record["fraction_of_floor"] == pytest.approx(record["floor_ms"] / record["step_ms"])
    assert set(summary["memory_bytes"]) == set(benchmark.CAPS)
    assert len(set(summary["memory_bytes"].values())) == 1, "implicit differentiation is flat"
    assert (tmp_path / "benchmark.json").exists()


def test_operators_and_presets_of_imaging_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imaging, "SLICE", (16, 12))
    summary = benchmark.main(benchmark.Benchmark(cases=(), imaging=("fourier", "sampling"), **TINY))
    assert (summary["cases"], summary["memory_bytes"]) == ({}, {})
    found = summary["imaging"]["fourier"]["K^T K u"]
    assert found["fraction_of_floor"] == pytest.approx(found["floor_ms"] / found["step_ms"])
    step = summary["imaging"]["sampling"]["points"]
    assert step["step_ms"] > 0 and step["forward_evaluations"] == 10


def test_a_peer_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "torch" in name else find_spec(name)
    )
    assert peers.missing("torchdeq") == "not installed; pip install 'deqbilevel[bench]'"
    assert peers.missing("jaxopt") is None


def test_a_peer_that_finds_no_gpu_where_there_is_one_is_said_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(peers.jax, "default_backend", lambda: "gpu")
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert peers.missing("torchdeq") == "torch finds no GPU; install a build of it with CUDA"


def test_plain_jaxopt_takes_the_same_problem() -> None:
    config = benchmark.Benchmark(**TINY)
    images = benchmark.data.load("sample", train_size=20, test_size=1)
    problem = benchmark.pose(config, images, "denoising", "bilevel")
    forward, _ = peers.plain_jaxopt(problem)(0)
    assert forward is not None and 2 <= forward <= 51


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "--steps 0: expected 1 or more"),
        ({"batch_size": 21, "train_size": 20}, "--batch-size 21: more than --train-size"),
        ({"peers": True, "settings": ("fast",)}, "compared with --settings paper"),
        ({"lanes": (1,), "peers": True}, "--lanes: measured by itself"),
        ({"lanes": (1,), "cases": ()}, "--lanes: of --cases, one or more"),
        ({"settings": ("accurate",), "precision": "tensorfloat32"}, "take precision highest"),
    ],
)
def test_bad_options_end_with_a_clear_error(options: dict, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        benchmark.main(benchmark.Benchmark(**(TINY | options)))


def test_lanes_are_measured_and_their_programs_counted(tmp_path) -> None:
    options = {"settings": ("fast",), "models": ("bilevel",), "cases": ("denoising",)}
    config = benchmark.Benchmark(**options, lanes=(2,), out=tmp_path, **TINY)
    (record,) = benchmark.main(config)["lanes"]
    assert record["width"] == 2 and 0 < record["useful_work"] <= 1
    spent = record["forward_evaluations"] + record["adjoint_evaluations"]
    made = 1e3 * record["step_ms"] / (2 * record["us_per_evaluation"])
    assert spent / made == pytest.approx(record["useful_work"])
    # Two products of each image, and XLA counts a little more for what is around them.
    products = 2 * 2 * 10 * 784**2 / 1e6
    assert products < record["mflop"] < 1.1 * products
    forward, adjoint = record["kernels"]
    listing = (tmp_path / "denoising-bilevel-fast-2.hlo.txt").read_text()
    assert 4 < min(forward, adjoint) and max(forward, adjoint) < listing.count(" = ")
