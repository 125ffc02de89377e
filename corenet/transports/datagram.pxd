"""C door of datagram transports, with the native handler: the one place where another package's C runs in the loop.

A handler is called without the GIL for each datagram of a batch. It returns the length of the reply it wrote to
``out.data`` (at most ``out.capacity`` bytes), 0 to drop the datagram, or a negative number to hand it to Python.
"""

from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from corenet.core.engine cimport Engine
from corenet.core.sys cimport iovec, mmsghdr, sockaddr, sockaddr_storage, socklen_t
from corenet.transports.base cimport Transport

ctypedef struct Datagram:
    uint8_t *data
    size_t length
    size_t capacity
    const sockaddr *peer
    socklen_t peer_length
    int64_t now_ns

ctypedef int (*native_handler)(void *ctx, const Datagram *inp, Datagram *out) noexcept nogil

cdef struct Waiting:
    PyObject *data
    socklen_t address_length
    sockaddr_storage address

cdef struct Batch:
    uint8_t *received
    uint8_t *replies
    mmsghdr *inputs
    mmsghdr *outputs
    iovec *input_vectors
    iovec *output_vectors
    sockaddr_storage *peers
    uint8_t *passed
    int answered
    int dropped
    int declined

cdef class BatchArena:
    cdef Batch batch
    cdef size_t mapped

cdef class DatagramTransport(Transport):
    cdef int family
    cdef bint connected
    cdef bint corked
    cdef bint flush_due
    cdef object address
    cdef object many
    cdef native_handler handler
    cdef void *handler_context
    cdef object keep_alive
    cdef unsigned long long handled
    cdef unsigned long long dropped
    cdef unsigned long long passed_on
    cdef uint64_t last_turn
    cdef Waiting *waiting
    cdef size_t waiting_head
    cdef size_t waiting_count
    cdef size_t waiting_capacity
    cdef Py_ssize_t waiting_bytes

    cdef void set_native_handler(self, native_handler fn, void *ctx, object keep_alive)
    cdef Batch *batch(self) except NULL
    cdef int receive_batch(self) except -2
    cdef int receive_native(self) except -2
    cdef int receive_each(self) except -2
    cdef int native_turn(self, Batch *batch) noexcept nogil
    cdef int deliver(self, list datagrams) except -1
    cdef int receive_failed(self, int number) except -1
    cdef int send(self, object data, object address) except -1
    cdef int wait(self, bytes data, const sockaddr_storage *address, socklen_t length) except -1
    cdef int flush(self) except -1
    cdef int note_error(self, object error) except -1
    cdef int drained(self) except -1
    cdef int forget_first(self, int count) except -1
    cdef tuple taken(self, Batch *batch, int i)
    cdef int resolve(self, object address, sockaddr_storage *out, socklen_t *length) except -1
