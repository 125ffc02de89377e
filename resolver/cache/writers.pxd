# C interface of the writers: put, drop and clear, without the GIL, safe with concurrent processes.
# They return PUT_ codes or counts; PUT_BUSY means that a stopped process holds a lock.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from resolver.cache.lookup cimport Bucket, Flush, TableView

cdef enum:
    PUT_STORED = 1
    PUT_REFUSED = 0             # there is a fresh entry of higher rank, or a flush since the query began
    PUT_TOO_LARGE = -1
    PUT_BUSY = -2

cdef enum:
    PUT_RANKED = 1              # refuse to replace a fresh entry whose rank (low four bits of meta) is higher
    PUT_NOT_LONGER = 2          # a replacement expires no later than the fresh entry it replaces

ctypedef struct Slice:
    const void *data
    uint32_t size

cdef int table_put(TableView *t, uint64_t h, uint8_t kind, const uint8_t *key, uint32_t key_size, const Slice *pieces,
                   int count, int64_t now, uint32_t ttl, uint8_t meta, uint16_t aux, int flags,
                   uint32_t age=*, uint32_t serial=*) noexcept nogil
cdef void start_flush(Flush *flush) noexcept nogil
cdef void release_dead_flushes(TableView *t) noexcept nogil
cdef int table_drop(TableView *t, uint64_t h, uint8_t kind, const uint8_t *key, uint32_t key_size) noexcept nogil
cdef int64_t table_clear(TableView *t) noexcept nogil

# Only for `scan` and tests.
cdef void advance_serial(TableView *t) noexcept nogil
cdef int64_t hide_everything(TableView *t) noexcept nogil
cdef int lock_arena(TableView *t) noexcept nogil
cdef int lock_group(TableView *t, uint64_t group) noexcept nogil
cdef void clear_slot(TableView *t, Bucket *group, uint64_t h, Bucket *b, uint64_t *slot) noexcept nogil
cdef uint64_t *slot_of_place(Bucket *group, uint64_t h, uint64_t place, Bucket **where) noexcept nogil
