"""README: short, with set-up commands that .ci/run finds, and a table that the registries make."""

import re
import tomllib
from pathlib import Path

import yaml

import deqbilevel
from deqbilevel import losses, operators, regularizers

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NOTEBOOKS = (
    *("quick_tour", "own_problem", "first_steps", "learn_filters", "mri", "without_truth"),
    *("hypergradients", "neighbours", "algorithms", "explore_study", "faces"),
)
"""In the order that a reader takes them."""


def section(heading: str) -> str:
    """What stands below a heading of the second level."""
    return README.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_it_is_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) <= 150


def test_two_commands_set_up_and_ci_takes_the_one_that_tests() -> None:
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    study = "python3 -m venv .venv && .venv/bin/python -m pip install '.[experiments]' && "
    assert lines[0] == study + ".venv/bin/python -m experiments.compare"
    pattern = re.search(r"s/\^\\\((.*?)\\\)\$/", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    tested = [line for line in README.splitlines() if re.fullmatch(pattern[1], line)]
    assert len(tested) == 1 and "'.[test]'" in tested[0]


def test_extras_that_are_named_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"`\[(\w+)\]`", README))
    assert named and named <= set(project["optional-dependencies"])


def test_the_table_of_what_can_be_learned_is_that_of_the_registries() -> None:
    rows = [
        line.strip("|").split("|")
        for line in section("What can be learned").splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    columns = [[name for cell in column for name in re.findall(r"`(\w+)`", cell)]
               for column in zip(*rows, strict=True)]  # fmt: skip
    registries = (operators.OPERATORS, regularizers.REGULARIZERS, losses.LOSSES)
    for column, registry in zip(columns, registries, strict=True):
        assert sorted(column) == sorted(registry)


def test_notebooks_are_named_in_the_order_that_a_reader_takes_them() -> None:
    assert tuple(re.findall(r"\[(\w+)\]", section("Read on"))[: len(NOTEBOOKS)]) == NOTEBOOKS
    there = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert there <= set(NOTEBOOKS)


def test_the_picture_is_light() -> None:
    assert (ROOT / ".github" / "figures" / "denoised.png").stat().st_size < 300_000


def test_it_is_cited_as_it_is() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == deqbilevel.__version__
    assert f"version = {{{deqbilevel.__version__}}}" in README
    assert f"title = {{{citation['title']}}}" in README
    for work in citation["references"]:
        assert work["title"] in README
