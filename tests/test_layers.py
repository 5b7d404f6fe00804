"""The import contract: imports inside deqbilevel only run downwards."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "deqbilevel"
LAYERS = [
    ["types", "checks", "disk"],
    ["lanes", "precision", "pictures"],
    [
        "operators",
        "rules",
        "convolutions",
        "potentials",
        "solvers",
        "results",
        "fidelities",
    ],
    ["linearised", "adjoints", "simulation", "losses"],
    ["maps", "regularizers", "layers", "hypergradients", "data", "plots", "langevin"],
    ["jacobians", "variational", "single_level"],
    ["settings", "models", "pretrained"],
    ["learning", "algorithms", "conditions", "baselines"],
    ["contraction", "studies", "courses", "recipes", "unrolled", "upper", "search"],
    ["crossover"],
    ["commands"],
    ["__main__"],
]
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
INSIDE = {
    "disk": ["files", "arrays", "archives", "stores", "checkpoints"],
    "convolutions": ["banks", "stencils", "channels", "chains"],
    "learning": [
        *(
            "knowing",
            "evaluation",
            "base",
            "rates",
            "gradients",
            "starting",
            "stepping",
            "searching",
            "training",
        ),
        "epochs",
    ],
    "models": ["matrices", "base", "assembling", "dense", "stopping", "direct"],
    "conditions": ["constants", "report"],
    "plots": [
        *("style", "base", "greys", "runs", "kernels", "filters", "hypergradients", "algorithms"),
        *("naive", "masks", "search", "neighbours", "paper_pictures", "paper"),
    ],
    "commands": [
        *("common", "interrupts", "programs", "schema", "options", "listing", "folders"),
        *("records", "drawing", "running", "sizes", "algorithm_options", "algorithm_choice"),
        *("command", "adapting", "reconstruct", "learn", "ways", "console"),
    ],
    "commands.learn": ["parts", "searching", "asked", "report"],
    "search": [
        *("base", "sampled", "evolution", "bayesian", "trust_region", "evaluating"),
        *("running", "posing"),
    ],
    "unrolled": [
        *("base", "gradient", "shrinking", "networks", "primal_dual", "analysis", "flows"),
        *("reversal", "greedy"),
    ],
    "single_level": [
        *("base", "constraints", "analysis", "transform", "convolutional", "ksvd", "experts"),
        *("contrastive", "random_fields", "filters"),
    ],
    "variational": [
        *("cosines", "base", "variations", "transforms", "problems", "saddle", "dual", "active"),
        *("rounded", "newton", "proximal", "splitting", "duality", "synthesising"),
        *("plug_and_play", "denoisers"),
    ],
    "studies": [
        *("logs", "cubes", "storage", "states", "grids", "study", "keeping", "running", "plans"),
    ],
}
"""The modules of a package whose imports run downwards among themselves, from the bottom up."""
SHARED = {
    "algorithms": ["oracles"],
    "losses": ["scores"],
    "operators": ["blurs", "given", "patterns"],
    "potentials": ["profiles"],
    "solvers": ["mixing"],
    "regularizers": ["bases", "weighted", "ridge", "predicted"],
}
"""What the modules of a package may import of it beside its `base` and `checked`."""
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
IMPLICIT = f"{PACKAGE}.hypergradients.implicit"


def imports(module, source, *, is_package=False):
    """The full names that a module imports, relative ones resolved, wherever they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            parts = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*parts, node.module] if node.module else parts)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(module, source, *, is_package=False):
    """The imports of a module of ours that the contract forbids."""
    own = module.split(".")[1:]
    for name in imports(module, source, is_package=is_package):
        top, *target = name.split(".")
        if top in ("experiments", "notebooks", "tests"):
            yield f"{module} imports {name}, which is above the library"
        if top != PACKAGE or not own or not target:
            continue
        if target[0] not in HEIGHT or own[0] not in HEIGHT:
            yield f"{module} imports {name}: give both a layer in {Path(__file__).name}"
        elif target[0] == own[0]:
            if not is_package and not inside(own, target):
                yield f"{module} imports {name}, sideways inside its package"
        elif HEIGHT[target[0]] >= HEIGHT[own[0]]:
            yield f"{module} imports {name}, which is not below it"


def inside(own, target):
    """Whether a module of a package may import what stands in the same package."""
    order = INSIDE.get(".".join(own[:2]))
    if order and target[:2] == own[:2]:
        return target[2:3] and order.index(target[2]) < order.index(own[2])
    order = INSIDE.get(own[0])
    if order is None:
        return target[1:2] and target[1] in ["base", "checked", *SHARED.get(own[0], [])]
    return target[1:2] and order.index(target[1]) < order.index(own[1])


def is_package(path):
    return path.name == "__init__.py"


@pytest.mark.parametrize("module", SOURCES)
def test_imports_only_run_downwards(module):
    path = SOURCES[module]
    assert not list(violations(module, path.read_text(), is_package=is_package(path)))
    assert module == PACKAGE or module.split(".")[1] in HEIGHT, "give the module a layer"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("types", "from deqbilevel import operators"),
        ("solvers.picard", "from deqbilevel.maps import gradient_step"),
        ("solvers.picard", "import deqbilevel.maps"),
        ("solvers.picard", "from deqbilevel.solvers.krylov import conjugate_gradient"),
        ("solvers.picard", "from .krylov import conjugate_gradient"),
        ("solvers.picard", "from ..maps import gradient_step"),
        ("maps", "from deqbilevel.settings import SETTINGS"),
        ("models", "def f():\n    from deqbilevel.learning import run"),
        ("models", "from deqbilevel.unheard_of import thing"),
        ("unheard_of", "from deqbilevel.types import Info"),
        ("models", "from experiments import train"),
        ("studies.storage", "from deqbilevel.studies import grids"),
        ("studies.grids", "from deqbilevel.studies.grids import Range"),
        ("studies.grids", "from deqbilevel import studies"),
        ("evaluation", "from deqbilevel.studies.storage import Lane"),
    ],
)
def test_a_violation_is_caught(module, source):
    assert len(list(violations(f"{PACKAGE}.{module}", source))) == 1


@pytest.mark.parametrize(
    ("module", "source", "package"),
    [
        ("models", "from deqbilevel import maps, operators\nimport jax\nimport numpy as np", False),
        ("solvers.picard", "from deqbilevel.solvers.base import iterate", False),
        ("solvers.picard", "from .base import iterate\nfrom ..types import Info", False),
        ("solvers", "from deqbilevel.solvers.picard import picard", True),
        ("solvers", "from .picard import picard", True),
        ("studies.grids", "from deqbilevel.studies.storage import Lane", False),
    ],
)
def test_the_contract_allows(module, source, package):
    assert not list(violations(f"{PACKAGE}.{module}", source, is_package=package))


def calls_of_print(source):
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name) and node.id == "print"
    ]


@pytest.mark.parametrize("module", [m for m in SOURCES if "commands" not in m.split(".")])
def test_the_library_does_not_print(module):
    assert not calls_of_print(SOURCES[module].read_text())


def test_a_print_is_caught():
    assert calls_of_print("def f():\n    print('x')") and not calls_of_print("pprint('print(')")


def test_one_module_uses_jaxopt():
    users = [
        module
        for module, path in SOURCES.items()
        if any(
            name.split(".")[0] == "jaxopt"
            for name in imports(module, path.read_text(), is_package=is_package(path))
        )
    ]
    assert users == [IMPLICIT]
