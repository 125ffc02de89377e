"""C interface of stream readers: transports and protocols feed them bytes that are valid during the call only."""

from libc.stdint cimport uint8_t

from corenet.transports.stream_reader_buffer cimport ReceiveBuffer

cdef class ReaderCore(ReceiveBuffer):
    cdef public object _loop
    cdef public object _transport
    cdef public object _exception
    cdef public object _source_traceback
    cdef object waiter
    cdef readonly Py_ssize_t _limit
    cdef readonly bint _eof
    cdef public bint _paused

    cdef int feed(self, const uint8_t *data, Py_ssize_t length, bytes owner) except -1
    cdef int wake(self, object error) except -1
    cdef int maybe_resume(self) except -1
    cdef object wait(self, str name)
