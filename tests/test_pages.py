"""Pages: their Python runs and prints what it says, their commands parse, what they name exists."""

import doctest
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import yaml
from test_layers import LAYERS
from test_options import COMMANDS

import deqbilevel
from deqbilevel import (
    algorithms,
    fidelities,
    hypergradients,
    losses,
    operators,
    regularizers,
    solvers,
)
from deqbilevel.commands import command, learn, options, reconstruct
from experiments import compare

ROOT = Path(__file__).parents[1]
PAGES = {
    name: (ROOT / name).read_text()
    for name in ("README.md", "experiments/README.md", "deqbilevel/README.md")
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROSE = {name: FENCE.sub("", text) for name, text in PAGES.items()}
SPANS = [(name, span) for name in PROSE for span in re.findall(r"`([^`\n]+)`", PROSE[name])]
HEADINGS = re.compile(r"^#+ (.+)$", re.MULTILINE)
REGISTRIES = (
    *(operators.OPERATORS, fidelities.FIDELITIES, regularizers.REGULARIZERS, losses.LOSSES),
    *(solvers.SOLVERS, hypergradients.METHODS, algorithms.METHODS),
)
KINDS = {
    name: getattr(importlib.import_module(f"experiments.{name}"), kind)
    for name, kind in COMMANDS.items()
}


# ---- Python


def blocks() -> Iterator[tuple[str, str, str]]:
    """The Python blocks of the pages: page, heading above, code."""
    for page, text in PAGES.items():
        for found in FENCE.finditer(text):
            if found[1] == "python":
                yield page, HEADINGS.findall(text[: found.start()])[-1], found[2]


BLOCKS = {(page, heading): code for page, heading, code in blocks()}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator:
    """The lines that a block prints; what it adds to registries is taken out again."""
    before = [dict(registry) for registry in REGISTRIES]

    def run(page: str, heading: str) -> list[str]:
        exec(compile(BLOCKS[page, heading], f"{page}, {heading}", "exec"), {"__name__": "block"})
        return capsys.readouterr().out.splitlines()

    yield run
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)


ADDED = [key for key in BLOCKS if key[0] == "deqbilevel/README.md" and key[1].startswith("A")]
OWN = ("deqbilevel/README.md", "In fifteen lines")
NETWORK = ("deqbilevel/README.md", "A network of your own in a DEQ")
BLUR = ("deqbilevel/README.md", "Filters for a blur of your own")
STUDY = ("experiments/README.md", "compare")
ALGORITHM = ("experiments/README.md", "algorithms")
EXAMPLE = ("README.md", "Example")
ADDED = [key for key in ADDED if key != NETWORK]


def test_every_block_is_run_by_a_test_below() -> None:
    assert len(BLOCKS) == len(list(blocks())), "two blocks below one heading"
    assert set(BLOCKS) == {*ADDED, OWN, NETWORK, BLUR, STUDY, ALGORITHM, EXAMPLE}
    assert len(ADDED) == 7


@pytest.mark.parametrize("key", ADDED, ids=lambda key: key[1])
def test_what_is_added_prints_what_is_said_beside_it(key: tuple[str, str], said) -> None:
    sizes = [len(registry) for registry in REGISTRIES]
    assert said(*key) == re.findall(r"^print\(.*\)  # (.+)$", BLOCKS[key], re.MULTILINE)
    assert sum(map(len, REGISTRIES)) == sum(sizes) + 1


def test_the_example_prints_what_is_said_below_it(said) -> None:
    [shown] = [found[2] for found in FENCE.finditer(PAGES["README.md"]) if found[1] == "text"]
    printed = [line.split() for line in said(*EXAMPLE)]
    assert [words[0] for words in printed] == ["bilevel", "deq"]
    for words, wanted in zip(printed, map(str.split, shown.splitlines()), strict=True):
        assert [float(x) for x in words[1:]] == pytest.approx(
            [float(x) for x in wanted[1:]], abs=0.011
        )
    assert len([line for line in BLOCKS[EXAMPLE].splitlines() if line]) <= 15


def test_a_problem_of_ones_own_is_learned(said) -> None:
    losses = [float(line.split()[-1]) for line in said(*OWN)]
    assert len(losses) == 3 and losses[-1] < 0.8 * losses[0]
    lines = [line for line in BLOCKS[OWN].splitlines() if line and "import" not in line]
    assert len(lines) <= 15


def test_a_network_has_the_gradient_of_both_ways_and_learns(said) -> None:
    lines = [line.split() for line in said(*NETWORK)]
    assert [words[0] for words in lines[:2]] == ["gmres", "unrolled"]
    assert [words[1:] for words in lines[:2]] == [["0.0080", "True"]] * 2
    losses = [float(words[1]) for words in lines[2:]]
    assert losses[0] == 0.031 and losses[-1] < 0.027


def test_filters_for_a_blur_are_better_than_the_measurement(said) -> None:
    (_, measured), *epochs = [line.split() for line in said(*BLUR)]
    assert float(epochs[-1][1]) < min(float(epochs[0][1]), 0.6 * float(measured))


def test_an_algorithm_arrives(said) -> None:
    assert float(said(*ALGORITHM)[0].split()[-1]) < 1e-3


def test_a_study_is_read(said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader has made it with the command above; here with a smaller one."""
    small = {"train_size": 20, "test_size": 10, "batch_size": 10, "epochs": 1}
    monkeypatch.chdir(tmp_path)
    compare.main(
        compare.Compare(
            tasks=("inpainting",), noises=(0.1,), activations=("relu",), figures=False, **small
        )
    )
    assert "(model: 2, activation: 1)" in "\n".join(said(*STUDY))


def test_the_front_page_of_the_reference_runs() -> None:
    text = deqbilevel.__doc__ or ""
    named = set(re.findall(r"\b(\w+)\.", text)) & PARTS
    names: dict[str, Any] = {x: importlib.import_module(f"deqbilevel.{x}") for x in named}
    names |= {"jax": jax, "jnp": jnp}
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    found = doctest.DocTestParser().get_doctest(text, names, "deqbilevel", None, 0)
    assert runner.run(found, out=said.append).attempted > 10
    assert not runner.failures, "".join(said)
    listed = set(re.findall(r"`(\w+)`", text[text.index("The layers") :]))
    hidden = {"checks", "rules", "linearised", "adjoints", "jacobians", "__main__"}
    assert listed == {part for layer in LAYERS for part in layer} - hidden


# ---- commands


def commands() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The command lines of the pages: page, command, arguments."""
    lines = [
        (page, part)
        for page, text in PAGES.items()
        for found in FENCE.finditer(text)
        if found[1] == "bash"
        for line in found[2].splitlines()
        for part in line.split(" && ")
    ]
    for page, line in [*lines, *SPANS]:
        words = shlex.split(line) if "'" in line or " " in line else [line]
        words[0] = words[0].removeprefix(".venv/bin/")
        ours = [i for i, word in enumerate(words) if word.startswith("experiments.")]
        if ours and words[ours[0] - 1] == "-m" and words[ours[0]] != "experiments.NAME":
            yield page, words[ours[0]].removeprefix("experiments."), tuple(words[ours[0] + 1 :])
        elif words[0] == "deqbilevel" and len(words) > 2:
            yield page, words[1], tuple(words[2:])
        elif words[0] in COMMANDS and len(words) > 1 and words[1].startswith("--"):
            yield page, words[0], tuple(words[1:])


def kind_of(name: str, arguments: tuple[str, ...]) -> type:
    """The options of a command."""
    if name == "learn":
        return learn.kind(arguments)
    return reconstruct.kind(arguments) if name == "reconstruct" else KINDS[name]


@pytest.mark.parametrize(("page", "name", "arguments"), sorted(set(commands())))
def test_a_command_parses(page: str, name: str, arguments: tuple[str, ...]) -> None:
    given = ["anderson" if word == "NAME" else word for word in arguments]
    command.parse(kind_of(name, arguments), given)


def test_every_command_stands_on_the_page_of_experiments() -> None:
    found = {name for page, name, _ in commands() if page == "experiments/README.md"}
    assert found >= set(COMMANDS) - {"prepare_tfds"} | {"reconstruct"}
    for name in COMMANDS:
        assert f"`{name}`" in PAGES["experiments/README.md"]


def test_every_option_that_is_named_is_one() -> None:
    known = {option.flag for kind in KINDS.values() for option in options.of(kind)}
    known |= {option.flag for option in options.of(reconstruct.Reconstruct)}
    known |= {"--help", "--no-keep-programs", "--keep-programs"}
    for page, span in SPANS:
        if span.startswith("--"):
            named = re.findall(r"--[a-z][a-z0-9-]*(?![\w.])", span)
            assert named and set(named) <= known, (page, span)


# ---- links and names


def anchors(page: str) -> set[str]:
    """The anchors of the headings of a page."""
    plain = [heading.replace("`", "").lower() for heading in HEADINGS.findall(PROSE[page])]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def links() -> Iterator[tuple[str, str]]:
    """The links of the pages: page, target."""
    for page, text in PROSE.items():
        plain = re.sub(r"`[^`\n]+`", "", text)
        for target in re.findall(r"\]\(([^)]+)\)", plain):
            yield page, target
        for target in re.findall(r"^\[[^\]]+\]: (\S+)$", plain, re.MULTILINE):
            yield page, target


@pytest.mark.parametrize(("page", "target"), sorted(set(links())))
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    if target.startswith("https://"):
        return
    path, _, anchor = target.partition("#")
    place = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    assert place.exists() and place.is_relative_to(ROOT)
    if anchor:
        assert anchor in anchors(str(place.relative_to(ROOT)))


def test_every_reference_is_defined_and_used() -> None:
    plain = re.sub(r"`[^`\n]+`", "", PROSE["README.md"])
    defined = re.findall(r"^\[([^\]]+)\]: ", plain, re.MULTILINE)
    body = re.sub(r"^\[[^\]]+\]: .*$", "", plain, flags=re.MULTILINE)
    paired = re.findall(r"\]\[([^\]]+)\]", body)
    alone = re.findall(r"(?<!\])\[([^\[\]]+)\](?![\[(])", body)
    alone = [name for name in alone if re.fullmatch(r"[\w. ]+", name)]
    assert {*paired, *alone} - {"REB", "CF"} == set(defined)


def test_every_picture_has_a_text() -> None:
    for page, text in PROSE.items():
        for alternative, _ in re.findall(r"!\[([^\]]*)\](\(|\[)", text):
            assert len(alternative) > 20, (page, alternative)


@pytest.mark.parametrize("page", PAGES)
def test_tables_stand_alone_and_their_rows_are_of_one_length(page: str) -> None:
    lines = PROSE[page].splitlines()
    for line, after in itertools.pairwise(lines):
        if line.startswith("|"):
            assert not after or after.startswith("|"), (line, after)
            assert not after or after.count("|") == line.count("|"), (line, after)


FILES = (".png", ".md", ".txt", ".npz", ".zarr", ".jsonl", ".py", ".yml", ".ipynb", ".tif")
PARTS = {part for layer in LAYERS for part in layer} | {"deqbilevel", "experiments"}


PLACES = ("", "deqbilevel", "notebooks")
"""Where files stand that are named without more."""


def resolved(name: str) -> bool:
    """Whether a dotted name is a module of ours, or something in one."""
    words = name.split(".")
    words = words if words[0] in ("deqbilevel", "experiments") else ["deqbilevel", *words]
    for i in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:i]))
        except ModuleNotFoundError:
            continue
        for word in words[i:]:
            if not hasattr(found, word):
                return False
            found = getattr(found, word)
        return True
    return False


def test_every_name_that_is_ours_exists() -> None:
    names = {
        name
        for _, span in SPANS
        for name in re.findall(r"^((?:\w+\.)+\w+)", span)
        if name.partition(".")[0] in PARTS and not span.endswith(FILES)
    }
    assert len(names) > 40
    assert not [name for name in sorted(names) if not resolved(name)]


def test_every_file_of_ours_exists() -> None:
    paths = [span for _, span in SPANS if re.fullmatch(r"[\w./]+\.(py|yml|md|ipynb)", span)]
    made = {"summary.md"}
    assert len(paths) > 15
    assert {x for x in paths if not any((ROOT / y / x).exists() for y in PLACES)} <= made


def test_the_layers_are_all_there() -> None:
    text = PAGES["deqbilevel/README.md"]
    table = text[text.index("## Layers") : text.index("Contracts:")]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert set(named) == {part for layer in LAYERS for part in layer} - {"__main__"}


@pytest.mark.parametrize("page", PAGES)
def test_no_page_cites_what_does_not_ship(page: str) -> None:
    assert not re.search(
        r"DESIGN|BILEVEL\.md|RIDGE\.md|STYLE\.md|shared/data|issue \d", PAGES[page]
    )


# ---- workflows


def workflow(name: str) -> dict:
    """A workflow; YAML 1.1 reads its `on` as true."""
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def steps(name: str, job: str) -> str:
    """The commands of a job, a line each."""
    return "\n".join(step["run"] for step in workflow(name)["jobs"][job]["steps"] if "run" in step)


def test_the_tests_run_on_every_version_that_is_supported() -> None:
    job = workflow("tests.yml")["jobs"]["tests"]
    metadata = (ROOT / "pyproject.toml").read_text()
    versions = re.findall(r"Programming Language :: Python :: (3\.\d+)", metadata)
    assert job["strategy"]["matrix"]["python"] == versions == ["3.11", "3.12", "3.13"]
    for tool in ("pip install -e '.[test]'", "ruff check", "ruff format --check", "pyright"):
        assert tool in steps("tests.yml", "tests")
    assert "pytest" in steps("tests.yml", "tests")


def test_the_reference_is_published() -> None:
    assert "pdoc --math -o reference deqbilevel" in steps("docs.yml", "docs")
    assert "python -m pdoc --math -o DIR deqbilevel" in PAGES["README.md"]
    assert workflow("docs.yml")["permissions"]["pages"] == "write"
    used = [step.get("uses", "") for step in workflow("docs.yml")["jobs"]["docs"]["steps"]]
    assert any(name.startswith("actions/deploy-pages") for name in used)
