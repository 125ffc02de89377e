"""What all transports share: their states, extra information, flow control, fatal errors and the one way to the end.

Transports are instances of asyncio's abstract classes as far as ``isinstance`` can see: those classes have slots, so
a Cython class cannot inherit from them, and ``__class__`` answers in their place. One owner closes a descriptor: the
Python socket object when there is one, else the transport. A socket object that the program gave us counts us among those
who need it open, from `attach` to `close_descriptor`: the program may close it, and the number cannot become somebody
else's before the transport has ended. Only ``detach`` and ``os.close`` take it from us; then nothing of ours is called
on the number at the end.

States. Each is a field of its own; the interest is computed from them by `interest_of` and nowhere else. `apply_interest` alone
registers it with the poller, `detach` takes the descriptor out. Streams, pipes and datagrams share this; TLS stands above a stream and has no
descriptor.

    side      state      fields                                  what was written lies   interest
    reading   new        not begun                                                       none
              open       begun, nothing of the below                                     EPOLLIN
              paused     paused: pause_reading was called                                none
              ended      eof_seen: the peer will send no more                            none
    sending   idle       queue empty                             in the kernel           none
              held       queue, not writing                      in the queue            none
              corked     queue empty, the kernel told of more    in the kernel           none
              blocked    queue, writing: the kernel is full      in the queue            EPOLLOUT
              pausing    queue, a timer: ENOBUFS (datagrams)     in the queue            none
              file       empty_waiter, then writing by itself    in the queue, a file    EPOLLOUT
    end       open       not closing                                                     both sides
              closing    closing, queue not empty                as before               the sending side's
              lost       conn_lost: connection_lost comes        dropped, or all sent    none
              gone       fd is -1                                                        none

`pausing` ends with its timer, by a flush: the room that is missing is not in the socket, so no event tells of it.
`file` is a `sendfile` on a stream: what was queued leaves first, then it waits for room as if blocked; writes are
refused, and the reading side is as the protocol asks. `held` and `corked` end within the callback or the turn that began
them: a flush makes them idle or blocked. A transport may be in `closing` and `held` for that long. Without any interest
the descriptor is not in the poller.

Events. An event was gathered under the present interest, or the poller drops it (`corenet.core.poller`): it holds what
was asked for, and EPOLLERR and EPOLLHUP, which cannot be masked. So whoever is in the poller has a way to use either:

    event              open, not blocked      blocked, reading off         blocked and open
    EPOLLIN            receive                (not asked for)              receive
    EPOLLOUT           (not asked for)        flush                        flush
    EPOLLERR, HUP      receive: data, then    flush: EPIPE or the          flush, then receive if still open
                       the end or the error   socket's error is fatal

Where such an event persists although receiving and sending gave EAGAIN several times (a socket's error queue that nobody
reads, a datagram socket that was shut down), the registration becomes edge-triggered for one event at a time: nothing
spins, nothing is lost.
Who is not blocked and does not read is not in the poller, so a hang-up cannot wake the loop for ever; it is found when
reading is resumed or something is written. `flush` and the callbacks that it runs may change every state, therefore each
step looks at the states again.

The end. The order is fixed: out of the poller at once, ``connection_lost`` in the next turn, then the descriptor is
closed. A descriptor that the poller refuses ends the connection with that error; so does one that was closed behind our
back and whose number is somebody else's by now, and a context that is entered already, in which nothing can be called. In
the teardown, `detach` comes before everything that can raise: the loop's closing, ``ResourceWarning`` as an exception,
``close`` with EBADF.

Forks. The child of a loop that ran has the same transports, open, paused or ended as they were, with nothing to send: what
was queued is the parent's, and so is a file on its way, whose `sendfile` fails in the child. A transport that was closing
is lost there. A protocol that was paused is resumed in the first turn that the child runs, if it runs the loop at all.

Ownership. A transport holds its loop, its protocol and its socket object. It is held by its protocol as a rule, by the
poller as long as it is registered, by the engine's rings while it waits for the end of a callback or of the turn, and by
its `ConnectionLostHandle`. The poller's `owner` and a server's roster have borrowed pointers, which `detach` takes back.
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
    """The interest that follows from the states; 0: out of the poller, since hang-ups and errors cannot be masked."""
    cdef uint32_t events = 0
    if can_receive(self):
        events |= c.EPOLLIN
    if self.writing and not self.loop.closed:
        events |= c.EPOLLOUT
    if self.spurious_events >= SPURIOUS_EVENT_LIMIT and events:
        events |= c.EPOLLET
    return events


cdef inline bint is_registered(Transport self) noexcept:
    """Whether the poller's place of our number is ours: closed behind our back, the number may be somebody else's."""
    cdef Poller poller = self.loop.poller
    return self.fd < poller.slot_count and poller.slots[self.fd].watcher == <PyObject *>self


cdef object os_error(int number):
    """The OSError, of the right subclass, for `number`."""
    return OSError(number, os.strerror(number))


cdef bint is_socket_object(object sock) except -1:
    """Whether this is a socket object itself, which counts who needs it open, and nothing that passes for one."""
    return type(sock) is Socket or issubclass(type(sock), Socket)


cdef bint socket_incref(object sock) except -1:
    """Keep `sock` open until `socket_decref`; answers True, for whoever must remember that he did it."""
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
    """The marks of a buffer by asyncio's rules for the one that is missing."""
    if high is None:
        high = default if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    # "No limit" is often said by a number beyond all sizes.
    return int(min(high, sys.maxsize)), int(min(low, sys.maxsize))


# Protocols are called by these alone, and by `tell` of streams. Cython holds what it passes as an object for the time of
# the call; a bare pointer in an array, or a C method called on a field, would lose a protocol that its own callback
# replaces. A test reads the sources for both.

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
    """The first call of an accepted transport, in the place of a callback with its bound method, arguments and context."""

    cdef int run_once(self) except -1:
        cdef Transport transport = self.transport
        self.release()
        return 0 if transport is None else transport.start(None)

    cdef void release(self) noexcept:
        self.transport = None


@cython.final
cdef class ConnectionLostHandle(Handle):
    """The last call of a transport, likewise."""

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
    """Base of all transports; made by the loop, never by users."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        self.fd = -1
        # Until `attach` there is nothing to write to.
        self.conn_lost = 1
        self.high = HIGH_WATER
        self.low = HIGH_WATER // 4

    cdef int attach(self, Engine loop, int fd, object protocol, dict extra, object context=None) except -1:
        """Take over `fd`; nothing is registered yet. When this fails, `fd` is still the caller's to close."""
        self.loop = loop
        self.extra = extra
        self.context = PyContext_CopyCurrent() if context is None else context
        # First: `attach_protocol` looks at attributes of the protocol, whose code may close the socket.
        self.holds_socket_ref = self.sock is not None and socket_incref(self.sock)
        try:
            self.attach_protocol(protocol)
            if self.sock is not None and <int>self.sock.fileno() != fd:
                # It was detached there, or is no socket that counts.
                raise os_error(c.EBADF)
            loop.poller.reserve(fd)
        except BaseException:
            if self.holds_socket_ref:
                self.holds_socket_ref = False
                socket_decref(self.sock)
            raise
        # From here on nothing fails: the number would stay noted, and the socket open.
        loop.poller.own(fd, self)
        self.conn_lost = 0
        # Last: an object that is dropped half-made would close it, and the caller would close it again.
        self.fd = fd
        return 0

    cdef int attach_protocol(self, object protocol) except -1:
        self.protocol = protocol
        self.protocol_connected = True
        return 0

    cdef int call_connection_made(self) except -1:
        """Call `connection_made` in the transport's context, then start to read."""
        if self.context is None:
            # Lost before it began.
            return 0
        if PyContext_Enter(self.context) < 0:
            # Nobody who has not heard of the beginning hears of the end.
            self.protocol_connected = False
            propagate()
        try:
            call_method1(self.protocol, "connection_made", self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            made = getattr(self.protocol, "connection_made", None)
            if made is None:
                # No protocol: nobody hears of the end either.
                self.protocol_connected = False
                raise
            self.report_callback_error(made, (self,), error)
        finally:
            # Also when SystemExit or its like passes through: whoever runs the loop again finds a whole connection.
            PyContext_Exit(self.context)
            self.connection_made_called = True
            self.apply_interest()
            self.flush_deferred_writes()
        return 0

    cdef int start(self, object waiter) except -1:
        """Do that, and tell `waiter`, a future or None, how it went."""
        try:
            self.call_connection_made()
        except (SystemExit, KeyboardInterrupt):
            if waiter is not None and not waiter.cancelled():
                waiter.set_result(None)
            raise
        except BaseException as error:
            # The kernel refuses the descriptor: whoever waits must hear of it instead of waiting for ever.
            return self.registration_failed(error, waiter)
        if waiter is not None and not waiter.cancelled():
            waiter.set_result(None)
        return 0

    def _call_connection_made(self, waiter: object) -> None:
        self.start(waiter)

    cdef int schedule_connection_made(self) except -1:
        """Begin in the next turn, with nobody who waits for it."""
        cdef ConnectionMadeHandle schedule_connection_made
        if self.loop.debug:
            # What is logged and looked at there wants a callback with a name.
            self.loop.call_soon_c(self._call_connection_made, (None,), None)
            return 0
        self.loop.check_open()
        schedule_connection_made = ConnectionMadeHandle.__new__(ConnectionMadeHandle)
        schedule_connection_made.loop = self.loop
        schedule_connection_made.transport = self
        self.loop.push_handle(schedule_connection_made)
        return 0

    cdef int apply_interest(self) except -1:
        """Make the poller's interest what the states ask for; an OSError when the kernel refuses the descriptor."""
        cdef uint32_t asked = interest_of(self)
        if asked == self.interest:
            return 0
        if asked == 0:
            self.unregister()
            return 0
        if self.interest and is_registered(self):
            self.loop.poller.modify(self.fd, asked)
        elif self.interest or self.loop.poller.owner_of(self.fd) is not self:
            # Closed behind our back: whoever has the number now keeps his place, and gets no bytes of ours.
            self.interest = 0
            self.drop_buffer()
            raise os_error(c.EBADF)
        else:
            self.loop.poller.add(self.fd, asked, self)
        self.interest = asked
        return 0

    cdef void unregister(self) noexcept:
        """Take the descriptor out of the poller; nothing when its place there is somebody else's by now."""
        if self.interest:
            self.interest = 0
            if is_registered(self):
                self.loop.poller.remove(self.fd)

    cdef int update_interest(self) except -1:
        """Do the same after every change of a state; a descriptor that nobody can wait for ends the connection."""
        if interest_of(self) == self.interest:
            return 0
        try:
            self.apply_interest()
        except Exception as error:
            self.fatal(error, "The descriptor cannot be watched")
        return 0

    cdef int defer_flush(self) except -1:
        """Have what is queued flushed when the callback that runs has returned, at the latest with the turn."""
        if not self.flush_deferred:
            self.loop.request_flush(self)
            # Not before: without memory for its place nothing would be flushed any more.
            self.flush_deferred = True
        return 0

    cdef int on_fork_in_child(self) except -1:
        """In the child of a fork: nothing that waits is sent here as well."""
        self.flush_deferred = False
        if self.fd < 0 or self.conn_lost:
            return 0
        self.drop_buffer()
        self.writing = False
        if self.closing:
            return self.schedule_connection_lost(None)
        if self.protocol_paused:
            # Its buffer is empty; told in a turn of the child's, if it runs this loop again.
            self.loop.call_soon_c(self._resume_protocol, (), None if self.context is None else self.context.copy())
        return self.update_interest()

    def _resume_protocol(self) -> None:
        self.maybe_resume()

    cdef int on_registration_lost(self, object error) except -1:
        """In the child of a fork: no event will come any more."""
        self.interest = 0
        return self.fatal(error, "The descriptor cannot be watched")

    cdef int note_spurious_event(self, bint moved) except -1:
        """Note whether anything moved in an event with EPOLLERR or EPOLLHUP, or in one that follows such events.

        After `SPURIOUS_EVENT_LIMIT` of them the registration is edge-triggered. The change itself causes one event; a later one is a real
        edge, after which level triggering is tried again, since one EAGAIN may be spurious.
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
        """Offer the kernel what waits for no other reason than that its callback has not returned."""
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
        """Set the marks, in bytes, at which the protocol is paused and resumed."""
        self.high, self.low = buffer_limits(high, low, HIGH_WATER)
        self.maybe_pause()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the marks as (low, high)."""
        return (self.low, self.high)

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that wait to be sent."""
        return self.buffered_size()

    @property
    def _protocol_paused(self) -> bool:
        return self.protocol_paused

    # --- information ----------------------------------------------------------------------------------------------

    cdef object lookup_extra(self, str name):
        """What a subclass knows under `name`, or None."""
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
        """Put another protocol in the place of the present one."""
        self.attach_protocol(protocol)

    def get_protocol(self) -> object:
        """Return the protocol, None once the connection was lost."""
        return self.protocol

    def is_closing(self) -> bool:
        """Tell whether the transport is closing or closed."""
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
        words = [self.__class__.__name__]
        if self.fd < 0:
            words.append("closed")
        elif self.closing:
            words.append("closing")
        words.append(f"fd={self.fd}")
        if self.fd >= 0:
            words.append(f"read={'polling' if self.interest & c.EPOLLIN else 'idle'}")
            state = "polling" if self.interest & c.EPOLLOUT else "idle"
            words.append(f"write=<{state}, bufsize={self.buffered_size()}>")
        return f"<{' '.join(words)}>"

    # --- reading --------------------------------------------------------------------------------------------------

    def is_reading(self) -> bool:
        """Tell whether data is being received."""
        return not self.closing and not self.paused

    def pause_reading(self) -> None:
        """Stop receiving; calls without effect are ignored."""
        if self.closing or self.paused:
            return
        self.paused = True
        self.update_interest()

    # --- the end --------------------------------------------------------------------------------------------------

    def report(self, message: str, error: BaseException) -> None:
        """Hand `error` to the loop's exception handler."""
        self.loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self.protocol}
        )

    cdef int report_callback_error(self, object callback, tuple args, object error) except -1:
        """Report what ``callback(*args)`` raised as asyncio would, which calls it through a handle."""
        # A copy: from Python 3.12 on the handler runs in the handle's context, and ours is entered at this moment.
        cdef object context = None if self.context is None else self.context.copy()
        cdef Handle handle = new_handle(self.loop, callback, args, context)
        if self.loop.debug:
            self.loop._handle_created(handle)
        self.loop._callback_failed(handle, callback, args, error)
        return 0

    cdef int fatal(self, object error, str message) except -1:
        """End the connection because of `error`; what the network did is logged only in debug mode."""
        if isinstance(error, OSError):
            if self.loop.debug:
                logger.debug("%r: %s", self, message, exc_info=error)
        else:
            self.report(message, error)
        return self.force_close(error)

    cdef int fail_context_entered(self) except -1:
        """End the connection because its context is entered already, with the error of that set.

        Its program runs the loop within the context that it has given to the connection. Nothing can be called, and an
        event that nobody takes would come back at once, for ever.
        """
        try:
            propagate()
        except RuntimeError as error:
            self.fatal(error, "The context of the transport cannot be entered")
        return 0

    cdef int registration_failed(self, object error, object waiter) except -1:
        """End a transport whose descriptor the poller did not take, and tell whoever waits for its beginning."""
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
        """Leave the poller now and call `connection_lost` in the next turn."""
        cdef ConnectionLostHandle farewell
        if self.loop is None:
            # Made by hand: nothing is open and nobody waits.
            return 0
        self.closing = True
        self.writing = False
        self.conn_lost += 1
        self.update_interest()
        if self.loop.debug:
            # What is logged and looked at there wants a callback with a name.
            self.loop.call_soon_c(self._call_connection_lost, (error,), None)
            return 0
        self.loop.check_open()
        farewell = ConnectionLostHandle.__new__(ConnectionLostHandle)
        farewell.loop = self.loop
        farewell.transport = self
        farewell.error = error
        self.loop.push_handle(farewell)
        return 0

    def _call_connection_lost(self, error: BaseException | None) -> None:
        self.call_connection_lost(error)

    cdef int call_connection_lost(self, object error) except -1:
        """Tell the protocol, then close the descriptor and let go of everything."""
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
        """Let go of everything; what goes wrong with one step costs none of the others."""
        self.detach()
        self.protocol = None
        self.context = None
        try:
            self.close_descriptor()
        finally:
            self.on_descriptor_closed()
        return 0

    cdef void detach(self) noexcept:
        """Leave every list that has a borrowed pointer to this object, and the poller."""
        if self.loop is not None and self.fd >= 0:
            self.loop.poller.disown(self.fd, self)
            self.unregister()

    cdef int on_descriptor_closed(self) except -1:
        """Called once when the descriptor is closed."""
        return 0

    cdef bint is_ours(self) except -1:
        """Whether the descriptor is still that of `sock`: one that was detached or closed may be somebody else's."""
        if self.sock is None:
            return True
        try:
            return self.sock.fileno() == self.fd
        except (OSError, ValueError):
            # What a closed file object answers.
            return False

    cdef int close_descriptor(self) except -1:
        """Close the socket object, or the bare descriptor when no object was ever made; `detach` came before."""
        cdef int fd = self.fd
        cdef object sock = self.sock
        if fd < 0:
            return 0
        try:
            if self.loop is not None:
                self.loop.closed_since_poll = True
                if self.is_ours():
                    # A transport that is closing refuses nobody who waits for its descriptor himself.
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
                        # Closes also what the program has closed before: it was open for us.
                        socket_decref(sock)
                finally:
                    sock.close()
        return 0

    def abort(self) -> None:
        """Close at once; what waits to be sent is lost, connection_lost(None) follows."""
        self.force_close(None)

    def _force_close(self, error: BaseException | None) -> None:
        self.force_close(error)

    def _fatal_error(self, error: BaseException, message: str = "Fatal error on transport") -> None:
        self.fatal(error, message)

    def __del__(self) -> None:
        if self.fd >= 0 and self.loop is not None:
            # First: a warning may be an exception, and may keep this object alive.
            self.detach()
            try:
                warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            finally:
                self.teardown()
