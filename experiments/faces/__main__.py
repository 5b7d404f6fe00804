"""python -m experiments.faces"""

from deqbilevel.commands import command
from experiments.faces import Faces, main

command.run(Faces, main)
