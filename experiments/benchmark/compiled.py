"""What a compiled program does in its loops, read from its optimised HLO, XLA's own listing.

A GPU launches a kernel for each instruction of a loop's body that is neither a constant nor a name
for something else, and a launch takes a few microseconds whatever it does.
"""

import re
from collections.abc import Iterator
from typing import Any

SILENT = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
        *("while", "conditional", "opt-barrier", "partition-id", "replica-id", "domain"),
    )
)
"""Instructions that are no kernels; those of loops and branches are counted in their bodies."""

PRODUCT = re.compile(r" dot\(|gemm|matmul|__cublas|ynn_fusion")
"""A matrix product, by XLA itself or by a library."""

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][\w-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)")
_BODY = re.compile(r"body=%?([\w.-]+)")


def loop_kernels(program: Any) -> list[int]:
    """The kernels of each innermost loop of a compiled program that multiplies matrices.

    Of a training step that are the loops of the lower level and of its adjoint, in the order in
    which XLA lists them.
    """
    bodies = _computations(program.as_text())
    return [
        len(_kernels(lines))
        for name, lines in bodies.items()
        if name in _loops(bodies)
        and not any(_BODY.search(line) for line in lines)
        and any(PRODUCT.search(line) for line in _with_called(name, bodies))
    ]


def _computations(text: str) -> dict[str, list[str]]:
    """The instructions of each computation, by its name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            lines = found.setdefault(header[1], [])
        elif _INSTRUCTION.match(line):
            lines.append(line)
    return found


def _loops(bodies: dict[str, list[str]]) -> set[str]:
    lines = (line for each in bodies.values() for line in each)
    return {body[1] for line in lines if (body := _BODY.search(line))}


def _kernels(lines: list[str]) -> list[str]:
    """The lines that launch something; what ends an asynchronous instruction does not."""
    kinds = ((line, found[1]) for line in lines if (found := _INSTRUCTION.match(line)))
    return [line for line, kind in kinds if kind not in SILENT and not kind.endswith("-done")]


def _with_called(name: str, bodies: dict[str, list[str]]) -> Iterator[str]:
    for line in bodies.get(name, ()):
        yield line
        for called in _CALLED.findall(line):
            yield from _with_called(called, bodies)
