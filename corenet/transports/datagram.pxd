"""C door of datagram transports, with the native handler: the one place where another package's C runs in the loop.

`Datagram` and `native_handler` are those of ``corenet/transports/native.pxd``; `set_native_handler` takes one.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from corenet.core.engine cimport Engine
from corenet.core.handles cimport TimerHandle
from corenet.core.sys cimport sockaddr, sockaddr_storage, socklen_t
from corenet.transports.base cimport Transport
from corenet.transports.batch cimport Batch, Origin
from corenet.transports.datagramqueue cimport DatagramQueue
from corenet.transports.native cimport Datagram, NativeDoor, native_handler

cdef class DatagramTransport(Transport):
    cdef int family
    cdef object address
    cdef object many
    cdef object keep_alive
    cdef unsigned long long errors      # given to error_received
    cdef unsigned long long handled
    cdef unsigned long long dropped
    cdef unsigned long long passed_on
    cdef DatagramQueue queue
    cdef TimerHandle retry      # runs while the kernel is short of memory or the device of room, in place of EPOLLOUT
    cdef bint udp
    cdef bint flushing          # what is queued is being sent; what is sent now is queued behind it
    cdef bint corked            # what is sent leaves together, when all of a batch was delivered or by `send_many`
    cdef NativeDoor door

    cdef void set_native_handler(self, native_handler fn, void *ctx, object keep_alive)
    cdef Batch *batch(self) except NULL
    cdef int receive_batch(self) except -2
    cdef int receive_native(self) except -2
    cdef int receive_each(self) except -2
    cdef int deliver(self, list datagrams) except -1
    cdef int receive_failed(self, int number) except -1
    cdef int send(self, object data, object address) except -1
    cdef int wait(
        self, bytes data, const sockaddr_storage *address, socklen_t length, const Origin *origin
    ) except -1
    cdef int flush(self) except -1
    cdef bint empty_queue(self) except -1
    cdef int note_error(self, object error) except -1
    cdef int drained(self) except -1
    cdef tuple piece(self, Batch *batch, uint32_t slot, uint32_t offset, uint32_t length)
    cdef int resolve(self, object address, sockaddr_storage *out, socklen_t *length) except -1
