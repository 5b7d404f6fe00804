"""python -m experiments.neighbours"""

from deqbilevel.commands import command
from experiments.neighbours import Neighbours, main

command.run(Neighbours, main)
