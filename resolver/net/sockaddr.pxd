# C interface of sockaddr: parsed addresses.
from resolver.net.libc cimport sockaddr_storage, socklen_t


cdef class PeerAddress:
    cdef sockaddr_storage storage
    cdef socklen_t size
    cdef int family
    cdef object network          # that of the address (`server_network`), when it was needed; else None
    cdef bint matches(self, const sockaddr_storage *other) noexcept nogil


cdef PeerAddress parse_peer(str address, int port)
cdef size_t fill_sockaddr(sockaddr_storage *name, str address) except 0
