"""python -m experiments.sampling"""

from deqbilevel.commands import command
from experiments.sampling import Sampling, main

command.run(Sampling, main)
