"""C interface of a loop's pool of bytes objects for received data. Pooled objects are refilled when unused."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

cdef struct PooledBytes:
    PyObject *owner     # a bytes object; NULL in an unused slot
    Py_ssize_t capacity  # bytes that it has memory for

cdef class ReceivePool:
    cdef PooledBytes *kept
    cdef Py_ssize_t memory
    cdef int count
    cdef int oldest
    cdef int latest

    # `length` received bytes at `data`, as a bytes object.
    cdef bytes make_bytes(self, const uint8_t *data, Py_ssize_t length)
    # A pooled object with no other reference whose memory fits `length` bytes, or NULL; valid until Python code runs.
    cdef PooledBytes *find(self, Py_ssize_t length) noexcept
    # The bytes object for `got` bytes that were received into `spare`.
    cdef bytes finish_receive(self, PooledBytes *spare, Py_ssize_t got)
    cdef int keep(self, bytes made, Py_ssize_t capacity) except -1
    cdef void drop_oldest(self) noexcept
    cdef void clear(self) noexcept
