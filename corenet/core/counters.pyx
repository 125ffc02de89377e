"""Counters of live objects in the debug build, with which tests detect leaks.

``gc.get_objects`` does not list Cython classes without cyclic collection; these counters include them. In a release
build every count stays zero and the calls are compiled away.
"""

from corenet.core.libc cimport DEBUG_BUILD

cdef long live_objects[KIND_COUNT]

cdef tuple NAMES = ("handle", "timer", "watch", "engine", "stream", "datagram", "listener", "pipe")


cdef void count(int kind, int delta) noexcept:
    live_objects[kind] += delta


def live() -> dict[str, int]:
    """Return the number of living objects by kind; all zero in a release build."""
    cdef int kind
    return {NAMES[kind]: live_objects[kind] for kind in range(<int>KIND_COUNT)}


def is_debug_build() -> bool:
    """Return whether this build keeps the counters."""
    return bool(DEBUG_BUILD)
