"""The queue of pending writes: an iovec array without joining or copying, with its total size.

Owners are immutable bytes objects. Callers copy mutable data first, because the program may change it while it is
queued. A partial write advances the first vector.
"""

from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t

from corenet.core.libc cimport iovec, memcpy

from corenet.limits import WRITE_VECTORS

VECTOR_LIMIT = WRITE_VECTORS


cdef int queue_reserve(WriteQueue *queue) except -1:
    """Make space for one more entry at the end: move all to the front if half of it is free, else grow."""
    cdef size_t capacity
    cdef iovec *vectors
    cdef PyObject **owners
    cdef size_t i
    if queue.head >= 16 and queue.head >= queue.capacity // 2:
        for i in range(queue.count):
            queue.vectors[i] = queue.vectors[queue.head + i]
            queue.owners[i] = queue.owners[queue.head + i]
        queue.head = 0
        return 0
    capacity = queue.capacity * 2 if queue.capacity else 16
    vectors = <iovec *>PyMem_RawMalloc(capacity * sizeof(iovec))
    owners = <PyObject **>PyMem_RawMalloc(capacity * sizeof(PyObject *))
    if vectors == NULL or owners == NULL:
        PyMem_RawFree(vectors)
        PyMem_RawFree(owners)
        PyErr_NoMemory()
    if queue.count:
        memcpy(vectors, queue.vectors + queue.head, queue.count * sizeof(iovec))
        memcpy(owners, queue.owners + queue.head, queue.count * sizeof(PyObject *))
    PyMem_RawFree(queue.vectors)
    PyMem_RawFree(queue.owners)
    queue.vectors = vectors
    queue.owners = owners
    queue.capacity = capacity
    queue.head = 0
    return 0


cdef int queue_push(WriteQueue *queue, object owner, const char *data, size_t length) except -1:
    """Append `length` bytes at `data`, which `owner` keeps alive and unchanged."""
    cdef size_t end
    if queue.head + queue.count == queue.capacity:
        queue_reserve(queue)
    end = queue.head + queue.count
    queue.vectors[end].iov_base = <void *>data
    queue.vectors[end].iov_len = length
    queue.owners[end] = <PyObject *>owner
    Py_INCREF(owner)
    queue.count += 1
    queue.size += length
    return 0


cdef void queue_consume(WriteQueue *queue, size_t length) noexcept:
    """Remove `length` bytes from the front and release the owners of complete entries."""
    cdef iovec *first
    cdef PyObject *owner
    queue.size -= length
    while queue.count:
        first = &queue.vectors[queue.head]
        if length < first.iov_len:
            first.iov_base = <char *>first.iov_base + length
            first.iov_len -= length
            return
        length -= first.iov_len
        owner = queue.owners[queue.head]
        queue.head += 1
        queue.count -= 1
        Py_DECREF(<object>owner)
    queue.head = 0


cdef void queue_free(WriteQueue *queue) noexcept:
    """Drop all entries and free the memory."""
    cdef PyObject *owner
    while queue.count:
        queue.count -= 1
        owner = queue.owners[queue.head + queue.count]
        Py_DECREF(<object>owner)
    PyMem_RawFree(queue.vectors)
    PyMem_RawFree(queue.owners)
    queue.vectors = NULL
    queue.owners = NULL
    queue.head = queue.capacity = queue.size = 0
