"""The ring of ready handles, and the inbox through which other threads pass handles to a loop.

Rule: the eventfd is written only while the loop sleeps. The loop sets `sleeping` under the mutex that guards the items,
and only when there are none, so no wake-up is lost between the last check and the sleep. A burst of calls from other
threads costs one write.
"""

from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from corenet.core.libc cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    O_CLOEXEC,
    PyErr_SetFromErrno,
    PyExc_OSError,
    c_close,
    c_read,
    c_write,
    dup3,
    eventfd,
    pthread_mutex_destroy,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)


cdef int ring_init(Ring *ring, size_t capacity) except -1:
    """Allocate `ring` for `capacity` items, a power of two."""
    ring.items = <PyObject **>PyMem_RawMalloc(capacity * sizeof(PyObject *))
    if ring.items == NULL:
        PyErr_NoMemory()
    ring.mask = capacity - 1
    ring.head = 0
    ring.count = 0
    return 0


cdef void ring_free(Ring *ring) noexcept:
    """Drop all items and free the memory."""
    cdef PyObject *item = ring_pop(ring)
    while item != NULL:
        Py_DECREF(<object>item)
        item = ring_pop(ring)
    PyMem_RawFree(ring.items)
    ring.items = NULL
    ring.mask = 0


cdef int ring_grow(Ring *ring) except -1:
    """Double the capacity; items keep their order."""
    cdef size_t capacity = (ring.mask + 1) * 2
    cdef PyObject **items = <PyObject **>PyMem_RawMalloc(capacity * sizeof(PyObject *))
    cdef size_t i
    if items == NULL:
        PyErr_NoMemory()
    for i in range(ring.count):
        items[i] = ring.items[(ring.head + i) & ring.mask]
    PyMem_RawFree(ring.items)
    ring.items = items
    ring.mask = capacity - 1
    ring.head = 0
    return 0


cdef class Inbox:
    """Passes objects from any thread to the thread of a loop and wakes it when it sleeps."""

    def __cinit__(self) -> None:
        self.wake_fd = -1
        pthread_mutex_init(&self.mutex, NULL)
        ring_init(&self.items, 64)
        self.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.wake_fd < 0:
            PyErr_SetFromErrno(PyExc_OSError)

    def __dealloc__(self) -> None:
        if self.items.items != NULL:
            ring_free(&self.items)
        if self.wake_fd >= 0:
            c_close(self.wake_fd)
        pthread_mutex_destroy(&self.mutex)

    cdef int put(self, object item) except -1:
        """Append `item` and wake the loop if it sleeps. Raises RuntimeError once the inbox is closed."""
        cdef bint wake = False
        cdef bint closed
        # Growing allocates but runs no Python code, so the mutex is held only briefly.
        pthread_mutex_lock(&self.mutex)
        closed = self.closed
        try:
            if not closed:
                ring_push(&self.items, <PyObject *>item)
                Py_INCREF(item)
                wake = self.sleeping
                self.sleeping = False
        finally:
            pthread_mutex_unlock(&self.mutex)
        if closed:
            raise RuntimeError("Event loop is closed")
        if wake:
            self.wake()
        return 0

    cdef int drain(self, Ring *into) except -1:
        """Move all items to `into`, in the order of `put`; return their number."""
        cdef int moved = 0
        if self.items.count == 0:
            return 0
        pthread_mutex_lock(&self.mutex)
        try:
            while self.items.count:
                ring_push(into, self.items.items[self.items.head & self.items.mask])
                ring_pop(&self.items)
                moved += 1
        finally:
            pthread_mutex_unlock(&self.mutex)
        return moved

    cdef bint prepare_sleep(self) noexcept:
        """Set `sleeping` and return True, unless there are items. `end_sleep` must follow."""
        cdef bint empty
        pthread_mutex_lock(&self.mutex)
        empty = self.items.count == 0
        self.sleeping = empty
        pthread_mutex_unlock(&self.mutex)
        return empty

    cdef void end_sleep(self) noexcept:
        """Clear `sleeping`: the loop runs again."""
        pthread_mutex_lock(&self.mutex)
        self.sleeping = False
        pthread_mutex_unlock(&self.mutex)

    cdef void wake(self) noexcept:
        """Make the eventfd readable. A failed write means that its counter is full, so that it is readable already."""
        cdef uint64_t one = 1
        self.wakeups += 1
        c_write(self.wake_fd, &one, sizeof(one))

    cdef int reinit_after_fork(self) except -1:
        """In the child of a fork: make a new eventfd under the old number, and a new, unlocked mutex.

        The inherited eventfd is closed first, so that this also works with a full descriptor table. It stays closed
        when this fails, because writing to it would wake the parent.
        """
        cdef int fresh
        cdef int number = self.wake_fd
        pthread_mutex_init(&self.mutex, NULL)
        self.sleeping = False
        if number < 0:
            return 0
        self.wake_fd = -1
        c_close(number)
        fresh = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if fresh < 0:
            PyErr_SetFromErrno(PyExc_OSError)
        if fresh != number:
            if dup3(fresh, number, O_CLOEXEC) < 0:
                c_close(fresh)
                PyErr_SetFromErrno(PyExc_OSError)
            c_close(fresh)
        self.wake_fd = number
        return 0

    cdef void close(self) noexcept:
        """Drop the remaining items; `put` fails from now on."""
        cdef Ring left
        cdef uint64_t value
        pthread_mutex_lock(&self.mutex)
        self.closed = True
        left = self.items
        self.items.items = NULL
        self.items.count = 0
        pthread_mutex_unlock(&self.mutex)
        if left.items != NULL:
            # Dropping items may run Python code that calls `put`, so the mutex is not held here.
            ring_free(&left)
        if self.wake_fd >= 0:
            c_read(self.wake_fd, &value, sizeof(value))
            c_close(self.wake_fd)
            self.wake_fd = -1
