"""python -m experiments.losses"""

from deqbilevel.commands import command
from experiments.losses import Losses, main

command.run(Losses, main)
