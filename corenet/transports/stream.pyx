"""TCP and Unix stream transports, and the half of them that pipes share.

Reading: one ``recv`` an event into the loop's own buffer, GIL kept because the call cannot block; a short read ends
the turn of the descriptor, full ones go on under a budget. A hang-up means "read on until 0", never "close".
Writing: the first write of a turn goes to the kernel at once, later ones of the same turn and all writes inside the
protocol's own callback are collected and leave in one ``sendmsg``. What the kernel does not take waits for EPOLLOUT.
"""

import asyncio
import socket
from asyncio import constants
from asyncio.log import logger
from asyncio.trsock import TransportSocket

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from corenet.core cimport sys as c
from corenet.core.counters cimport KIND_STREAM, born, died
from corenet.core.engine cimport SCRATCH_SIZE, Engine
from corenet.core.poller cimport Watcher
from corenet.core.sys cimport (
    PyContext_Enter,
    PyContext_Exit,
    PyObject_VectorcallMethod,
    errno,
    msghdr,
    sockaddr,
    sockaddr_storage,
    socklen_t,
)
from corenet.transports.address cimport to_object
from corenet.transports.base cimport Transport, call_method0, call_method1, os_error
from corenet.transports.writequeue cimport VECTOR_LIMIT, queue_consume, queue_free, queue_push

from corenet.limits import LOST_WRITES_BEFORE_WARNING, READ_BUDGET, SEND_RELEASE, WRITE_CORK
from corenet.transports import faces

cdef int READS = READ_BUDGET.default
cdef size_t RELEASE_ABOVE = SEND_RELEASE.default
cdef size_t CORK = WRITE_CORK.default
cdef int WARN_AFTER = LOST_WRITES_BEFORE_WARNING.default

cdef object NATIVE_SENDFILE = constants._SendfileMode.TRY_NATIVE
cdef object UNSUPPORTED_SENDFILE = constants._SendfileMode.UNSUPPORTED


cdef int propagate() except -1:
    return -1


cdef class Consumer(Watcher):
    """A protocol of our own that takes received bytes through C, without a bytes object made for it."""

    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1:
        return 0


cdef class StreamBase(Transport):
    """Reads and writes bytes on one descriptor; sockets and pipes differ in `take`, `give` and `half_close`."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        self.last_turn = <uint64_t>-1

    def __dealloc__(self) -> None:
        queue_free(&self.queue)

    # --- the descriptor -------------------------------------------------------------------------------------------

    cdef ssize_t take(self, void *data, size_t length) noexcept:
        return c.c_recv(self.fd, data, length, 0)

    cdef ssize_t give(self, const void *data, size_t length) noexcept nogil:
        return c.c_send(self.fd, data, length, c.MSG_NOSIGNAL)

    cdef ssize_t give_queue(self) noexcept nogil:
        cdef msghdr message
        c.memset(&message, 0, sizeof(message))
        message.msg_iov = self.queue.vectors + self.queue.head
        message.msg_iovlen = min(self.queue.count, <size_t>VECTOR_LIMIT)
        return c.c_sendmsg(self.fd, &message, c.MSG_NOSIGNAL)

    cdef int half_close(self) except -1:
        c.c_shutdown(self.fd, c.SHUT_WR)
        return 0

    cdef int adopt(self, object protocol) except -1:
        self.consumer = <Consumer>protocol if isinstance(protocol, Consumer) else None
        self.buffered_protocol = isinstance(protocol, asyncio.BufferedProtocol)
        self.protocol = protocol
        self.protocol_connected = True
        return 0

    # --- events ---------------------------------------------------------------------------------------------------

    cdef int begin(self) except -1:
        """Call `connection_made` in the transport's context, then start to read."""
        PyContext_Enter(self.context)
        self.corked = True
        try:
            self.protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.report("Exception in protocol.connection_made()", error)
        finally:
            self.corked = False
            PyContext_Exit(self.context)
        if not self.closing and not self.paused:
            self.reading = True
            self.update()
        if self.pending is not None or self.queue.count:
            self.flush()
        return 0

    def _begin(self, waiter: object) -> None:
        """The first turn of a connection that somebody waits for."""
        self.begin()
        if waiter is not None and not waiter.cancelled():
            waiter.set_result(None)

    cdef int on_events(self, uint32_t events) except -1:
        cdef bint useful = False
        cdef object context = self.context
        if context is None or self.fd < 0:
            return 0
        PyContext_Enter(context)
        self.corked = True
        try:
            if self.writing and events & ~<uint32_t>c.EPOLLIN:
                useful = True
                self.flush()
            if self.reading and events & ~<uint32_t>c.EPOLLOUT:
                useful = True
                if self.buffered_protocol:
                    self.receive_into()
                else:
                    self.receive()
            self.corked = False
            if self.pending is not None or (self.queue.count and not self.writing):
                self.flush()
        finally:
            self.corked = False
            PyContext_Exit(context)
        if not useful and self.interest:
            # A hang-up that nobody waits for would wake us for ever; `update` registers anew when somebody does.
            self.loop.poller.remove(self.fd)
            self.interest = 0
        return 0

    cdef int on_turn_end(self) except -1:
        self.flush_due = False
        if (self.pending is not None or self.queue.count) and not self.writing:
            self.flush()
        return 0

    cdef int receive(self) except -1:
        cdef uint8_t *buffer = self.loop.receive_buffer()
        cdef ssize_t got
        cdef int left = READS
        cdef PyObject *arguments[2]
        cdef PyObject *result
        cdef bytes data
        while left > 0 and self.reading:
            left -= 1
            got = self.take(buffer, SCRATCH_SIZE)
            if got > 0:
                if self.consumer is not None:
                    self.consumer.bytes_received(buffer, got)
                    if got < SCRATCH_SIZE:
                        return 0
                    continue
                data = PyBytes_FromStringAndSize(<const char *>buffer, got)
                arguments[0] = <PyObject *>self.protocol
                arguments[1] = <PyObject *>data
                result = PyObject_VectorcallMethod("data_received", arguments, 2, NULL)
                if result == NULL:
                    return self.callback_failed("Fatal error: protocol.data_received() call failed.")
                Py_DECREF(<object>result)
                if got < SCRATCH_SIZE:
                    return 0
                if self.buffered_protocol:
                    # The protocol was changed in its own callback; the level trigger brings the rest.
                    return 0
            elif got == 0:
                return self.on_eof()
            else:
                return self.read_failed(errno)
        return 0

    cdef int receive_into(self) except -1:
        cdef Py_buffer view
        cdef ssize_t got, room
        cdef int number
        cdef int left = READS
        cdef object target
        while left > 0 and self.reading and self.buffered_protocol:
            left -= 1
            try:
                target = self.protocol.get_buffer(-1)
                PyObject_GetBuffer(target, &view, PyBUF_WRITABLE)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                return self.fatal(error, "Fatal error: protocol.get_buffer() call failed.")
            room = view.len
            if room == 0:
                PyBuffer_Release(&view)
                return self.fatal(
                    RuntimeError("get_buffer() returned an empty buffer"),
                    "Fatal error: protocol.get_buffer() call failed.",
                )
            got = self.take(view.buf, room)
            number = errno
            PyBuffer_Release(&view)
            if got == 0:
                return self.on_eof()
            if got < 0:
                return self.read_failed(number)
            try:
                call_method1(self.protocol, "buffer_updated", got)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                return self.fatal(error, "Fatal error: protocol.buffer_updated() call failed.")
            if got < room:
                return 0
        return 0

    cdef int callback_failed(self, str message) except -1:
        try:
            propagate()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, message)
        return 0

    cdef int read_failed(self, int number) except -1:
        if number == c.EAGAIN or number == c.EINTR:
            return 0
        return self.fatal(os_error(number), "Fatal read error on socket transport")

    cdef int on_eof(self) except -1:
        """The peer will send no more; the protocol decides whether the other direction stays open."""
        cdef object keep_open
        self.eof_seen = True
        try:
            keep_open = call_method0(self.protocol, "eof_received")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            return self.fatal(error, "Fatal error: protocol.eof_received() call failed.")
        if keep_open:
            self.reading = False
            self.update()
        else:
            self.close()
        return 0

    def resume_reading(self) -> None:
        """Receive again after `pause_reading`; calls without effect are ignored."""
        if self.closing or not self.paused:
            return
        self.paused = False
        if not self.eof_seen:
            self.reading = True
            self.update()

    # --- writing --------------------------------------------------------------------------------------------------

    cdef Py_ssize_t buffered_size(self) noexcept:
        if self.pending is not None:
            return PyBytes_GET_SIZE(self.pending)
        return self.queue.size

    cdef void drop_buffer(self) noexcept:
        self.pending = None
        queue_free(&self.queue)

    def write(self, data: object) -> None:
        """Send `data`, now or as soon as the peer takes it; never blocks. Mutable data is copied when it must wait."""
        cdef Py_buffer view
        if PyBytes_CheckExact(data):
            self.check_writable()
            if PyBytes_GET_SIZE(data):
                self.submit(data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            return
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        self.check_writable()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len:
                self.submit(None, <const char *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int check_writable(self) except -1:
        if self.eof_requested:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        return 0

    def writelines(self, list_of_data: object) -> None:
        """Send several pieces with as few system calls as they allow, without joining them."""
        cdef bint corked = self.corked
        self.corked = True
        try:
            for data in list_of_data:
                self.write(data)
        finally:
            self.corked = corked
        if not corked and not self.writing and (self.pending is not None or self.queue.count):
            self.flush()
            self.maybe_pause()

    cdef int submit(self, object owner, const char *data, size_t length) except -1:
        """Send at once when nothing waits and nothing was sent in this turn, else queue. `owner` None: copy."""
        cdef ssize_t sent = 0
        if self.conn_lost:
            if self.conn_lost >= WARN_AFTER:
                logger.warning("socket.send() raised exception.")
            self.conn_lost += 1
            return 0
        if (
            not self.corked
            and self.pending is None
            and self.queue.count == 0
            and (self.last_turn != self.loop.turn or length >= CORK or not self.loop.running)
        ):
            self.last_turn = self.loop.turn
            if length > RELEASE_ABOVE:
                with nogil:
                    sent = self.give(data, length)
            else:
                sent = self.give(data, length)
            if sent == <ssize_t>length:
                return 0
            if sent < 0:
                if errno != c.EAGAIN and errno != c.EINTR:
                    return self.write_failed(errno)
                sent = 0
            self.enqueue(owner, data + sent, length - sent)
            self.writing = True
            self.update()
            return self.maybe_pause()
        self.enqueue(owner, data, length)
        return self.after_enqueue()

    cdef int enqueue(self, object owner, const char *data, size_t length) except -1:
        cdef bytes whole
        if owner is None:
            owner = PyBytes_FromStringAndSize(data, length)
            data = PyBytes_AS_STRING(owner)
        if self.queue.count == 0 and self.pending is None and PyBytes_AS_STRING(owner) == data:
            # The common answer, one piece in one callback, needs no queue at all.
            if <size_t>PyBytes_GET_SIZE(owner) == length:
                self.pending = owner
                return 0
        if self.pending is not None:
            whole = self.pending
            self.pending = None
            queue_push(&self.queue, whole, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
        return queue_push(&self.queue, owner, data, length)

    cdef int after_enqueue(self) except -1:
        """Decide when what was queued leaves."""
        if self.writing:
            return self.maybe_pause()
        if <size_t>self.buffered_size() >= CORK or self.queue.count >= VECTOR_LIMIT:
            self.flush()
            return self.maybe_pause()
        if not self.corked and not self.flush_due:
            self.flush_due = True
            self.loop.at_turn_end(self)
        if self.buffered_size() > self.high:
            # Marks below the cork limit: the protocol must hear of it before its callback ends.
            self.flush()
            return self.maybe_pause()
        return 0

    cdef int flush(self) except -1:
        """Send what is queued until it is gone or the kernel takes no more."""
        cdef ssize_t sent
        cdef size_t asked
        cdef bytes whole
        cdef const char *data
        if self.conn_lost or self.fd < 0:
            self.drop_buffer()
            return 0
        self.last_turn = self.loop.turn
        if self.pending is not None:
            whole = self.pending
            asked = PyBytes_GET_SIZE(whole)
            data = PyBytes_AS_STRING(whole)
            if asked > RELEASE_ABOVE:
                with nogil:
                    sent = self.give(data, asked)
            else:
                sent = self.give(data, asked)
            if sent == <ssize_t>asked:
                self.pending = None
                return self.drained()
            if sent < 0:
                if errno != c.EAGAIN and errno != c.EINTR:
                    return self.write_failed(errno)
                sent = 0
            self.pending = None
            queue_push(&self.queue, whole, data + sent, asked - sent)
        else:
            while self.queue.count:
                asked = self.queue.size
                if asked > RELEASE_ABOVE:
                    with nogil:
                        sent = self.give_queue()
                else:
                    sent = self.give_queue()
                if sent < 0:
                    if errno == c.EINTR:
                        continue
                    if errno != c.EAGAIN:
                        return self.write_failed(errno)
                    break
                queue_consume(&self.queue, sent)
                if self.queue.count and <size_t>sent < asked and self.queue.count < VECTOR_LIMIT:
                    break
            if self.queue.count == 0:
                queue_free(&self.queue)
                return self.drained()
        if not self.writing:
            self.writing = True
            self.update()
        return self.maybe_resume()

    cdef int drained(self) except -1:
        """Everything has left: go on with what waited for that."""
        if self.writing:
            self.writing = False
            self.update()
        self.maybe_resume()
        if self.pending is not None or self.queue.count:
            # resume_writing wrote more.
            return 0
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_result(None)
        if self.closing:
            return self.schedule_lost(None)
        if self.eof_requested:
            self.half_close()
        return 0

    cdef int write_failed(self, int number) except -1:
        cdef object error = os_error(number)
        self.drop_buffer()
        self.writing = False
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_exception(error)
        return self.fatal(error, "Fatal write error on socket transport")

    def can_write_eof(self) -> bool:
        """Tell that `write_eof` works: always."""
        return True

    def write_eof(self) -> None:
        """Close the sending direction when everything queued has left."""
        if self.closing or self.eof_requested:
            return
        self.eof_requested = True
        if self.pending is None and self.queue.count == 0:
            self.half_close()

    def close(self) -> None:
        """Stop receiving, send what is queued, then close; connection_lost(None) follows."""
        if self.closing:
            return
        self.closing = True
        self.reading = False
        if self.pending is None and self.queue.count == 0:
            self.schedule_lost(None)
        else:
            self.update()

    def _make_empty_waiter(self) -> object:
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self.empty_waiter = self.loop.create_future()
        if self.pending is not None or self.queue.count:
            if not self.writing:
                self.flush()
        elif not self.empty_waiter.done():
            self.empty_waiter.set_result(None)
        return self.empty_waiter

    def _reset_empty_waiter(self) -> None:
        self.empty_waiter = None


@cython.final
cdef class StreamTransport(StreamBase):
    """One connected stream socket."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        born(KIND_STREAM)

    def __dealloc__(self) -> None:
        died(KIND_STREAM)

    @property
    def __class__(self) -> type:
        return faces.StreamTransport

    @property
    def _start_tls_compatible(self) -> bool:
        return True

    @property
    def _sendfile_compatible(self) -> object:
        return NATIVE_SENDFILE

    @property
    def _sock(self) -> object:
        return self.python_socket()

    cdef object python_socket(self):
        """The socket object of the descriptor, made when first asked for; from then on it owns the descriptor."""
        cdef int kind = 0
        cdef int protocol = 0
        cdef socklen_t size = sizeof(int)
        if self.sock is None and self.fd >= 0:
            c.getsockopt(self.fd, c.SOL_SOCKET, c.SO_TYPE, &kind, &size)
            size = sizeof(int)
            c.getsockopt(self.fd, c.SOL_SOCKET, c.SO_PROTOCOL, &protocol, &size)
            self.sock = socket.socket(self.family, kind, protocol, fileno=self.fd)
            self.sock.setblocking(False)
        return self.sock

    cdef object lookup_extra(self, str name):
        cdef sockaddr_storage address
        cdef socklen_t length = sizeof(address)
        cdef object found = None
        if name == "socket":
            sock = self.python_socket()
            if sock is None:
                return None
            found = TransportSocket(sock)
        elif name == "peername":
            if self.peer_length > 0:
                return to_object(<const sockaddr *>&self.peer, self.peer_length)
            if self.fd < 0 or c.getpeername(self.fd, <sockaddr *>&address, &length) < 0:
                return None
            found = to_object(<const sockaddr *>&address, length)
        elif name == "sockname":
            if self.fd < 0 or c.getsockname(self.fd, <sockaddr *>&address, &length) < 0:
                return None
            found = to_object(<const sockaddr *>&address, length)
        if found is not None:
            if self.extra is None:
                self.extra = {}
            self.extra[name] = found
        return found

    def close_descriptor(self) -> None:
        """Keep what is still asked for after the end, then close."""
        if self.fd >= 0:
            self.lookup_extra("sockname")
            if self.peer_length <= 0:
                self.lookup_extra("peername")
        StreamBase.close_descriptor(self)

    cdef int released(self) except -1:
        cdef Roster roster = self.roster
        self.consumer = None
        if roster is not None:
            self.roster = None
            roster.leave(self)
        return 0


cdef class Roster:
    """The living connections of one server, as a list threaded through them: 16 bytes a connection."""

    def __init__(self, on_empty: object) -> None:
        self.on_empty = on_empty

    cdef int join(self, StreamTransport member) except -1:
        member.roster = self
        member.following = self.first
        member.previous = NULL
        if self.first != NULL:
            (<StreamTransport>self.first).previous = <PyObject *>member
        self.first = <PyObject *>member
        self.active += 1
        return 0

    cdef int leave(self, StreamTransport member) except -1:
        if member.previous != NULL:
            (<StreamTransport>member.previous).following = member.following
        else:
            self.first = member.following
        if member.following != NULL:
            (<StreamTransport>member.following).previous = member.previous
        member.previous = member.following = NULL
        self.active -= 1
        if self.active == 0 and self.on_empty is not None:
            self.on_empty()
        return 0

    def members(self) -> list[StreamTransport]:
        """Return the connections that have not ended."""
        cdef list found = []
        cdef PyObject *member = self.first
        while member != NULL:
            found.append(<object>member)
            member = (<StreamTransport>member).following
        return found

    def forget_callback(self) -> None:
        """Break the cycle with the server."""
        self.on_empty = None


cdef StreamTransport new_stream(
    Engine loop, int fd, int family, object sock, object protocol, dict extra, Roster roster
):
    """A transport on `fd`, which `sock` owns when it is not None; nothing is called or registered yet."""
    cdef StreamTransport transport = StreamTransport.__new__(StreamTransport)
    transport.family = family
    transport.sock = sock
    transport.attach(loop, fd, protocol, extra)
    if roster is not None:
        roster.join(transport)
    return transport


cdef int start_now(StreamTransport transport) except -1:
    """Call the protocol from the listener's own event."""
    return transport.begin()


def make_stream(
    loop: Engine,
    sock: object,
    protocol: object,
    waiter: object = None,
    extra: dict | None = None,
    roster: Roster | None = None,
) -> StreamTransport:
    """Return a transport on a connected, non-blocking socket; `waiter` is set after connection_made."""
    cdef StreamTransport transport
    cdef int one = 1
    cdef int fd = sock.fileno()
    cdef int family = sock.family
    loop.check_open()
    if loop.poller.find(fd) is not None:
        # A reader left behind by somebody who closed an earlier descriptor of this number.
        loop.descriptor(fd)
        loop.poller.remove(fd)
    if family == c.AF_INET or family == c.AF_INET6:
        c.setsockopt(fd, c.IPPROTO_TCP, c.TCP_NODELAY, &one, sizeof(one))
    transport = new_stream(loop, fd, family, sock, protocol, extra, roster)
    loop.soon(transport._begin, (waiter,), None)
    return transport
