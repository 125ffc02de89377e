"""C door of stream transports and of the roster in which a server keeps its connections.

`new_stream` attaches a connected, non-blocking socket; it calls the protocol by itself (`start_now`) for accepted
connections and in the next turn for those that a coroutine waits for.
"""

from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from corenet.core.engine cimport Engine
from corenet.core.poller cimport Watcher
from corenet.core.sys cimport sockaddr_in6
from corenet.transports.base cimport Transport
from corenet.transports.writequeue cimport WriteQueue

cdef class Roster:
    cdef PyObject *first
    cdef readonly Py_ssize_t active
    cdef object on_empty

    cdef int join(self, StreamTransport member) except -1
    cdef int leave(self, StreamTransport member) except -1

cdef class Consumer(Watcher):
    # Called with what was received, valid during the call only; exceptions of user code do not leave it.
    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1

cdef class StreamBase(Transport):
    cdef WriteQueue queue
    cdef Consumer consumer
    cdef bytes pending
    cdef object empty_waiter
    cdef uint64_t last_turn
    cdef bint corked
    cdef bint flush_due
    cdef bint eof_requested
    cdef bint eof_seen
    cdef bint buffered_protocol

    cdef ssize_t take(self, void *data, size_t length) noexcept
    cdef ssize_t give(self, const void *data, size_t length) noexcept nogil
    cdef ssize_t give_queue(self) noexcept nogil
    cdef int half_close(self) except -1
    cdef int begin(self) except -1
    cdef int receive(self) except -1
    cdef int receive_into(self) except -1
    cdef int on_eof(self) except -1
    cdef int submit(self, object owner, const char *data, size_t length) except -1
    cdef int enqueue(self, object owner, const char *data, size_t length) except -1
    cdef int after_enqueue(self) except -1
    cdef int flush(self) except -1
    cdef int write_failed(self, int number) except -1
    cdef int drained(self) except -1
    cdef int callback_failed(self, str message) except -1
    cdef int read_failed(self, int number) except -1
    cdef int check_writable(self) except -1

cdef class StreamTransport(StreamBase):
    cdef Roster roster
    cdef PyObject *previous
    cdef PyObject *following
    cdef sockaddr_in6 peer
    cdef int peer_length
    cdef int family

    cdef object python_socket(self)

cdef StreamTransport new_stream(
    Engine loop, int fd, int family, object sock, object protocol, dict extra, Roster roster
)
cdef int start_now(StreamTransport transport) except -1
