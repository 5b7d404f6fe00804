"""python -m experiments.hypergradients"""

from experiments import command
from experiments.hypergradients import Hypergradients, main

command.run(Hypergradients, main)
