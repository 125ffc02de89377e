"""C interface of the queue of pending writes: iovecs and the objects that own their bytes.

The arrays are linear, so that `sendmsg` takes them directly; `head` advances as bytes are sent.
"""

from cpython.object cimport PyObject
from libc.stddef cimport size_t

from corenet.core.libc cimport iovec

cdef size_t VECTOR_LIMIT         # pieces of one system call

cdef struct WriteQueue:
    iovec *vectors
    PyObject **owners
    size_t head
    size_t count
    size_t capacity
    size_t size

cdef int queue_push(WriteQueue *queue, object owner, const char *data, size_t length) except -1
cdef void queue_consume(WriteQueue *queue, size_t length) noexcept
cdef void queue_free(WriteQueue *queue) noexcept
