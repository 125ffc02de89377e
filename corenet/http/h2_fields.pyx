"""The kind of a field in HTTP/2 (RFC 9113 sections 8.2 and 8.3), from its name and value alone.

The HPACK decoder stores the kind with each entry of its table, so a repeated field is checked once. Upper case in a
name, control characters, blanks around a value, an unknown pseudo-header field and a pseudo-header field with a value
outside its grammar make a message malformed: they allow request smuggling where HTTP/2 is translated to HTTP/1.1. What
depends on other fields (order, number, `Host` against `:authority`) is checked in `h2_messages.pyx`.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp

from corenet.http.field_grammar cimport TARGET, TOKEN, VALUE, is_blank, same_name, span

__all__: list = []


cdef inline bint equals(const uint8_t *p, Py_ssize_t n, const char *text, Py_ssize_t m) noexcept nogil:
    return n == m and memcmp(p, text, n) == 0


cdef int pseudo_kind(const uint8_t *name, Py_ssize_t n, const uint8_t *value, Py_ssize_t m) noexcept nogil:
    if equals(name, n, ":method", 7):
        return FIELD_METHOD if m and span(value, m, TOKEN) == m else FIELD_BAD
    if equals(name, n, ":scheme", 7):
        return FIELD_SCHEME if equals(value, m, "https", 5) or equals(value, m, "http", 4) else FIELD_BAD
    if equals(name, n, ":path", 5):
        if span(value, m, TARGET) != m or not m or (value[0] != 0x2F and not equals(value, m, "*", 1)):
            return FIELD_BAD
        # A request target has no fragment (RFC 9110 section 7.1).
        return FIELD_BAD if memchr(value, 0x23, m) != NULL else FIELD_PATH
    if equals(name, n, ":authority", 10):
        # RFC 9113 section 8.3.1: no user name. For another parser the other characters would end the authority.
        if span(value, m, TARGET) != m or memchr(value, 0x40, m) != NULL or memchr(value, 0x2F, m) != NULL or (
                memchr(value, 0x3F, m) != NULL or memchr(value, 0x23, m) != NULL):
            return FIELD_BAD
        return FIELD_AUTHORITY
    if equals(name, n, ":status", 7):
        if m != 3 or not 0x31 <= value[0] <= 0x39 or not 0x30 <= value[1] <= 0x39 or not 0x30 <= value[2] <= 0x39:
            return FIELD_BAD
        return FIELD_STATUS
    return FIELD_BAD


cdef int field_kind(const uint8_t *name, Py_ssize_t n, const uint8_t *value, Py_ssize_t m) noexcept nogil:
    cdef Py_ssize_t i
    if n == 0 or span(value, m, VALUE) != m or (m and (is_blank(value[0]) or is_blank(value[m - 1]))):
        return FIELD_BAD
    if name[0] == 0x3A:
        return pseudo_kind(name, n, value, m)
    if span(name, n, TOKEN) != n:
        return FIELD_BAD
    for i in range(n):
        if 0x41 <= name[i] <= 0x5A:
            return FIELD_BAD
    if equals(name, n, "te", 2):
        return FIELD_PLAIN if same_name(value, m, "trailers", 8) else FIELD_CONNECTION
    if equals(name, n, "host", 4):
        return FIELD_HOST
    if equals(name, n, "cookie", 6):
        return FIELD_COOKIE
    if equals(name, n, "content-length", 14):
        return FIELD_CONTENT_LENGTH
    if equals(name, n, "connection", 10) or equals(name, n, "keep-alive", 10) or equals(name, n, "upgrade", 7) or (
            equals(name, n, "proxy-connection", 16) or equals(name, n, "transfer-encoding", 17)):
        return FIELD_CONNECTION
    return FIELD_PLAIN
