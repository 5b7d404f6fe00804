"""python -m experiments.benchmark"""

from deqbilevel.commands import command
from experiments.benchmark import Benchmark, main

command.run(Benchmark, main)
