"""Studies: grids, chunks of like lanes, and results that do not depend on how they were run."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import kill_study
import numpy as np
import pytest
import xarray as xr
from test_training import TEST, TRAIN

from deqbilevel import lanes, learning, models, results, studies
from deqbilevel.disk import archives
from deqbilevel.learning import epochs
from deqbilevel.settings import SETTINGS, Budget
from deqbilevel.studies import grids, keeping, plans, running
from deqbilevel.studies import states as states_module
from deqbilevel.studies.states import States
from deqbilevel.studies.storage import Progress, Storage
from deqbilevel.studies.study import Study
from experiments.compare import processes

ROOT = Path(__file__).parents[1]
MODEL = models.build("denoising", "deq", (8, 8))
AXES: dict[str, list[Any]] = {
    "task": ["denoising"],
    "model": ["deq"],
    "noise": [0.1],
    "tau": [0.9, 0.5, 1e30],
    "gamma": [0.5, 1.0],
    "activation": ["identity"],
    "seed": [0, 1],
}


@contextlib.contextmanager
def without_optimizations(value: bool) -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", value)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module", autouse=True)
def optimised() -> Iterator[None]:
    """Without optimisations XLA rounds a loop over one lane and one over several differently."""
    with without_optimizations(False):
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """Equal trainers are one trainer, whose programs all tests share."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(learning, "trainer", cache(learning.trainer))
        yield


def study_in(
    folder: Path, over: lanes.Lanes, axes: dict[str, list[Any]] = AXES, **options: Any
) -> tuple[Study, Storage]:
    study = Study(SETTINGS["fast"], 2, 10, 1e-3, 0, over, 2, **options)
    pictures = dict.fromkeys(results.PICTURES, (2, 64))
    store = Storage(folder, axes, study.epochs, learning.RECORDS, pictures)
    folder.mkdir(exist_ok=True)
    if not store.results.exists():
        store.create(xr.Dataset())
    return study, store


def run(study: Study, store: Storage, limit: int | None = None) -> Progress:
    """Run a study, or the first `limit` of its chunk-epochs."""
    grid = grids.grid(store.axes)
    progress, problems = store.recover(grid)
    assert not problems
    count = 0

    def on_chunk(chunk: Any, record: Any) -> None:
        nonlocal count
        count += 1
        if count == limit:
            raise KeyboardInterrupt

    try:
        running.run_group(MODEL, grid, study, TRAIN, TEST, store, progress, on_chunk=on_chunk)
    except KeyboardInterrupt:
        pass
    return progress


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """The whole study on one device, one lane at a time."""
    folder = tmp_path_factory.mktemp("alone") / "study"
    one = jax.sharding.Mesh(jax.devices()[:1], ("lane",))
    run(*study_in(folder, lanes.Lanes(one, 1, 1)))
    return results.read(folder).load()


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    for name in set(expected.variables) - set(learning.EXECUTION):
        np.testing.assert_array_equal(found[name].values, expected[name].values, err_msg=str(name))


@pytest.mark.parametrize("limit", [1, 4])
def test_two_devices_and_an_interruption_change_no_bit(
    alone: xr.Dataset, tmp_path: Path, limit: int
) -> None:
    study, store = study_in(tmp_path / "s", lanes.lanes(each=2, width=1), keep="best")
    assert study.lanes.count == 4
    run(study, store, limit)
    progress = run(study, store)
    assert set(progress.done.values()) == {2}
    assert_same(results.read(store.folder).load(), alone)
    assert not list((store.folder / "states").glob("*"))
    keeping.prune(study, grids.grid(AXES), store, progress)
    assert len(list((store.folder / "parameters").iterdir())) == 1


def test_a_vmapped_lane_is_the_same_whatever_trains_beside_it(tmp_path: Path) -> None:
    """Bit for bit, beside a lane that diverges at once too."""
    over = lanes.lanes(each=2)
    several = study_in(tmp_path / "several", over)
    run(*several)
    few = AXES | {"tau": [0.5], "gamma": [1.0]}
    run(*study_in(tmp_path / "few", over, few))
    one, all_of_them = results.read(tmp_path / "few").load(), results.read(tmp_path / "several")
    same = all_of_them.sel(tau=[0.5], gamma=[1.0]).load()
    for name in set(learning.RECORDS) - set(learning.EXECUTION):
        np.testing.assert_array_equal(one[name], same[name], err_msg=name)
    lost = all_of_them.sel(tau=1e30)
    assert bool(lost.diverged.isel(epoch=-1).all())
    assert bool(np.isfinite(lost.test_loss).all())


def test_a_run_ends_when_its_time_is_used_and_goes_on_with_more(
    alone: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every epoch counts as an hour: with one the runs end after epoch 1, kept and drawn; with
    more the same study ends as one without a limit, bit for bit."""
    epoch = learning.epoch

    def slow(*args: Any, **options: Any) -> learning.Epoch:
        done = epoch(*args, **options)
        hour = 3600.0 * done.record["epoch"]
        return done._replace(record=done.record | {"seconds": hour, "evaluation_seconds": 0.0})

    monkeypatch.setattr(learning, "epoch", slow)
    study, store = study_in(tmp_path / "s", lanes.lanes(each=2, width=1), keep="best")
    hour = study._replace(hours=1.0 / study.lanes.count)
    progress = run(hour, store)
    assert set(progress.done.values()) == {1}
    dataset = results.read(store.folder)
    limited = dataset.assign_attrs(hours=hour.hours)
    assert not bool(results.finished(dataset).any()) and bool(results.finished(limited).all())
    least = results.best(limited)["best_test_loss"].item()
    assert least == dataset.test_loss.sel(epoch=1).where(~dataset.diverged[..., 1]).min().item()
    assert bool(results.best(limited)["best_reconstruction"].notnull().all())
    assert list((store.folder / "parameters").iterdir())
    assert len(list((store.folder / "states").iterdir())) == len(grids.grid(AXES))
    progress = run(study._replace(hours=3.0), store)
    assert set(progress.done.values()) == {2}
    assert_same(results.read(store.folder).load(), alone)


def test_lanes_wait_for_lanes_like_them(tmp_path: Path) -> None:
    _, store = study_in(tmp_path / "s", lanes.lanes())
    grid = grids.grid(AXES)
    needed = np.random.default_rng(0).permutation(len(grid)).astype(float)
    keys = [store.key(lane) for lane in grid]
    records = {k: {0: {"needed_evaluations": n}} for k, n in zip(keys, needed, strict=True)}
    progress = Progress(dict.fromkeys(keys, 0) | {keys[3]: 1}, records)
    cut = list(running.chunks(grid, progress, store, 5, epoch=1))
    assert [len(chunk) for chunk in cut] == [5, 5, 1]
    order = [records[store.key(lane)][0]["needed_evaluations"] for chunk in cut for lane in chunk]
    assert order == sorted(order, reverse=True) and needed[3] not in order


def test_work_counts_what_the_slowest_lane_of_each_vmap_makes() -> None:
    spent = np.array([[10.0, 1.0], [4.0, 3.0], [2.0, 2.0], [2.0, 5.0]])
    one = jax.sharding.Mesh(jax.devices()[:1], ("lane",))
    work = epochs._work(spent, lanes.Lanes(one, 4, 2))
    assert work["needed_evaluations"].tolist() == [11, 7, 4, 7]
    assert work["made_evaluations"].tolist() == [13, 13, 7, 7]
    assert epochs._work(spent, lanes.Lanes(one, 4, 1))["made_evaluations"].tolist() == [
        11,
        7,
        4,
        7,
    ]


def test_stored_parameters_give_the_stored_reconstructions(tmp_path: Path) -> None:
    study, store = study_in(tmp_path / "s", lanes.lanes(each=2, width=1), keep="all")
    run(study, store)
    params = studies.parameters(store.folder, tau=0.5, seed=1)
    f = models.measure(MODEL.K, TEST[:2], params["noise"], study.keys({})[2])
    u, _ = MODEL.reconstruct(study.setting.evaluation(), params, f)
    dataset = results.read(store.folder).sel(tau=0.5, seed=1).squeeze()
    best = dataset.isel(gamma=int(np.argmin(dataset.test_loss.isel(epoch=-1).values)))
    assert float(params["gamma"]) == float(best.gamma)
    np.testing.assert_allclose(u, best.reconstruction, atol=1e-4)
    with pytest.raises(ValueError, match="no parameters were kept"):
        studies.parameters(store.folder, tau=0.7)
    with pytest.raises(ValueError, match=r"where task='painting'; expected one of denoising"):
        studies.parameters(store.folder, task="painting")
    with pytest.raises(ValueError, match="axis 'taskk': expected one of task, model"):
        studies.parameters(tmp_path / "nowhere", taskk="x")
    for path in (store.folder / "parameters").iterdir():
        np.savez(path, A=np.ones((2, 64), np.float32), b=np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"parameters.*npz: no C; expected A, b, C"):
        studies.parameters(store.folder)
    with pytest.raises(ValueError, match="axis 'colour'"):
        studies.parameters(store.folder, colour=1)


def test_a_full_disk_names_the_run_and_costs_it_alone(
    alone: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve runs are at epoch 1 when the study is interrupted, and what they go on from is
    written."""
    study, store = study_in(tmp_path / "s", lanes.lanes(each=2, width=1))
    write, calls = archives.write_state, 0

    def full(path: Path, epoch: int, leaves: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise OSError(28, "No space left on device")
        write(path, epoch, leaves)

    with monkeypatch.context() as patched:
        patched.setattr(archives, "write_state", full)
        with pytest.raises(ValueError, match=r"epoch 1 of denoising-deq.*No space left.*make room"):
            run(study, store, 6)
    progress, _ = store.recover(grids.grid(AXES))
    assert sorted(progress.done.values()) == [0] + 11 * [1]
    assert all(set(records) == {0, 1} for records in progress.records.values())
    run(study, store)
    assert_same(results.read(store.folder).load(), alone)


def test_what_runs_go_on_from_is_saved_while_others_train(
    alone: xr.Dataset, tmp_path: Path
) -> None:
    """A flush in the middle, as of a signal, leaves every run that has trained on disk."""
    study, store = study_in(tmp_path / "s", lanes.lanes(each=2, width=1))
    grid = grids.grid(AXES)
    states, seen = States(every=0.0), []

    def on_chunk(chunk: Any, record: Any) -> None:
        states.flush()
        seen.append(len(list((store.folder / "states").glob("*.npz"))))

    progress, _ = store.recover(grid)
    options = {"states": states, "on_chunk": on_chunk}
    running.run_group(MODEL, grid, study, TRAIN, TEST, store, progress, **options)
    assert seen == [0, 0, 0, 4, 8, 12, 8, 4, 0]
    assert_same(results.read(store.folder).load(), alone)
    each = 4 * 3 * (2 * 64 * 64 + 64)
    assert 12 * each < states.written < 12.1 * each


def test_states_that_do_not_fit_are_on_disk_after_every_chunk(
    alone: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_module, "free_memory", lambda: 1000)
    study, store = study_in(tmp_path / "s", lanes.lanes(each=2, width=1))
    run(study, store, 5)
    assert len(list((store.folder / "states").glob("*.npz"))) == 8
    run(study, store)
    assert_same(results.read(store.folder).load(), alone)


def test_a_plan_counts_what_is_left(alone: xr.Dataset, tmp_path: Path) -> None:
    """Lanes and chunks exactly, memory as its parts say, the evaluations of these easy solves
    within a half."""
    study, store = study_in(tmp_path / "s", lanes.lanes(each=2, width=1), AXES | {"tau": [0.5]})
    grid = grids.grid(store.axes)

    def planned(study: Study) -> plans.Plan:
        return plans.plan(MODEL, grid, study, TRAIN, TEST, store, store.recover(grid)[0])

    before = planned(study)
    assert (before.lanes, before.chunks) == (4, 3) and before.seconds > 0
    taken = float(alone.sel(tau=[0.5]).needed_evaluations.sum())
    assert taken / 1.5 < before.evaluations < 1.5 * taken
    cap = study.setting._replace(budget=Budget(10**6, 10**6), limit=Budget(10**6, 10**6))
    assert planned(study._replace(setting=cap)).memory == before.memory
    run(study, store, 2)
    left = planned(study)
    assert left.chunks == 1 and left.evaluations < before.evaluations
    run(study, store)
    assert planned(study) == plans.Plan(0, 0, 0.0, 0, 0.0)
    assert plans.total([before, left]).chunks == 4


@pytest.fixture
def quickly(optimised: None) -> Iterator[None]:
    """Compiled without optimisations again, where nothing runs."""
    with without_optimizations(True):
        yield


def test_memory_is_linear_in_lanes(quickly: None, tmp_path: Path) -> None:
    """Three times the lanes under one vmap: three times what one lane adds."""
    memory = []
    for each in (2, 4, 6):
        study, store = study_in(tmp_path / str(each), lanes.lanes(each), AXES)
        grid = grids.grid(store.axes)
        progress = store.recover(grid)[0]
        memory.append(plans.plan(MODEL, grid, study, TRAIN, TEST, store, progress).memory)
    assert memory[2] - memory[1] == pytest.approx(memory[1] - memory[0], rel=0.2)
    state = 3 * 4 * (2 * 64 * 64 + 64)
    assert memory[1] - memory[0] > 2 * state


def test_lanes_that_fit_fill_the_memory_that_there_is(quickly: None, tmp_path: Path) -> None:
    study, _ = study_in(tmp_path / "s", lanes.lanes(), AXES)
    lane = grids.grid(AXES)[0]

    def planned(each: int) -> int:
        several = study._replace(lanes=lanes.lanes(each))
        store = study_in(tmp_path / str(each), several.lanes, AXES)[1]
        grid = grids.grid(AXES)
        return plans.plan(MODEL, grid, several, TRAIN, TEST, store, store.recover(grid)[0]).memory

    fits = partial(plans.lanes_that_fit, MODEL, lane, study, TRAIN)
    for each in (1, 4):
        # At 8x8 pixels what is common to all lanes is as large as a lane.
        assert abs(fits(planned(each) + 1) - each) <= 1
    assert fits(10**9) == 45 and fits(10**9, most=7) == 7
    with pytest.raises(ValueError, match=r"denoising/deq needs 0 MB, and 0 MB are free: take"):
        fits(1000)
    assert plans.free_memory() > 10**7


def test_lanes_are_checked() -> None:
    with pytest.raises(ValueError, match="multiple of the width"):
        lanes.lanes(each=3, width=2)
    for each in (0, -1):
        with pytest.raises(ValueError, match=r"each=.*: expected a whole number, 1 or more"):
            lanes.lanes(each)


TINY = (
    "--tasks denoising --models bilevel --taus 0.1 --gammas 1 --noises 0.1 --train-size 40 "
    "--test-size 20 --batch-size 10 --epochs 2 --keep-parameters all --saving 0.005"
)


COMMAND = [sys.executable, "-m", "experiments.compare", *TINY.split()]
QUICKLY = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
ENVIRONMENT = os.environ | QUICKLY


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the study that one process makes on one device, undisturbed."""
    out = tmp_path_factory.mktemp("quiet") / "study"
    command = [*COMMAND, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_a_study_that_is_killed_again_and_again_ends_in_the_same_bits(
    quiet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in QUICKLY.items():
        monkeypatch.setenv(name, value)
    config = kill_study.Kill(tmp_path, kills=2, options=TINY, longest=3.0)
    killed, kills = kill_study.disturbed(config)
    assert kills == 2
    assert kill_study.compare(quiet, killed) == 3


def two_processes(out: Path) -> list[subprocess.Popen]:
    """Of two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [*COMMAND, "--cpu-devices", "2", "--out", str(out), "--processes", "2"]
    command += ["--coordinator", f"localhost:{port}", "--process"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([*command, str(i)], cwd=ROOT, env=ENVIRONMENT, **piped) for i in range(2)
    ]


def test_two_processes_land_in_one_place_and_go_on_when_one_has_died(
    quiet: Path, tmp_path: Path
) -> None:
    first, second = two_processes(tmp_path)
    while not (tmp_path / "metrics.jsonl").exists() and first.poll() is None:
        time.sleep(0.1)
    second.kill()
    died = time.monotonic()
    _, said = first.communicate(timeout=90)
    second.communicate()
    assert first.returncode != 0 and time.monotonic() - died < 60
    assert "another task died" in said or "Connection closed by peer" in said
    started = two_processes(tmp_path)
    outputs = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert '"runs": 3' in outputs[0][0] and '"runs": 3' not in outputs[1][0]
    assert kill_study.compare(quiet, tmp_path) == 3


def test_a_coordinator_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"127\.0\.0\.1:{port}: nobody listens there"):
            processes.wait_for("127.0.0.1", port)
        taken.listen()
        processes.wait_for("127.0.0.1", port)
