"""A bounded pool of slabs and chunks cut from them, so that received bytes can be handed on without a copy.

Ownership is explicit: `take` and `slice` give a chunk with one holder, `retain` adds one, `release` ends one; the
memory is used again only when the last chunk of a slab is gone. A chunk that is exported through the buffer protocol
refuses its last release, since a memoryview must never see another peer's bytes. Slabs are cut by a bump pointer:
chunks live for one turn of a loop, so a general allocator's bookkeeping would buy nothing. One pool belongs to one
thread; it takes no locks.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport uint8_t
from libc.string cimport memset

cimport cython

from corenet.core.receivers cimport guard_receivers

from corenet.limits import BUFFER_SLAB, BUFFER_SLABS

cdef extern from *:
    bint CORENET_DEBUG

__all__ = ["BufferPool", "Chunk", "PoolExhausted", "live_objects"]

# A cache line's quarter: every chunk starts where any C type may.
cdef enum:
    ALIGNMENT = 16

# What recycled memory is overwritten with in the debug build, so that a late reader sees nonsense and not luck.
cdef enum:
    POISON = 0xDD

cdef Py_ssize_t live_chunks = 0
cdef Py_ssize_t live_pools = 0


cdef inline Py_ssize_t aligned(Py_ssize_t size, Py_ssize_t room) noexcept nogil:
    return min((size + ALIGNMENT - 1) & ~<Py_ssize_t>(ALIGNMENT - 1), room)


class PoolExhausted(BufferError):
    """Every slab of the pool is held; the caller should stop reading until chunks are released."""


def live_objects():
    """Return how many chunks and pools exist in the process; counted in the debug build, else an empty dict."""
    if CORENET_DEBUG:
        return {"chunks": live_chunks, "pools": live_pools}
    return {}


@cython.final
cdef class BufferPool:
    """Up to `slabs` slabs of `slab` bytes, opened one by one as they are needed and kept."""

    def __cinit__(self, slab=None, slabs=None):
        global live_pools
        self.slab_size = BUFFER_SLAB.default if slab is None else BUFFER_SLAB.check(slab, "BufferPool slab")
        self.slab_limit = BUFFER_SLABS.default if slabs is None else BUFFER_SLABS.check(slabs, "BufferPool slabs")
        self.opened = 0
        self.current = -1
        self.free_head = -1
        self.live = 0
        self.forgotten = 0
        self.slabs = <Slab *>PyMem_RawMalloc(self.slab_limit * sizeof(Slab))
        if self.slabs == NULL:
            raise MemoryError("no memory for the slab table")
        memset(self.slabs, 0, self.slab_limit * sizeof(Slab))
        if CORENET_DEBUG:
            live_pools += 1

    def __dealloc__(self):
        # Chunks hold a reference to their pool, so no chunk can be alive here.
        global live_pools
        cdef Py_ssize_t i
        if self.slabs != NULL:
            for i in range(self.opened):
                PyMem_RawFree(self.slabs[i].base)
            PyMem_RawFree(self.slabs)
            if CORENET_DEBUG:
                live_pools -= 1

    def take(self, Py_ssize_t size):
        """Cut a chunk of `size` bytes with one holder; its content is undefined.

        Raises:
            ValueError: when `size` is below 1 or above the slab size.
            PoolExhausted: when every slab is held.
        """
        if size < 1 or size > self.slab_size:
            raise ValueError(f"take: {size} is outside 1..{self.slab_size} bytes (the slab size)")
        cdef Chunk chunk = self.cut(size)
        if chunk is None:
            raise PoolExhausted(f"all {self.slab_limit} slabs of {self.slab_size} bytes are held by {self.live} chunks")
        return chunk

    def shrink(self):
        """Give the memory of slabs nobody holds back to the system; return how many bytes that were."""
        cdef Py_ssize_t freed = 0
        cdef Py_ssize_t index = self.free_head
        cdef Slab *slab
        while index >= 0:
            slab = &self.slabs[index]
            if slab.base != NULL:
                PyMem_RawFree(slab.base)
                slab.base = NULL
                freed += self.slab_size
            index = slab.next_free
        return freed

    @property
    def statistics(self):
        """Counts: slabs opened, slabs free, chunks alive, chunks that were collected without a release."""
        cdef Py_ssize_t free = 0
        cdef Py_ssize_t index = self.free_head
        while index >= 0:
            free += 1
            index = self.slabs[index].next_free
        return {"slabs": self.opened, "free": free, "chunks": self.live, "forgotten": self.forgotten}

    cdef Chunk cut(self, Py_ssize_t size):
        global live_chunks
        cdef Slab *slab = NULL
        cdef Py_ssize_t index = self.current
        if index >= 0:
            slab = &self.slabs[index]
            if slab.live == 0:
                slab.used = 0
            if self.slab_size - slab.used < size:
                slab = NULL
        if slab == NULL:
            if self.free_head >= 0:
                index = self.free_head
                self.free_head = self.slabs[index].next_free
                self.slabs[index].idle = False
            elif self.opened < self.slab_limit:
                index = self.opened
                self.opened += 1
            else:
                return None
            slab = &self.slabs[index]
            slab.used = 0
            self.retire_current()
            self.current = index
        if slab.base == NULL:
            slab.base = <uint8_t *>PyMem_RawMalloc(self.slab_size)
            if slab.base == NULL:
                raise MemoryError(f"no memory for a slab of {self.slab_size} bytes")
        cdef Chunk chunk = Chunk.__new__(Chunk)
        chunk.pool = self
        chunk.index = index
        chunk.data = slab.base + slab.used
        chunk.length = size
        chunk.holders = 1
        chunk.exports = 0
        chunk.sliced = False
        slab.used += aligned(size, self.slab_size - slab.used)
        slab.live += 1
        self.live += 1
        if CORENET_DEBUG:
            live_chunks += 1
        return chunk

    cdef void retire_current(self) noexcept:
        # The slab being left goes to the free list now if nothing lives in it, else with its last chunk.
        if self.current >= 0 and self.slabs[self.current].live == 0 and not self.slabs[self.current].idle:
            self.push_free(self.current)

    cdef void push_free(self, Py_ssize_t index) noexcept:
        self.slabs[index].next_free = self.free_head
        self.slabs[index].idle = True
        self.free_head = index

    cdef void give_back(self, Py_ssize_t index) noexcept:
        global live_chunks
        cdef Slab *slab = &self.slabs[index]
        self.live -= 1
        slab.live -= 1
        if CORENET_DEBUG:
            live_chunks -= 1
        if slab.live == 0:
            if CORENET_DEBUG:
                memset(slab.base, POISON, self.slab_size)
            slab.used = 0
            if index != self.current:
                self.push_free(index)


# no_gc: a pool refers to no Python object, so a chunk can never be part of a cycle; untracked objects are cheaper and
# keep `pool` valid until __dealloc__.
@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Chunk:
    """A writable run of bytes inside a slab; made by `BufferPool.take` and `Chunk.slice` only.

    `holders` is the number of releases outstanding (0: released), `exports` that of memoryviews and other users of
    the buffer protocol.
    """

    def __init__(self):
        raise TypeError("a Chunk is made by BufferPool.take or Chunk.slice")

    def __dealloc__(self):
        # Collected while still held: the memory is not lost, but somebody forgot a release, and that is counted.
        if self.pool is not None and self.holders > 0:
            self.pool.forgotten += 1
            self.pool.give_back(self.index)

    def __len__(self):
        return self.length

    def __bytes__(self):
        self.check()
        return PyBytes_FromStringAndSize(<char *>self.data, self.length)

    def __repr__(self):
        return f"<Chunk {self.length} bytes, holders {self.holders}, exports {self.exports}>"

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.holders == 0:
            raise BufferError("this chunk was released; its bytes belong to somebody else")
        PyBuffer_FillInfo(buffer, self, self.data, self.length, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1

    def retain(self):
        """Add a holder and return the chunk itself.

        Raises:
            BufferError: when the chunk was released before.
        """
        self.check()
        self.holders += 1
        return self

    def release(self):
        """End one holding; the last one gives the memory back.

        Raises:
            BufferError: when the chunk was released before, or when this is the last holder and views of it exist.
        """
        self.check()
        if self.holders == 1:
            if self.exports:
                raise BufferError(f"this chunk is exported {self.exports} times; release the views first")
            self.holders = 0
            self.pool.give_back(self.index)
        else:
            self.holders -= 1

    def slice(self, Py_ssize_t start, Py_ssize_t stop):
        """Return a new chunk over ``[start:stop]`` of the same memory, with a holder of its own and no copy.

        Raises:
            BufferError: when the chunk was released before.
            ValueError: unless ``0 <= start < stop <= len``.
        """
        global live_chunks
        self.check()
        if start < 0 or stop <= start or stop > self.length:
            raise ValueError(f"slice: {start}:{stop} does not lie inside 0:{self.length}")
        cdef Chunk part = Chunk.__new__(Chunk)
        part.pool = self.pool
        part.index = self.index
        part.data = self.data + start
        part.length = stop - start
        part.holders = 1
        part.exports = 0
        part.sliced = True
        self.sliced = True
        self.pool.slabs[self.index].live += 1
        self.pool.live += 1
        if CORENET_DEBUG:
            live_chunks += 1
        return part

    def trim(self, Py_ssize_t size):
        """Shorten to the first `size` bytes; the rest returns to the slab when this was its newest chunk.

        Raises:
            BufferError: when the chunk was released before or is exported.
            ValueError: unless ``1 <= size <= len``.
        """
        self.check()
        if self.exports:
            raise BufferError("an exported chunk cannot change its length")
        if size < 1 or size > self.length:
            raise ValueError(f"trim: {size} is outside 1..{self.length} bytes")
        cdef Slab *slab = &self.pool.slabs[self.index]
        cdef Py_ssize_t start = self.data - slab.base
        # Only the newest cut touches the bump pointer, and only while no slice may still look at the tail.
        if not self.sliced and slab.used == start + aligned(self.length, self.pool.slab_size - start):
            slab.used = start + aligned(size, self.pool.slab_size - start)
        self.length = size

    cdef int check(self) except -1:
        if self.holders == 0:
            raise BufferError("this chunk was released already")
        return 0


guard_receivers(globals())
