"""C door of what every transport shares: loop, protocol, context, marks of the write buffer, end of life.

The states and what follows from them stand in the head of ``base.pyx``. `wanted` computes the interest from them,
`update_interest` tells the poller; nothing else does either.
"""

from libc.stdint cimport uint32_t

from corenet.core.engine cimport Engine
from corenet.core.handles cimport Handle
from corenet.core.poller cimport Watcher
from corenet.core.libc cimport sockaddr_storage, socklen_t

cdef object os_error(int number)
cdef bint is_socket_object(object sock) except -1
cdef bint socket_incref(object sock) except -1
cdef int socket_decref(object sock) except -1
cdef object call_method0(object receiver, object name)
cdef object call_method1(object receiver, object name, object argument)
cdef object call_method2(object receiver, object name, object first, object second)
cdef tuple buffer_limits(object high, object low, Py_ssize_t default)

cdef class ConnectionMadeHandle(Handle):
    cdef Transport transport

cdef class ConnectionLostHandle(Handle):
    cdef Transport transport
    cdef object error

cdef class Transport(Watcher):
    cdef Engine loop
    cdef object protocol        # may be replaced by any call that it gets: callers hold a reference meanwhile
    cdef object context
    cdef dict extra
    cdef object sock
    cdef dict __dict__
    cdef object __weakref__
    cdef Py_ssize_t high
    cdef Py_ssize_t low
    cdef int fd
    cdef uint32_t interest      # what the poller was told; 0: it does not have the descriptor
    cdef int conn_lost          # not 0: not attached yet, or connection_lost is on its way or over; counts writes from then on
    cdef bint holds_socket_ref           # `sock` counts us among those who need it open
    cdef bint connection_made_called             # connection_made was called
    cdef bint paused            # pause_reading was called
    cdef bint eof_seen          # the peer will send no more
    cdef bint writing           # the kernel took no more: the queue waits for EPOLLOUT
    cdef bint closing           # close or abort was called, or an error did the same
    cdef bint protocol_paused
    cdef bint protocol_connected
    cdef bint flush_deferred         # the engine will call on_flush
    cdef int spurious_events               # events in a row in which nothing moved, counted from one with an error or hang-up

    cdef int attach(self, Engine loop, int fd, object protocol, dict extra, object context=*) except -1
    cdef int call_connection_made(self) except -1
    cdef int start(self, object waiter) except -1
    cdef int schedule_connection_made(self) except -1
    cdef int apply_interest(self) except -1
    cdef int update_interest(self) except -1
    cdef void unregister(self) noexcept
    cdef Py_ssize_t buffered_size(self) noexcept
    cdef void drop_buffer(self) noexcept
    cdef int flush_deferred_writes(self) except -1
    cdef int note_spurious_event(self, bint moved) except -1
    cdef int defer_flush(self) except -1
    cdef int maybe_pause(self) except -1
    cdef int maybe_resume(self) except -1
    cdef int report_callback_error(self, object callback, tuple args, object error) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int fail_context_entered(self) except -1
    cdef int registration_failed(self, object error, object waiter) except -1
    cdef int force_close(self, object error) except -1
    cdef int schedule_connection_lost(self, object error) except -1
    cdef int call_connection_lost(self, object error) except -1
    cdef int teardown(self) except -1
    cdef void detach(self) noexcept
    cdef bint is_ours(self) except -1
    cdef int close_descriptor(self) except -1
    cdef int on_descriptor_closed(self) except -1
    cdef int attach_protocol(self, object protocol) except -1
    cdef object lookup_extra(self, str name)


cdef inline bint can_receive(Transport self) noexcept:
    """Whether what arrives is to be taken from the kernel."""
    # A callback may close the loop, above all that of a forked child: what is left in the socket is its parent's.
    return self.connection_made_called and not (self.paused or self.eof_seen or self.closing or self.loop.closed)
