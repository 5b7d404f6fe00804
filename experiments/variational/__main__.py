"""python -m experiments.variational"""

from deqbilevel.commands import command
from experiments.variational import Variational, main

command.run(Variational, main)
