"""python -m experiments.networks"""

from experiments import command
from experiments.networks import Networks, main

command.run(Networks, main)
