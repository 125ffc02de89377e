# C door of the buffer pool: chunks are slices of slabs, counted by holders and by exports.

from libc.stdint cimport uint8_t


cdef struct Slab:
    uint8_t *base           # NULL until first used
    Py_ssize_t used         # bump pointer
    Py_ssize_t live         # chunks that still point into it
    Py_ssize_t next_free    # index of the next slab on the free list, -1 at its end
    bint idle               # on the free list


cdef class BufferPool:
    cdef Slab *slabs
    cdef readonly Py_ssize_t slab_size
    cdef readonly Py_ssize_t slab_limit
    cdef Py_ssize_t opened      # slabs[0:opened] have been in use at least once
    cdef Py_ssize_t current     # the slab that is being cut, -1 before the first
    cdef Py_ssize_t free_head   # -1: none
    cdef Py_ssize_t live
    cdef Py_ssize_t forgotten
    # A chunk of `size` bytes (0 < size <= slab_size), or None when every slab is held.
    cdef Chunk cut(self, Py_ssize_t size)
    cdef void give_back(self, Py_ssize_t index) noexcept
    cdef void retire_current(self) noexcept
    cdef void push_free(self, Py_ssize_t index) noexcept


cdef class Chunk:
    cdef BufferPool pool
    cdef Py_ssize_t index       # of its slab
    cdef uint8_t *data
    cdef Py_ssize_t length
    cdef readonly Py_ssize_t holders
    cdef readonly Py_ssize_t exports
    cdef bint sliced            # slices of it may look at its tail
    cdef int check(self) except -1
