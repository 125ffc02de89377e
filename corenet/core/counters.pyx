"""Live-object counters of the debug build, so that tests can see a leak without asking the garbage collector.

Cython classes without cyclic collection are invisible to ``gc.get_objects``; these counters see them. In a release
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
    """Tell whether this build keeps the counters."""
    return bool(DEBUG_BUILD)
