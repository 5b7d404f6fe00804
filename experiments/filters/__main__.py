"""python -m experiments.filters, see the package."""

from deqbilevel.commands import command
from experiments.filters import Filters, main

if __name__ == "__main__":
    command.run(Filters, main)
