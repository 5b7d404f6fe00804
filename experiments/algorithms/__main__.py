"""python -m experiments.algorithms"""

from deqbilevel.commands import command
from experiments.algorithms import Algorithms, main

command.run(Algorithms, main)
