"""The final bytes object of a large body, filled in place while it is received.

TLS decrypts and the kernel copies straight into it, so that ten megabytes are written once instead of being collected
in pieces and joined. A bytes object is immutable for all who have it, so it is handed out only when no writable view
of it exists any more.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_XDECREF
from libc.string cimport memcpy

cimport cython

from corenet.core.libc cimport bytes_data, new_bytes

__all__ = ["BodyBuffer"]


@cython.final
cdef class BodyBuffer:
    """`size` bytes to be filled from the front; a memoryview of it is the part still empty."""

    def __cinit__(self, Py_ssize_t size):
        if size < 1:
            raise ValueError(f"a body of {size} bytes needs no buffer")
        self.target = new_bytes(NULL, size)
        self.size = size
        self.filled = 0
        self.exports = 0

    def __dealloc__(self):
        Py_XDECREF(self.target)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.target == NULL:
            raise BufferError("this body was handed out")
        PyBuffer_FillInfo(buffer, self, bytes_data(self.target) + self.filled, self.size - self.filled, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1

    def append(self, bytes piece not None):
        """Copy `piece` to the end of what is filled.

        Raises:
            ValueError: when it does not fit.
        """
        cdef Py_ssize_t n = len(piece)
        if self.target == NULL or n > self.size - self.filled:
            raise ValueError(f"{n} bytes do not fit")
        memcpy(bytes_data(self.target) + self.filled, <const char *>piece, n)
        self.filled += n

    def advance(self, Py_ssize_t n):
        """Note that `n` bytes were written into the view.

        Raises:
            ValueError: when so many were not empty.
        """
        if self.target == NULL or n < 0 or n > self.size - self.filled:
            raise ValueError(f"{n} bytes were not empty")
        self.filled += n

    def finish(self):
        """Return what is filled as bytes; without a copy when all is filled and no view is left."""
        cdef object body
        if self.target == NULL:
            raise ValueError("this body was handed out")
        if self.filled < self.size or self.exports:
            return PyBytes_FromStringAndSize(bytes_data(self.target), self.filled)
        body = <object>self.target
        Py_XDECREF(self.target)
        self.target = NULL
        return body
