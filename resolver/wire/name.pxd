# C interface of names: functions on the wire form that need no GIL.
# Lengths are checked against the size that the caller passes; a negative result is a code of consts.pxd.

from libc.stdint cimport uint8_t

from resolver.wire.hash cimport siphash13


cdef inline uint8_t byte_lower(uint8_t c) noexcept nogil:
    """One byte in lower case, without a branch."""
    return c | (<uint8_t> (<uint8_t> (c - 65) < 26) << 5)


cdef inline void name_lower(uint8_t *target, const uint8_t *source, Py_ssize_t size) noexcept nogil:
    """Copy `size` bytes in lower case. Length bytes are at most 63, below 'A', so whole names can be copied."""
    cdef Py_ssize_t i
    for i in range(size):
        target[i] = byte_lower(source[i])


cdef inline bint name_equal_ci(const uint8_t *a, const uint8_t *b, Py_ssize_t size) noexcept nogil:
    """Whether two names of the same length are equal regardless of letter case (RFC 4343)."""
    cdef Py_ssize_t i
    for i in range(size):
        if byte_lower(a[i]) != byte_lower(b[i]):
            return False
    return True


cdef inline Py_ssize_t name_length(const uint8_t *data, Py_ssize_t size) noexcept nogil:
    """Length of the uncompressed name at `data`, including its final zero, or a negative code."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t bound = size if size < 255 else 255
    while at < bound:
        if data[at] == 0:
            return at + 1
        if data[at] > 63:
            return -7 if data[at] >= 192 else -3
        at += 1 + data[at]
    return -4 if size >= 255 else -2


cdef int name_labels(const uint8_t *name, Py_ssize_t size, uint8_t *starts) noexcept nogil
cdef Py_ssize_t name_expand(const uint8_t *message, Py_ssize_t size, Py_ssize_t at, Py_ssize_t limit,
                            uint8_t *out, Py_ssize_t *after) noexcept nogil
cdef Py_ssize_t checked(bytes name) except -1
