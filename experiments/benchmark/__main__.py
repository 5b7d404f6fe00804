"""python -m experiments.benchmark"""

from experiments import command
from experiments.benchmark import Benchmark, main

command.run(Benchmark, main)
