# C interface: the frames of HTTP/2 (RFC 9113 sections 4 and 6) as bytes, in and out; no state, no I/O.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from corenet.http.hpack cimport Octets


# RFC 9113 section 6.
cdef enum Frame:
    F_DATA
    F_HEADERS
    F_PRIORITY
    F_RST_STREAM
    F_SETTINGS
    F_PUSH_PROMISE
    F_PING
    F_GOAWAY
    F_WINDOW_UPDATE
    F_CONTINUATION

cdef enum Flag:
    END_STREAM = 0x01
    ACK = 0x01
    END_HEADERS = 0x04
    PADDED = 0x08
    PRIORITY = 0x20

# RFC 9113 section 6.5.2, RFC 9218 section 2.1.
cdef enum Setting:
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    NO_RFC7540_PRIORITIES = 9

# RFC 9113 section 7; `h2_events.py` has them for Python.
cdef enum Code:
    NO_ERROR
    PROTOCOL_ERROR
    INTERNAL_ERROR
    FLOW_CONTROL_ERROR
    SETTINGS_TIMEOUT
    STREAM_CLOSED
    FRAME_SIZE_ERROR
    REFUSED_STREAM
    CANCEL
    COMPRESSION_ERROR
    CONNECT_ERROR
    ENHANCE_YOUR_CALM

cdef enum:
    FRAME_HEAD = 9
    SETTING_SIZE = 6
    # RFC 9113 section 6.5.2: initial value and minimum of SETTINGS_MAX_FRAME_SIZE, which we never raise; and its
    # maximum.
    INITIAL_MAX_FRAME_SIZE = 16_384
    LARGEST_MAX_FRAME_SIZE = 16_777_215
    LARGEST_WINDOW = 0x7FFF_FFFF
    LARGEST_STREAM = 0x7FFF_FFFF

cdef struct FrameHead:
    Py_ssize_t length           # of the payload
    int kind, flags
    uint32_t number             # of the stream

# A broken rule: the error code (RFC 9113 section 7) and the text for GOAWAY; `reason` is NULL when none is broken.
cdef struct Fault:
    const char *reason
    int code


cdef inline uint32_t read32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline void write32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>(value >> 16)
    p[2] = <uint8_t>(value >> 8)
    p[3] = <uint8_t>value


# The frame header (RFC 9113 section 4.1).
cdef inline void read_head(const uint8_t *p, FrameHead *head) noexcept nogil:
    head.length = (<Py_ssize_t>p[0] << 16) | (<Py_ssize_t>p[1] << 8) | p[2]
    head.kind = p[3]
    head.flags = p[4]
    head.number = read32(p + 5) & 0x7FFF_FFFF


cdef inline void write_head(uint8_t *p, Py_ssize_t n, int kind, int flags, uint32_t number) noexcept nogil:
    p[0] = <uint8_t>(n >> 16)
    p[1] = <uint8_t>(n >> 8)
    p[2] = <uint8_t>n
    p[3] = <uint8_t>kind
    p[4] = <uint8_t>flags
    write32(p + 5, number)


cdef Fault frame_fault(const FrameHead *head) noexcept nogil
cdef Fault setting_fault(int name, int64_t value, bint server) noexcept nogil
cdef Fault strip_padding_and_priority(int flags, const uint8_t **p, Py_ssize_t *n) noexcept nogil
cdef int add_frame(Octets *out, int kind, int flags, uint32_t number, const void *p, Py_ssize_t n) except -1
cdef int add_uint32_frame(Octets *out, int kind, uint32_t number, uint32_t value) except -1
cdef int add_settings(Octets *out, list entries) except -1
cdef int add_goaway(Octets *out, uint32_t last, uint32_t code, bytes debug) except -1
cdef int split_field_block(Octets *out, Py_ssize_t start, int flags, uint32_t number) except -1
