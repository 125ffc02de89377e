"""Views of received bytes, and the blocks of memory that they keep alive: what zero-copy frames are made of.

A view holds a reference to the block it looks into, and a block is used again only when no view is left, so a view is
valid for as long as somebody holds it and never shows another peer's bytes. The price is stated by `FrameView.pinned_bytes`: a
small view keeps a whole block. Own objects instead of memoryview, because a slice of a memoryview costs more than a
copy of a kibibyte. The block in use belongs to the process: it is handed out and filled without giving up the GIL.
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
cdef Py_ssize_t LEAST_ROOM = FRAME_BLOCK_MIN_FREE

# A look into a table costs a quarter of making an int, also one of those that Python keeps.
cdef tuple BYTES = tuple(range(256))

cdef Block in_use = None


@cython.final
@cython.no_gc
cdef class Block:
    """Memory that is received into, filled from its beginning to its end."""

    def __dealloc__(self):
        PyMem_RawFree(self.data)


cdef Block receive_block():
    """The block to receive into: from its start again when nobody looks into it, a new one when little room is left."""
    global in_use
    # Ours and the module's: nobody else holds it.
    if in_use is not None and sole_owner(<PyObject *>in_use):
        in_use.used = 0
    elif in_use is None or in_use.size - in_use.used < LEAST_ROOM:
        in_use = Block.__new__(Block)
        in_use.data = <uint8_t *>PyMem_RawMalloc(BLOCK_SIZE)
        if in_use.data == NULL:
            in_use = None
            raise MemoryError(f"no memory for a block of {BLOCK_SIZE} bytes")
        in_use.size = BLOCK_SIZE
    return in_use


cdef FrameView make_view(object owner, const uint8_t *data, Py_ssize_t size):
    """A view of `size` bytes at `data`, which `owner` keeps alive and unchanged."""
    cdef FrameView view = FrameView.__new__(FrameView)
    view.owner = owner
    view.data = data
    view.size = size
    return view


# no_gc: an owner refers to nothing that could lead back here.
@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class FrameView:
    """Received bytes, read-only, valid for as long as they are held.

    It supports the buffer protocol (so memoryview, struct, hashlib and sockets take it without a copy), len, indexing,
    slicing, equality and hash as bytes do. ``bytes(view)`` is an independent copy: keep that, and not the view, of what
    is to be kept for long, since a view keeps the whole block alive that it was received in (see `pinned_bytes`).
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
        return BYTES[self.data[at]]

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
            UnicodeDecodeError: when the bytes are no text of that encoding.
        """
        return bytes(self).decode(encoding, errors)

    @property
    def pinned_bytes(self):
        """How many bytes of memory cannot be used again while this view is held."""
        cdef object owner = self.owner
        return (<Block>owner).size if type(owner) is Block else len(owner)
