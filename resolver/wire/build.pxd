# C interface of the builder: its fields, so that other Cython code can extend a message without Python calls.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from resolver.wire.rrset cimport RRset

cdef bytes query_packet(bytes qname, uint16_t qtype, uint16_t qclass, uint16_t id, uint16_t flags, int payload,
                        bint do_bit, Py_ssize_t options_size)


# One suffix that later names may point to.
cdef struct Target:
    uint32_t hash
    uint16_t offset        # 0: free


cdef class Builder:
    cdef uint8_t *_out
    cdef Py_ssize_t _size
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _limit
    cdef Py_ssize_t _reserve
    cdef Py_ssize_t _bound             # limit of the current write
    cdef int _section
    cdef int _known
    cdef int _misses                   # comparisons of suffixes with equal hashes that differed
    cdef bint _started
    cdef bint _has_opt
    cdef int _counts[4]
    cdef Target _targets[128]
    cdef int _ensure(self, Py_ssize_t more) except -1
    cdef int _write_name(self, const uint8_t *name, Py_ssize_t size, bint exact) except -1
    cdef int _write_rdata(self, const uint8_t *rdata, Py_ssize_t length, uint16_t rtype, const char *layout) except -1
    cdef int _write_set(self, bytes name, uint16_t rtype, uint16_t rclass, uint32_t ttl, bytes packed) except -1
    cdef bint _matches(self, Py_ssize_t at, const uint8_t *name, Py_ssize_t size, bint exact) noexcept nogil
    cdef int _put_counts(self) noexcept
