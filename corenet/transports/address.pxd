"""C door of the address conversions: sockaddr to what the socket module shows, and back.

`to_object` remembers what it made; `from_object` parses plain numeric addresses only and says so when it cannot.
`to_peer` also says to which local address the datagram came, and `pktinfo_of` finds that again in what it made.
"""

from corenet.core.libc cimport sockaddr, sockaddr_storage, socklen_t
from corenet.transports.datagram_batch cimport PacketInfo

cdef object to_object(const sockaddr *address, socklen_t length)
cdef int from_object(object address, int family, sockaddr_storage *out, socklen_t *length) except -2
cdef object to_peer(const sockaddr *address, socklen_t length, const PacketInfo *pktinfo)
cdef bint pktinfo_of(object address, PacketInfo *out) except -1
