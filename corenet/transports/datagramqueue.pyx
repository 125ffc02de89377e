"""The queue of datagrams that wait to be sent, with their addresses: a ring buffer that grows. Its memory is
freed with the transport only, because a queue that was long once may become long again.

Queued data is immutable (bytes), so the caller may change its own buffer. Addresses are stored as sockaddr, so that
sending a batch converts nothing.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t

from corenet.core cimport libc as c
from corenet.core.libc cimport sockaddr_storage, socklen_t
from corenet.transports.address cimport PacketInfo
from corenet.transports.datagram_batch cimport BATCH, Batch


cdef int datagrams_push(
    DatagramQueue *queue, bytes data, const sockaddr_storage *address, socklen_t length, const PacketInfo *pktinfo
) except -1:
    """Queue a datagram; `length` 0: to the connected peer; `pktinfo` NULL: the kernel selects the source address."""
    cdef QueuedDatagram *grown
    cdef QueuedDatagram *entry
    cdef size_t capacity, i
    if queue.count == queue.capacity:
        capacity = queue.capacity * 2 if queue.capacity else <size_t>BATCH
        grown = <QueuedDatagram *>PyMem_RawMalloc(capacity * sizeof(QueuedDatagram))
        if grown == NULL:
            PyErr_NoMemory()
        for i in range(queue.count):
            grown[i] = queue.entries[(queue.head + i) % queue.capacity]
        PyMem_RawFree(queue.entries)
        queue.entries = grown
        queue.head = 0
        queue.capacity = capacity
    entry = &queue.entries[(queue.head + queue.count) % queue.capacity]
    entry.data = <PyObject *>data
    Py_INCREF(data)
    entry.address_length = length
    if length:
        c.memcpy(&entry.address, address, length)
    if pktinfo != NULL:
        entry.pktinfo = pktinfo[0]
    else:
        entry.pktinfo.family = 0
    queue.count += 1
    queue.size += PyBytes_GET_SIZE(data)
    return 0


cdef int datagrams_load(DatagramQueue *queue, Batch *batch) noexcept:
    """Fill `batch` with up to BATCH datagrams from the front, which stay queued; return their number."""
    cdef int count = <int>min(queue.count, <size_t>BATCH)
    cdef int i
    cdef QueuedDatagram *entry
    for i in range(count):
        entry = &queue.entries[(queue.head + i) % queue.capacity]
        batch.output_vectors[i].iov_base = PyBytes_AS_STRING(<object>entry.data)
        batch.output_vectors[i].iov_len = PyBytes_GET_SIZE(<object>entry.data)
        batch.outgoing[i].peer = &entry.address if entry.address_length else NULL
        batch.outgoing[i].peer_length = entry.address_length
        batch.outgoing[i].pktinfo = &entry.pktinfo if entry.pktinfo.family else NULL
    return count


cdef void datagrams_drop(DatagramQueue *queue, size_t count) noexcept:
    """Drop the first `count` datagrams."""
    cdef PyObject *data
    while count > 0:
        count -= 1
        data = queue.entries[queue.head].data
        queue.head = (queue.head + 1) % queue.capacity
        queue.count -= 1
        queue.size -= PyBytes_GET_SIZE(<object>data)
        Py_DECREF(<object>data)


cdef void datagrams_free(DatagramQueue *queue) noexcept:
    """Drop all datagrams and free the memory."""
    datagrams_drop(queue, queue.count)
    PyMem_RawFree(queue.entries)
    queue.entries = NULL
    queue.capacity = 0
