"""C door of stream transports and of the roster in which a server keeps its connections.

`new_stream` attaches a connected, non-blocking socket; it calls the protocol by itself (`start_now`) for accepted
connections and in the next turn for those that a coroutine waits for.
"""

from cpython.object cimport PyObject

from corenet.core.engine cimport Engine
from corenet.core.sys cimport sockaddr_in6
from corenet.transports.streambase cimport StreamBase

cdef class Roster:
    cdef PyObject *first
    cdef readonly Py_ssize_t active
    cdef object on_empty

    cdef int join(self, StreamTransport member) except -1
    cdef int leave(self, StreamTransport member) except -1

cdef class StreamTransport(StreamBase):
    cdef Roster roster
    cdef PyObject *previous
    cdef PyObject *following
    cdef bytes local            # the sockaddr of this side, when known without asking
    cdef sockaddr_in6 peer
    cdef int peer_length
    cdef int family

    cdef object python_socket(self)

cdef StreamTransport new_stream(
    Engine loop, int fd, int family, object sock, object protocol, dict extra, Roster roster, object context=*
)
cdef int start_now(StreamTransport transport) except -1
