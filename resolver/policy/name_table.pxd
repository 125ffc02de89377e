# A table of names that is read without the GIL: block and allow lists, triggers of response policy zones.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    BUCKET_SLOTS = 12
    BUCKET_TAGS = 16            # two words; the last four bytes are always 0

cdef struct name_bucket:        # one cache line
    uint8_t tags[BUCKET_TAGS]   # filled from the first: 0 when the slot is empty, else eight bits of the hash
    uint32_t offsets[BUCKET_SLOTS]      # where the entry begins

cdef struct name_table:
    uint64_t k0                 # secret of the hash
    uint64_t k1
    size_t buckets
    size_t count                # names; fewer than all slots, so a probe always meets an empty one
    size_t used                 # bytes of `entries`
    name_bucket *bucket
    uint8_t *entries            # packed: two values (exact, below), then the name in lower case
    bint as_zone                # a name without a value for names below hides those of its ancestors (RFC 4592)
    uint8_t depths[128]         # 1 where a name with this many labels exists; the others need no look-up

# The value for `name`, a checked wire name of `size` bytes in any letter case, or 0. Its own exact value precedes; then
# the closest ancestor with a value for the names below it. `matched`, when not NULL, is set to the offset in `name`
# where the matched name begins; `exact`, when not NULL, to whether the exact value matched.
cdef int name_table_find(const name_table *table, const uint8_t *name, Py_ssize_t size,
                         Py_ssize_t *matched, bint *exact) noexcept nogil

cdef class NameTable:
    cdef name_table table

cdef class NameTableBuilder:
    cdef name_table table
    cdef size_t capacity
    cdef size_t most_names
    cdef size_t most_bytes
    cdef bint busy              # while `resize` runs without the GIL: another thread must not change the table
    cdef int check_idle(self) except -1
    cdef int resize(self, size_t buckets) except -1
    cdef int insert(self, const uint8_t *name, Py_ssize_t size, int exact, int below) except -1
    cdef int check_values(self, int exact, int below) except -1
