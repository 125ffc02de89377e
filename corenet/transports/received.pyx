"""The buffer of asyncio's own StreamReader, where one of our transports feeds it: what came, not a copy of it.

``StreamReader`` appends each received object to a bytearray, cuts a piece off, and makes bytes of the piece: three
copies, each in memory that was just given back and is faulted in anew. Here the received object itself is the content
until a second one arrives, and a read that asks for as much gets that very object. What piles up, and whoever does
more than asyncio's reader does, turns the content into a bytearray for good, or until it is empty. Nothing of asyncio
is replaced: reading, limits and pausing stay its own code. There is no .pxd: it is imported with the first such reader,
so that programs without one do not load it.
"""

import asyncio

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject_RichCompare
from cpython.slice cimport PySlice_AdjustIndices, PySlice_Check, PySlice_Unpack
from libc.string cimport memchr


cdef extern from "Python.h":
    Py_ssize_t PyByteArray_GET_SIZE(object array) noexcept
    char *PyByteArray_AS_STRING(object array) noexcept

cdef extern from "string.h" nogil:
    void *memmem(const void *haystack, size_t haystack_size, const void *needle, size_t needle_size)

__all__ = ["ReceivedBytes", "keep_received"]

cdef object StreamReader = asyncio.StreamReader
cdef bytes EMPTY = b""


@cython.final
cdef class ReceivedBytes:
    """Stands in for the bytearray of a StreamReader; slices of it are bytes."""

    cdef bytes whole            # the content, from `at` on, when it came in one piece
    cdef Py_ssize_t at
    cdef bytearray pile         # else: the content

    cdef inline Py_ssize_t size(self) noexcept:
        if self.whole is not None:
            return PyBytes_GET_SIZE(self.whole) - self.at
        return 0 if self.pile is None else PyByteArray_GET_SIZE(self.pile)

    cdef inline char *first(self) noexcept:
        if self.whole is not None:
            return PyBytes_AS_STRING(self.whole) + self.at
        return PyBytes_AS_STRING(EMPTY) if self.pile is None else PyByteArray_AS_STRING(self.pile)

    cdef inline bytes cut(self, Py_ssize_t start, Py_ssize_t length):
        if self.whole is not None and length == PyBytes_GET_SIZE(self.whole):
            return self.whole
        return PyBytes_FromStringAndSize(self.first() + start, length)

    cdef bytearray piled(self):
        """The content as the bytearray that asyncio expects, from now on."""
        if self.whole is not None:
            self.pile = bytearray(self.cut(0, self.size()))
            self.whole = None
        elif self.pile is None:
            self.pile = bytearray()
        return self.pile

    def __len__(self) -> int:
        return self.size()

    def __bytes__(self) -> bytes:
        return self.cut(0, self.size())

    def __getitem__(self, key: object) -> object:
        cdef Py_ssize_t start, stop, step, length
        if not PySlice_Check(key):
            return self.piled()[key]
        # The size after the bounds, whose `__index__` may change it.
        PySlice_Unpack(key, &start, &stop, &step)
        length = PySlice_AdjustIndices(self.size(), &start, &stop, step)
        if step != 1:
            return bytes(self.piled()[key])
        return self.cut(start, length)

    def __delitem__(self, key: object) -> None:
        cdef Py_ssize_t start, stop, step, length
        if self.whole is not None and PySlice_Check(key):
            PySlice_Unpack(key, &start, &stop, &step)
            length = PySlice_AdjustIndices(self.size(), &start, &stop, step)
            if self.whole is not None and start == 0 and step == 1:
                self.at += length
                if self.at == PyBytes_GET_SIZE(self.whole):
                    self.whole = None
                return
        del self.piled()[key]

    def __setitem__(self, key: object, value: object) -> None:
        self.piled()[key] = value

    def extend(self, data: object) -> None:
        """Append `data`; into an empty buffer a bytes object goes as it is."""
        if type(data) is bytes and self.size() == 0:
            self.pile = None
            self.whole = data if PyBytes_GET_SIZE(data) else None
            self.at = 0
        else:
            self.piled().extend(data)

    def clear(self) -> None:
        """Drop the content."""
        if self.whole is None and self.pile is not None:
            self.pile.clear()
        self.whole = None

    def take_bytes(self, n: object = None) -> bytes:
        """Cut off the first `n` bytes, or all, and return them; as bytearray.take_bytes, with which 3.15 reads."""
        cdef Py_ssize_t wanted = -1 if n is None else n
        cdef Py_ssize_t length = self.size()
        cdef bytes taken
        if n is not None:
            if not 0 <= wanted <= length:
                return self.piled().take_bytes(wanted)
            length = wanted
        if self.whole is None:
            taken = PyBytes_FromStringAndSize(self.first(), length)
            if self.pile is not None:
                del self.pile[:length]
            return taken
        taken = self.cut(0, length)
        self.at += length
        if self.at == PyBytes_GET_SIZE(self.whole):
            self.whole = None
        return taken

    def find(self, sub: object, *bounds: object) -> int:
        """Where `sub` begins, -1 when it is nowhere; as bytearray.find."""
        cdef const char *begin
        cdef const char *hit
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t size
        if len(bounds) > 1 or type(sub) is not bytes or PyBytes_GET_SIZE(sub) == 0:
            return self.piled().find(sub, *bounds)
        if bounds:
            start = bounds[0]
        size = self.size()
        if start < 0:
            start = max(start + size, 0)
        if size - start < PyBytes_GET_SIZE(sub):
            return -1
        begin = self.first()
        if PyBytes_GET_SIZE(sub) == 1:
            hit = <const char *>memchr(begin + start, PyBytes_AS_STRING(sub)[0], size - start)
        else:
            hit = <const char *>memmem(begin + start, size - start, PyBytes_AS_STRING(sub), PyBytes_GET_SIZE(sub))
        return -1 if hit == NULL else hit - begin

    def __getbuffer__(self, Py_buffer *buffer, int flags) -> None:
        if self.whole is None or flags & PyBUF_WRITABLE:
            PyObject_GetBuffer(self.piled(), buffer, flags)
        else:
            PyBuffer_FillInfo(buffer, self.whole, self.first(), self.size(), True, flags)

    def __getattr__(self, name: str) -> object:
        return getattr(self.piled(), name)

    def __iadd__(self, data: object) -> ReceivedBytes:
        self.piled().__iadd__(data)
        return self

    def __add__(self, data: object) -> bytearray:
        return self.piled() + data

    def __contains__(self, item: object) -> bool:
        return item in self.piled()

    def __iter__(self) -> object:
        return iter(self.piled())

    def __richcmp__(self, other: object, int operation) -> object:
        return PyObject_RichCompare(self.cut(0, self.size()), other, operation)

    def __repr__(self) -> str:
        return repr(bytearray(self.cut(0, self.size())))


def keep_received(protocol: object) -> None:
    """Let the reader of a StreamReaderProtocol keep what it receives; readers of other classes stay as they are."""
    cdef object reader = getattr(protocol, "_stream_reader", None)
    cdef object buffer = getattr(reader, "_buffer", None)
    cdef ReceivedBytes received
    if type(reader) is StreamReader and type(buffer) is bytearray:
        received = ReceivedBytes.__new__(ReceivedBytes)
        received.pile = buffer
        reader._buffer = received
