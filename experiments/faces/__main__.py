"""python -m experiments.faces"""

from experiments import command
from experiments.faces import Faces, main

command.run(Faces, main)
