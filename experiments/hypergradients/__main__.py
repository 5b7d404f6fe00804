"""python -m experiments.hypergradients"""

from deqbilevel.commands import command
from experiments.hypergradients import Hypergradients, main

command.run(Hypergradients, main)
