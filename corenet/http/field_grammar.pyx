"""The grammar of HTTP field lines: allowed bytes in names, values and targets, and comma-separated lists.

The codec calls the C functions, `headers` the few Python functions. A byte outside the grammar is neither sent nor
accepted, because CR, LF and NUL in a value are used for request smuggling.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from corenet.http.errors import LocalProtocolError

__all__ = ["find_fields", "is_token", "is_value"]


cdef bint has_member(const uint8_t *p, Py_ssize_t n, const char *lower, Py_ssize_t m) noexcept nogil:
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t start, stop
    while at <= n:
        start = at
        while at < n and p[at] != 0x2C:
            at += 1
        stop = at
        at += 1
        while start < stop and is_blank(p[start]):
            start += 1
        while stop > start and is_blank(p[stop - 1]):
            stop -= 1
        if same_name(p + start, stop - start, lower, m):
            return True
    return False


cdef bytes field_line(bytes name, bytes value):
    cdef Py_ssize_t n = length_of(name)
    cdef Py_ssize_t m = length_of(value)
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(name)
    cdef const uint8_t *v = <const uint8_t *>PyBytes_AS_STRING(value)
    if n == 0 or span(p, n, TOKEN) != n:
        raise LocalProtocolError(f"{name!r} is not a field name")
    if span(v, m, VALUE) != m or (m and (is_blank(v[0]) or is_blank(v[m - 1]))):
        raise LocalProtocolError(f"the value {value!r} of {name!r} has a control character or surrounding blanks")
    cdef bytes line = PyBytes_FromStringAndSize(NULL, n + m + 4)
    cdef char *out = PyBytes_AS_STRING(line)
    memcpy(out, p, n)
    out[n] = 0x3A
    out[n + 1] = 0x20
    memcpy(out + n + 2, v, m)
    out[n + m + 2] = 0x0D
    out[n + m + 3] = 0x0A
    return line


def find_fields(list raw, bytes lower):
    """Return the values of all fields named `lower` (lower-case) in the list of (name, value), in order."""
    cdef list found = []
    cdef bytes name
    cdef object value
    cdef Py_ssize_t n = length_of(lower)
    cdef const char *wanted = PyBytes_AS_STRING(lower)
    for name, value in raw:
        if same_name(<const uint8_t *>PyBytes_AS_STRING(name), length_of(name), wanted, n):
            found.append(value)
    return found


def is_token(bytes text):
    """Return whether `text` is a token, as methods and field names are (RFC 9110 section 5.6.2)."""
    cdef Py_ssize_t n = length_of(text)
    return n > 0 and span(<const uint8_t *>PyBytes_AS_STRING(text), n, TOKEN) == n


def is_value(bytes text):
    """Return whether `text` is a field value: no control characters, no surrounding blanks (RFC 9110 section 5.5)."""
    cdef Py_ssize_t n = length_of(text)
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(text)
    return span(p, n, VALUE) == n and not (n and (is_blank(p[0]) or is_blank(p[n - 1])))
