"""The entry point of every command: options in, one line of numbers out, one line for an error.

if __name__ == "__main__":
    command.run(Train, main)
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import jax
import tyro

from deqbilevel import precision
from deqbilevel.commands import common, drawing, interrupts, options, programs

HUGE = 1000
"""A bound that nobody meets by accident, and that --help need not show."""


class Shared(NamedTuple):
    """The options that every command has; no number depends on them."""

    keep_programs: bool = True
    pdf: bool = False


HELP = {
    "keep_programs": "Keep what was compiled in your cache folder, where the next call finds it.",
    "pdf": "Draw each figure as PDF too, for a paper: without the caption below it.",
}
"""Of these."""


def run(kind: type, main: Callable[[Any], dict[str, Any] | None]) -> None:
    """Parse the command line, run the command, and print its headline numbers last.

    Bad input and what the system refuses (a full disk, no memory) end with one line on standard
    error and status 1, with the traceback under `python -X dev`; Ctrl-C with one line and status
    130; a reader of our output that went away silently, as other programs do.
    """
    interrupts.end_at_once()
    try:
        config, shared = parse(kind)
        programs.keep(shared.keep_programs)
        drawing.PDF.set(shared.pdf)
        numbers = main(config)
        if numbers is not None and jax.process_index() == 0:
            common.last_line(numbers)
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_gone()
    except (ValueError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        if sys.flags.dev_mode or not _for_a_person(error):
            raise
        sys.exit(f"error: {_said(error)}")


def checked(main: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`main` of a command, which first checks the options as they are declared. Its products are in
    full precision, but for what a setting trains and solves."""
    precisely = precision.highest(main)

    @functools.wraps(main)
    def run(config: Any) -> Any:
        with common.clear_errors():
            options.check(config)
        return precisely(config)

    return run


def parse(kind: type, arguments: Sequence[str] | None = None) -> tuple[Any, Shared]:
    """The options on a command line, for `main` to check, and those that every command has; an
    empty text is never an option."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        for before, text in zip(["", *given], given, strict=False):
            if text == "" or (text.startswith("--") and text.endswith("=")):
                name = text[:-1] if text else before
                raise ValueError(f"{name} '': empty; give it a value, or leave it out")
        found = tyro.cli(described(kind), args=given, description=kind.__doc__)
    except ValueError as error:
        sys.exit(f"error: {error}")
    config = kind(**{option.name: getattr(found, option.name) for option in options.of(kind)})
    return config, Shared(*(getattr(found, name) for name in Shared._fields))


def described(kind: type) -> type:
    """The dataclass of a command with what is declared of its options, for --help to show."""
    fields = []
    for option in options.of(kind):
        hint, names = option.hint, option.get(options.Among)
        if names:
            hint = _narrowed(hint, Literal[names.names])
        said = functools.partial(_hint, option)
        hint = Annotated[hint, tyro.conf.arg(name=option.words, help_behavior_hint=said)]
        missing = option.default is dataclasses.MISSING
        field = dataclasses.field() if missing else dataclasses.field(default=option.default)
        fields.append((option.name, hint, field))
    for name, default in Shared._field_defaults.items():
        hint = Annotated[bool, tyro.conf.arg(help=HELP[name])]
        fields.append((name, hint, dataclasses.field(default=default)))
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True)


def _hint(option: options.Option, default: str) -> str:
    """What --help says after the text of an option: range, default, and where it has an effect."""
    numbers, words, needs = (
        option.get(k) for k in (options.Numbers, options.Default, options.Only)
    )
    tight = numbers and numbers.high < HUGE
    parts = [numbers.said if tight else numbers.least] if numbers else []
    if words:
        parts.append(f"default: {words.words}")
    elif option.default is not dataclasses.MISSING:
        none = option.default in (None, ())
        parts.append(f"default: {'none' if none else options.shown(option.default)}")
    parts += [f"only {needs.words}"] if needs else []
    return f"({'; '.join(parts)})" if parts else "(required)"


def _narrowed(hint: Any, names: Any) -> Any:
    """The type with names in the place of its str."""
    return {
        str: names,
        str | None: names | None,
        tuple[str, ...]: tuple[names, ...],
        tuple[str, ...] | None: tuple[names, ...] | None,
    }[hint]


def _for_a_person(error: BaseException) -> bool:
    """Not what a bug makes of a compiled program."""
    return not isinstance(error, jax.errors.JaxRuntimeError) or "RESOURCE_EXHAUSTED" in str(error)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
        return f"out of memory ({text}); take less at once: fewer or smaller images, or lanes"
    return text


def _reader_gone() -> NoReturn:
    """End without another write: what is buffered has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)  # as of a program that SIGPIPE ended
