"""C interface of the queue of datagrams that wait to be sent.

`size` is the sum of the payloads in bytes, which flow control compares with the watermarks. `datagrams_load` fills a
batch for the kernel from the front and leaves the queue as it is; `datagrams_drop` removes what was sent.
"""

from cpython.object cimport PyObject
from libc.stddef cimport size_t

from corenet.core.libc cimport sockaddr_storage, socklen_t
from corenet.transports.address cimport PacketInfo
from corenet.transports.datagram_batch cimport Batch

cdef struct QueuedDatagram:
    PyObject *data
    socklen_t address_length        # 0: the connected peer
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
cdef void datagrams_drop(DatagramQueue *queue, size_t count) noexcept
cdef void datagrams_free(DatagramQueue *queue) noexcept
