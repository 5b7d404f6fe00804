"""python -m experiments.networks"""

from deqbilevel.commands import command
from experiments.networks import Networks, main

command.run(Networks, main)
