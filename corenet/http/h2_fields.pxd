# C interface: the kind of a field in HTTP/2, and whether its name and value are allowed (RFC 9113 section 8.2).

from libc.stdint cimport uint8_t


cdef enum FieldKind:
    FIELD_PLAIN
    FIELD_BAD                   # no message may contain it
    FIELD_CONNECTION            # connection-specific: no HTTP/2 message may contain it (RFC 9113 section 8.2.2)
    FIELD_CONTENT_LENGTH
    FIELD_HOST
    FIELD_COOKIE
    # From here on pseudo-header fields.
    FIELD_METHOD
    FIELD_SCHEME
    FIELD_AUTHORITY
    FIELD_PATH
    FIELD_STATUS


cdef int field_kind(const uint8_t *name, Py_ssize_t n, const uint8_t *value, Py_ssize_t m) noexcept nogil
