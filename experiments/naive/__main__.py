"""python -m experiments.naive"""

from deqbilevel.commands import command
from experiments.naive import Naive, main

command.run(Naive, main)
