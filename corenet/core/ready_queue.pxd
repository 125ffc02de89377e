"""C interface of the ring of ready handles and of the inbox for other threads.

`Ring` is a growing ring buffer of owned references, used by the loop's thread only; its capacity is a power of two.
Other threads reach a loop only through its `Inbox`.
"""

from cpython.object cimport PyObject
from libc.stddef cimport size_t

from corenet.core.gc_hooks cimport VisitProc
from corenet.core.libc cimport pthread_mutex_t

cdef struct Ring:
    PyObject **items
    size_t mask         # capacity - 1
    size_t head         # index of the oldest item, modulo the capacity
    size_t count

cdef int ring_init(Ring *ring, size_t capacity) except -1
cdef void ring_free(Ring *ring) noexcept
cdef int ring_grow(Ring *ring) except -1

cdef inline int ring_push(Ring *ring, PyObject *item) except -1:
    """Append `item`; the ring takes over the caller's reference."""
    if ring.count > ring.mask:
        ring_grow(ring)
    ring.items[(ring.head + ring.count) & ring.mask] = item
    ring.count += 1
    return 0

cdef inline PyObject *ring_pop(Ring *ring) noexcept:
    """Remove and return the oldest item with the ring's reference; NULL when the ring is empty.

    Callers that ran Python code since they read `count` must expect NULL: that code may have emptied the ring.
    """
    cdef PyObject *item
    if ring.count == 0:
        return NULL
    item = ring.items[ring.head & ring.mask]
    ring.head += 1
    ring.count -= 1
    return item

cdef inline int ring_visit(Ring *ring, VisitProc visit, void *context) noexcept:
    """Call `visit` for each item, for the garbage collector."""
    cdef size_t i
    cdef int stop
    for i in range(ring.count):
        stop = visit(ring.items[(ring.head + i) & ring.mask], context)
        if stop:
            return stop
    return 0

cdef class Inbox:
    cdef pthread_mutex_t mutex
    cdef Ring items
    cdef bint sleeping          # the loop waits in epoll, or is about to: `put` must wake it
    cdef bint closed
    cdef readonly int wake_fd
    cdef readonly unsigned long long wakeups

    cdef int put(self, object item) except -1
    cdef int drain(self, Ring *into) except -1
    cdef bint prepare_sleep(self) noexcept
    cdef void end_sleep(self) noexcept
    cdef void wake(self) noexcept
    cdef void close(self) noexcept
    cdef int reinit_after_fork(self) except -1
