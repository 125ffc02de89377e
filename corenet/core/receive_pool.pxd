"""C door of the received bytes objects that a loop keeps to fill them anew."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

cdef struct PooledBytes:
    PyObject *owner     # a bytes object, NULL in an unused place
    Py_ssize_t room     # for how many bytes it was made

cdef class ReceivePool:
    cdef PooledBytes *kept
    cdef Py_ssize_t memory
    cdef int count
    cdef int oldest
    cdef int latest

    # What was received, as a bytes object.
    cdef bytes make_bytes(self, const uint8_t *data, Py_ssize_t length)
    # One that nobody holds and whose memory suits `length` bytes, or NULL; valid until Python code runs.
    cdef PooledBytes *find(self, Py_ssize_t length) noexcept
    # What `got` bytes became that were received into `spare`.
    cdef bytes finish_receive(self, PooledBytes *spare, Py_ssize_t got)
    cdef int keep(self, bytes made, Py_ssize_t room) except -1
    cdef void drop_oldest(self) noexcept
    cdef void clear(self) noexcept
