"""C interface of what a stream reader holds: received and not yet read bytes, in one piece as long as that is possible.

Both readers stand on it: `ReaderCore` and, where a transport of ours feeds asyncio's reader, `StreamReaderBuffer`.
"""

from libc.stdint cimport uint8_t

cdef class ReceiveBuffer:
    cdef bytes whole            # the content, from `at` on, when it came in one piece
    cdef bytearray fallback         # else: the content, from `at` on; None when there is nothing
    cdef Py_ssize_t at

    cdef Py_ssize_t size(self) noexcept
    cdef const uint8_t *first(self) noexcept
    cdef int append(self, const uint8_t *data, Py_ssize_t length, bytes owner) except -1
    cdef bytes take(self, Py_ssize_t size)
    cdef int drop(self, Py_ssize_t size) except -1
    cdef Py_ssize_t index_of(self, bytes needle, Py_ssize_t start) noexcept
    cdef bytearray as_bytearray(self)
