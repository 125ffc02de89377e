# C declarations: the grammar of HTTP field lines (RFC 9110 section 5), as tables and functions that need no GIL.

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

cdef extern from *:
    """
    /* bit 0: tchar (RFC 9110 5.6.2); bit 1: field-vchar, SP and HTAB (5.5); bit 2: VCHAR of a request target */
    #define T 7
    #define V 6
    #define W 2
    static const unsigned char corenet_http_class[256] = {
        0,0,0,0,0,0,0,0,0,W,0,0,0,0,0,0, 0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,
        W,T,V,T,T,T,T,T,V,V,T,T,V,T,T,V, T,T,T,T,T,T,T,T,T,T,V,V,V,V,V,V,
        V,T,T,T,T,T,T,T,T,T,T,T,T,T,T,T, T,T,T,T,T,T,T,T,T,T,T,V,V,V,T,T,
        T,T,T,T,T,T,T,T,T,T,T,T,T,T,T,T, T,T,T,T,T,T,T,T,T,T,T,V,T,V,T,0,
        W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,W, W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,
        W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,W, W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,
        W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,W, W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,
        W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,W, W,W,W,W,W,W,W,W,W,W,W,W,W,W,W,W
    };
    #undef T
    #undef V
    #undef W
    """
    const unsigned char *corenet_http_class


cdef enum CharClass:
    TOKEN = 1
    VALUE = 2
    TARGET = 4


# The length of `text`. Cython accepts None for bytes, so that is checked here.
cdef inline Py_ssize_t length_of(bytes text) except -1:
    if text is None:
        raise TypeError("bytes are needed here, not None")
    return PyBytes_GET_SIZE(text)


# How many bytes from the start are in the class.
cdef inline Py_ssize_t span(const uint8_t *p, Py_ssize_t n, int char_class) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < n and corenet_http_class[p[i]] & char_class:
        i += 1
    return i


cdef inline bint is_blank(uint8_t c) noexcept nogil:
    return c == 0x20 or c == 0x09


# Compare without ASCII case; `lower` must be lower-case.
cdef inline bint same_name(const uint8_t *p, Py_ssize_t n, const char *lower, Py_ssize_t m) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint8_t c
    if n != m:
        return False
    for i in range(n):
        c = p[i]
        if 0x41 <= c <= 0x5A:
            c |= 0x20
        if c != <uint8_t>lower[i]:
            return False
    return True


# Whether `lower` is a member of the comma-separated list of tokens.
cdef bint has_member(const uint8_t *p, Py_ssize_t n, const char *lower, Py_ssize_t m) noexcept nogil
# Check a field and return the line "name: value\r\n"; raises LocalProtocolError.
cdef bytes field_line(bytes name, bytes value)
