"""Commands: each module, or package, with a `main` is run as `python -m experiments.NAME`."""

import sys

if sys.argv[:1] == ["-m"]:  # while one of them is being started: its imports take seconds
    from deqbilevel.commands import interrupts

    interrupts.end_at_once()
