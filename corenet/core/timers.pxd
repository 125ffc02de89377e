"""C interface of the timer heap: each entry has its owner and a pointer to the field with the owner's position.

The heap writes the new index through `position` whenever an entry moves, so an owner is removed without a search.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

cdef struct TimerEntry:
    int64_t when
    uint64_t order
    PyObject *owner
    Py_ssize_t *position

cdef class TimerHeap:
    cdef TimerEntry *entries
    cdef Py_ssize_t length
    cdef Py_ssize_t capacity
    cdef uint64_t next_order

    cdef int push(self, int64_t when, object owner, Py_ssize_t *position) except -1
    cdef int remove(self, Py_ssize_t position) except -1
    cdef PyObject *pop(self) noexcept
    cdef void fill(self, Py_ssize_t hole) noexcept
    cdef void clear(self) noexcept
