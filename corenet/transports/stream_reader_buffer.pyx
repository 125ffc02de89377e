"""Received bytes that nobody has read yet: the buffer of `corenet.StreamReader` and, with our transports, of asyncio's.

``asyncio.StreamReader`` appends each received object to a bytearray, cuts a piece off, and makes bytes of the piece: three
copies, each in memory that was just given back and is faulted in anew. Here the received object itself is the content
until a second one arrives, and a read that asks for as much gets that very object. What arrives while something is
unread is copied into a bytearray, and an empty buffer holds no memory.

`StreamReaderBuffer` takes the place of the bytearray in asyncio's reader. Reading, limits and pausing stay asyncio's own
code; what that does not do (a step in a slice, a write) turns the content into a bytearray first.
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
    """What both kinds of readers hold."""

    cdef Py_ssize_t size(self) noexcept:
        if self.whole is not None:
            return PyBytes_GET_SIZE(self.whole) - self.at
        # Whoever has the bytearray of a StreamReaderBuffer may have made it shorter.
        return 0 if self.fallback is None else max(PyByteArray_GET_SIZE(self.fallback) - self.at, 0)

    cdef const uint8_t *first(self) noexcept:
        if self.whole is not None:
            return <const uint8_t *>PyBytes_AS_STRING(self.whole) + self.at
        return <const uint8_t *>(
            PyBytes_AS_STRING(EMPTY) if self.fallback is None else PyByteArray_AS_STRING(self.fallback) + self.at
        )

    cdef int append(self, const uint8_t *data, Py_ssize_t length, bytes owner) except -1:
        """Add `length` bytes, at least one; `owner` is the bytes object that they are all of, or None."""
        cdef Py_ssize_t held = self.size()
        cdef bytearray fallback
        if held == 0:
            self.whole = PyBytes_FromStringAndSize(<const char *>data, length) if owner is None else owner
            self.fallback = None
            self.at = 0
            return 0
        if self.whole is not None:
            fallback = PyByteArray_FromStringAndSize(NULL, held + length)
            memcpy(PyByteArray_AS_STRING(fallback), self.first(), held)
            self.fallback = fallback
            self.whole = None
            self.at = 0
        else:
            PyByteArray_Resize(self.as_bytearray(), held + length)
        memcpy(PyByteArray_AS_STRING(self.fallback) + held, data, length)
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
        """Remove the first `size` bytes, no more than there are."""
        self.at += size
        if self.size() == 0:
            self.whole = None
            self.fallback = None
            self.at = 0
        return 0

    cdef Py_ssize_t index_of(self, bytes needle, Py_ssize_t start) noexcept:
        """Where `needle`, which is not empty, begins at or behind `start`; -1 when it does not."""
        cdef Py_ssize_t found = find_bytes(
            self.first() + start, self.size() - start,
            <const uint8_t *>PyBytes_AS_STRING(needle), PyBytes_GET_SIZE(needle),
        )
        return found if found < 0 else found + start

    cdef bytearray as_bytearray(self):
        """The content, and nothing else, as a bytearray."""
        if self.whole is not None:
            self.fallback = PyByteArray_FromStringAndSize(<const char *>self.first(), self.size())
            self.whole = None
        elif self.fallback is None:
            self.fallback = bytearray()
        elif self.at:
            del self.fallback[:self.at]
        self.at = 0
        return self.fallback


@cython.final
cdef class StreamReaderBuffer(ReceiveBuffer):
    """Stands in for the bytearray of a StreamReader; slices of it are bytes."""

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
        # The size after the bounds, whose `__index__` may change it.
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
        """Append `data`; into an empty buffer a bytes object goes as it is."""
        if type(data) is not bytes:
            self.as_bytearray().extend(data)
        elif PyBytes_GET_SIZE(data):
            self.append(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)

    def clear(self) -> None:
        """Drop the content."""
        self.drop(self.size())

    def take_bytes(self, n: object = None) -> bytes:
        """Cut off the first `n` bytes, or all, and return them; as bytearray.take_bytes, with which 3.15 reads."""
        cdef Py_ssize_t wanted = self.size() if n is None else n
        if not 0 <= wanted <= self.size():
            return self.as_bytearray().take_bytes(wanted)
        return self.take(wanted)

    def find(self, sub: object, *bounds: object) -> int:
        """Where `sub` begins, -1 when it is nowhere; as bytearray.find."""
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
    """Let the reader of a StreamReaderProtocol keep what it receives; readers of other classes stay as they are."""
    cdef object reader = getattr(protocol, "_stream_reader", None)
    cdef object buffer = getattr(reader, "_buffer", None)
    cdef StreamReaderBuffer received
    if type(reader) is StreamReader and type(buffer) is bytearray:
        received = StreamReaderBuffer.__new__(StreamReaderBuffer)
        received.whole = bytes(buffer) if buffer else None
        reader._buffer = received
