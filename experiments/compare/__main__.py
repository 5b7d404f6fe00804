"""python -m experiments.compare"""

from deqbilevel.commands import command
from experiments.compare import Compare, main

command.run(Compare, main)
