# What happened, for the encoders: one message that was received or sent, with pointers into the packets.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t

# Message types and socket protocols have the numbers of dnstap.proto.
cdef enum:
    AUTH_QUERY = 1
    AUTH_RESPONSE = 2
    RESOLVER_QUERY = 3
    RESOLVER_RESPONSE = 4
    CLIENT_QUERY = 5
    CLIENT_RESPONSE = 6
    FORWARDER_QUERY = 7
    FORWARDER_RESPONSE = 8
    OVER_UDP = 1
    OVER_TCP = 2
    OVER_TLS = 3
    OVER_HTTPS = 4
    OVER_QUIC = 7

# Times are in nanoseconds since 1970, 0: not known. `address` is in network order: of the client, or, for queries to
# servers, of the server; `address_size` 0: not known.
cdef struct Event:
    int type
    int protocol
    bint upstream
    const uint8_t *address
    size_t address_size
    uint16_t port
    int64_t asked
    int64_t answered
    const uint8_t *query
    size_t query_size
    const uint8_t *reply
    size_t reply_size
    const uint8_t *zone         # of the server, in wire form
    size_t zone_size
    int view
    bint cached
