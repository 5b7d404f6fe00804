"""Learned filters as small files: those that ship with the package, and those of your own runs.

    learned = pretrained.load("natural")
    model = models.assemble(operators.Identity(), learned.regularizer(shape))
    u, info = model.reconstruct(solver, learned.params, f)

The regulariser is that of `regularizers.convolutional`, [CF] (Ex).
"""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from deqbilevel import checks
from deqbilevel.checks import Registry, known
from deqbilevel.convolutions import PAD
from deqbilevel.disk import archives, arrays
from deqbilevel.disk.arrays import Array
from deqbilevel.potentials import POTENTIALS
from deqbilevel.regularizers import Regularizer
from deqbilevel.regularizers.convolutional import BASES, bank_of, require
from deqbilevel.types import Params

SHIPPED = {
    "natural": "48 filters 7x7, log-sum potential, for noise of 25/255 on natural images in [0, 1]"
}
"""What `load` knows by name."""

MODELS = {
    "ridge": "64 filters 13x13, a convex cost, for noise of 25.5/255 on natural images in [0, 1]",
    "weakly-convex-ridge": "128 filters 13x13, R weakly convex and a convex cost, for 25/255",
    "spline-ridge": "64 filters 13x13, the same for every noise up to 30/255",
}
"""What ships beside, and `recipes.load` knows by name: whole models."""


def model_file(name: str) -> Path:
    """Where one of `SHIPPED` or `MODELS` is. Raises: ValueError for another name.

    >>> print(pretrained.model_file("ridge").name)
    ridge.npz
    """
    known("model", name, {**SHIPPED, **MODELS})
    with as_file(files(__name__) / f"{name}.npz") as path:
        return path


KINDS: Registry[Any] = Registry(
    "potential", {kind.__name__: kind for kind in (type(phi()) for phi in POTENTIALS.values())}
)
"""The potentials, by the names of their classes."""

_SCALARS = {name: Array(()) for name in ("beta_0", "lam", "gamma")}
_WEIGHTS = {"about": Array((), np.str_), "beta": Array(("filters",))} | _SCALARS

PLAIN = _WEIGHTS | {
    "filters": Array(("filters", "rows", "columns")),
    "mask": Array(("filters", "rows", "columns"), optional=True),
}
"""What a file of filters holds."""

COMBINED = _WEIGHTS | {
    "filters": Array(("filters", "elements")),
    "basis": Array(("elements", "rows", "columns")),
}
"""The same where filters are combinations of a basis."""


class Learned(NamedTuple):
    """A regulariser that was learned.

    >>> learned = pretrained.load("natural")
    >>> R = learned.regularizer((16, 16))
    >>> print(R.tied, R.init(jax.random.key(0)) is learned.params)
    True True
    """

    params: Params
    boundary: Any
    about: dict[str, Any]
    """How it was made and what it reached."""

    def regularizer(self, shape: tuple[int, int]) -> Regularizer:
        """The regulariser of images of a shape, which starts with `params`."""
        return bank_of(shape, self.boundary).regularizer(lambda key: self.params)


def load(name: str | Path = "natural") -> Learned:
    """Learned filters that ship with the package, or of a `filters.npz` of `experiments.filters`.

    Raises: ValueError for a name that is neither, and for a file that holds anything but filters,
    naming it and what is wrong there.

    >>> print(pretrained.load("natural").params["filters"].shape)
    (48, 48)
    """
    if not isinstance(name, str | Path):
        raise ValueError(f"{name!r}: expected a name or a path")
    if name in SHIPPED:
        return _read(model_file(str(name)))
    if name in MODELS:
        raise ValueError(f"{name}: a whole model, and no bank of filters; recipes.load has it")
    if not Path(name).is_file():
        raise ValueError(f"{name}: neither a file nor one of {', '.join(SHIPPED)}, which ship")
    return _read(Path(name))


def save(path: Path, learned: Learned) -> None:
    """Write learned filters, whole or not at all; `load` reads them. lam and gamma are 1 unless
    they are given.

    Raises: ValueError for parameters of another regulariser, and ones that are not finite.

    >>> import pathlib, tempfile
    >>> learned = pretrained.load("natural")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "filters.npz")
    ...     pretrained.save(path, learned)
    ...     print(bool(jnp.all(pretrained.load(path).params["beta"] == learned.params["beta"])))
    True
    """
    params = {"lam": 1.0, "gamma": 1.0} | require(learned.params)
    known("boundary", learned.boundary, PAD)
    phi = params["phi"]
    about = learned.about | {
        "potential": type(phi).__name__,
        "potential_parameters": {name: float(x) for name, x in vars(phi).items()},
        "boundary": learned.boundary,
    }
    schema = COMBINED if "basis" in params else PLAIN
    dtype = jnp.result_type(params["filters"])
    stored = {
        name: np.asarray(checks.finite(name, params[name]), dtype)
        for name in schema
        if name in params
    }
    archives.write_arrays(path, stored | {"about": np.array(json.dumps(about))})


def _read(path: Path) -> Learned:
    found = arrays.headers(path)
    params: dict[str, Any] = dict(arrays.read(path, COMBINED if "basis" in found else PLAIN))
    try:
        about = json.loads(str(params.pop("about")))
        phi = KINDS[about["potential"]](**about["potential_parameters"])
        boundary = known("boundary", about["boundary"], PAD)
        _agree(params, about.get("options") or {})
    except KeyError as error:
        raise ValueError(f"{path}: not filters that deqbilevel wrote (no {error})") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not filters that deqbilevel wrote ({error})") from error
    learned = {name: jnp.asarray(x) for name, x in params.items()}
    return Learned(learned | {"phi": phi}, boundary, about)


def _agree(params: Params, options: dict[str, Any]) -> None:
    """Raises ValueError where the arrays are not those of the options that they came by, which say
    so unless the filters started from another file's."""
    if options.get("start") is not None or "filters" not in options:
        return
    count, rows, columns = options["filters"]
    shape = (len(params["filters"]), *params.get("basis", params["filters"]).shape[1:])
    if shape != (count, rows, columns):
        raise ValueError(f"filters of shape {shape}; its options say {(count, rows, columns)}")
    if "basis" not in params or options.get("basis") is None:
        return
    basis = BASES[options["basis"]](rows, columns)
    stored = np.asarray(params["basis"], basis.dtype)
    if basis.shape != stored.shape or not np.allclose(
        stored / np.linalg.norm(stored), basis / np.linalg.norm(basis), atol=1e-5
    ):
        raise ValueError(f"a basis other than {options['basis']}, of which its options speak")
