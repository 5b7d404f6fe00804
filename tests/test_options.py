"""Options of every command: declared ranges, refusals before any work, --help and the exit."""

import importlib
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax
import pytest

from deqbilevel.commands import command, options

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Sample:
    """Options of every kind."""

    task: Literal["a", "b"] = "a"
    names: Annotated[tuple[str, ...], options.among(["x", "y"])] = ("x",)
    tau: Annotated[float, options.number(above=0, most=100)] = 0.9
    noises: Annotated[tuple[float, ...], options.noise] = (0.1,)
    count: Annotated[int | None, options.count, options.default("the task's")] = None
    seed: Annotated[int, options.seed] = 0
    widths: tuple[int, ...] = ()
    blur: Annotated[int, options.only("with --task b", lambda c: c.task == "b")] = 5
    out: Annotated[Path | None, options.output] = None
    start: Annotated[Path | None, options.folder("a run")] = None
    data: Annotated[str, options.data] = "sample"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tau": 1e39}, r"--tau 1e\+39: expected above 0, at most 100$"),
        ({"tau": float("nan")}, "--tau nan: expected above 0"),
        ({"tau": 0.0}, "--tau 0.0: expected above 0"),
        ({"tau": 1e-40}, "--tau 1e-40: zero in single precision"),
        ({"tau": "1"}, "--tau 1: expected a number"),
        ({"count": 0}, "--count 0: expected 1 or more"),
        ({"count": 2.5}, "--count 2.5: expected a whole number"),
        ({"count": 10**30}, "--count 10{30}: expected 1 or more, at most 1000000"),
        ({"seed": 2**32}, "--seed 4294967296: expected 0 or more, at most 4294967295"),
        ({"seed": True}, "--seed True: expected a whole number"),
        ({"noises": ()}, "--noises: expected one value or more"),
        ({"noises": (0.1, 0.1000000001)}, "--noises 0.1 0.1000000001: the same value twice"),
        ({"noises": (0.1, -1.0)}, "--noises -1.0: expected 0 or more"),
        ({"names": ("x", "z")}, "--names z: expected one of x, y"),
        ({"names": ("x", "x")}, "--names x x: the same value twice"),
        ({"task": "c"}, "--task c: expected one of a, b"),
        ({"blur": 7}, "--blur 7: has no effect here, only with --task b"),
        ({"start": Path("nowhere")}, "--start nowhere: not there; expected a folder: a run"),
        ({"out": Path(__file__)}, "--out .*: a folder is needed, this is a file"),
        ({"out": Path(__file__) / "x"}, "--out .* is a file; expected a folder that can be made"),
        ({"data": "images:nowhere"}, "--data images:nowhere: not there; expected a folder"),
        ({"data": "arrays:nowhere"}, "--data arrays:nowhere: not there; expected a file"),
        ({"data": "arrays:/"}, "--data arrays:/: is there, but not as such; expected a file"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_was_expected(given, message):
    with pytest.raises(ValueError, match=message):
        options.check(Sample(**given))


def test_what_is_well_is_let_through(tmp_path):
    options.check(Sample())
    given = {"task": "b", "blur": 7, "noises": (0.0, 0.1), "names": ("y", "x"), "count": 3}
    paths = {"out": tmp_path / "new" / "run", "start": tmp_path, "data": f"idx:{tmp_path}"}
    options.check(Sample(**given, **paths, seed=2**32 - 1, tau=1e-30))


def test_an_empty_text_is_no_value(capsys):
    for arguments in (["--out", ""], ["--out="], ["--data", ""]):
        with pytest.raises(SystemExit, match=r"error: --(out|data) '': empty"):
            command.parse(Sample, arguments)
    given = command.parse(Sample, ["--widths", "--tau", "2"])
    assert given == (Sample(tau=2.0), command.Shared(keep_programs=True, pdf=False))
    shared = command.Shared(keep_programs=False, pdf=True)
    assert command.parse(Sample, ["--no-keep-programs", "--pdf"]) == (Sample(), shared)


COMMANDS = {
    "algorithms": "Algorithms",
    "benchmark": "Benchmark",
    "compare": "Compare",
    "ct": "CT",
    "faces": "Faces",
    "faces_speed": "Speed",
    "filters": "Filters",
    "gradient_accuracy": "GradientAccuracy",
    "hypergradients": "Hypergradients",
    "learn": "Learn",
    "losses": "Losses",
    "mri": "Mri",
    "naive": "Naive",
    "neighbours": "Neighbours",
    "networks": "Networks",
    "poisson": "Poisson",
    "prepare_tfds": "Config",
    "ridge": "Ridge",
    "sampling": "Sampling",
    "search": "Search",
    "smooth_proximal": "SmoothProximal",
    "sparsifying": "Sparsifying",
    "throughput": "Throughput",
    "train": "Train",
    "variational": "Variational",
    "watch": "Watch",
}

REFUSED = [
    ("train", "--tau 1e6", "--tau 1000000.0: expected 1e-06 or more, at most 100"),
    ("train", "--learning-rate 1e38", "--learning-rate 1e+38: expected 1e-09 or more"),
    ("train", "--products 5 --hypergradient shine", "--products 5: has no effect here"),
    ("train", "--patch 9", "--patch 9: has no effect here, only with --data images:DIR"),
    ("train", "--hypergradient dense", "--hypergradient dense: solves for 784 unknowns"),
    ("train", "--hypergradient forward", "works through 615,440 parameters one by one"),
    ("train", "--batch-size 70 --train-size 60", "--batch-size 70: more than the 60 training"),
    ("train", "--data images:nowhere", "--data images:nowhere: not there; expected a folder"),
    ("compare", "--axis seed=99999999999999999999", "--axis seed=99999999999999999999: 999"),
    ("compare", "--axis window=1000000", "--axis window=1000000: 1000000: expected 1 or more"),
    ("compare", "--axis tau=0.1..1 --samples 100000000", "--samples 100000000: expected"),
    ("compare", "--axis tau=0.1..1 --samples 90000", "6,480,000 runs, of 3 tasks x"),
    ("compare", "--axis threshold=0.1,0.2", "--axis threshold with --activations identity relu"),
    ("compare", "--axis lam=1e39", "--axis lam=1e39: 1e+39: expected 0 or more"),
    ("compare", "--axis adam_b1=0.99999999", "expected 0 or more, at most 0.999999"),
    (
        "compare",
        "--setting fast --axis forward_tolerance=1e-3,1e-5",
        "forward_tolerance=1e-05 with precision tensorfloat32",
    ),
    ("compare", "--width 3 --lanes-at-once 2", "--width 3: expected a divisor of --lanes-at-once"),
    ("compare", "--process 1", "--process 1: has no effect here, only with --coordinator"),
    ("compare", "--coordinator a:1 --processes 2 --process 2", "--process 2: expected below"),
    ("filters", "vertical-bars --filters 2 1 1", "--filters 2 1 1: numbers and no filters"),
    ("filters", "vertical-bars --beta-0 1000", "--beta-0 1000.0: expected -30 or more"),
    ("filters", "vertical-bars --eps 1e-30", "--eps 1e-30: expected 1e-05 or more"),
    ("filters", "vertical-bars --image /nowhere.png", "--image /nowhere.png: has no effect here"),
    ("filters", "vertical-bars --patch 8", "--patch 8: has no effect here, only with natural or"),
    ("filters", "vertical-bars --batch 5", "--batch 5: more than the 1 training images"),
    ("filters", "vertical-bars --start natural --eps 0.5", "--eps 0.5: has no effect here"),
    (
        "filters",
        "vertical-bars --hypergradient unrolled --adjoint-iterations 5",
        "--adjoint-iterations 5: has no effect here",
    ),
    ("filters", "vertical-bars --start fields", "--start fields: neither a file nor one of"),
    ("filters", "vertical-bars --optimiser lbfgs --schedule cosine", "--schedule cosine: has no"),
    ("filters", "cameraman --image tests", "--image tests: is there, but not as such; expected a"),
    ("filters", "own --image tests --images 1000000 --patch 500", "--images 1000000 of --patch"),
    ("filters", "cameraman --hypergradient dense", "--hypergradient dense: solves for 2500"),
    ("faces", "--learning-rates", "--learning-rates: expected one value or more"),
    ("faces", "--starts random random", "--starts random random: the same value twice"),
    ("faces", "--kernels 2 3 --starts first_differences --seeds 2", "the lanes would be equal"),
    ("faces", "--kernels 2 1", "--kernels 2 1: numbers and no kernels"),
    ("faces", "--setting published --tolerance 1e-3", "--tolerance 0.001: has no effect here"),
    ("faces", "--blur 7", "--blur 7: has no effect here, only with --task deblurring"),
    ("faces", "--epochs 0 --learning-rates 1 2", "--learning-rates 1.0 2.0: has no effect here"),
    ("faces", "--kernels 10000 3", "--kernels 10000 3 on 10 pictures of 218x178 takes"),
    ("faces_speed", "--kernels-from nowhere", "--kernels-from nowhere: not there; expected a"),
    ("faces_speed", "--products 0 1", "--products 0 1: expected 1 or more"),
    ("learn", "--noise 200", "--noise 200.0: expected 0 or more, at most 100"),
    ("learn", "--apply nowhere", "--apply nowhere: not there; expected a folder: a run that"),
    ("learn", "--measured", "--measured True: has no effect here, only with --apply"),
    ("learn", "--regularizer affine --algorithm aid", "--algorithm aid with --model deq"),
    ("learn", "--lower newton", "solver 'newton': needs a map that puts its Jacobian together"),
    ("naive", "--iterates", "--iterates: expected one value or more"),
    ("naive", "--iterates 99999999999", "--iterates 99999999999: expected 1 or more"),
    ("naive", "--data photographs", "--data photographs: images of 38804 pixels make a dense A"),
    ("networks", "--tasks deblurring deblurring", "--tasks deblurring deblurring: the same"),
    ("networks", "--models bilevel --layers 3", "--layers 3: has no effect here, only with degr"),
    ("ct", "--angles 0", "--angles 0: expected 1 or more"),
    ("ct", "--methods filtered filtered", "--methods filtered filtered: the same value twice"),
    ("ct", "--filters 3 50 50", "filters of 50x50 pixels are larger than the image of 48x48"),
    ("poisson", "--tasks denoising --sigma 2", "--sigma 2.0: has no effect here, only with debl"),
    ("poisson", "--peaks 0", "--peaks 0.0: expected 0.1 or more"),
    ("networks", "--channels 1024 --layers 100", "--channels 1024 and --layers 100 on batches"),
    ("sampling", "--part 1.0", "--part 1.0: expected above 0, at most 0.95"),
    ("search", "--candidates 0", "--candidates 0: expected 1 or more"),
    ("search", "--parameters 3", "--parameters 3: has no effect here, only with --problem filt"),
    ("search", "--problem filters --methods bayesian", "bayesian: 24 parameters; expected at most"),
    ("hypergradients", "--budgets", "--budgets: expected one value or more"),
    (
        "hypergradients",
        "--problems dense-deq --methods conjugate_gradient",
        "--problems dense-deq --methods conjugate_gradient: nothing to measure",
    ),
    ("hypergradients", "--problems filters --features 3", "--features 3: has no effect here"),
    ("gradient_accuracy", "--most inf", "--most inf: expected 0.001 or more"),
    ("gradient_accuracy", "--beta nan", "--beta nan: expected -30 or more"),
    ("smooth_proximal", "--power 1", "--power 1.0: expected above 1, at most 2"),
    ("smooth_proximal", "--step 2", "--step 2.0 --weight 1.0: their product is 2"),
    ("algorithms", "--search 2000", "--search 2000: expected 1 or more, at most 31"),
    ("algorithms", "--search-part 50", "--search-part 50.0: expected above 0, at most 1"),
    ("algorithms", "--search 1 --search-part 0.5", "only with --search above 1"),
    ("algorithms", "--seeds 3 --methods aid bsa", "--seeds 3: aid would do the same for each"),
    ("algorithms", "--methods surrogate --optimiser adam", "--optimiser adam: surrogate move"),
    ("algorithms", "--image tests", "--image tests: is there, but not as such; expected a file"),
    ("benchmark", "--settings", "--settings: expected one value or more"),
    ("throughput", "--widths 46", "--widths 46: more than the 45 lanes"),
    ("throughput", "--tasks", "--tasks: expected one value or more"),
    ("watch", "tests --every nan", "--every nan: expected above 0"),
    ("watch", "nowhere", "folder nowhere: not there; expected a folder: the --out of a study"),
    ("prepare_tfds", "--idx nowhere --out x", "--idx nowhere: not there; expected a folder"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_a_command_refuses_what_cannot_be_before_any_work(name, arguments, message, tmp_path):
    module = importlib.import_module(f"experiments.{name}")
    given = arguments.split()
    if "--out" not in given and name != "watch":
        given += ["--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        module.main(command.parse(getattr(module, COMMANDS[name]), given)[0])
    assert str(end.value.code).startswith("error: ") and message in str(end.value.code)
    assert not (tmp_path / "run").exists() and "\n" not in str(end.value.code)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_is_there(name, capsys):
    kind = getattr(importlib.import_module(f"experiments.{name}"), COMMANDS[name])
    with pytest.raises(SystemExit) as end:
        command.parse(kind, ["--help"])
    text = capsys.readouterr().out
    assert end.value.code in (0, None)
    for mark in ("type:", "valid-type", "default: None", "noqa", "Annotated"):
        assert mark not in text, mark
    for option in options.of(kind):
        said = option.get(options.Default) or option.get(options.Only)
        assert option.default is not None or said, f"{option.flag}: what is its default?"


def test_every_command_checks_its_options():
    folder = ROOT / "experiments"
    files = {path.stem for path in folder.glob("*.py") if "__main__" in path.read_text()}
    folders = {path.parent.name for path in folder.glob("*/__main__.py")}
    assert files | folders == set(COMMANDS)


def started(code: str) -> subprocess.Popen:
    """A Python process with our packages."""
    command_line, pipe = [sys.executable, "-c", code], subprocess.PIPE
    return subprocess.Popen(command_line, cwd=ROOT, text=True, stdout=pipe, stderr=pipe)


WORKING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from deqbilevel.commands import interrupts
interrupts.end_at_once()
from tqdm import tqdm
bar = tqdm(total=3)
"""


@pytest.mark.parametrize(
    ("work", "sent"),
    [("import time; time.sleep(60)", signal.SIGINT), ("while True: pass", signal.SIGTERM)],
)
def test_a_signal_ends_at_once_with_one_line_and_its_status(work, sent):
    saved = "with interrupts.first(lambda: print('saved', flush=True)):\n    "
    process = started(WORKING + saved + "print('begun', flush=True)\n    " + work)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(sent)
    told, said = process.communicate(timeout=20)
    assert process.returncode == 128 + sent and told == "saved\n"
    assert said.splitlines()[-1].startswith("interrupted; ") and "Traceback" not in said


def test_a_command_is_interrupted_while_it_is_imported():
    code = "import sys, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "sys.argv = ['-m']; import experiments; print('begun', flush=True); import time; "
    process = started(code + "time.sleep(60)")
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and len(said.splitlines()) == 1


def test_a_reader_that_goes_away_leaves_no_traceback():
    code = "from dataclasses import make_dataclass\nfrom deqbilevel.commands import command\n"
    code += "def main(config):\n    print('x' * 10**6, flush=True)\n"
    with started(code + "command.run(make_dataclass('Nothing', [], frozen=True), main)") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (OSError(28, "No space left on device", "rows.jsonl"), "error: [Errno 28] No space left"),
        (ValueError("rows.jsonl, line 2:\n no record"), "error: rows.jsonl, line 2: no record"),
        (MemoryError(), "error: out of memory"),
    ],
)
def test_what_ends_a_command_is_one_line(raised, line, monkeypatch):
    def main(config):
        raise raised

    monkeypatch.setattr(command.interrupts, "end_at_once", lambda: None)
    monkeypatch.setattr(sys, "argv", ["sample"])
    with pytest.raises(SystemExit) as end:
        command.run(Sample, main)
    assert str(end.value.code).startswith(line) and "\n" not in str(end.value.code)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("benchmark", "Benchmark"),
        ("hypergradients", "Hypergradients"),
        ("throughput", "Throughput"),
    ],
)
def test_what_measures_compiled_programs_says_so_where_nothing_is_compiled(module, kind):
    found = importlib.import_module(f"experiments.{module}")
    with jax.disable_jit(), pytest.raises(SystemExit, match=r"JAX_DISABLE_JIT is set.*unset it"):
        found.main(getattr(found, kind)())
