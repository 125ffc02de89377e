"""Freed memory is returned to the system after a burst of TLS handshakes.

A handshake in progress needs some 20 KiB that OpenSSL frees at its end: the message buffer and the buffer of its
writes. Those of concurrent handshakes lie between the memory that their connections keep, so the C library has them in
its lists of free memory, but not at the end of the heap, which is the only place from where it returns memory by
itself. Without this module an idle connection then costs twice the memory that it uses.

States, for all loops of the process together:

* quiet: fewer than `TLS_BURST` handshakes were completed since the last look (`completed`).
* waiting (`waiting_until` is in the future): a timer of the loop that has completed the last of them looks again. If
  another `TLS_BURST` were completed meanwhile the burst continues, and freed memory is reused: it waits once more.
  Otherwise `malloc_trim` returns the free memory, and the state is quiet.

`malloc_trim` takes about 5 microseconds for each connection, and blocks the loop. So it may use at most one thousandth
of the time (`rest_until`). When a loop is closed with its timer, `waiting_until` passes, and the next handshake starts
a new burst.
"""

from asyncio import get_running_loop

from libc.stdint cimport int64_t

from corenet.core.engine cimport Engine
from corenet.core.libc cimport CLOCK_MONOTONIC, clock_ns, dlsym

from corenet.limits import TLS_BURST, TLS_BURST_END

__all__ = ["pending", "releases"]

ctypedef int (*Trim)(size_t keep) noexcept nogil

cdef int BURST = TLS_BURST
cdef int64_t DELAY = <int64_t>(TLS_BURST_END * 1_000_000_000)
cdef int REST = 1000

# NULL where the C library has none, as musl.
cdef Trim trim = <Trim>dlsym(NULL, b"malloc_trim")
cdef int completed = 0
cdef int seen = 0
cdef int64_t waiting_until = 0
cdef int64_t rest_until = 0
cdef int released = 0


cdef int note_handshake(Engine loop) except -1:
    """A handshake of a connection of `loop` was completed."""
    global completed
    completed += 1
    if completed >= BURST and trim != NULL and clock_ns(CLOCK_MONOTONIC) >= waiting_until:
        wait(loop)
    return 0


cdef int wait(Engine loop) except -1:
    """Look again when the burst may have ended."""
    global seen, waiting_until
    cdef int64_t now = clock_ns(CLOCK_MONOTONIC)
    cdef int64_t delay = max(DELAY, rest_until - now)
    loop.call_later_ns(delay, look, ())
    seen = completed
    waiting_until = now + 2 * delay
    return 0


def look() -> None:
    """Return freed memory if the burst has ended, else wait again."""
    global completed, waiting_until, rest_until, released
    cdef int64_t began
    if completed - seen >= BURST:
        wait(<Engine?>get_running_loop())
        return
    completed = waiting_until = 0
    released += 1
    began = clock_ns(CLOCK_MONOTONIC)
    with nogil:
        trim(0)
    rest_until = clock_ns(CLOCK_MONOTONIC) + REST * (clock_ns(CLOCK_MONOTONIC) - began)


def releases() -> int:
    """Return how often freed memory was returned in this process."""
    return released


def pending() -> bool:
    """Return whether the state is waiting: a timer will look whether the burst has ended."""
    return waiting_until > clock_ns(CLOCK_MONOTONIC)
