"""C interface of what all transports share: loop, protocol, context, watermarks of the write buffer, closing.

``base.pyx`` describes the states. `interest_of` alone computes the interest from them; `apply_interest` alone registers
it with the poller.
"""

from libc.stdint cimport uint32_t

from corenet.core.engine cimport Engine
from corenet.core.handles cimport Handle
from corenet.core.poller cimport Watcher

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
    cdef object protocol        # any call of it may replace it, so callers hold a reference meanwhile
    cdef object context
    cdef dict extra
    cdef object sock
    cdef dict __dict__
    cdef object __weakref__
    cdef Py_ssize_t high        # watermarks of the write queue in bytes
    cdef Py_ssize_t low
    cdef int fd
    cdef uint32_t interest      # the registered interest; 0: not registered
    # As in asyncio: not 0 while there is no connection (not attached yet, or connection_lost is scheduled or done). It
    # then counts the writes that are dropped.
    cdef int conn_lost
    cdef bint holds_socket_ref           # this transport has incremented the `_io_refs` of `sock`
    cdef bint connection_made_called             # connection_made has returned or raised
    cdef bint paused            # pause_reading was called
    cdef bint eof_seen          # the peer will send no more
    cdef bint writing           # the kernel accepted no more: the queue waits for EPOLLOUT
    cdef bint closing           # close or abort was called, or an error did the same
    cdef bint protocol_paused
    cdef bint protocol_connected
    cdef bint flush_deferred         # the engine will call `on_flush`
    cdef int spurious_events               # see `note_spurious_event`

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
    cdef bint still_owns_fd(self) except -1
    cdef int close_descriptor(self) except -1
    cdef int on_descriptor_closed(self) except -1
    cdef int attach_protocol(self, object protocol) except -1
    cdef object lookup_extra(self, str name)


cdef inline bint can_receive(Transport self) noexcept:
    """Return whether data may be received."""
    # A callback may close the loop in the child of a fork: then the parent receives what is in the socket.
    return self.connection_made_called and not (self.paused or self.eof_seen or self.closing or self.loop.closed)
