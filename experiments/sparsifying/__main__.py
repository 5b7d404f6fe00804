"""python -m experiments.sparsifying"""

from deqbilevel.commands import command
from experiments.sparsifying import Sparsifying, main

command.run(Sparsifying, main)
