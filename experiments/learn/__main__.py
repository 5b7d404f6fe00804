"""python -m experiments.learn, see the package."""

import sys

from experiments import command
from experiments.learn import Learn, main, parts

if __name__ == "__main__":
    command.run(parts.with_options(Learn, sys.argv[1:]), main)
