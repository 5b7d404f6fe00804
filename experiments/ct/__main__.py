"""python -m experiments.ct"""

from deqbilevel.commands import command
from experiments.ct import CT, main

command.run(CT, main)
