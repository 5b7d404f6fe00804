"""The program `deqbilevel`: the commands that a person needs without a clone."""

import importlib
import sys

from deqbilevel.commands import interrupts

COMMANDS = {
    "learn": "learn a regulariser for an operator on images",
    "reconstruct": "reconstruct pictures by what a run learned, or by filters that ship",
}
"""Each a module beside this one, with its `kind` of options and its `main`."""


def main() -> None:
    """Run the command that the first argument names, on the others."""
    interrupts.end_at_once()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: deqbilevel COMMAND [OPTIONS], deqbilevel COMMAND --help\n")
        print("\n".join(f"  {known:12} {said}" for known, said in COMMANDS.items()))
        return
    if name not in COMMANDS:
        sys.exit(f"error: {name}: no command of deqbilevel; expected {' or '.join(COMMANDS)}")
    sys.argv[:2] = [f"deqbilevel {name}"]
    try:
        command = importlib.import_module("deqbilevel.commands.command")
        module = importlib.import_module(f"deqbilevel.commands.{name}")
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed; pip install 'deqbilevel[experiments]'")
    command.run(module.kind(sys.argv[1:]), module.main)
