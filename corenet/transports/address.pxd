"""C door of the address conversions: sockaddr to what the socket module shows, and back.

`to_object` remembers what it made; `from_object` parses plain numeric addresses only and says so when it cannot.
"""

from corenet.core.sys cimport sockaddr, sockaddr_storage, socklen_t

cdef object to_object(const sockaddr *address, socklen_t length)
cdef int from_object(object address, int family, sockaddr_storage *out, socklen_t *length) except -2
