"""python -m experiments.poisson"""

from deqbilevel.commands import command
from experiments.poisson import Poisson, main

command.run(Poisson, main)
