"""Views of received bytes and the blocks of memory that they keep alive, for zero-copy frames.

A view holds a reference to its block, and a block is reused only when no view refers to it. So a view is valid as long
as it is referenced and never shows bytes of another peer. The cost is that a small view keeps a whole block
(`FrameView.pinned_bytes`). Views are not memoryviews, because slicing a memoryview costs more than copying a kibibyte.
The current block is shared by all loops of the process: it is handed out and filled without releasing the GIL.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport Py_EQ, Py_NE, PyObject
from libc.stdint cimport uint8_t
from libc.string cimport memcmp

cimport cython

from corenet.core.libc cimport sole_owner

from corenet.limits import FRAME_BLOCK_SIZE, FRAME_BLOCK_MIN_FREE

__all__ = ["FrameView"]

cdef Py_ssize_t BLOCK_SIZE = FRAME_BLOCK_SIZE
cdef Py_ssize_t MIN_FREE = FRAME_BLOCK_MIN_FREE

# The ints 0 to 255: a table look-up takes a quarter of the time of making an int, even one that CPython caches.
cdef tuple BYTE_VALUES = tuple(range(256))

cdef Block current_block = None


@cython.final
@cython.no_gc
cdef class Block:
    """Memory to receive into, filled from start to end."""

    def __dealloc__(self):
        PyMem_RawFree(self.data)


cdef Block receive_block():
    """Return the block to receive into: from its start when there are no views of it, a new one when it is nearly
    full."""
    global current_block
    # The module's reference is the only one: no view refers to the block.
    if current_block is not None and sole_owner(<PyObject *>current_block):
        current_block.used = 0
    elif current_block is None or current_block.size - current_block.used < MIN_FREE:
        current_block = Block.__new__(Block)
        current_block.data = <uint8_t *>PyMem_RawMalloc(BLOCK_SIZE)
        if current_block.data == NULL:
            current_block = None
            raise MemoryError(f"no memory for a block of {BLOCK_SIZE} bytes")
        current_block.size = BLOCK_SIZE
    return current_block


cdef FrameView make_view(object owner, const uint8_t *data, Py_ssize_t size):
    """Return a view of `size` bytes at `data`, which `owner` keeps alive and unchanged."""
    cdef FrameView view = FrameView.__new__(FrameView)
    view.owner = owner
    view.data = data
    view.size = size
    return view


# no_gc: owners are blocks or bytes, which refer to no other object.
@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class FrameView:
    """Received bytes, read-only, valid as long as the view is referenced.

    It supports the buffer protocol (memoryview, struct, hashlib and sockets take it without a copy), len, indexing,
    slicing, equality and hash, as bytes do. ``bytes(view)`` is an independent copy. Keep such a copy, not the view, of
    data that is needed for long, because a view keeps the whole block that it was received into (see `pinned_bytes`).
    """

    def __init__(self):
        raise TypeError("a FrameView is made by a framer or a FramedProtocol")

    def __len__(self):
        return self.size

    def __bytes__(self):
        return PyBytes_FromStringAndSize(<const char *>self.data, self.size)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <void *>self.data, self.size, 1, flags)

    def __getitem__(self, index):
        cdef Py_ssize_t start, stop, step, at
        cdef bytes copied
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            if step == 1:
                return make_view(self.owner, self.data + start, max(stop - start, 0))
            copied = bytes(self)[index]
            return make_view(copied, <const uint8_t *>PyBytes_AS_STRING(copied), PyBytes_GET_SIZE(copied))
        at = index
        if at < 0:
            at += self.size
        if at < 0 or at >= self.size:
            raise IndexError("FrameView index out of range")
        return BYTE_VALUES[self.data[at]]

    def __contains__(self, item):
        return item in bytes(self)

    def __richcmp__(self, other, int operation):
        cdef Py_buffer buffer
        cdef FrameView view
        cdef bint equal
        if operation != Py_EQ and operation != Py_NE:
            return NotImplemented
        if type(other) is FrameView:
            view = other
            equal = self.size == view.size and memcmp(self.data, view.data, self.size) == 0
        elif type(other) is bytes:
            equal = (self.size == PyBytes_GET_SIZE(other)
                     and memcmp(self.data, PyBytes_AS_STRING(other), self.size) == 0)
        elif PyObject_CheckBuffer(other):
            PyObject_GetBuffer(other, &buffer, PyBUF_SIMPLE)
            equal = self.size == buffer.len and memcmp(self.data, buffer.buf, self.size) == 0
            PyBuffer_Release(&buffer)
        else:
            return NotImplemented
        return equal == (operation == Py_EQ)

    def __hash__(self):
        return hash(bytes(self))

    def __repr__(self):
        cdef bytes head = PyBytes_FromStringAndSize(<const char *>self.data, min(self.size, 32))
        return f"<FrameView {self.size} bytes {head!r}{'...' if self.size > 32 else ''}>"

    def tobytes(self):
        """Return a copy as bytes, the same as ``bytes(view)``."""
        return bytes(self)

    def decode(self, str encoding="utf-8", str errors="strict"):
        """Return the text, as ``bytes.decode`` does.

        Raises:
            UnicodeDecodeError: the bytes are not valid in that encoding.
        """
        return bytes(self).decode(encoding, errors)

    @property
    def pinned_bytes(self):
        """Bytes of memory that this view keeps from being reused or freed."""
        cdef object owner = self.owner
        return (<Block>owner).size if type(owner) is Block else len(owner)
