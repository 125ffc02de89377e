"""C interface of the sending side of a stream, and of its queue of pending writes: iovecs and what owns their bytes.

The arrays of the queue are linear, so that `sendmsg` takes them directly; `head` advances as bytes are sent.
"""

from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from corenet.core.libc cimport iovec
from corenet.transports.base cimport Transport

cdef enum:
    CORK_UNSUPPORTED = 0
    CORK_UNPROBED = 1     # not known yet whether the socket is TCP
    CORK_SUPPORTED = 2

cdef size_t VECTOR_LIMIT         # pieces of one system call

cdef struct WriteQueue:
    iovec *vectors
    PyObject **owners
    size_t head
    size_t count
    size_t capacity
    size_t size         # of all pieces, in bytes

cdef list pieces_of(object things)

cdef class StreamSender(Transport):
    cdef WriteQueue queue
    cdef bytes pending
    cdef object empty_waiter
    cdef uint64_t last_write_callback     # number of the last callback that wrote (`callback_of`), or NEVER
    cdef bint eof_requested         # write_eof was called; nothing can be written any more
    cdef bint eof_due               # what is queued is sent before it
    cdef bint in_writelines         # parts of one write are being queued; `after_write` follows
    cdef bint multiple_writes           # the last callback that wrote made several small writes
    cdef int cork_support              # whether MSG_MORE works (TCP); probed at its first use
    cdef bint corked            # sent with MSG_MORE and not uncorked; the kernel sends within 200 ms

    cdef ssize_t send_some(self, const void *data, size_t length) noexcept nogil
    cdef ssize_t send_queue(self) noexcept nogil
    cdef int probe_cork_support(self) except -1
    cdef int uncork(self) except -1
    cdef int half_close(self) except -1
    cdef int write_bytes(self, bytes data) except -1
    cdef int submit(self, object owner, const char *data, size_t length) except -1
    cdef int submit_pieces(self, list pieces) except -1
    cdef int enqueue(self, object owner, const char *data, size_t length) except -1
    cdef int after_write(self) except -1
    cdef int flush(self) except -1
    cdef int write_failed(self, int number) except -1
    cdef int on_write_queue_empty(self) except -1
    cdef int fail_empty_waiter(self, object error) except -1
    cdef int check_writable(self) except -1
