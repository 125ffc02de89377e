"""C interface of native datagram handlers: their arguments, and the function that runs one over a batch.

A handler is called without the GIL for each datagram of a batch. It returns the length of the reply it wrote to
``out.data`` (at most ``out.capacity`` bytes), 0 to drop the datagram, or a negative number to pass it to Python.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

from corenet.core.libc cimport sockaddr, socklen_t
from corenet.transports.datagram_batch cimport Batch

ctypedef struct Datagram:
    uint8_t *data
    size_t length
    size_t capacity
    const sockaddr *peer
    socklen_t peer_length
    int64_t now_ns

ctypedef int (*native_handler)(void *ctx, const Datagram *inp, Datagram *out) noexcept nogil

cdef struct NativeHandlerState:
    native_handler handler
    void *context
    bint connected
    # Bound to the wildcard address: received datagrams carry their local address.
    bint wildcard_bound
    # The largest datagram that may be part of a run (UDP_SEGMENT); 0: the kernel does not support runs.
    size_t gso_max_size

cdef int run_native_batch(NativeHandlerState *native_state, int fd, Batch *batch) noexcept nogil
