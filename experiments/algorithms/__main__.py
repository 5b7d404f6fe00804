"""python -m experiments.algorithms"""

from experiments import command
from experiments.algorithms import Algorithms, main

command.run(Algorithms, main)
