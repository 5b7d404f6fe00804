"""python -m experiments.compare"""

from experiments import command
from experiments.compare import Compare, main

command.run(Compare, main)
