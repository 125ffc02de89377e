"""The buffer of unread bytes of `corenet.StreamReader` and, on our transports, of asyncio's StreamReader.

``asyncio.StreamReader`` appends each received object to a bytearray, cuts a slice off, and converts the slice to bytes:
three copies, and for large ones page faults each time, because the C library returns such memory to the kernel. Here
the received object itself is the content until a second one arrives, and a read of all of it returns that object. What
arrives while bytes are unread is copied into a bytearray. An empty buffer keeps neither.

`StreamReaderBuffer` replaces the bytearray of asyncio's reader. Reading, limits and pausing remain asyncio's code;
operations that asyncio does not use (a slice with a step, an assignment) convert the content to a bytearray first.
"""

import asyncio

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyObject_GetBuffer
from cpython.bytearray cimport (
    PyByteArray_AS_STRING,
    PyByteArray_FromStringAndSize,
    PyByteArray_GET_SIZE,
    PyByteArray_Resize,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject_RichCompare
from cpython.slice cimport PySlice_AdjustIndices, PySlice_Check, PySlice_Unpack
from libc.stdint cimport uint8_t

from corenet.core.libc cimport find_bytes, memcpy

__all__ = ["ReceiveBuffer", "StreamReaderBuffer", "install_reader_buffer"]

cdef object StreamReader = asyncio.StreamReader
cdef bytes EMPTY = b""


cdef class ReceiveBuffer:
    """Unread bytes, as one bytes object or a bytearray."""

    cdef Py_ssize_t size(self) noexcept:
        if self.whole is not None:
            return PyBytes_GET_SIZE(self.whole) - self.at
        # The bytearray of a StreamReaderBuffer may have been shortened by code that has a reference to it.
        return 0 if self.joined is None else max(PyByteArray_GET_SIZE(self.joined) - self.at, 0)

    cdef const uint8_t *first(self) noexcept:
        if self.whole is not None:
            return <const uint8_t *>PyBytes_AS_STRING(self.whole) + self.at
        return <const uint8_t *>(
            PyBytes_AS_STRING(EMPTY) if self.joined is None else PyByteArray_AS_STRING(self.joined) + self.at
        )

    cdef int append(self, const uint8_t *data, Py_ssize_t length, bytes owner) except -1:
        """Append `length` (at least 1) bytes; `owner` is the bytes object that consists of exactly these, or None."""
        cdef Py_ssize_t held = self.size()
        cdef bytearray joined
        if held == 0:
            self.whole = PyBytes_FromStringAndSize(<const char *>data, length) if owner is None else owner
            self.joined = None
            self.at = 0
            return 0
        if self.whole is not None:
            joined = PyByteArray_FromStringAndSize(NULL, held + length)
            memcpy(PyByteArray_AS_STRING(joined), self.first(), held)
            self.joined = joined
            self.whole = None
            self.at = 0
        else:
            PyByteArray_Resize(self.as_bytearray(), held + length)
        memcpy(PyByteArray_AS_STRING(self.joined) + held, data, length)
        return 0

    cdef bytes take(self, Py_ssize_t size):
        """Remove and return the first `size` bytes, or all if there are fewer."""
        cdef bytes taken = self.whole
        size = min(size, self.size())
        if taken is None or size < PyBytes_GET_SIZE(taken):
            taken = PyBytes_FromStringAndSize(<const char *>self.first(), size)
        self.drop(size)
        return taken

    cdef int drop(self, Py_ssize_t size) except -1:
        """Remove the first `size` bytes; `size` must not exceed `self.size()`."""
        self.at += size
        if self.size() == 0:
            self.whole = None
            self.joined = None
            self.at = 0
        return 0

    cdef Py_ssize_t index_of(self, bytes needle, Py_ssize_t start) noexcept:
        """Return the offset of `needle` (not empty) from `start` on, -1 when not found."""
        cdef Py_ssize_t found = find_bytes(
            self.first() + start, self.size() - start,
            <const uint8_t *>PyBytes_AS_STRING(needle), PyBytes_GET_SIZE(needle),
        )
        return found if found < 0 else found + start

    cdef bytearray as_bytearray(self):
        """Convert the content to a bytearray that starts at offset 0, and return it."""
        if self.whole is not None:
            self.joined = PyByteArray_FromStringAndSize(<const char *>self.first(), self.size())
            self.whole = None
        elif self.joined is None:
            self.joined = bytearray()
        elif self.at:
            del self.joined[:self.at]
        self.at = 0
        return self.joined


@cython.final
cdef class StreamReaderBuffer(ReceiveBuffer):
    """Replaces the bytearray of asyncio's StreamReader; its slices are bytes."""

    cdef inline bytes cut(self, Py_ssize_t start, Py_ssize_t length):
        if self.whole is not None and length == PyBytes_GET_SIZE(self.whole):
            return self.whole
        return PyBytes_FromStringAndSize(<const char *>self.first() + start, length)

    def __len__(self) -> int:
        return self.size()

    def __bytes__(self) -> bytes:
        return self.cut(0, self.size())

    def __getitem__(self, key: object) -> object:
        cdef Py_ssize_t start, stop, step, length
        if not PySlice_Check(key):
            return self.as_bytearray()[key]
        # `size` is read after the bounds, whose `__index__` may change it.
        PySlice_Unpack(key, &start, &stop, &step)
        length = PySlice_AdjustIndices(self.size(), &start, &stop, step)
        if step != 1:
            return bytes(self.as_bytearray()[key])
        return self.cut(start, length)

    def __delitem__(self, key: object) -> None:
        cdef Py_ssize_t start, stop, step, length
        if PySlice_Check(key):
            PySlice_Unpack(key, &start, &stop, &step)
            length = PySlice_AdjustIndices(self.size(), &start, &stop, step)
            if start == 0 and step == 1:
                self.drop(length)
                return
        del self.as_bytearray()[key]

    def __setitem__(self, key: object, value: object) -> None:
        self.as_bytearray()[key] = value

    def extend(self, data: object) -> None:
        """Append `data`; an empty buffer takes a bytes object without a copy."""
        if type(data) is not bytes:
            self.as_bytearray().extend(data)
        elif PyBytes_GET_SIZE(data):
            self.append(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)

    def clear(self) -> None:
        """Drop the content."""
        self.drop(self.size())

    def take_bytes(self, n: object = None) -> bytes:
        """Remove and return the first `n` bytes, or all; as bytearray.take_bytes, which asyncio of Python 3.15 uses."""
        cdef Py_ssize_t wanted = self.size() if n is None else n
        if not 0 <= wanted <= self.size():
            return self.as_bytearray().take_bytes(wanted)
        return self.take(wanted)

    def find(self, sub: object, *bounds: object) -> int:
        """Return the offset of `sub`, -1 when not found; as bytearray.find."""
        cdef Py_ssize_t start = 0
        if len(bounds) > 1 or type(sub) is not bytes or PyBytes_GET_SIZE(sub) == 0:
            return self.as_bytearray().find(sub, *bounds)
        if bounds:
            start = bounds[0]
        return self.index_of(sub, max(start + self.size(), 0) if start < 0 else start)

    def __getbuffer__(self, Py_buffer *buffer, int flags) -> None:
        if self.whole is None or flags & PyBUF_WRITABLE:
            PyObject_GetBuffer(self.as_bytearray(), buffer, flags)
        else:
            PyBuffer_FillInfo(buffer, self.whole, <void *>self.first(), self.size(), True, flags)

    def __getattr__(self, name: str) -> object:
        return getattr(self.as_bytearray(), name)

    def __iadd__(self, data: object) -> StreamReaderBuffer:
        self.as_bytearray().__iadd__(data)
        return self

    def __add__(self, data: object) -> bytearray:
        return self.as_bytearray() + data

    def __contains__(self, item: object) -> bool:
        return item in self.as_bytearray()

    def __iter__(self) -> object:
        return iter(self.as_bytearray())

    def __richcmp__(self, other: object, int operation) -> object:
        return PyObject_RichCompare(self.cut(0, self.size()), other, operation)

    def __repr__(self) -> str:
        return repr(bytearray(self.cut(0, self.size())))


def install_reader_buffer(protocol: object) -> None:
    """Replace the buffer of the StreamReader of a StreamReaderProtocol; readers of other classes are not changed."""
    cdef object reader = getattr(protocol, "_stream_reader", None)
    cdef object buffer = getattr(reader, "_buffer", None)
    cdef StreamReaderBuffer received
    if type(reader) is StreamReader and type(buffer) is bytearray:
        received = StreamReaderBuffer.__new__(StreamReaderBuffer)
        received.whole = bytes(buffer) if buffer else None
        reader._buffer = received
