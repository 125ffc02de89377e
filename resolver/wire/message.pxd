# C interface of messages: the query parser of the fast path, and the view that Python code reads.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from resolver.wire.edns cimport Edns


# The fields of a plain query. `qname` points into the packet and is not compressed.
# `non_plain`: something that Python must handle, such as another EDNS option than these, an EDNS version above 0,
# unknown EDNS flags, a class other than IN, or header flags that queries do not have.
cdef struct QueryInfo:
    uint16_t id
    uint16_t flags
    uint16_t qtype
    uint16_t qclass
    const uint8_t *qname
    uint16_t qname_len
    uint16_t question_end
    bint has_edns
    uint8_t edns_version
    uint16_t payload
    bint do_bit
    const uint8_t *cookie
    uint8_t cookie_len
    bint padded             # it has a PADDING option (RFC 7830)
    bint keepalive          # it has an edns-tcp-keepalive option (RFC 7828)
    bint non_plain


cdef int parse_query(const uint8_t *p, size_t n, QueryInfo *q) noexcept nogil


# One record of a checked message: its offsets, and the next record of its group.
cdef struct Record:
    uint64_t name_hash
    uint32_t ttl
    int next               # next record of the same group, or -1
    uint16_t owner
    uint16_t owner_target  # the target of a leading pointer, else `owner`
    uint16_t owner_length  # uncompressed
    uint16_t rtype
    uint16_t rclass
    uint16_t rdata
    uint16_t length
    uint16_t expanded      # length of the rdata with uncompressed names
    uint8_t section


# Records of one section with the same owner, type and class; the signatures over them.
cdef struct Group:
    int first
    int last
    int count
    int sig_first
    int sig_last
    int sig_count
    int size
    int sig_size
    uint32_t ttl
    uint16_t rtype


cdef class MessageView:
    cdef readonly bytes wire
    cdef readonly object qname
    cdef readonly Edns edns
    cdef list _sections
    cdef const uint8_t *_data       # the bytes of `wire`, for code without the GIL
    cdef Py_ssize_t _size
    cdef Record *_records
    cdef Group *_groups
    cdef int *_slots
    cdef int _slot_mask
    cdef int _record_count
    cdef int _group_count
    cdef readonly int probes        # accesses to `_slots`; no choice of owners may increase their number
    cdef readonly uint16_t id
    cdef readonly uint16_t flags
    cdef readonly uint16_t qtype
    cdef readonly uint16_t qclass
    cdef readonly uint16_t question_count
    cdef int _index(self) except -1
    cdef int _read_records(self, Py_ssize_t at, int *opt) noexcept nogil
    cdef int _group_records(self) noexcept nogil
    cdef int _find_group(self, const Record *record, uint16_t rtype, int *slot) noexcept nogil
    cdef bint _same_owner(self, const Record *a, const Record *b) noexcept nogil
    cdef list _section(self, int section)
    cdef bytes _pack(self, int index, int count, int size, int *kept)
