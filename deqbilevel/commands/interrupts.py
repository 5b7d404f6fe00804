"""Ctrl-C ends a command with one line and status 130, whatever it is doing; SIGTERM with 143.

A result that counts is on disk before the next is begun, and every file is put in place whole: so
the process ends where it is, after what was asked for by `first`. Python's own KeyboardInterrupt
would wait for compiled programs, and would be raised inside of callbacks and of the machinery that
ends threads.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

STATUS = 128 + signal.SIGINT
LINE = "interrupted; what is finished is on disk, and the same command goes on from there"


_FIRST: list[Callable[[], None]] = []


@contextlib.contextmanager
def first(action: Callable[[], None]) -> Iterator[None]:
    """What is done before a signal ends the process meanwhile, in a thread of its own."""
    _FIRST.append(action)
    try:
        yield
    finally:
        _FIRST.remove(action)


def end_at_once(leave: Callable[[int], None] = os._exit) -> None:
    """From now on, end this process and its children at the first SIGINT or SIGTERM; only where
    this thread is the main one, and of each where nothing else was made of it: below `nohup` a
    SIGINT is ignored."""
    main = threading.current_thread() is threading.main_thread()
    plain = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = [number for number, usual in plain.items() if main and signal.getsignal(number) is usual]
    if not ours:
        return
    seen, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    # Python writes to the pipe only for a signal that it handles.
    for number in ours:
        signal.signal(number, lambda *_: None)

    def wait() -> None:
        while (number := os.read(seen, 1)[0]) not in ours:
            pass
        _end(leave, 128 + number)

    threading.Thread(target=wait, name="interrupts", daemon=True).start()


def _end(leave: Callable[[int], None], status: int) -> None:
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    bars = sys.modules["tqdm"].tqdm if "tqdm" in sys.modules else None
    for action in _FIRST:
        try:
            action()
        except Exception as error:
            os.write(2, f"\nwarning: not saved: {error}\n".encode())
    begun = "\n" if getattr(bars, "_instances", None) else ""
    try:
        os.write(2, f"{begun}{LINE}\n".encode())
    finally:
        leave(status)
