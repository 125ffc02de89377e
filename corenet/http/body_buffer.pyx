"""The final bytes object of a large body, filled in place while it is received.

TLS decrypts and the kernel copies directly into it, so that the body is written once instead of being collected in
pieces and joined. Bytes objects are immutable, so it is returned only when no writable view of it exists.
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
    """A buffer of `size` bytes, filled from the front; its memoryview is the part that is still empty."""

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
            raise BufferError("this body was already returned by finish")
        PyBuffer_FillInfo(buffer, self, bytes_data(self.target) + self.filled, self.size - self.filled, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1

    def append(self, bytes piece not None):
        """Copy `piece` after the filled part.

        Raises:
            ValueError: it does not fit.
        """
        cdef Py_ssize_t n = len(piece)
        if self.target == NULL or n > self.size - self.filled:
            raise ValueError(f"{n} bytes do not fit")
        memcpy(bytes_data(self.target) + self.filled, <const char *>piece, n)
        self.filled += n

    def advance(self, Py_ssize_t n):
        """Record that `n` bytes were written into the view.

        Raises:
            ValueError: `n` is negative or more than the empty part.
        """
        if self.target == NULL or n < 0 or n > self.size - self.filled:
            raise ValueError(f"{n} is not a number of bytes within the empty part of the buffer")
        self.filled += n

    def finish(self):
        """Return the filled part as bytes; without a copy when the buffer is full and has no view."""
        cdef object body
        if self.target == NULL:
            raise ValueError("this body was already returned by finish")
        if self.filled < self.size or self.exports:
            return PyBytes_FromStringAndSize(bytes_data(self.target), self.filled)
        body = <object>self.target
        Py_XDECREF(self.target)
        self.target = NULL
        return body
