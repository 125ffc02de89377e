"""The records of a message one by one, in their order. For zone transfers, where the order has a meaning.

`MessageView` groups records into RRsets, which loses the order of the parts of an IXFR (RFC 1995 section 4). The same
checks are made here: names, lengths and rdata of known types, and at most `MESSAGE_RECORDS` records. There is no .pxd,
because only Python code uses this module.
"""

from libc.stdint cimport uint8_t, uint16_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from resolver.wire.consts cimport *
from resolver.wire.name cimport name_expand, name_lower
from resolver.wire.octets cimport get16, get32
from resolver.wire.rdata cimport rdata_check, rdata_expand, rdata_layout

from resolver.limits import MESSAGE_RECORDS
from resolver.wire.errors import WireError, reason_of

cdef int _max_records = MESSAGE_RECORDS


def parse_records(bytes message not None) -> tuple[list[tuple[bytes, int, int]], list[tuple[int, int, bytes, int, int, int, bytes]]]:
    """Questions and records of a whole message.

    A question is (name, type, class). A record is (section, offset, owner, type, class, TTL, rdata): the owner in lower
    case, names in rdata uncompressed, TTLs above 2^31 - 1 as 0 (RFC 2181 section 8).

    Raises:
        WireError: the message is malformed or has too many records.
    """
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(message)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
    cdef Py_ssize_t at = HEADER_SIZE
    cdef Py_ssize_t after = 0
    cdef Py_ssize_t start, length, expanded
    cdef uint8_t owner[NAME_MAX]
    cdef uint16_t rtype, rclass
    cdef int i, total, answers, authorities
    cdef bytes name, rdata
    cdef list questions = []
    cdef list found = []
    if size < HEADER_SIZE or size > MESSAGE_MAX:
        raise WireError(reason_of(E_HEADER))
    for _question in range(get16(p + 4)):
        length = name_expand(p, size, at, size, owner, &after)
        if length < 0:
            raise WireError(reason_of(length))
        if after + 4 > size:
            raise WireError(reason_of(E_TRUNCATED))
        name = PyBytes_FromStringAndSize(<const char *> owner, length)
        questions.append((name, get16(p + after), get16(p + after + 2)))
        at = after + 4
    answers = get16(p + 6)
    authorities = answers + get16(p + 8)
    total = authorities + get16(p + 10)
    if total > _max_records:
        raise WireError(reason_of(E_MESSAGE_RECORDS))
    for i in range(total):
        start = at
        length = name_expand(p, size, at, size, owner, &after)
        if length < 0:
            raise WireError(reason_of(length))
        at = after
        if at + 10 > size:
            raise WireError(reason_of(E_TRUNCATED))
        name_lower(owner, owner, length)
        name = PyBytes_FromStringAndSize(<const char *> owner, length)
        rtype = get16(p + at)
        rclass = get16(p + at + 2)
        ttl = get32(p + at + 4)
        length = get16(p + at + 8)
        at += 10
        if at + length > size:
            raise WireError(reason_of(E_TRUNCATED))
        expanded = rdata_check(p, size, at, length, rdata_layout(rtype, rclass))
        if expanded < 0:
            raise WireError(reason_of(expanded))
        rdata = PyBytes_FromStringAndSize(NULL, expanded)
        if expanded:
            rdata_expand(p, size, at, length, rdata_layout(rtype, rclass), <uint8_t *> PyBytes_AS_STRING(rdata))
        at += length
        if rtype != T_OPT and ttl > 0x7FFFFFFF:
            ttl = 0
        found.append((ANSWER if i < answers else AUTHORITY if i < authorities else ADDITIONAL, start, name, rtype,
                      rclass, ttl, rdata))
    if at != size:
        raise WireError(reason_of(E_TRAILING))
    return questions, found
