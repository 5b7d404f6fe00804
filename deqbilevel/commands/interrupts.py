"""Ctrl-C ends a command with one line and status 130, whatever it is doing.

A result that counts is on disk before the next is begun, and every file is put in place whole: so
the process ends where it is. Python's own KeyboardInterrupt would wait for compiled programs, and
would be raised inside of callbacks and of the machinery that ends threads.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable

STATUS = 128 + signal.SIGINT
LINE = "interrupted; what is finished is on disk, and the same command goes on from there"


def end_at_once(leave: Callable[[int], None] = os._exit) -> None:
    """From now on, end this process and its children at the first SIGINT; only where this thread is
    the main one, and a SIGINT is not ignored, as it is below `nohup`."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    seen, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    # Python writes to the pipe only for a signal that it handles.
    signal.signal(signal.SIGINT, lambda *_: None)

    def wait() -> None:
        while signal.SIGINT not in os.read(seen, 1):
            pass
        _end(leave)

    threading.Thread(target=wait, name="interrupts", daemon=True).start()


def _end(leave: Callable[[int], None]) -> None:
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    bars = sys.modules["tqdm"].tqdm if "tqdm" in sys.modules else None
    begun = "\n" if getattr(bars, "_instances", None) else ""
    try:
        os.write(2, f"{begun}{LINE}\n".encode())
    finally:
        leave(STATUS)
