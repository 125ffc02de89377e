# C interface of HPACK (RFC 7541): a growing buffer of bytes, the dynamic table, encoder and decoder of field blocks.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t


# An output buffer. Owned by the object that holds the structure, which frees it with `octets_free`.
cdef struct Octets:
    uint8_t *data
    Py_ssize_t size
    Py_ssize_t capacity


cdef int octets_reserve(Octets *out, Py_ssize_t more) except -1
cdef int octets_add(Octets *out, const void *data, Py_ssize_t n) except -1
cdef void octets_free(Octets *out) noexcept nogil

# Static table: index 1 to 61; `field` is borrowed.
cdef enum:
    STATIC_FIELDS = 61

cdef struct Entry:
    PyObject *field             # owned: a tuple (name, value)
    int kind


cdef class DynamicTable:
    cdef Entry *ring            # `slots` entries, a power of two; the newest at `newest`
    cdef uint32_t slots, newest
    cdef readonly uint32_t count
    cdef readonly Py_ssize_t size, limit
    cdef readonly int64_t inserted
    cdef dict known             # field -> its insertion number; None in a decoder

    cdef Entry *entry(self, uint32_t index) noexcept
    cdef int insert(self, tuple field, Py_ssize_t size, int kind) except -1
    cdef int resize(self, Py_ssize_t limit) except -1
    cdef int evict(self, Py_ssize_t limit) except -1
    cdef int grow(self) except -1


cdef class HpackEncoder:
    cdef readonly DynamicTable table
    cdef Py_ssize_t own_limit, lowest
    cdef bint limit_changed

    cpdef int set_limit(self, Py_ssize_t limit) except -1
    cdef int forget(self) except -1
    cdef int begin(self, Octets *out) except -1
    cdef bint encode_known(self, Octets *out, tuple field) except -1
    cdef int encode_field(self, Octets *out, bytes name, bytes value, tuple key, bint sensitive) except -1


cdef class HpackDecoder:
    cdef readonly DynamicTable table
    cdef Py_ssize_t max_table, max_list
    cdef Py_ssize_t max_fields
    cdef uint8_t *kinds         # of the fields of the last block
    cdef readonly bint over_limit

    cdef int set_limit(self, Py_ssize_t size) except -1
    cdef list decode_block(self, const uint8_t *p, Py_ssize_t n)
    cdef bytes read_string(self, const uint8_t *p, Py_ssize_t n, Py_ssize_t *at)
