"""python -m experiments.mri"""

from deqbilevel.commands import command
from experiments.mri import Mri, main

command.run(Mri, main)
