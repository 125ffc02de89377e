# C interface of fields: layouts of parsed signatures, keys and DS records, for other compiled modules.

from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef class Rrsig:
    cdef readonly bytes signer
    cdef readonly bytes signature
    cdef readonly bytes rdata
    cdef readonly uint32_t original_ttl
    cdef readonly uint32_t expiration
    cdef readonly uint32_t inception
    cdef readonly uint16_t covered
    cdef readonly uint16_t tag
    cdef readonly uint8_t algorithm
    cdef readonly uint8_t labels


cdef class Dnskey:
    cdef readonly bytes key
    cdef readonly bytes rdata
    cdef readonly uint16_t flags
    cdef readonly uint16_t tag
    cdef readonly uint8_t protocol
    cdef readonly uint8_t algorithm
    cdef readonly bint usable


cdef class Ds:
    cdef readonly bytes digest
    cdef readonly uint16_t tag
    cdef readonly uint8_t algorithm
    cdef readonly uint8_t digest_type


cdef Rrsig read_rrsig(const uint8_t *data, Py_ssize_t size)
cdef int labels_of(const uint8_t *name, Py_ssize_t size) noexcept nogil
