"""The processes and devices of a study that is run on several hosts."""

import socket
import time

import jax

from deqbilevel.commands import common
from experiments.compare.options import Compare

PATIENCE = 45.0
"""Seconds that a process waits for process 0."""

SILENCE = 30
"""Seconds without a sign of life after which a process counts as dead, and the others end."""


def join(config: Compare) -> None:
    """Make the devices that the options ask for; only before jax is used for the first time."""
    common.make_cpu_devices(config.cpu_devices)
    by_hand = (config.coordinator, config.processes, config.process)
    if config.coordinator is not None:
        host, port = _check_coordinator(config)
        if config.process:
            wait_for(host, port)
        jax.distributed.initialize(*by_hand, heartbeat_timeout_seconds=SILENCE)
    elif config.distributed:
        jax.distributed.initialize(heartbeat_timeout_seconds=SILENCE)


def wait_for(host: str, port: int) -> None:
    """Until process 0 listens. Raises: ValueError where it does not in time: JAX's own wait for it
    takes five minutes, and then ends the process without a word of where it looked."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection((host, port), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"--coordinator {host}:{port}: nobody listens there ({error}); start process 0 "
                    "with the same address, on a host and a port that this one can reach"
                ) from error
        time.sleep(0.2)


def _check_coordinator(config: Compare) -> tuple[str, int]:
    """Host and port. Raises ValueError for processes that cannot find each other."""
    if config.processes is None or config.process is None:
        raise ValueError("--coordinator, --processes and --process: give all three, or none")
    host, _, port = str(config.coordinator).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--coordinator {config.coordinator}: expected HOST:PORT")
    if config.process >= config.processes:
        raise ValueError(
            f"--process {config.process}: expected below --processes {config.processes}, counted "
            "from 0"
        )
    if config.distributed:
        raise ValueError("--distributed finds the others by itself; leave --coordinator out")
    return host, int(port)
