"""python -m experiments.ridge"""

from deqbilevel.commands import command
from experiments.ridge import Ridge, main

command.run(Ridge, main)
