"""C interface of the counters of live objects, which only the debug build (``CORENET_DEBUG=1``) keeps.

`count_created` and `count_destroyed` are inline and compile to nothing in the release build, so constructors on hot
paths may call them.
"""

from corenet.core.libc cimport DEBUG_BUILD

cdef enum Kind:
    KIND_HANDLE = 0
    KIND_TIMER = 1
    KIND_WATCH = 2
    KIND_ENGINE = 3
    KIND_STREAM = 4
    KIND_DATAGRAM = 5
    KIND_LISTENER = 6
    KIND_PIPE = 7
    KIND_COUNT = 8

cdef void count(int kind, int delta) noexcept

cdef inline void count_created(int kind) noexcept:
    if DEBUG_BUILD:
        count(kind, 1)

cdef inline void count_destroyed(int kind) noexcept:
    if DEBUG_BUILD:
        count(kind, -1)
