"""python -m experiments.learn: `deqbilevel learn`, see `deqbilevel.commands.learn`."""

import sys

from deqbilevel.commands import command
from deqbilevel.commands.learn import Learn, kind, main

__all__ = ["Learn", "main"]

if __name__ == "__main__":
    command.run(kind(sys.argv[1:]), main)
