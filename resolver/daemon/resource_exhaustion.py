"""Handling of uncaught exceptions: MemoryError and lack of descriptors are one log line, other exceptions a traceback.

Under RLIMIT_AS or RLIMIT_DATA any allocation can fail (systemd's MemoryMax kills instead). The packet, query or
connection that was being processed is lost. The interpreter does not survive a failed allocation at every place, so the
process holds a memory reserve (`resolver.net.reserve`). While the reserve is released, no new query is started
(`shed_load_when_low`). Lack of memory is not a bug, so it is a rate-limited warning without traceback. When there is no
memory for the line, a preallocated one is written. A connection that cannot be accepted for lack of a descriptor is
handled the same way; the loop then waits one second before it accepts again. An exception of a generator that is
destroyed reaches only `sys.unraisablehook`.
"""

import asyncio
import errno
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.daemon import log, preflight
from resolver.log_limit import LimitedWarning
from resolver.net import reserve

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

    from resolver.mesh import Mesh

__all__ = ["hold_memory_reserve", "install_exception_handler", "install_unraisable_hook", "shed_load_when_low"]

logger = logging.getLogger(__name__)

# Complete lines, because there may be no memory for formatting.
OPERATION_FAILED = ("out of memory: an operation failed, the service continues; "
            "lower cache.size or raise the memory limit of the process")
QUERIES_REFUSED = ("out of memory: new queries are refused until memory is free again; "
           "lower cache.size or raise the memory limit of the process")
NO_RESERVE = "out of memory: the memory reserve cannot be allocated"
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def hold_memory_reserve() -> None:
    """Allocate the memory reserve of this process and its future children."""
    try:
        reserve.keep(limits.MEMORY_RESERVE)
    except MemoryError:
        _warn(LimitedWarning(logger), NO_RESERVE)


def shed_load_when_low(mesh: "Mesh", interval: float) -> None:
    """Make `mesh` release memory when it is short, and start no query while it is.

    A warning is logged at most every `interval` seconds.
    """
    warning = LimitedWarning(logger, interval)

    def is_short() -> bool:
        if reserve.is_given_up():
            mesh.shrink()
        if not reserve.is_short():
            return False
        _warn(warning, QUERIES_REFUSED)
        return True

    mesh.set_shed_load(is_short, reserve.needs_check)


def install_exception_handler(loop: asyncio.AbstractEventLoop, interval: float) -> None:
    """Set the exception handler of `loop`. Equal warnings are at least `interval` seconds apart."""
    warning = LimitedWarning(logger, interval)
    accepting = LimitedWarning(logger, interval, different=limits.LOG_FAILURES)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), MemoryError):
            _warn(warning)
        elif reason := _not_accepted(context):
            accepting.warn("%s: %s", _listener_of(context), reason)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


def install_unraisable_hook(interval: float) -> None:
    """Set the same handler for exceptions that reach no loop, for the whole process."""
    warning = LimitedWarning(logger, interval)

    def handle(what: "UnraisableHookArgs") -> None:
        if issubclass(what.exc_type, MemoryError):
            _warn(warning)
        else:
            sys.__unraisablehook__(what)

    sys.unraisablehook = handle


def _listener_of(context: dict[str, Any]) -> str:
    """What cannot accept connections, and the setting that it comes from when that is known by the kind of socket."""
    listening = context.get("socket")
    try:
        name = listening.getsockname() if listening is not None else ""
    except OSError:  # it was closed meanwhile
        name = ""
    if isinstance(name, str | bytes):
        return f"control: cannot accept connections at {os.fsdecode(name)!r}" if name else "cannot accept connections"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"listener: cannot accept TCP connections at {host}:{name[1]}"


def _not_accepted(context: dict[str, Any]) -> str:
    """Why a connection could not be accepted, if for lack of a resource; else empty."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _SHORT and "accept" in str(context.get("message")):
        return preflight.explain(error)
    return ""


def _warn(warning: LimitedWarning, what: str = OPERATION_FAILED) -> None:
    warning.warn(what)
    if warning.lost:
        log.write_oom_line()
