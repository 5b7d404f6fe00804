"""Commands: each module, or package, with a `main` is run as `python -m experiments.NAME`."""

import os
import sys

# OpenBLAS, which factorises on a CPU, has threads that wait on the cores which XLA computes on.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if sys.argv[:1] == ["-m"]:  # while one of them is being started: its imports take seconds
    from deqbilevel.commands import interrupts

    interrupts.end_at_once()
