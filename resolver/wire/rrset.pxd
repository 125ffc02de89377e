# C interface of RRset: its fields, and a function to make one without Python's argument parsing.

from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef class RRset:
    cdef readonly bytes name
    cdef readonly bytes packed
    cdef readonly bytes packed_sigs
    cdef bytes _lowered
    cdef readonly uint32_t ttl
    cdef readonly uint16_t rtype
    cdef readonly uint16_t rclass
    cdef uint16_t count
    cdef uint16_t sig_count
    cdef public uint8_t trust
    cdef public uint8_t verdict
    cdef public uint8_t zone_labels
    cdef bytes _lower(self)
    cdef RRset _copy(self)


cdef enum:
    PUBLIC_ZONE = 128           # a name has at most 127 labels (RFC 1035 section 3.1)
    UNKNOWN_ZONE = 255

cdef RRset make_rrset(bytes name, uint16_t rtype, uint16_t rclass, uint32_t ttl, bytes packed, int count,
                      bytes packed_sigs, int sig_count, uint8_t trust, uint8_t verdict)
cdef int packed_count(const uint8_t *data, Py_ssize_t size) noexcept nogil
