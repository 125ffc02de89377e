"""The frames of HTTP/2 (RFC 9113 sections 4 and 6): reading headers, the rules of each type, writing. C, without state.

The checks here need only the frame: its size, whether it belongs to a stream, its padding, the values of settings. What
needs the state of the connection or of a stream is checked in `h2.pyx` and `h2_streams.pyx`.

Invariants: a reader reads no byte beyond the given size. A writer appends whole frames, or raises MemoryError and
appends nothing; after an error of `split_field_block` the caller removes what is there. Payloads have at most
`INITIAL_MAX_FRAME_SIZE` bytes, which every peer accepts.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from corenet.http.field_grammar cimport length_of
from corenet.http.hpack cimport Octets, octets_add, octets_reserve

__all__: list = []


cdef inline Fault fault(int code, const char *reason) noexcept nogil:
    cdef Fault found
    found.code = code
    found.reason = reason
    return found


# --- reading ----------------------------------------------------------------------------------------------------------

cdef Fault frame_fault(const FrameHead *head) noexcept nogil:
    """Return the fault of a frame other than DATA, HEADERS and CONTINUATION that breaks a rule of its type."""
    cdef int kind = head.kind
    cdef Py_ssize_t n = head.length
    if kind == F_SETTINGS:
        if head.number:
            return fault(PROTOCOL_ERROR, "SETTINGS on a stream")
        if head.flags & ACK and n:
            return fault(FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with content")
        if n % SETTING_SIZE:
            return fault(FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
    elif kind == F_WINDOW_UPDATE:
        if n != 4:
            return fault(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
    elif kind == F_PING:
        if head.number:
            return fault(PROTOCOL_ERROR, "PING on a stream")
        if n != 8:
            return fault(FRAME_SIZE_ERROR, "PING of a wrong size")
    elif kind == F_RST_STREAM:
        if n != 4:
            return fault(FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
    elif kind == F_GOAWAY:
        if head.number:
            return fault(PROTOCOL_ERROR, "GOAWAY on a stream")
        if n < 8:
            return fault(FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
    elif kind == F_PRIORITY:
        if head.number == 0:
            return fault(PROTOCOL_ERROR, "PRIORITY on stream 0")
        if n != 5:
            return fault(FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
    elif kind == F_PUSH_PROMISE:
        # A client has disabled push in its settings, and a client must not push (RFC 9113 section 8.4).
        return fault(PROTOCOL_ERROR, "PUSH_PROMISE, although push is disabled")
    # RFC 9113 section 4.1: frames of unknown types are ignored.
    return fault(NO_ERROR, NULL)


cdef Fault setting_fault(int name, int64_t value, bint server) noexcept nogil:
    """Return the fault of a setting outside of its range (RFC 9113 section 6.5.2); `server`: a client sent it."""
    if name == ENABLE_PUSH:
        if value > 1 or (value and not server):
            return fault(PROTOCOL_ERROR, "a wrong value of ENABLE_PUSH")
    elif name == INITIAL_WINDOW_SIZE:
        if value > LARGEST_WINDOW:
            return fault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE over 2^31 - 1 bytes")
    elif name == MAX_FRAME_SIZE:
        if not INITIAL_MAX_FRAME_SIZE <= value <= LARGEST_MAX_FRAME_SIZE:
            return fault(PROTOCOL_ERROR, "a wrong value of MAX_FRAME_SIZE")
    elif name == NO_RFC7540_PRIORITIES:
        if value > 1:
            return fault(PROTOCOL_ERROR, "a wrong value of NO_RFC7540_PRIORITIES")
    return fault(NO_ERROR, NULL)


cdef Fault strip_padding_and_priority(int flags, const uint8_t **p, Py_ssize_t *n) noexcept nogil:
    """Narrow the payload of a HEADERS frame to its field block fragment."""
    cdef Py_ssize_t padding = 0
    if flags & PADDED:
        if n[0] == 0:
            return fault(FRAME_SIZE_ERROR, "HEADERS too short for its pad length")
        padding = p[0][0]
        p[0] += 1
        n[0] -= 1
    if flags & PRIORITY:
        if n[0] < 5:
            return fault(FRAME_SIZE_ERROR, "HEADERS too short for its priority fields")
        p[0] += 5
        n[0] -= 5
    if padding > n[0]:
        return fault(PROTOCOL_ERROR, "padding that is longer than its frame")
    n[0] -= padding
    return fault(NO_ERROR, NULL)


# --- writing ----------------------------------------------------------------------------------------------------------

cdef int add_frame(Octets *out, int kind, int flags, uint32_t number, const void *p, Py_ssize_t n) except -1:
    octets_reserve(out, FRAME_HEAD + n)
    write_head(out.data + out.size, n, kind, flags, number)
    if n:
        memcpy(out.data + out.size + FRAME_HEAD, p, n)
    out.size += FRAME_HEAD + n
    return 0


cdef int add_uint32_frame(Octets *out, int kind, uint32_t number, uint32_t value) except -1:
    """Append RST_STREAM or WINDOW_UPDATE: frames whose payload is one number."""
    cdef uint8_t[4] payload
    write32(payload, value)
    return add_frame(out, kind, 0, number, payload, 4)


cdef int add_settings(Octets *out, list entries) except -1:
    """Append SETTINGS with (identifier, value) entries."""
    cdef int name
    cdef int64_t value
    cdef uint8_t *p
    octets_reserve(out, FRAME_HEAD + SETTING_SIZE * len(entries))
    write_head(out.data + out.size, SETTING_SIZE * len(entries), F_SETTINGS, 0, 0)
    out.size += FRAME_HEAD
    for name, value in entries:
        p = out.data + out.size
        p[0] = 0
        p[1] = <uint8_t>name
        write32(p + 2, <uint32_t>value)
        out.size += SETTING_SIZE
    return 0


cdef int add_goaway(Octets *out, uint32_t last, uint32_t code, bytes debug) except -1:
    cdef uint8_t[8] payload
    write32(payload, last)
    write32(payload + 4, code)
    octets_reserve(out, FRAME_HEAD + 8 + length_of(debug))
    write_head(out.data + out.size, 8 + PyBytes_GET_SIZE(debug), F_GOAWAY, 0, 0)
    out.size += FRAME_HEAD
    octets_add(out, payload, 8)
    return octets_add(out, PyBytes_AS_STRING(debug), PyBytes_GET_SIZE(debug))


cdef int split_field_block(Octets *out, Py_ssize_t start, int flags, uint32_t number) except -1:
    """Make a HEADERS frame of the field block at the end of `out`, and CONTINUATION frames when it is too long.

    The block begins `FRAME_HEAD` bytes after `start`. After a MemoryError the caller removes what is there.
    """
    cdef Py_ssize_t size = out.size - start - FRAME_HEAD
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t take
    cdef bytes block
    if size <= INITIAL_MAX_FRAME_SIZE:
        write_head(out.data + start, size, F_HEADERS, flags | END_HEADERS, number)
        return 0
    block = PyBytes_FromStringAndSize(<const char *>out.data + start + FRAME_HEAD, size)
    out.size = start
    while at < size:
        take = min(size - at, INITIAL_MAX_FRAME_SIZE)
        add_frame(out, F_CONTINUATION if at else F_HEADERS,
                  (0 if at else flags) | (END_HEADERS if at + take == size else 0), number,
                  PyBytes_AS_STRING(block) + at, take)
        at += take
    return 0
