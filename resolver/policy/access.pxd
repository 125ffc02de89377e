# Access lists: a table of address ranges that the fast path reads without the GIL.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    ACCESS_DROP = 0
    ACCESS_REFUSE = 1
    ACCESS_ALLOW = 2

cdef struct access_table:
    size_t count4
    const uint32_t *start4      # sorted, the first is 0; a range ends where the next begins
    const uint8_t *verdict4
    size_t count6
    const uint64_t *start6      # pairs: upper half, lower half
    const uint8_t *verdict6

# `peer` is a struct sockaddr of `length` bytes. Families other than IPv4 and IPv6 are ACCESS_DROP.
cdef int access_lookup(const access_table *table, const void *peer, size_t length) noexcept nogil

cdef class AccessTable:
    cdef access_table table
    cdef void *memory
