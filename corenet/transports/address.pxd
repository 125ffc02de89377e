"""C interface of the address conversions: sockaddr to the tuples and strings of the socket module, and back.

`to_object` caches its results. `from_object` parses only numeric addresses and returns -1 for others. `to_peer`
also stores the local address to which a datagram came, and `pktinfo_of` reads it from such an object.
"""

from libc.stdint cimport uint8_t

from corenet.core.libc cimport sockaddr, sockaddr_storage, socklen_t

cdef struct PacketInfo:
    # The local address to which a datagram was sent; family 0: not known.
    int family
    uint8_t address[16]

cdef object to_object(const sockaddr *address, socklen_t length)
cdef int from_object(object address, int family, sockaddr_storage *out, socklen_t *length) except -2
cdef object to_peer(const sockaddr *address, socklen_t length, const PacketInfo *pktinfo)
cdef bint pktinfo_of(object address, PacketInfo *out) except -1
