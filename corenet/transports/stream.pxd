"""C interface of stream transports and of the list of a server's connections.

A `Link` is an element of a circular list, whose head is a link without a member. Members are borrowed, because a
connection that nothing refers to must be freed although its server lists it. So its teardown first removes it from the
list by `unlink`, which cannot fail; at the latest when its memory is freed. `new_stream` attaches a connected,
non-blocking socket; the transport's `schedule_connection_made` or `start` calls the protocol.
"""

from cpython.object cimport PyObject

from corenet.core.engine cimport Engine
from corenet.core.libc cimport sockaddr_in6
from corenet.transports.streambase cimport StreamBase

cdef struct Link:
    Link *previous          # both NULL when in no list
    Link *following
    PyObject *member        # borrowed; NULL in the head

cdef class ConnectionList:
    cdef Link head
    cdef readonly Py_ssize_t active
    cdef object on_empty
    cdef set tls_members

    cdef void join(self, StreamTransport member) noexcept
    cdef int left(self) except -1
    cdef int insert_tls(self, object above) except -1
    cdef int remove_tls(self, object above) except -1

cdef class StreamTransport(StreamBase):
    cdef ConnectionList connections          # from `join` to `on_descriptor_closed`
    cdef Link link
    cdef bytes local            # the local sockaddr, when known without getsockname
    cdef sockaddr_in6 peer
    cdef int peer_length
    cdef int family

    cdef object python_socket(self)

cdef StreamTransport new_stream(
    Engine loop, int fd, int family, object sock, object protocol, dict extra, ConnectionList connections, object context=*
)
