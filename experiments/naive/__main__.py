"""python -m experiments.naive"""

from experiments import command
from experiments.naive import Naive, main

command.run(Naive, main)
