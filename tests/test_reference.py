"""The API reference: built without a warning, every public name explained, every example true."""

import ast
import doctest
import html
import importlib
import inspect
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pdoc
import pytest
from pdoc.docstrings import convert
from pdoc.render_helpers import to_html

import deqbilevel

ROOT = Path(deqbilevel.__file__).parent
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.parent != ROOT or path.stem not in ("__init__", "__main__")
} | {"": ROOT / "__init__.py"}
"""The files of all modules, by their names below the package, which is "" itself."""

FORMAT = "restructuredtext"
"""That of docstrings for pdoc, unless it is told another."""

NO_EXAMPLE = {
    "checks": "what the library asks of what it is given",
    "rules": "the same, declared beside the arguments",
    "commands": "what is run in a shell; `--help` says how",
    "disk": "files of the library's own",
    "types": "protocols and records that functions take and return",
    "variational.bm3d": "of a library that need not be there",
    "regularizers.convolutional.require": "what its functions ask of params",
    "plots": "a figure is its own example: tests/test_plots.py draws every one",
    **{
        f"regularizers.networks.{name}": "a part of which `networks.NETWORKS` are made"
        for name in ("transfer", "operator_norm", "Convolution", "Convolutions", "Potential")
    },
    **{
        f"learning.{name}": "what its functions return"
        for name in ("Epoch", "Metrics", "Search", "State", "Trainer")
    },
    **{f"algorithms.{name}": "what a step returns" for name in ("Guarded", "Info")},
    **{f"algorithms.steps.{name}": "the state of a step" for name in ("Adaptive", "Secant")},
    **{
        f"algorithms.cleaning.{name}": "of which `digits` and `pose` make their results"
        for name in ("Cleaning", "Corpus", "Digits", "Split")
    },
    **{f"conditions.{name}": "what is returned" for name in ("Condition", "Constants", "Report")},
    "contraction.Finding": "what `report` returns",
    "courses.Lanes": "what `lanes` returns",
    **{
        f"search.{name}": "what is asked, told and returned"
        for name in ("Evaluated", "Outcome", "Request", "Residuals", "Search")
    },
    **{
        f"variational.{name}": "what a solver returns"
        for name in ("Certificate", "Pattern", "Saddle")
    },
    "regularizers.predicted.Network": "what `predicted.network` makes",
    "regularizers.ridge.Ridge": "what `ridge.functions` returns",
    "langevin.Samples": "what `sample` returns",
    "search.best": "of the records of `run`: in the example of the package",
    "data.prepare": "needs tensorflow-datasets and takes half a minute",
}
"""Modules and names of which no example is asked, and why."""


@cache
def module_of(name):
    return importlib.import_module(f"deqbilevel.{name}".removesuffix("."))


@cache
def preamble():
    """What every example begins with, as the docstring of the package says."""
    top = {name: module_of(name) for name in PATHS if name and "." not in name}
    return {"jax": jax, "jnp": jnp, "np": np, "optax": optax} | top


def paged(name):
    """Whether a module is one for people: packages with `__all__` show their names themselves."""
    above, _, last = name.rpartition(".")
    return not above or (paged(above) and last in getattr(module_of(above), "__all__", [last]))


def tree_of(module):
    return ast.parse(Path(module.__file__).read_text())


def defined(module):
    """The public functions and classes that a module defines itself, by name."""
    nodes = tree_of(module).body
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [node.name for node in nodes if isinstance(node, kinds)]
    return {name: getattr(module, name) for name in names if not name.startswith("_")}


def unexplained(module):
    """The public constants of a module without a docstring; one may be of several in a row."""
    body, waiting, missing = tree_of(module).body, [], []
    for node in [*body, None]:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            kinds = (TypeVar, ParamSpec)
            waiting += [
                name
                for name in names
                if not name.startswith("_") and not isinstance(getattr(module, name), kinds)
            ]
            continue
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        missing += [] if text else waiting
        waiting = []
    return missing


def surface(name, module):
    """The functions and classes of ours by which people call a module, by their full names.

    They are what its `__all__` lists, wherever that is defined, and of a module that it lists all
    that this defines; without `__all__` what it defines. What a package with `__all__` does not
    list is its own affair.
    """
    if hasattr(module_of(name.rpartition(".")[0]), "__all__"):
        return {}
    if not hasattr(module, "__all__"):
        return {f"{name}.{entry}": value for entry, value in defined(module).items()}
    found = {}
    for entry in module.__all__:
        value = getattr(module, entry)
        if inspect.ismodule(value):
            found |= {f"{name}.{entry}.{inner}": x for inner, x in defined(value).items()}
        elif hasattr(value, "__qualname__") and value.__module__.startswith("deqbilevel."):
            found[f"{name}.{entry}"] = value
    return found


def asked(full, value):
    """Whether an example is asked of a name: not of errors and protocols, and what is exempt."""
    parts = full.split(".")
    exempt = any(".".join(parts[:n]) in NO_EXAMPLE for n in range(1, len(parts) + 1))
    protocol = getattr(value, "_is_protocol", False)
    error = inspect.isclass(value) and issubclass(value, Exception)
    return not (exempt or protocol or error)


def shown(full, value):
    """Whether a name has an example: in its docstring or, of files that are full and of what goes
    together, in another one of its module or package, which calls it or names it in full."""
    if ">>> " in (value.__doc__ or ""):
        return True
    package, _, name = full.rpartition(".")
    named = rf"^\s*(>>>|\.\.\.) .*\b({package}\.{name}\b|{name}\()"
    above = {package, value.__module__.removeprefix("deqbilevel.")} & set(PATHS)
    texts = [text for module in above for _, text in docstrings(module)]
    return any(re.search(named, text, re.MULTILINE) for text in texts)


def docstrings(name):
    """Every docstring of a module, private ones too, by name."""
    tree = ast.parse(PATHS[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", ""), text


@pytest.fixture(scope="module", autouse=True)
def printed():
    """Arrays and products as the docstring of the package says."""
    with np.printoptions(precision=4, suppress=True), jax.default_matmul_precision("highest"):
        yield


def test_the_reference_is_built(tmp_path):
    pdoc.render.configure(math=True, show_source=False)
    pdoc.pdoc("deqbilevel", output_directory=tmp_path)
    pages = {str(path.relative_to(tmp_path / "deqbilevel")) for path in tmp_path.rglob("*/*.html")}
    assert pages == {f"{name.replace('.', '/')}.html" for name in PATHS if name and paged(name)}
    assert "MathJax" in (tmp_path / "deqbilevel.html").read_text()


@pytest.mark.parametrize("name", PATHS)
def test_every_public_name_is_explained(name):
    module = module_of(name)
    assert module.__doc__
    assert not [entry for entry, value in defined(module).items() if not value.__doc__]
    shown = set(getattr(module, "__all__", unexplained(module)))
    command = name.partition(".")[0] == "commands"
    assert command or not paged(name) or not shown & set(unexplained(module))


@pytest.mark.parametrize("name", PATHS)
def test_what_people_call_has_an_example(name):
    found = surface(name, module_of(name)).items()
    assert not [full for full, value in found if asked(full, value) and not shown(full, value)]


@pytest.mark.parametrize("name", PATHS)
def test_every_example_is_true(name):
    runner, said = doctest.DocTestRunner(verbose=False), []
    for entry, text in docstrings(name):
        begin = dict(preamble())
        test = doctest.DocTestParser().get_doctest(text, begin, f"{name}.{entry}", None, 0)
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_a_false_example_is_caught():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "sum", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda said: None).failed == 1


@pytest.mark.parametrize("name", PATHS)
def test_nothing_of_a_docstring_is_lost_on_its_page(name):
    """Markdown takes `<x, y>` for a tag and `[a](b)` for a link: code has to be marked as such."""
    for entry, text in docstrings(name):
        page = html.unescape(re.sub(r"<[^<>]*>", "", to_html(convert(text, FORMAT, None))))
        listed = re.sub(r"^- ", "", text, flags=re.MULTILINE)  # a list's marks are drawn
        counts = [Counter(re.sub(r"[\s`]", "", x)) for x in (listed, page)]
        assert counts[0] == counts[1], f"{entry}: {counts[0] - counts[1]}"
