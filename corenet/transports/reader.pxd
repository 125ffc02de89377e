"""C door of stream readers: whoever receives feeds them bytes that are valid during the call only."""

from libc.stdint cimport uint8_t

cdef class ReaderCore:
    cdef public object _loop
    cdef public object _transport
    cdef public object _exception
    cdef public object _source_traceback
    cdef object waiter
    cdef bytes whole            # everything unread, from whole_at on, when it came in one piece
    cdef Py_ssize_t whole_at
    cdef uint8_t *data          # else: unread is data[start:stop]
    cdef Py_ssize_t start
    cdef Py_ssize_t stop
    cdef Py_ssize_t capacity
    cdef readonly Py_ssize_t _limit
    cdef readonly bint _eof
    cdef public bint _paused

    cdef int feed(self, const uint8_t *data, Py_ssize_t length, bytes owner) except -1
    cdef int append(self, const uint8_t *data, Py_ssize_t length) except -1
    cdef int wake(self, object error) except -1
    cdef Py_ssize_t unread(self) noexcept
    cdef const uint8_t *first(self) noexcept
    cdef bytes take(self, Py_ssize_t size)
    cdef int drop(self, Py_ssize_t size) except -1
    cdef int maybe_resume(self) except -1
    cdef object wait(self, str name)
