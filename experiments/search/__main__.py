"""python -m experiments.search"""

from deqbilevel.commands import command
from experiments.search import Search, main

command.run(Search, main)
