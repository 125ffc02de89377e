"""Builds the query that is sent upstream, and decides whether a packet is its reply.

A packet is ignored unless id, QR, opcode and question match byte for byte, in the letter case that was sent (RFC 5452
section 9.1, and 0x20). This module has no sockets, so tests can try forgeries without any. UDP and TCP share it, so
they are equally strict. A reply without a question counts only when its rcode says that the server could not or would
not process the query (TuDoor, 2024: header-only replies made resolvers give up early). It does not repeat the letter
case, so over UDP it only causes a retry over TCP. Over TCP the server's address is verified, and it is accepted. It
never carries data.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcmp, memcpy

from resolver.net.clock_random cimport Entropy
from resolver.wire.build cimport query_packet
from resolver.wire.consts cimport C_IN, COOKIE_CLIENT_SIZE, COOKIE_MAX, COOKIE_MIN, HEADER_SIZE, NAME_MAX, O_COOKIE
from resolver.wire.name cimport byte_lower
from resolver.wire.octets cimport put16

cdef enum:
    OPTION_HEAD = 4
    RCODE_FORMERR = 1
    RCODE_SERVFAIL = 2
    RCODE_NOTIMP = 4
    RCODE_REFUSED = 5


cdef bytes encode_query(bytes qname, uint16_t qtype, uint16_t identity, uint16_t flags, int payload, bint do_bit,
                        Entropy case_bits, bytes cookie):
    """Build a query of class IN. `payload` below 0 means without EDNS; `case_bits` None keeps the letter case.

    `cookie` is the content of a COOKIE option, which needs EDNS; None for none.

    Raises ValueError when `qname` is empty or too long.
    """
    cdef Py_ssize_t name_size = PyBytes_GET_SIZE(qname)
    cdef Py_ssize_t cookie_size = 0 if cookie is None or payload < 0 else OPTION_HEAD + PyBytes_GET_SIZE(cookie)
    cdef bytes packet
    cdef uint8_t *p
    cdef uint8_t *name
    cdef uint8_t bits[32]
    cdef Py_ssize_t i
    if not 1 <= name_size <= NAME_MAX:
        raise ValueError(f"qname has {name_size} octets; it must have 1 to {NAME_MAX}")
    packet = query_packet(qname, qtype, C_IN, identity, flags, payload, do_bit, cookie_size)
    name = <uint8_t *>PyBytes_AS_STRING(packet) + HEADER_SIZE
    if case_bits is not None:
        case_bits.fill(bits, 32)
        for i in range(name_size):
            # Length octets are below 64, so an octet in the range of letters is a letter.
            if 97 <= (name[i] | 0x20) <= 122 and name[i] >= 65:
                name[i] = (name[i] | 0x20) ^ (0x20 if bits[i >> 3] >> (i & 7) & 1 else 0)
    if cookie_size:
        p = <uint8_t *>PyBytes_AS_STRING(packet) + PyBytes_GET_SIZE(packet) - cookie_size
        put16(p, O_COOKIE)
        put16(p + 2, <uint16_t>(cookie_size - OPTION_HEAD))
        memcpy(p + OPTION_HEAD, PyBytes_AS_STRING(cookie), cookie_size - OPTION_HEAD)
    return packet


cdef object check_upstream_cookie(bytes sent, object edns):
    """The cookie in the reply to a query with the cookie `sent`: its content, b"" when there is none, None for a
    reply that must be ignored.

    A cookie that does not begin with our client cookie comes from a sender that has not seen the query; an invalid
    length is treated alike (RFC 7873 section 5.3). A server without cookie support may return our option unchanged.
    """
    cdef bytes found
    if edns is None or not edns.raw_options:
        return b""
    found = edns.get(O_COOKIE)
    if found is None:
        return b""
    if found[:COOKIE_CLIENT_SIZE] != sent[:COOKIE_CLIENT_SIZE]:
        return None
    if len(found) == COOKIE_CLIENT_SIZE:
        return b""
    return found if COOKIE_MIN <= len(found) <= COOKIE_MAX else None


cdef int match_reply(const uint8_t *sent, size_t sent_size, const uint8_t *data, size_t size) noexcept nogil:
    """Return a `Match` code. `sent` is a packet of `encode_query`, `data` the received one."""
    cdef size_t end = HEADER_SIZE, i
    cdef uint8_t rcode
    cdef bint same_but_case = True
    if size < HEADER_SIZE:
        return MATCH_SHORT
    if data[0] != sent[0] or data[1] != sent[1]:
        return MATCH_WRONG_ID
    if not data[2] & 0x80 or (data[2] >> 3) & 0xf != (sent[2] >> 3) & 0xf:
        return MATCH_NOT_REPLY
    if data[4] == 0 and data[5] == 0:
        rcode = data[3] & 0xf
        if (rcode == RCODE_FORMERR or rcode == RCODE_SERVFAIL or rcode == RCODE_NOTIMP or rcode == RCODE_REFUSED) \
                and data[6] == 0 and data[7] == 0 and data[8] == 0 and data[9] == 0:
            return MATCH_NO_QUESTION
        return MATCH_WRONG_QUESTION
    if data[4] != 0 or data[5] != 1:
        return MATCH_WRONG_QUESTION
    while end < sent_size and sent[end] != 0:
        end += <size_t>sent[end] + 1
    end += 5
    if end > sent_size or size < end:
        return MATCH_WRONG_QUESTION
    if memcmp(data + HEADER_SIZE, sent + HEADER_SIZE, end - HEADER_SIZE) == 0:
        return MATCH_REPLY
    for i in range(HEADER_SIZE, end):
        if byte_lower(data[i]) != byte_lower(sent[i]):
            same_but_case = False
            break
    return MATCH_WRONG_CASE if same_but_case else MATCH_WRONG_QUESTION


def make_packet(bytes qname, int qtype, int identity, *, int flags=0, payload=None, bint do=False,
                Entropy case_bits=None, bytes cookie=None):
    """Build the query for `qname` and `qtype` in class IN; `payload` None means without EDNS and without `cookie`.

    Raises:
        ValueError: `qname` is empty or longer than 255 octets.
    """
    return encode_query(qname, qtype, identity, flags, -1 if payload is None else payload, do, case_bits, cookie)


def cookie_of(bytes sent not None, edns):
    """The cookie in the OPT record `edns` of the reply to a query with the cookie `sent`.

    Returns b"" when there is none, and None when the reply must be ignored (RFC 7873 section 5.3).
    """
    return check_upstream_cookie(sent, edns)


def is_reply(bytes sent, bytes data, *, bint allow_no_question=False):
    """Whether `data` is a reply to the packet `sent`, with the same letter case. With `allow_no_question`, an error
    without a question is one, too."""
    cdef int code = match_reply(<const uint8_t *>PyBytes_AS_STRING(sent), PyBytes_GET_SIZE(sent),
                                <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return code == MATCH_REPLY or (allow_no_question and code == MATCH_NO_QUESTION)


def explain_match(bytes sent, bytes data):
    """The result of the comparison as a word: reply, short, query, id, question, case or bare (no question)."""
    cdef int code = match_reply(<const uint8_t *>PyBytes_AS_STRING(sent), PyBytes_GET_SIZE(sent),
                                <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return ("reply", "short", "query", "id", "question", "case", "bare")[code]


def truncated_stub(bytes data):
    """Header and question of a truncated reply with an incomplete record, or None when TC is not set.

    Some servers cut the packet at the last octet that fits. Then only TC is used, and the next query goes over TCP.
    """
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t end = HEADER_SIZE
    if size < HEADER_SIZE or not p[2] & 0x02 or p[4] != 0 or p[5] != 1:
        return None
    while end < size and 0 < p[end] < 64:
        end += p[end] + 1
    if end + 5 > size or p[end] != 0:
        return None
    end += 5
    return data[:6] + b"\0\0\0\0\0\0" + data[HEADER_SIZE:end]
