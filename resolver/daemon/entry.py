"""The first and last instructions of resolverd. Signals come first, because most of a start is loading modules."""

import os
import sys
from contextlib import suppress

from resolver.daemon.early_signals import hold_signals

__all__ = ["main"]


def main() -> int:
    """Run resolverd and return its exit status."""
    hold_signals()
    open_standard_streams()
    from resolver.daemon.main import main as run

    status = run()
    end_threads(status)
    return status


def open_standard_streams() -> None:
    """Open /dev/null in the place of standard streams that are closed. Else the first sockets would have their numbers,
    and what is written to standard output, as the query log may be, would go into them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free


def end_threads(status: int) -> None:
    """End the process with `status` if threads are left, for which the interpreter would wait without end. The worker
    has given them their time."""
    import threading  # loaded by `logging` anyway

    if all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
