"""What the daemon does with exceptions that nobody catches: shortage of memory or files is said, faults are shown.

Under a memory limit (systemd's MemoryMax has none of this; RLIMIT_AS and RLIMIT_DATA do) any allocation can fail, and
whatever was being done then is lost: a packet, a query, a connection. The interpreter itself does not outlive each such
place, so the process holds a reserve (`resolver.net.reserve`), and while that is given up nothing new is begun
(`shed_load_when_low`). That is no fault of the program, so it is one plain sentence, and not more often than an
interval permits, since each line costs memory as well; where there is none even for that, the log gets a line that was
made before. A connection that cannot be accepted for want of a descriptor is the same; the loop then waits a second
before it accepts again. Everything else keeps its traceback. What a generator raises when it is dropped half-way
reaches no loop, only `sys.unraisablehook`.
"""

import asyncio
import errno
import logging
import sys
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.daemon import log
from resolver.net import reserve
from resolver.net.log_limit import LimitedWarning

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

    from resolver.mesh import Mesh

__all__ = ["hold_memory_reserve", "install_exception_handler", "install_unraisable_hook", "shed_load_when_low"]

logger = logging.getLogger(__name__)

# Whole sentences: there may be no memory to put one together.
GIVEN_UP = ("out of memory: an operation failed, the service continues; "
            "lower cache.size or raise the memory limit of the process")
REFUSED = ("out of memory: new queries are refused until memory is free again; "
           "lower cache.size or raise the memory limit of the process")
NO_RESERVE = "out of memory: the memory reserve cannot be allocated"
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def hold_memory_reserve() -> None:
    """Hold the reserve of memory from now on, in this process and in those it forks."""
    try:
        reserve.keep(limits.MEMORY_RESERVE)
    except MemoryError:
        _tell(LimitedWarning(logger), NO_RESERVE)


def shed_load_when_low(mesh: "Mesh", interval: float) -> None:
    """Let `mesh` give memory back when it becomes short, and begin nothing while it is.

    That is said, not more often than each `interval` seconds.
    """
    complaint = LimitedWarning(logger, interval)

    def is_short() -> bool:
        if reserve.is_given_up():
            mesh.shrink()
        if not reserve.is_short():
            return False
        _tell(complaint, REFUSED)
        return True

    mesh.set_shed_load(is_short)


def install_exception_handler(loop: asyncio.AbstractEventLoop, interval: float) -> None:
    """Set the loop's exception handler; `interval` is the least time between two lines of a kind, in seconds."""
    complaint = LimitedWarning(logger, interval)
    accepting = LimitedWarning(logger, interval)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), MemoryError):
            _tell(complaint)
        elif reason := _not_accepted(context):
            accepting.warn("listener: cannot accept TCP connections of clients: %s", reason)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


def install_unraisable_hook(interval: float) -> None:
    """Do the same for the whole process with what no loop hears of."""
    complaint = LimitedWarning(logger, interval)

    def handle(what: "UnraisableHookArgs") -> None:
        if issubclass(what.exc_type, MemoryError):
            _tell(complaint)
        else:
            sys.__unraisablehook__(what)

    sys.unraisablehook = handle


def _not_accepted(context: dict[str, Any]) -> str:
    """Which shortage kept a connection from being accepted; empty for everything else."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _SHORT and "accept" in str(context.get("message")):
        return error.strerror or str(error)
    return ""


def _tell(complaint: LimitedWarning, what: str = GIVEN_UP) -> None:
    complaint.warn(what)
    if complaint.lost:
        log.write_oom_line()
