"""C door of stream transports and of the roster in which a server keeps its connections.

A `Link` is a place in a roster's circular list, whose head is a link of its own without a member. Members are borrowed: a
connection that nobody holds must end although its server lists it. Therefore it leaves the list first in its teardown,
by `unlink`, which cannot fail and needs nobody else; at the latest when its memory is given back.
`new_stream` attaches a connected, non-blocking socket; the protocol is called by the transport's `schedule_connection_made` or `start`.
"""

from cpython.object cimport PyObject

from corenet.core.engine cimport Engine
from corenet.core.libc cimport sockaddr_in6
from corenet.transports.streambase cimport StreamBase

cdef struct Link:
    Link *previous          # both NULL outside of every list
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
    cdef ConnectionList connections          # from joining to `on_descriptor_closed`
    cdef Link link
    cdef bytes local            # the sockaddr of this side, when known without asking
    cdef sockaddr_in6 peer
    cdef int peer_length
    cdef int family

    cdef object python_socket(self)

cdef StreamTransport new_stream(
    Engine loop, int fd, int family, object sock, object protocol, dict extra, ConnectionList connections, object context=*
)
