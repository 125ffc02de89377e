"""C door of the queue of datagrams that wait to be sent.

`count` and `size` are kept, so that flow control costs nothing; `datagrams_load` puts the first of them before the kernel.
"""

from cpython.object cimport PyObject
from libc.stddef cimport size_t

from corenet.core.libc cimport sockaddr_storage, socklen_t
from corenet.transports.datagram_batch cimport Batch, PacketInfo

cdef struct QueuedDatagram:
    PyObject *data
    socklen_t address_length
    sockaddr_storage address
    PacketInfo pktinfo

cdef struct DatagramQueue:
    QueuedDatagram *entries
    size_t head
    size_t count
    size_t capacity
    Py_ssize_t size

cdef int datagrams_push(
    DatagramQueue *queue, bytes data, const sockaddr_storage *address, socklen_t length, const PacketInfo *pktinfo
) except -1
cdef int datagrams_load(DatagramQueue *queue, Batch *batch) noexcept
cdef void datagrams_forget(DatagramQueue *queue, size_t count) noexcept
cdef void datagrams_free(DatagramQueue *queue) noexcept
