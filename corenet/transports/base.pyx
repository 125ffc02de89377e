"""What all transports share: states, extra information, flow control, fatal errors and closing.

For ``isinstance`` transports are instances of asyncio's abstract classes: those have slots, so a Cython class cannot
inherit from them, but ``__class__`` returns a subclass of them. One owner closes a descriptor: the Python socket object
when there is one, else the transport. The transport increments the ``_io_refs`` of a socket object that the program
gave, from `attach` to `close_descriptor`: if the program closes it, the number cannot be reused before the transport
has ended. Only the socket's ``detach`` and ``os.close`` prevent that; then the transport makes no system call on the
number when it ends.

States. Each is a field of its own. `interest_of` alone computes the interest from them, `apply_interest` alone
registers it with the poller, and `detach` removes the descriptor. Streams, pipes and datagrams share this; a TLS
transport uses a stream and has no descriptor.

    side      state      fields                                  written data is         interest
    reading   new        connection_made not called yet                                  none
              open       called, nothing of the below                                    EPOLLIN
              paused     paused: pause_reading was called                                none
              ended      eof_seen: the peer will send no more                            none
    sending   idle       queue empty                             in the kernel           none
              held       queue, not writing                      in the queue            none
              corked     queue empty, sent with MSG_MORE         in the kernel           none
              blocked    queue, writing: kernel buffer full      in the queue            EPOLLOUT
              pausing    queue, timer: ENOBUFS (datagrams)       in the queue            none
              file       empty_waiter, then writing, no queue    in the queue, a file    EPOLLOUT
    end       open       not closing                                                     both sides
              closing    closing, queue not empty                as before               the sending side's
              lost       conn_lost: connection_lost scheduled    dropped, or all sent    none
              gone       fd is -1                                                        none

`pausing` ends with its timer, which flushes: the device queue or memory is short and not the socket's buffer, so no
event is reported. `file` is a `sendfile` on a stream: the queue is sent first, then it waits like `blocked` until the
socket is writable. Writes raise RuntimeError, and the reading side is as the protocol requests. `held` and `corked` end
within the callback or the iteration that began them: a flush makes them idle or blocked. A transport may be `closing`
and `held` for that long. Without any interest the descriptor is not registered.

Events. An event was reported for the current interest, or the poller drops it (`corenet.core.poller`). It holds events
of the interest, and EPOLLERR and EPOLLHUP, which cannot be masked. Each registered transport can handle these:

    event              open, not blocked      blocked, reading off   blocked and open
    EPOLLIN            receive                (no interest)          receive
    EPOLLOUT           (no interest)          flush                  flush
    EPOLLERR, HUP      receive: data, then    flush: EPIPE or the          flush, then receive if still open
                       the end or the error   socket's error is fatal

When such an event persists although receiving and sending gave EAGAIN several times (an error queue that the program
does not read, a datagram socket that was shut down), the registration becomes edge-triggered for one event at a time.
So the loop does not spin and no event is lost. A transport that is not blocked and does not read is not registered, so
a hang-up cannot wake the loop repeatedly; it is detected when reading is resumed or something is written. `flush` and
the callbacks that it runs may change each state, so each step checks the states again.

Closing. The order is fixed: the descriptor is unregistered at once, ``connection_lost`` is called in the next
iteration, then the descriptor is closed. When the poller refuses a descriptor, the connection ends with that error. It
also ends when the program has closed the descriptor and its number was reused, and when its context is already entered,
because no callback can run then. In the teardown, `detach` comes before all steps that can raise: closing of the loop,
``ResourceWarning`` as an exception, ``close`` with EBADF.

Forks. The child of a running loop has the same transports in the same states, with nothing to send: the parent sends
what was queued, and a file in progress, whose `sendfile` fails in the child. A transport that was closing becomes
lost there. A protocol that was paused is resumed in the first iteration that the child runs, if it runs the loop.

Ownership. A transport holds its loop, its protocol and its socket object. It is held by its protocol as a rule, by the
poller while it is registered, by the engine's rings while it waits for a flush, and by its `ConnectionLostHandle`. The
poller's `owner` and a server's `ConnectionList` have borrowed pointers, which `detach` removes.
"""

import os
import socket
import sys
import warnings
from asyncio.log import logger

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint32_t

from corenet.core cimport libc as c
from corenet.core.engine cimport Engine
from corenet.core.handles cimport Handle, enter_copy, new_handle
from corenet.core.poller cimport Poller, Watcher
from corenet.core.libc cimport (
    PyContext_CopyCurrent,
    PyContext_Enter,
    PyContext_Exit,
    PyObject_VectorcallMethod,
    propagate,
)

from corenet.limits import SPURIOUS_EVENTS, WRITE_HIGH_WATERMARK

cdef Py_ssize_t HIGH_WATER = WRITE_HIGH_WATERMARK
cdef int SPURIOUS_EVENT_LIMIT = SPURIOUS_EVENTS
cdef object Socket = socket.socket


cdef inline uint32_t interest_of(Transport self) noexcept:
    """Return the interest for the states; 0: unregister, because hang-ups and errors cannot be masked."""
    cdef uint32_t events = 0
    if can_receive(self):
        events |= c.EPOLLIN
    if self.writing and not self.loop.closed:
        events |= c.EPOLLOUT
    if self.spurious_events >= SPURIOUS_EVENT_LIMIT and events:
        events |= c.EPOLLET
    return events


cdef inline bint is_registered(Transport self) noexcept:
    """Return whether the poller's slot of `fd` is ours: if the program closed `fd`, the number may be reused."""
    cdef Poller poller = self.loop.poller
    return self.fd < poller.slot_count and poller.slots[self.fd].watcher == <PyObject *>self


cdef object os_error(int number):
    """Return the OSError, of the right subclass, for the errno `number`."""
    return OSError(number, os.strerror(number))


cdef bint is_socket_object(object sock) except -1:
    """Return whether `sock` is a socket.socket, which has `_io_refs`, and not a duck type."""
    return type(sock) is Socket or issubclass(type(sock), Socket)


cdef bint socket_incref(object sock) except -1:
    """Keep `sock` open until `socket_decref`; return True, for the caller's flag."""
    if is_socket_object(sock):
        sock._io_refs += 1
    return True


cdef int socket_decref(object sock) except -1:
    """Undo `socket_incref`; a socket that was closed meanwhile is closed now."""
    if is_socket_object(sock):
        if sock._closed:
            sock._decref_socketios()
        else:
            sock._io_refs -= 1
    return 0


cdef tuple buffer_limits(object high, object low, Py_ssize_t default):
    """Return the watermarks (high, low) of a buffer, with asyncio's defaults."""
    if high is None:
        high = default if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    # Programs pass very large numbers for "no limit".
    return int(min(high, sys.maxsize)), int(min(low, sys.maxsize))


# Protocols are called only by these functions, and by `call_data_received` of streams. Cython holds a reference to an
# object argument during the call. With a bare pointer in an array, or a C method called on a field, a protocol could
# be freed when its own callback replaces it. A test checks the sources for both.

cdef object call_method0(object receiver, object name):
    """``receiver.name()`` without a bound method."""
    cdef PyObject *arguments[1]
    cdef PyObject *result
    cdef object answer
    arguments[0] = <PyObject *>receiver
    result = PyObject_VectorcallMethod(name, arguments, 1, NULL)
    if result == NULL:
        propagate()
    answer = <object>result
    Py_DECREF(answer)
    return answer


cdef object call_method1(object receiver, object name, object argument):
    """``receiver.name(argument)`` without a bound method."""
    cdef PyObject *arguments[2]
    cdef PyObject *result
    cdef object answer
    arguments[0] = <PyObject *>receiver
    arguments[1] = <PyObject *>argument
    result = PyObject_VectorcallMethod(name, arguments, 2, NULL)
    if result == NULL:
        propagate()
    answer = <object>result
    Py_DECREF(answer)
    return answer


cdef object call_method2(object receiver, object name, object first, object second):
    """``receiver.name(first, second)`` without a bound method."""
    cdef PyObject *arguments[3]
    cdef PyObject *result
    cdef object answer
    arguments[0] = <PyObject *>receiver
    arguments[1] = <PyObject *>first
    arguments[2] = <PyObject *>second
    result = PyObject_VectorcallMethod(name, arguments, 3, NULL)
    if result == NULL:
        propagate()
    answer = <object>result
    Py_DECREF(answer)
    return answer


@cython.final
cdef class ConnectionMadeHandle(Handle):
    """Calls `start` of an accepted transport; cheaper than a handle with bound method, arguments and context."""

    cdef int run_once(self) except -1:
        cdef Transport transport = self.transport
        self.release()
        if transport is None:
            return 0
        try:
            transport.start(None)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as failure:
            # Ending a connection that cannot be started may raise, too.
            self.loop._callback_failed(self, transport._call_connection_made, (None,), failure)
        return 0

    cdef void release(self) noexcept:
        self.transport = None


@cython.final
cdef class ConnectionLostHandle(Handle):
    """Calls `call_connection_lost` of a transport; cheaper than a handle with bound method, arguments and context."""

    cdef int run_once(self) except -1:
        cdef Transport transport = self.transport
        cdef object error = self.error
        self.release()
        if transport is None:
            return 0
        try:
            transport.call_connection_lost(error)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as failure:
            self.loop._callback_failed(self, transport._call_connection_lost, (error,), failure)
        return 0

    cdef void release(self) noexcept:
        self.transport = None
        self.error = None


cdef class Transport(Watcher):
    """Base class of all transports; only the loop makes them."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        self.fd = -1
        # Not attached yet: there is nothing to write to.
        self.conn_lost = 1
        self.high = HIGH_WATER
        self.low = HIGH_WATER // 4

    cdef int attach(self, Engine loop, int fd, object protocol, dict extra, object context=None) except -1:
        """Take over `fd`; nothing is registered yet. If this fails, the caller still has to close `fd`."""
        self.loop = loop
        self.extra = extra
        self.context = PyContext_CopyCurrent() if context is None else context
        # First, because `attach_protocol` reads attributes of the protocol, whose code may close the socket.
        self.holds_socket_ref = self.sock is not None and socket_incref(self.sock)
        try:
            self.attach_protocol(protocol)
            if self.sock is not None and <int>self.sock.fileno() != fd:
                # It was detached there, or closed and has no `_io_refs`.
                raise os_error(c.EBADF)
            loop.poller.reserve(fd)
        except BaseException:
            if self.holds_socket_ref:
                self.holds_socket_ref = False
                socket_decref(self.sock)
            raise
        # From here on nothing may fail, or the descriptor would stay owned and the socket open.
        loop.poller.own(fd, self)
        self.conn_lost = 0
        # Last, because a partially initialised object that is freed would close `fd`, and the caller again.
        self.fd = fd
        return 0

    cdef int attach_protocol(self, object protocol) except -1:
        self.protocol = protocol
        self.protocol_connected = True
        return 0

    cdef int call_connection_made(self) except -1:
        """Call `connection_made` in the transport's context, then start to read."""
        if self.context is None:
            # The connection was lost before this call.
            return 0
        if PyContext_Enter(self.context) < 0:
            # Without connection_made there is no connection_lost.
            self.protocol_connected = False
            propagate()
        try:
            call_method1(self.protocol, "connection_made", self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            made = getattr(self.protocol, "connection_made", None)
            if made is None:
                # Not a protocol: there is no connection_lost, either.
                self.protocol_connected = False
                raise
            self.report_callback_error(made, (self,), error)
        finally:
            # Also after SystemExit or KeyboardInterrupt, so that the connection works when the loop is run again.
            PyContext_Exit(self.context)
            self.connection_made_called = True
            self.apply_interest()
            self.flush_deferred_writes()
        return 0

    cdef int start(self, object waiter) except -1:
        """Call `call_connection_made` and set its result or exception on `waiter`, a future or None."""
        try:
            self.call_connection_made()
        except (SystemExit, KeyboardInterrupt):
            if waiter is not None and not waiter.cancelled():
                waiter.set_result(None)
            raise
        except BaseException as error:
            # The kernel refuses the descriptor: the waiter must get the error, or it would wait for ever.
            return self.registration_failed(error, waiter)
        if waiter is not None and not waiter.cancelled():
            waiter.set_result(None)
        return 0

    def _call_connection_made(self, waiter: object) -> None:
        self.start(waiter)

    cdef int schedule_connection_made(self) except -1:
        """Call `start` in the next iteration, without a waiter."""
        cdef ConnectionMadeHandle handle
        if self.loop.debug:
            # In debug mode the handle needs a callback with a name, for the log.
            self.loop.call_soon_c(self._call_connection_made, (None,), None)
            return 0
        self.loop.check_open()
        handle = ConnectionMadeHandle.__new__(ConnectionMadeHandle)
        handle.loop = self.loop
        handle.transport = self
        self.loop.push_handle(handle)
        return 0

    cdef int apply_interest(self) except -1:
        """Register the interest of the states with the poller. Raises OSError when the kernel refuses the
        descriptor."""
        cdef uint32_t wanted = interest_of(self)
        if wanted == self.interest:
            return 0
        if wanted == 0:
            self.unregister()
            return 0
        if self.interest and is_registered(self):
            self.loop.poller.modify(self.fd, wanted)
        elif self.interest or self.loop.poller.owner_of(self.fd) is not self:
            # The program has closed the descriptor. Its number may be reused: keep that registration, write nothing.
            self.interest = 0
            self.drop_buffer()
            raise os_error(c.EBADF)
        else:
            self.loop.poller.add(self.fd, wanted, self)
        self.interest = wanted
        return 0

    cdef void unregister(self) noexcept:
        """Remove the descriptor from the poller, unless its slot has another watcher by now."""
        if self.interest:
            self.interest = 0
            if is_registered(self):
                self.loop.poller.remove(self.fd)

    cdef int update_interest(self) except -1:
        """Call `apply_interest` after a change of state; a descriptor that cannot be registered ends the connection."""
        if interest_of(self) == self.interest:
            return 0
        try:
            self.apply_interest()
        except Exception as error:
            self.fatal(error, "The descriptor cannot be watched")
        return 0

    cdef int defer_flush(self) except -1:
        """Have the queue flushed when the current callback has returned, or at the end of the iteration."""
        if not self.flush_deferred:
            self.loop.request_flush(self)
            # After the request, which may raise MemoryError: otherwise nothing would be flushed any more.
            self.flush_deferred = True
        return 0

    cdef int on_fork_in_child(self) except -1:
        """In the child of a fork: drop what is queued, because the parent sends it."""
        self.flush_deferred = False
        if self.fd < 0 or self.conn_lost:
            return 0
        self.drop_buffer()
        self.writing = False
        if self.closing:
            return self.schedule_connection_lost(None)
        if self.protocol_paused:
            # Its buffer is empty now: resume it in the child's first iteration, if it runs this loop.
            self.loop.call_soon_c(self._resume_protocol, (), None if self.context is None else self.context.copy())
        return self.update_interest()

    def _resume_protocol(self) -> None:
        self.maybe_resume()

    cdef int on_registration_lost(self, object error) except -1:
        """In the child of a fork: no event will come any more."""
        self.interest = 0
        return self.fatal(error, "The descriptor cannot be watched")

    cdef int note_spurious_event(self, bint moved) except -1:
        """Count an event with EPOLLERR or EPOLLHUP, or one that follows such events; `moved`: data was transferred.

        After `SPURIOUS_EVENT_LIMIT` events the registration is edge-triggered. That change itself causes one event. A
        later one is a real edge; then level-triggering is tried again, because one EAGAIN may be spurious.
        """
        if moved:
            self.spurious_events = 0
        elif self.spurious_events > SPURIOUS_EVENT_LIMIT:
            self.spurious_events = 1
        else:
            self.spurious_events += 1
        return self.update_interest()

    cdef Py_ssize_t buffered_size(self) noexcept:
        return 0

    cdef void drop_buffer(self) noexcept:
        pass

    cdef int flush_deferred_writes(self) except -1:
        """Send what is queued only because its callback has not returned."""
        return 0

    # --- flow control ---------------------------------------------------------------------------------------------

    cdef int maybe_pause(self) except -1:
        if self.protocol_paused or self.buffered_size() <= self.high:
            return 0
        self.protocol_paused = True
        try:
            call_method0(self.protocol, "pause_writing")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.report("protocol.pause_writing() failed", error)
        return 0

    cdef int maybe_resume(self) except -1:
        if not self.protocol_paused or self.buffered_size() > self.low:
            return 0
        self.protocol_paused = False
        try:
            call_method0(self.protocol, "resume_writing")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.report("protocol.resume_writing() failed", error)
        return 0

    def set_write_buffer_limits(self, high: object = None, low: object = None) -> None:
        """Set the watermarks, in bytes: above `high` the protocol is paused, at `low` it is resumed."""
        self.high, self.low = buffer_limits(high, low, HIGH_WATER)
        self.maybe_pause()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the watermarks as (low, high)."""
        return (self.low, self.high)

    def get_write_buffer_size(self) -> int:
        """Return the number of queued bytes."""
        return self.buffered_size()

    @property
    def _protocol_paused(self) -> bool:
        return self.protocol_paused

    # --- information ----------------------------------------------------------------------------------------------

    cdef object lookup_extra(self, str name):
        """Return the subclass's information `name`, or None."""
        return None

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return optional information such as socket, sockname or peername."""
        cdef object found
        if self.extra is not None and name in self.extra:
            return self.extra[name]
        found = self.lookup_extra(name)
        if found is None and name == "socket_options" and self.fd >= 0:
            sock = self.get_extra_info("socket")
            if sock is None:
                return default
            from corenet.transports.options import read_options

            return read_options(sock)
        return default if found is None else found

    def set_protocol(self, protocol: object) -> None:
        """Replace the protocol."""
        self.attach_protocol(protocol)

    def get_protocol(self) -> object:
        """Return the protocol, None after connection_lost."""
        return self.protocol

    def is_closing(self) -> bool:
        """Return whether the transport is closing or closed."""
        return self.closing

    @property
    def _loop(self) -> object:
        return self.loop

    @property
    def _sock(self) -> object:
        return self.sock

    @property
    def _sock_fd(self) -> int:
        return self.fd

    @property
    def _extra(self) -> dict[str, object]:
        if self.extra is None:
            self.extra = {}
        return self.extra

    def __repr__(self) -> str:
        parts = [self.__class__.__name__]
        if self.fd < 0:
            parts.append("closed")
        elif self.closing:
            parts.append("closing")
        parts.append(f"fd={self.fd}")
        if self.fd >= 0:
            parts.append(f"read={'polling' if self.interest & c.EPOLLIN else 'idle'}")
            state = "polling" if self.interest & c.EPOLLOUT else "idle"
            parts.append(f"write=<{state}, bufsize={self.buffered_size()}>")
        return f"<{' '.join(parts)}>"

    # --- reading --------------------------------------------------------------------------------------------------

    def is_reading(self) -> bool:
        """Return whether data is being received."""
        return not self.closing and not self.paused

    def pause_reading(self) -> None:
        """Stop receiving; calls without effect are ignored."""
        if self.closing or self.paused:
            return
        self.paused = True
        self.update_interest()

    # --- closing --------------------------------------------------------------------------------------------------

    def report(self, message: str, error: BaseException) -> None:
        """Pass `error` to the loop's exception handler."""
        self.loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self.protocol}
        )

    cdef int report_callback_error(self, object callback, tuple args, object error) except -1:
        """Report the exception of ``callback(*args)`` as asyncio does, which calls it through a handle."""
        # A copy: from Python 3.12 on the handler runs in the handle's context, and the transport's is currently
        # entered.
        cdef object context = None if self.context is None else self.context.copy()
        cdef Handle handle = new_handle(self.loop, callback, args, context)
        if self.loop.debug:
            self.loop._handle_created(handle)
        self.loop._callback_failed(handle, callback, args, error)
        return 0

    cdef int fatal(self, object error, str message) except -1:
        """End the connection because of `error`; an OSError is logged only in debug mode, others are reported."""
        if isinstance(error, OSError):
            if self.loop.debug:
                logger.debug("%r: %s", self, message, exc_info=error)
        else:
            self.report(message, error)
        return self.force_close(error)

    cdef int fail_context_entered(self) except -1:
        """End the connection because its context is already entered; the exception is set.

        The program runs the loop inside the context that it gave to the connection. No callback can run, and an event
        that is not handled would be reported again at once.
        """
        try:
            propagate()
        except RuntimeError as error:
            self.fatal(error, "The context of the transport is already entered; run the loop outside of it")
        return 0

    cdef int registration_failed(self, object error, object waiter) except -1:
        """End a transport that cannot be registered, and set the error on its waiter or report it."""
        if waiter is None:
            self.report(
                "The descriptor cannot be watched"
                if isinstance(error, OSError)
                else "Error on transport creation for incoming connection",
                error,
            )
        elif not waiter.done():
            waiter.set_exception(error)
        return self.force_close(error)

    cdef int force_close(self, object error) except -1:
        if self.conn_lost or self.fd < 0:
            return 0
        self.drop_buffer()
        self.closing = True
        return self.schedule_connection_lost(error)

    cdef int schedule_connection_lost(self, object error) except -1:
        """Unregister now and call `connection_lost` in the next iteration."""
        cdef ConnectionLostHandle handle
        if self.loop is None:
            # Not attached: nothing is open.
            return 0
        self.closing = True
        self.writing = False
        self.conn_lost += 1
        self.update_interest()
        if self.loop.debug:
            # In debug mode the handle needs a callback with a name, for the log.
            self.loop.call_soon_c(self._call_connection_lost, (error,), None)
            return 0
        self.loop.check_open()
        handle = ConnectionLostHandle.__new__(ConnectionLostHandle)
        handle.loop = self.loop
        handle.transport = self
        handle.error = error
        self.loop.push_handle(handle)
        return 0

    def _call_connection_lost(self, error: BaseException | None) -> None:
        self.call_connection_lost(error)

    cdef int call_connection_lost(self, object error) except -1:
        """Call the protocol's `connection_lost`, then close the descriptor and release everything."""
        cdef object context = self.context
        try:
            if self.protocol_connected and context is not None:
                if PyContext_Enter(context) < 0:
                    context = enter_copy(context)
                try:
                    call_method1(self.protocol, "connection_lost", error)
                finally:
                    PyContext_Exit(context)
        finally:
            self.teardown()
        return 0

    cdef int teardown(self) except -1:
        """Close the descriptor and release everything; each step runs even if another raises."""
        self.detach()
        self.protocol = None
        self.context = None
        try:
            self.close_descriptor()
        finally:
            self.on_descriptor_closed()
        return 0

    cdef void detach(self) noexcept:
        """Remove all borrowed pointers to this object, and its registration."""
        if self.loop is not None and self.fd >= 0:
            self.loop.poller.disown(self.fd, self)
            self.unregister()

    cdef int on_descriptor_closed(self) except -1:
        """Called once when the descriptor is closed."""
        return 0

    cdef bint still_owns_fd(self) except -1:
        """Return whether `fd` is still that of `sock`: after its detach or close the number may be reused."""
        if self.sock is None:
            return True
        try:
            return self.sock.fileno() == self.fd
        except (OSError, ValueError):
            # The file object is closed.
            return False

    cdef int close_descriptor(self) except -1:
        """Close the socket object, or the descriptor when there is no object. Call `detach` first."""
        cdef int fd = self.fd
        cdef object sock = self.sock
        if fd < 0:
            return 0
        try:
            if self.loop is not None:
                self.loop.closed_since_poll = True
                if self.still_owns_fd():
                    # The program may wait for the descriptor of a closing transport by sock_ methods.
                    self.loop.wake_waiters(fd)
        finally:
            self.fd = -1
            self.sock = None
            if sock is None:
                c.c_close(fd)
            else:
                try:
                    if self.holds_socket_ref:
                        self.holds_socket_ref = False
                        # This closes a socket that the program has already closed: our reference kept it open.
                        socket_decref(sock)
                finally:
                    sock.close()
        return 0

    def abort(self) -> None:
        """Close at once: queued data is dropped, connection_lost(None) follows."""
        self.force_close(None)

    def _force_close(self, error: BaseException | None) -> None:
        self.force_close(error)

    def _fatal_error(self, error: BaseException, message: str = "Fatal error on transport") -> None:
        self.fatal(error, message)

    def __del__(self) -> None:
        if self.fd >= 0 and self.loop is not None:
            # First, because the warning may raise, and may keep this object alive.
            self.detach()
            try:
                warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            finally:
                self.teardown()
