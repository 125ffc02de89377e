"""C interface of the buffer of stream readers: received bytes that were not read, in one object while possible.

`ReaderCore` and `StreamReaderBuffer` are based on it; the latter is the buffer of asyncio's reader on our transports.
"""

from libc.stdint cimport uint8_t

cdef class ReceiveBuffer:
    cdef bytes whole            # the content is whole[at:] while it is one received object
    cdef bytearray joined       # else the content is joined[at:]; both are None when there is none
    cdef Py_ssize_t at

    cdef Py_ssize_t size(self) noexcept
    cdef const uint8_t *first(self) noexcept
    cdef int append(self, const uint8_t *data, Py_ssize_t length, bytes owner) except -1
    cdef bytes take(self, Py_ssize_t size)
    cdef int drop(self, Py_ssize_t size) except -1
    cdef Py_ssize_t index_of(self, bytes needle, Py_ssize_t start) noexcept
    cdef bytearray as_bytearray(self)
