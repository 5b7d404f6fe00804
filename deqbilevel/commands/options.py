"""Options of commands: what each may be is declared beside its field, and checked in one place.

    @dataclass(frozen=True)
    class Train:
        tau: Annotated[float, options.number(above=0, most=100)] = 0.9
        epochs: Annotated[int | None, options.whole(0), options.default("the preset's")] = None
        blur: Annotated[int, options.only("with --task deblurring", deblurring)] = 5

`check(config)` raises a ValueError that names the option, its value and what was expected;
`deqbilevel.commands.command` shows the same declarations in --help.
"""

import dataclasses
import os
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from deqbilevel.data import place as place_of

MANY = 1_000_000
"""The largest count of anything that a command does one after the other."""


class Numbers(NamedTuple):
    """What a number may be; integers if `whole`, else what is finite and normal in float32."""

    low: float | int
    high: float | int
    open: bool = False
    """Whether the lower bound itself is excluded."""
    whole: bool = False

    @property
    def said(self) -> str:
        return f"{self.least}, at most {_plain(self.high)}"

    @property
    def least(self) -> str:
        return f"above {_plain(self.low)}" if self.open else f"{_plain(self.low)} or more"

    def refused(self, value: Any) -> str | None:
        """Why not this value."""
        kind = Integral if self.whole else Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"expected a {'whole ' * self.whole}number, {self.said}"
        x: Any = value
        inside = self.low < x if self.open else self.low <= x
        if not (inside and x <= self.high):  # nor is NaN
            return f"expected {self.said}"
        if not self.whole and x and abs(x) < np.finfo(np.float32).tiny:
            return f"zero in single precision; expected {self.said}"
        return None


class Among(NamedTuple):
    """One of these names."""

    names: tuple[str, ...]


class Default(NamedTuple):
    """What stands for None, in words."""

    words: str


class Only(NamedTuple):
    """Where the option has an effect."""

    words: str
    where: Callable[[Any], bool]


class Place(NamedTuple):
    """A path, or that in the name of data: what has to be there."""

    kind: Literal["folder", "file", "output", "data"]
    words: str = ""


class MayBeEmpty(NamedTuple):
    """A list that may have no values."""


def number(
    least: float | int = -1e6, most: float | int = 1e6, *, above: float | int | None = None
) -> Numbers:
    """A number from `least`, or above `above`, to `most`."""
    return Numbers(least if above is None else above, most, above is not None)


def whole(least: int = 0, most: int = MANY) -> Numbers:
    """An integer."""
    return Numbers(least, most, whole=True)


def among(names: Iterable[str]) -> Among:
    """One of these names."""
    return Among(tuple(names))


def only(words: str, where: Callable[[Any], bool]) -> Only:
    """For an option that has an effect only where `where(config)` holds, which `words` say."""
    return Only(words, where)


default = Default
count = whole(1)
seed = whole(0, 2**32 - 1)
"""JAX takes 32 bits of a seed."""
size = whole(1, 10**9)
"""Of a set of images."""
tau = number(1e-6, 100)
weight = number(0, 1e6)
"""lam or gamma."""
noise = number(0, 100)
"""Standard deviation, of images in [0, 1] or [-1, 1]."""
rate = number(1e-9, 100)
"""Adam's."""
tolerance = number(above=0, most=1)
side = whole(1, 10_000)
"""Height or width."""
may_be_empty = MayBeEmpty()
output = Place("output")
data = Place("data")
folder = partial(Place, "folder")
file = partial(Place, "file")
"""One that exists; called with words that say of what."""
runs = Default("a folder below runs/, named by the options")


def pictures(config: Any) -> bool:
    """Whether --data are pictures of one's own."""
    return config.data.startswith("images:")


patches = Only("with --data images:DIR", pictures)
Middle = Annotated[tuple[int, int] | None, side, Default("all of each picture")]
"""Height and width to take of each picture."""
Precision = Annotated[Literal["highest", "tensorfloat32"] | None, Default("the setting's")]
"""Of the products of a setting."""

NO_PRODUCTS = (
    *("unrolled", "checkpointed", "forward", "finite_differences", "shine", "dense"),
    "jacobian_free",
)
"""Ways to a hypergradient whose products are as many as the lower level's, or given otherwise."""

products = Only(
    f"without {', '.join(NO_PRODUCTS)} for --hypergradient",
    lambda config: config.hypergradient not in NO_PRODUCTS,
)


class Option(NamedTuple):
    """A field of a command's dataclass."""

    name: str
    hint: Any
    """Without our declarations, but with those of others."""
    declared: tuple[Any, ...]
    default: Any

    @property
    def flag(self) -> str:
        positional = tyro.conf.Positional in getattr(self.hint, "__metadata__", ())
        return self.name if positional else f"--{self.words}"

    @property
    def words(self) -> str:
        """The name on a command line; the option of a part, `part__option`, as part.option."""
        return self.name.replace("__", ".").replace("_", "-")

    def get(self, kind: type) -> Any:
        """The declaration of that kind, if there is one."""
        return next((x for x in self.declared if isinstance(x, kind)), None)


OWN = (Numbers, Among, Default, Only, Place, MayBeEmpty)


def of(kind: type) -> Iterator[Option]:
    """The options that a dataclass declares."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, declared = hints[field.name], ()
        if typing.get_origin(hint) is Annotated:
            hint, *extra = typing.get_args(hint)
            declared = tuple(x for x in extra if isinstance(x, OWN))
            for x in extra:
                hint = hint if isinstance(x, OWN) else Annotated[hint, x]
        yield Option(field.name, hint, declared, field.default)


def check(config: Any) -> None:
    """Raises ValueError for the first option whose value is none that it may have, or that has no
    effect beside the others."""
    options = list(of(type(config)))
    for option in options:
        value = getattr(config, option.name)
        if value is not None:
            _check_value(option, value)
    for option in options:
        value, needs = getattr(config, option.name), option.get(Only)
        if needs and value != option.default and not needs.where(config):
            raise ValueError(
                f"{option.flag} {shown(value)}: has no effect here, only {needs.words}; leave it "
                "out"
            )


def _check_value(option: Option, value: Any) -> None:
    several = isinstance(value, tuple | list)
    values = value if several else (value,)
    if several and not values and option.get(MayBeEmpty) is None and option.default != ():
        raise ValueError(f"{option.flag}: expected one value or more, or leave it out")
    each = Ellipsis in _leaves(option.hint)
    for one in values:
        why = refused(option, one)
        if why is not None:
            raise ValueError(f"{option.flag} {shown(one if each else value)}: {why}")
    if several and each:
        once(option.flag, values)


def refused(option: Option, value: Any) -> str | None:
    """Why an option cannot have this value; of a list, this entry."""
    numbers, place = option.get(Numbers), option.get(Place)
    names = option.get(Among).names if option.get(Among) else choices(option.hint)
    if names and value not in names:
        return f"expected one of {', '.join(map(str, names))}"
    if numbers:
        return numbers.refused(value)
    return _absent(place, value) if place else None


def once(flag: str, values: Iterable[Any]) -> None:
    """Raises ValueError for a value that comes twice, in the single precision of numbers."""
    values = list(values)
    rounded = [float(np.float32(x)) if isinstance(x, float) else x for x in values]
    for i, value in enumerate(rounded):
        if value in rounded[:i]:
            first = values[rounded.index(value)]
            raise ValueError(
                f"{flag} {shown(first)} {shown(values[i])}: the same value twice; give each once"
            )


def here(flag: str, path: Path, kind: Literal["folder", "file"]) -> None:
    """Raises ValueError for a folder or a file that is not there."""
    why = _absent(Place(kind), path)
    if why is not None:
        raise ValueError(f"{flag} {path}: {why}")


def _absent(place: Place, value: Any) -> str | None:
    """What is not there, or in the way."""
    if place.kind == "data":
        read = place_of(str(value))
        return read and _absent(Place("file" if value.startswith("arrays:") else "folder"), read)
    path, of_what = Path(value), f": {place.words}" if place.words else ""
    if place.kind == "output":
        if path.exists() and not path.is_dir():
            return "a folder is needed, this is a file"
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        if not there.is_dir():
            return f"{there} is a file; expected a folder that can be made"
        return None if os.access(there, os.W_OK) else f"{there}: no permission to write there"
    good = path.is_dir() if place.kind == "folder" else path.is_file()
    what = "is there, but not as such" if path.exists() else "not there"
    return None if good else f"{what}; expected a {place.kind}{of_what}"


def choices(hint: Any) -> tuple[Any, ...]:
    """The values of the Literal in a type."""
    return tuple(x for x in _leaves(hint) if not isinstance(x, type) and x not in (Ellipsis, None))


def _leaves(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is Annotated:
        return _leaves(typing.get_args(hint)[0])
    return [leaf for part in typing.get_args(hint) for leaf in _leaves(part)] or [hint]


def shown(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, tuple | list):
        return " ".join(map(shown, value))
    return repr(str(value)) if str(value) == "" else str(value)


def _plain(bound: float | int) -> str:
    return str(int(bound)) if bound == int(bound) and abs(bound) < 1e16 else f"{bound:g}"
