# C interface for operations on the whole table: sweep and copy, without the GIL, safe with concurrent processes.
# They return counts, or PUT_BUSY when a stopped process holds a lock.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from resolver.cache.lookup cimport TableView

# An entry in a dump: this head, the key, the value. In native byte order.
ctypedef struct DumpEntry:
    uint32_t value_size
    uint32_t created
    uint32_t ttl
    uint16_t key_size
    uint16_t aux
    uint8_t kind
    uint8_t meta
    uint16_t unused

cdef int64_t table_begin_flush(TableView *t, const uint8_t *name, uint32_t name_size, bint subtree) noexcept nogil
cdef void table_end_flush(TableView *t, int64_t number) noexcept nogil
cdef int64_t table_sweep(TableView *t, uint32_t kinds, const uint8_t *name, uint32_t name_size, bint subtree,
                         bint outdated, uint64_t *group, uint64_t count) noexcept nogil
cdef int64_t table_copy(TableView *t, uint32_t kinds, uint64_t *at, uint64_t end, int64_t now, int64_t stale,
                        uint8_t *out, uint64_t capacity) noexcept nogil
