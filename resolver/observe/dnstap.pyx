"""Encodes dnstap: one event as a protocol buffer (dnstap.proto), in a data frame of Frame Streams.

The encoder writes fields in the order of their numbers, and lengths as they are, so that it needs neither a copy nor a
library. Its input is trusted: pointers and sizes of packets that were received or made here. What a field means:
query_address is the client's for messages of clients; response_address is the server's for queries to servers.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from resolver.wire.octets cimport put32

cdef enum:
    # tag = field number << 3 | wire type; 0 varint, 2 octets with their length, 5 fixed32
    M_TYPE = 1 << 3
    M_FAMILY = 2 << 3
    M_PROTOCOL = 3 << 3
    M_QUERY_ADDRESS = 4 << 3 | 2
    M_RESPONSE_ADDRESS = 5 << 3 | 2
    M_QUERY_PORT = 6 << 3
    M_RESPONSE_PORT = 7 << 3
    M_QUERY_SECONDS = 8 << 3
    M_QUERY_NANOSECONDS = 9 << 3 | 5
    M_QUERY = 10 << 3 | 2
    M_ZONE = 11 << 3 | 2
    M_RESPONSE_SECONDS = 12 << 3
    M_RESPONSE_NANOSECONDS = 13 << 3 | 5
    M_RESPONSE = 14 << 3 | 2
    D_IDENTITY = 1 << 3 | 2
    D_VERSION = 2 << 3 | 2
    D_MESSAGE = 14 << 3 | 2
    D_TYPE = 15 << 3
    TYPE_MESSAGE = 1
    FAMILY_INET = 1
    FAMILY_INET6 = 2
    FRAME_HEAD = 4              # the length of a frame

cdef int64_t SECOND = 1_000_000_000


cdef inline uint32_t varint_size(uint64_t value) noexcept nogil:
    cdef uint32_t size = 1
    while value >= 128:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t *put_varint(uint8_t *p, uint64_t value) noexcept nogil:
    while value >= 128:
        p[0] = <uint8_t>(value | 128)
        value >>= 7
        p += 1
    p[0] = <uint8_t>value
    return p + 1


cdef inline uint8_t *put_number(uint8_t *p, int tag, uint64_t value) noexcept nogil:
    p[0] = <uint8_t>tag
    return put_varint(p + 1, value)


cdef inline uint8_t *put_octets(uint8_t *p, int tag, const uint8_t *data, size_t size) noexcept nogil:
    p = put_number(p, tag, size)
    memcpy(p, data, size)
    return p + size


cdef inline uint8_t *put_time(uint8_t *p, int seconds_tag, int nanoseconds_tag, int64_t moment) noexcept nogil:
    cdef uint32_t rest = <uint32_t>(moment % SECOND)
    p = put_number(p, seconds_tag, <uint64_t>(moment // SECOND))
    p[0] = <uint8_t>nanoseconds_tag
    p[1] = <uint8_t>rest        # fixed32: least significant octet first
    p[2] = <uint8_t>(rest >> 8)
    p[3] = <uint8_t>(rest >> 16)
    p[4] = <uint8_t>(rest >> 24)
    return p + 5


cdef inline uint32_t octets_size(size_t size) noexcept nogil:
    return 1 + varint_size(size) + <uint32_t>size


cdef inline uint32_t time_size(int64_t moment) noexcept nogil:
    return 1 + varint_size(<uint64_t>(moment // SECOND)) + 5


cdef uint32_t write_frame(const Event *event, const uint8_t *head, uint32_t head_size, uint8_t *out) noexcept nogil:
    """Write the frame of `event`; return its size. `head` has identity and version as fields (`dnstap_head`).

    `out` must have room for FRAME_OVERHEAD, the head, the packets and the zone.
    """
    cdef uint32_t size = 4
    cdef uint8_t *p = out + FRAME_HEAD
    cdef bint with_query = event.query_size and event.type & 1  # queries have odd numbers
    cdef bint with_reply = event.reply_size and not event.type & 1
    if event.address_size:
        size += 2 + octets_size(event.address_size)
        if event.port:
            size += 1 + varint_size(event.port)
    if event.asked:
        size += time_size(event.asked)
    if with_query:
        size += octets_size(event.query_size)
    if event.zone_size:
        size += octets_size(event.zone_size)
    if with_reply:
        if event.answered:
            size += time_size(event.answered)
        size += octets_size(event.reply_size)
    memcpy(p, head, head_size)
    p = put_number(p + head_size, D_MESSAGE, size)
    p = put_number(p, M_TYPE, event.type)
    if event.address_size:
        p = put_number(p, M_FAMILY, FAMILY_INET if event.address_size == 4 else FAMILY_INET6)
    p = put_number(p, M_PROTOCOL, event.protocol)
    if event.address_size:
        p = put_octets(p, M_RESPONSE_ADDRESS if event.upstream else M_QUERY_ADDRESS, event.address, event.address_size)
        if event.port:
            p = put_number(p, M_RESPONSE_PORT if event.upstream else M_QUERY_PORT, event.port)
    if event.asked:
        p = put_time(p, M_QUERY_SECONDS, M_QUERY_NANOSECONDS, event.asked)
    if with_query:
        p = put_octets(p, M_QUERY, event.query, event.query_size)
    if event.zone_size:
        p = put_octets(p, M_ZONE, event.zone, event.zone_size)
    if with_reply:
        if event.answered:
            p = put_time(p, M_RESPONSE_SECONDS, M_RESPONSE_NANOSECONDS, event.answered)
        p = put_octets(p, M_RESPONSE, event.reply, event.reply_size)
    p = put_number(p, D_TYPE, TYPE_MESSAGE)
    size = <uint32_t>(p - out)
    put32(out, size - FRAME_HEAD)
    return size


def dnstap_head(bytes identity not None, bytes version not None) -> bytes:
    """The fields identity and version, which begin each frame; an empty one is left out."""
    cdef bytearray made = bytearray()
    cdef uint8_t number[16]
    for tag, value in ((D_IDENTITY, identity), (D_VERSION, version)):
        if value:
            made += (<char *>number)[:put_number(number, tag, len(value)) - number]
            made += value
    return bytes(made)
