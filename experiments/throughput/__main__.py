"""python -m experiments.throughput"""

from deqbilevel.commands import command
from experiments.throughput import Throughput, main

command.run(Throughput, main)
