"""C interface of datagram transports, with the native handler: C code of another package that runs in the loop.

`Datagram` and `native_handler` come from ``corenet/transports/native_handler.pxd``; `set_native_handler` takes one.
"""

from libc.stdint cimport uint32_t

from corenet.core.handles cimport TimerHandle
from corenet.core.libc cimport sockaddr_storage, socklen_t
from corenet.transports.address cimport PacketInfo
from corenet.transports.base cimport Transport
from corenet.transports.datagram_batch cimport Batch
from corenet.transports.datagramqueue cimport DatagramQueue
from corenet.transports.native_handler cimport Datagram, NativeHandlerState, native_handler

cdef class DatagramTransport(Transport):
    cdef int family
    cdef object address
    cdef object batch_callback
    cdef object keep_alive
    cdef unsigned long long errors      # calls of error_received
    cdef unsigned long long native_answered
    cdef unsigned long long dropped
    cdef unsigned long long native_declined
    cdef DatagramQueue queue
    cdef TimerHandle retry      # runs after ENOBUFS, for which there is no event, instead of waiting for EPOLLOUT
    cdef bint udp
    cdef bint flushing          # the queue is being sent; new datagrams are appended
    cdef bint corked            # datagrams are queued, to be sent together: by `send_many` or while a batch is delivered
    cdef NativeHandlerState native_state

    cdef void set_native_handler(self, native_handler fn, void *ctx, object keep_alive)
    cdef Batch *batch(self) except NULL
    cdef int receive_batch(self) except -2
    cdef int receive_native(self) except -2
    cdef int receive_each(self) except -2
    cdef int deliver(self, list datagrams) except -1
    cdef int receive_failed(self, int number) except -1
    cdef int send(self, object data, object address) except -1
    cdef int enqueue(
        self, bytes data, const sockaddr_storage *address, socklen_t length, const PacketInfo *pktinfo
    ) except -1
    cdef int flush(self) except -1
    cdef bint empty_queue(self) except -1
    cdef int call_error_received(self, object error) except -1
    cdef int on_write_queue_empty(self) except -1
    cdef tuple received_datagram(self, Batch *batch, uint32_t slot, uint32_t offset, uint32_t length)
    cdef int resolve(self, object address, sockaddr_storage *out, socklen_t *length) except -1
