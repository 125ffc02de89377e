"""C door of what every transport shares: loop, protocol, context, marks of the write buffer, end of life.

`interest` is what the poller was told; `reading` and `writing` are what is wanted; `update` makes the two agree.
While a transport is `corked`, what is written waits until the protocol's callback returns.
"""

from libc.stdint cimport uint32_t

from corenet.core.engine cimport Engine
from corenet.core.handles cimport Handle
from corenet.core.poller cimport Watcher
from corenet.core.sys cimport sockaddr_storage, socklen_t

cdef object os_error(int number)
cdef object call_method0(object receiver, object name)
cdef object call_method1(object receiver, object name, object argument)
cdef tuple marks(object high, object low, Py_ssize_t default)

cdef class Farewell(Handle):
    cdef Transport transport
    cdef object error

cdef class Transport(Watcher):
    cdef Engine loop
    cdef object protocol
    cdef object context
    cdef dict extra
    cdef object sock
    cdef dict __dict__
    cdef object __weakref__
    cdef Py_ssize_t high
    cdef Py_ssize_t low
    cdef int fd
    cdef uint32_t interest
    cdef int conn_lost
    cdef bint reading
    cdef bint writing
    cdef bint closing
    cdef bint paused
    cdef bint protocol_paused
    cdef bint protocol_connected
    cdef bint corked

    cdef int attach(self, Engine loop, int fd, object protocol, dict extra, object context=*) except -1
    cdef int update(self) except -1
    cdef int unheeded(self) except -1
    cdef Py_ssize_t buffered_size(self) noexcept
    cdef void drop_buffer(self) noexcept
    cdef int maybe_pause(self) except -1
    cdef int maybe_resume(self) except -1
    cdef int blame(self, object callback, tuple args, object error) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int refused(self, object error, object waiter) except -1
    cdef int force_close(self, object error) except -1
    cdef int schedule_lost(self, object error) except -1
    cdef int lose(self, object error) except -1
    cdef int close_descriptor(self) except -1
    cdef int released(self) except -1
    cdef int adopt(self, object protocol) except -1
    cdef object lookup_extra(self, str name)
