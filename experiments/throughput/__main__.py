"""python -m experiments.throughput"""

from experiments import command
from experiments.throughput import Throughput, main

command.run(Throughput, main)
