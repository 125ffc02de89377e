# Access lists: a table of address ranges that the fast path reads without the GIL.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    ACCESS_DROP = 0
    ACCESS_REFUSE = 1
    ACCESS_ALLOW = 2
    ACCESS_DECISION = 3         # the bits of a value that are one of the above
    ACCESS_UNCACHED = 4         # no cached answer is for the client: its queries go to Python
    ACCESS_VIEW_SHIFT = 3       # the bits above are the number of the client's view

cdef struct access_table:
    size_t count4
    const uint32_t *start4      # sorted, the first is 0; a range ends where the next begins
    const uint16_t *value4
    size_t count6
    const uint64_t *start6      # pairs: upper half, lower half
    const uint16_t *value6

# The decision and the view of a client. `peer` is a struct sockaddr of `length` bytes. Families other than IPv4 and IPv6
# are ACCESS_DROP.
cdef int access_lookup(const access_table *table, const void *peer, size_t length) noexcept nogil

# As `access_lookup`, for an address in network order of 4 or 16 bytes.
cdef int access_lookup_ip(const access_table *table, const uint8_t *ip, size_t size) noexcept nogil

cdef class AccessTable:
    cdef access_table table
    cdef void *memory
    cdef readonly dict keyed
