# C door of the writers: put, drop, sweep and clear, without the GIL, safe beside other processes.
# All return PUT_ codes or counts; PUT_BUSY means that a process which does not run holds a lock.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from resolver.cache.lookup cimport TableView

cdef enum:
    PUT_STORED = 1
    PUT_REFUSED = 0             # a fresh entry of higher rank stands there
    PUT_TOO_LARGE = -1
    PUT_BUSY = -2

cdef enum:
    PUT_RANKED = 1              # refuse to replace a fresh entry whose rank (low four bits of meta) is higher
    PUT_NOT_LONGER = 2          # never let a replacement outlive the fresh entry it replaces

ctypedef struct Piece:
    const void *data
    uint32_t size

# An entry on its way out of the table or back into it: this head, the key, the value. In the machine's byte order.
ctypedef struct Copied:
    uint32_t value_size
    uint32_t created
    uint32_t ttl
    uint16_t key_size
    uint16_t aux
    uint8_t kind
    uint8_t meta
    uint16_t unused

cdef int table_put(TableView *t, uint64_t h, uint8_t kind, const uint8_t *key, uint32_t key_size, const Piece *pieces,
                   int count, int64_t now, uint32_t ttl, uint8_t meta, uint16_t aux, int flags,
                   uint32_t age=*) noexcept nogil
cdef int table_drop(TableView *t, uint64_t h, uint8_t kind, const uint8_t *key, uint32_t key_size) noexcept nogil
cdef int64_t table_sweep(TableView *t, uint32_t kinds, const uint8_t *name, uint32_t name_size,
                         bint subtree) noexcept nogil
cdef int64_t table_copy(TableView *t, uint32_t kinds, uint64_t *at, uint64_t end, int64_t now, int64_t stale,
                        uint8_t *out, uint64_t room) noexcept nogil
cdef int table_clear(TableView *t) noexcept nogil
cdef void table_stand_inside(TableView *t, uint64_t h) noexcept nogil
