"""The half of a stream transport that sockets and pipes share: one descriptor, bytes in and bytes out.

Reading: one ``recv`` an event into the loop's own buffer, GIL kept because the call cannot block; a short read ends
the turn of the descriptor, full ones go on under a budget. A hang-up means "read on until 0", never "close".
Writing: the first write of every callback goes to the kernel at once, so who writes once and then blocks the thread, forks
or leaves by os._exit has sent, as with asyncio. What the same callback writes after that is held and leaves in one call
when it returns; before a fork and before the descriptor is used by others it leaves too. Where the last callback that
wrote did so several times, TCP is told with the first piece that more will follow (MSG_MORE): it takes the piece and
sends it with the next, when it is told otherwise at the callback's end, or after 200 ms. A cork that the program has set
stays, and then the program says when. What the kernel does not take waits for EPOLLOUT. docs/adr/0012 says why, and what
it costs. While a file is on its way (`empty_waiter`), nothing may be written; whoever sends it waits here for room.
What kind of protocol is served is decided once, in `attach_protocol`, and looked at in one place, `on_events`.
"""

import asyncio
from asyncio.log import logger

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromObject,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from corenet.core cimport libc as c
from corenet.core.engine cimport SCRATCH_SIZE, callback_of
from corenet.core.poller cimport Watcher
from corenet.core.receive_pool cimport PooledBytes, ReceivePool
from corenet.core.libc cimport (
    PyContext_Enter,
    PyContext_Exit,
    PyObject_VectorcallMethod,
    errno,
    peek_bytes,
    propagate,
    socklen_t,
)
from corenet.transports.base cimport Transport, call_method0, call_method1, os_error, can_receive
from corenet.transports.writequeue cimport VECTOR_LIMIT, queue_consume, queue_free, queue_push

from corenet.limits import (
    LOST_WRITES_BEFORE_WARNING,
    READS_PER_EVENT,
    RECEIVE_HINT_MIN,
    SEND_RELEASE_GIL,
    RECEIVE_BURST_BYTES,
    WRITE_COPY_BELOW,
    CORK_BYTES,
)

cdef Py_ssize_t DIRECT = RECEIVE_HINT_MIN
cdef unsigned long long FRESH = RECEIVE_BURST_BYTES
cdef int READS = READS_PER_EVENT
cdef size_t RELEASE_ABOVE = SEND_RELEASE_GIL
cdef size_t CORK = CORK_BYTES
cdef size_t COPY_BELOW = WRITE_COPY_BELOW
cdef int WARN_AFTER = LOST_WRITES_BEFORE_WARNING

cdef enum:
    NEVER = 0

cdef object BufferedProtocol = asyncio.BufferedProtocol
cdef object StreamReaderProtocol = asyncio.StreamReaderProtocol


cdef bint is_buffered(object protocol) except -1:
    """Tell whether `protocol` gives the memory to receive into, by its class or, as uvloop has it, by its methods."""
    return isinstance(protocol, BufferedProtocol) or (
        not hasattr(protocol, "data_received") and hasattr(protocol, "get_buffer") and hasattr(protocol, "buffer_updated")
    )


cdef class NativeProtocol(Watcher):
    """A protocol of our own that takes received bytes through C, without a bytes object made for it."""

    cdef uint8_t *get_receive_buffer(self, size_t *room) except? NULL:
        return NULL

    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1:
        return 0

    cdef int on_attached(self, object transport) except -1:
        return 0

    cdef int on_replaced(self, object protocol) except -1:
        return 0

    cdef int on_reading_paused(self) except -1:
        return 0

    cdef bint on_reading_resumed(self) except -1:
        return True

    cdef int send_frames(self, object transport, object payloads) except -1:
        raise TypeError(f"{type(self).__name__} has no framing; frames are written by way of a FramedProtocol")


cdef list pieces_of(object things):
    """The bytes of each: its own object when it is bytes, else a copy, contiguous and out of everybody's reach."""
    cdef list pieces = []
    for thing in things:
        if not PyBytes_CheckExact(thing):
            if not PyObject_CheckBuffer(thing):
                raise TypeError(f"data argument must be a bytes-like object, not {type(thing).__name__!r}")
            thing = PyBytes_FromObject(thing)
        pieces.append(thing)
    return pieces


cdef inline bint only_sending(StreamBase self) noexcept:
    """Nothing was asked of this transport but to send: no end, no pause, no wait for an empty buffer."""
    return not (
        self.writing
        or self.protocol_paused
        or self.closing
        or self.conn_lost
        or self.eof_requested
        or self.empty_waiter is not None
    )


cdef inline bint call_data_received(StreamBase self, bytes data) noexcept:
    """``protocol.data_received(data)``; False with the exception set, so that the usual case needs no handler."""
    cdef object protocol = self.protocol
    cdef PyObject *arguments[2]
    cdef PyObject *result
    arguments[0] = <PyObject *>protocol
    arguments[1] = <PyObject *>data
    result = PyObject_VectorcallMethod("data_received", arguments, 2, NULL)
    if result == NULL:
        return False
    Py_DECREF(<object>result)
    return True


cdef class StreamBase(Transport):
    """Reads and writes bytes on one descriptor; sockets and pipes differ in `recv_some`, `send_some` and `half_close`."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        self.last_write_callback = NEVER

    def __dealloc__(self) -> None:
        queue_free(&self.queue)

    # --- the descriptor -------------------------------------------------------------------------------------------

    # A writing end receives nothing and a reading end sends nothing: who does not say how has no way to do it.

    cdef ssize_t recv_some(self, void *data, size_t length) noexcept:
        c.errno = c.EBADF
        return -1

    cdef ssize_t send_some(self, const void *data, size_t length) noexcept nogil:
        c.errno = c.EBADF
        return -1

    cdef ssize_t send_queue(self) noexcept nogil:
        c.errno = c.EBADF
        return -1

    cdef int half_close(self) except -1:
        return 0

    cdef int on_pipe_reader_closed(self) except -1:
        return 0

    cdef int probe_cork_support(self) except -1:
        """Find out whether this is TCP: SCTP knows MSG_MORE too, and nothing but more would make it send."""
        cdef int cork = 0
        cdef socklen_t size = sizeof(cork)
        self.cork_support = CORK_UNSUPPORTED
        if self.fd >= 0 and c.getsockopt(self.fd, c.IPPROTO_TCP, c.TCP_CORK, &cork, &size) == 0:
            self.cork_support = CORK_SUPPORTED
        return 0

    cdef int uncork(self) except -1:
        """Have TCP send what it keeps for what would follow, unless the program has corked the socket: then it says when."""
        cdef int cork = 0
        cdef socklen_t size = sizeof(cork)
        self.corked = False
        if self.fd >= 0 and c.getsockopt(self.fd, c.IPPROTO_TCP, c.TCP_CORK, &cork, &size) == 0 and cork == 0:
            c.setsockopt(self.fd, c.IPPROTO_TCP, c.TCP_CORK, &cork, sizeof(cork))
        return 0

    cdef int attach_protocol(self, object protocol) except -1:
        """Decide once how `protocol` is served; `on_events` and the receiving methods look at the kind alone."""
        cdef NativeProtocol former
        cdef NativeProtocol native_protocol = None
        cdef int kind
        if isinstance(protocol, NativeProtocol):
            native_protocol = <NativeProtocol>protocol
            kind = PROTOCOL_NATIVE
        elif is_buffered(protocol):
            kind = PROTOCOL_BUFFERED
        else:
            kind = PROTOCOL_STREAMING
            if isinstance(protocol, StreamReaderProtocol):
                from corenet.transports.stream_reader_buffer import install_reader_buffer
                install_reader_buffer(protocol)
        # After the look at its attributes, whose code may have put yet another protocol here.
        former = self.native_protocol
        self.protocol_kind = kind
        self.native_protocol = native_protocol
        self.protocol = protocol
        self.protocol_connected = True
        if native_protocol is not None:
            native_protocol.on_attached(self)
        if former is not None and former is not protocol:
            former.on_replaced(protocol)
        return 0

    # --- events ---------------------------------------------------------------------------------------------------

    cdef int on_events(self, uint32_t events) except -1:
        cdef object context = self.context
        cdef unsigned long long before = self.loop.bytes_received
        cdef unsigned long long sent_before = self.loop.bytes_sent
        if context is None or self.fd < 0:
            return 0
        if PyContext_Enter(context) < 0:
            return self.fail_context_entered()
        try:
            if self.writing and events & ~<uint32_t>c.EPOLLIN:
                self.flush()
            if can_receive(self) and events & ~<uint32_t>c.EPOLLOUT:
                if self.protocol_kind == PROTOCOL_STREAMING:
                    self.receive()
                elif self.protocol_kind == PROTOCOL_BUFFERED:
                    self.receive_into()
                elif self.protocol_kind == PROTOCOL_NATIVE:
                    self.receive_consumed()
                else:
                    self.on_pipe_reader_closed()
            self.flush_deferred_writes()
            if events & (c.EPOLLERR | c.EPOLLHUP) or self.spurious_events:
                self.note_spurious_event(self.loop.bytes_received != before or self.loop.bytes_sent != sent_before)
        finally:
            PyContext_Exit(context)
        if self.loop.bytes_received - before >= FRESH:
            self.loop.defer_rest_of_batch()
        return 0

    cdef int on_flush(self) except -1:
        self.flush_deferred = False
        return self.flush_deferred_writes()

    cdef int receive(self) except -1:
        cdef uint8_t *buffer = self.loop.receive_buffer()
        cdef ssize_t got
        cdef Py_ssize_t asked
        cdef Py_ssize_t total = 0
        cdef int left = READS
        cdef bytes data
        cdef ReceivePool receive_pool = self.loop.receive_pool
        # With more room than is expected: a receive that fills it says nothing of what is left.
        cdef PooledBytes *spare = receive_pool.find(self.expected + 1) if self.expected else NULL
        while left > 0 and can_receive(self):
            left -= 1
            if spare == NULL:
                asked = SCRATCH_SIZE
                got = self.recv_some(buffer, asked)
            else:
                asked = spare.room
                got = self.recv_some(PyBytes_AS_STRING(<bytes>spare.owner), asked)
            if got > 0:
                data = receive_pool.make_bytes(buffer, got) if spare == NULL else receive_pool.finish_receive(spare, got)
                spare = NULL
                total += got
                self.expected = <int>total if total >= DIRECT else 0
                if not call_data_received(self, data):
                    return self.callback_failed("Fatal error: protocol.data_received() call failed.")
                if got < asked or self.protocol_kind != PROTOCOL_STREAMING:
                    # A short read has emptied the socket; when the protocol was changed in its own callback, the
                    # level trigger brings the rest to the new one.
                    return 0
            elif got == 0:
                return self.on_eof()
            else:
                return self.read_failed(errno)
        return 0

    cdef int receive_consumed(self) except -1:
        cdef NativeProtocol native_protocol
        cdef uint8_t *place
        cdef size_t room
        cdef ssize_t got
        cdef int left = READS
        while left > 0 and can_receive(self) and self.protocol_kind == PROTOCOL_NATIVE:
            left -= 1
            # Held, since its callback may put another protocol in its place.
            native_protocol = self.native_protocol
            room = SCRATCH_SIZE
            place = native_protocol.get_receive_buffer(&room)
            if place == NULL:
                place = self.loop.receive_buffer()
            got = self.recv_some(place, room)
            if got == 0:
                return self.on_eof()
            if got < 0:
                return self.read_failed(errno)
            native_protocol.bytes_received(place, got)
            if <size_t>got < room:
                return 0
        return 0

    cdef int receive_into(self) except -1:
        cdef Py_buffer view
        cdef char *place
        cdef Py_ssize_t room
        cdef ssize_t got
        cdef int number
        cdef int left = READS
        cdef bint exported
        cdef object target
        cdef object protocol
        while left > 0 and can_receive(self) and self.protocol_kind == PROTOCOL_BUFFERED:
            left -= 1
            protocol = self.protocol
            try:
                target = call_method1(protocol, "get_buffer", -1)
                # No Python code runs between here and the end of the call, so a look at the place is enough.
                exported = not peek_bytes(target, True, &place, &room)
                if exported:
                    PyObject_GetBuffer(target, &view, PyBUF_WRITABLE)
                    place = <char *>view.buf
                    room = view.len
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                return self.fatal(error, "Fatal error: protocol.get_buffer() call failed.")
            if not can_receive(self) or self.protocol is not protocol:
                # `get_buffer` or the `__buffer__` of its result has paused, closed or set another protocol.
                if exported:
                    PyBuffer_Release(&view)
                continue
            got = self.recv_some(place, room) if room else 0
            number = errno
            if exported:
                PyBuffer_Release(&view)
                if self.closing:
                    # In its `__release_buffer__`.
                    return 0
            if room == 0:
                return self.fatal(
                    RuntimeError("get_buffer() returned an empty buffer"),
                    "Fatal error: protocol.get_buffer() call failed.",
                )
            if got == 0:
                return self.on_eof()
            if got < 0:
                return self.read_failed(number)
            try:
                call_method1(protocol, "buffer_updated", got)
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
            self.update_interest()
        else:
            self.close()
        return 0

    def pause_reading(self) -> None:
        """Stop receiving; calls without effect are ignored."""
        cdef NativeProtocol native_protocol = self.native_protocol
        if native_protocol is not None:
            native_protocol.on_reading_paused()
        Transport.pause_reading(self)

    def resume_reading(self) -> None:
        """Receive again after `pause_reading`; calls without effect are ignored."""
        cdef NativeProtocol native_protocol = self.native_protocol
        if self.closing or not self.paused:
            return
        if native_protocol is not None and not native_protocol.on_reading_resumed():
            return
        self.paused = False
        self.update_interest()

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
        cdef char *start
        cdef Py_ssize_t length
        if PyBytes_CheckExact(data):
            length = PyBytes_GET_SIZE(data)
            self.check_writable()
            if length:
                self.submit(data, PyBytes_AS_STRING(data), length)
            return
        if peek_bytes(data, False, &start, &length) and <size_t>length <= RELEASE_ABOVE:
            # Sent under the GIL or copied, before any Python code runs: a look at the place is enough.
            self.check_writable()
            if length:
                self.submit(None, start, length)
            return
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            # Not before: its class may have a `__buffer__` (PEP 688), which may end the stream or begin to send a file.
            self.check_writable()
            if view.len:
                self.submit(None, <const char *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int write_bytes(self, bytes data) except -1:
        """`write` for C callers."""
        cdef Py_ssize_t length = PyBytes_GET_SIZE(data)
        self.check_writable()
        if length:
            return self.submit(data, PyBytes_AS_STRING(data), length)
        return 0

    cdef int check_writable(self) except -1:
        if self.eof_requested:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        return 0

    def writelines(self, list_of_data: object) -> None:
        """Send several pieces with as few system calls as they allow, without joining them: all of them or none.

        Raises:
            TypeError: when a piece is nothing that `bytes.join` takes; then none is sent.
        """
        cdef bytes piece
        cdef list pieces = pieces_of(list_of_data)
        self.check_writable()
        self.in_writelines = True
        try:
            for piece in pieces:
                if PyBytes_GET_SIZE(piece):
                    self.submit(piece, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
        finally:
            self.in_writelines = False
            self.after_write()

    cdef int submit(self, object owner, const char *data, size_t length) except -1:
        """Send at once when nothing waits and nothing was written in this callback, else queue.

        `owner` is any object that keeps the bytes alive and unchanged; None: they are copied if they must wait. For
        that reason they do not wait for the end of the callback as others do when copying would cost as much as the
        system call that it may save.
        """
        cdef ssize_t sent = 0
        cdef uint64_t callback
        cdef bint more
        if self.conn_lost:
            if self.conn_lost >= WARN_AFTER:
                logger.warning("socket.send() raised exception.")
            self.conn_lost += 1
            return 0
        if self.pending is None and self.queue.count == 0 and not self.in_writelines:
            callback = callback_of(self.loop)
            if (
                self.last_write_callback != callback
                or length >= CORK
                or (owner is None and length >= COPY_BELOW)
                or not self.loop.running
            ):
                more = (
                    self.multiple_writes
                    and self.cork_support == CORK_SUPPORTED
                    and length < CORK
                    and self.last_write_callback != callback
                    and self.loop.running
                )
                self.last_write_callback = callback
                self.multiple_writes = False
                if more:
                    sent = c.c_send(self.fd, data, length, c.MSG_DONTWAIT | c.MSG_NOSIGNAL | c.MSG_MORE)
                elif length > RELEASE_ABOVE:
                    with nogil:
                        sent = self.send_some(data, length)
                else:
                    sent = self.send_some(data, length)
                if sent > 0:
                    self.loop.bytes_sent += sent
                    self.corked = more
                if sent == <ssize_t>length:
                    return self.defer_flush() if more else 0
                if sent < 0:
                    if errno != c.EAGAIN and errno != c.EINTR:
                        return self.write_failed(errno)
                    sent = 0
                # As asyncio: where nobody will ever send the rest, the writer is told.
                self.loop.check_open()
                try:
                    self.enqueue(owner, data + sent, length - sent)
                except MemoryError as error:
                    # What is written later may not follow a gap.
                    self.force_close(error)
                    raise
                self.writing = True
                self.update_interest()
                return self.maybe_pause()
        self.enqueue(owner, data, length)
        return 0 if self.in_writelines else self.after_write()

    cdef int enqueue(self, object owner, const char *data, size_t length) except -1:
        cdef bytes whole
        if owner is None:
            owner = PyBytes_FromStringAndSize(data, length)
            data = PyBytes_AS_STRING(owner)
        if self.queue.count == 0 and self.pending is None and PyBytes_CheckExact(owner):
            # The common answer, one piece in one callback, needs no queue at all.
            if PyBytes_AS_STRING(owner) == data and <size_t>PyBytes_GET_SIZE(owner) == length:
                self.pending = owner
                return 0
        if self.pending is not None:
            whole = self.pending
            queue_push(&self.queue, whole, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
            # Not before: without memory for its place it would be lost.
            self.pending = None
        return queue_push(&self.queue, owner, data, length)

    cdef int after_write(self) except -1:
        """Decide when what was queued leaves: now, when it is the callback's first or much, else when that returns."""
        if self.pending is None and self.queue.count == 0:
            return 0
        if not self.writing:
            if (
                self.last_write_callback != callback_of(self.loop)
                or <size_t>self.buffered_size() >= CORK
                or self.queue.count >= VECTOR_LIMIT
                # Marks below the cork limit: the protocol must hear of it before its callback ends.
                or self.buffered_size() > self.high
                or not self.loop.running
            ):
                self.flush()
            else:
                if self.cork_support == CORK_UNPROBED:
                    self.probe_cork_support()
                self.multiple_writes = True
                return self.defer_flush()
        return self.maybe_pause()

    cdef int flush(self) except -1:
        """Send what is queued until it is gone or the kernel takes no more."""
        cdef ssize_t sent
        cdef size_t asked
        cdef bytes whole
        cdef const char *data
        if self.conn_lost or self.fd < 0:
            self.drop_buffer()
            return 0
        self.last_write_callback = callback_of(self.loop)
        if self.pending is not None:
            whole = self.pending
            asked = PyBytes_GET_SIZE(whole)
            data = PyBytes_AS_STRING(whole)
            if asked > RELEASE_ABOVE:
                with nogil:
                    sent = self.send_some(data, asked)
            else:
                sent = self.send_some(data, asked)
            if sent > 0:
                self.loop.bytes_sent += sent
                self.corked = False
            if sent == <ssize_t>asked:
                self.pending = None
                return 0 if only_sending(self) else self.on_write_queue_empty()
            if sent < 0:
                if errno != c.EAGAIN and errno != c.EINTR:
                    return self.write_failed(errno)
                sent = 0
            self.pending = None
            try:
                queue_push(&self.queue, whole, data + sent, asked - sent)
            except MemoryError as error:
                self.force_close(error)
                raise
        else:
            while self.queue.count:
                asked = self.queue.size
                if asked > RELEASE_ABOVE:
                    with nogil:
                        sent = self.send_queue()
                else:
                    sent = self.send_queue()
                if sent < 0:
                    if errno == c.EINTR:
                        continue
                    if errno != c.EAGAIN:
                        return self.write_failed(errno)
                    break
                self.loop.bytes_sent += sent
                self.corked = False
                queue_consume(&self.queue, sent)
                if self.queue.count and <size_t>sent < asked and self.queue.count < VECTOR_LIMIT:
                    break
            if self.queue.count == 0:
                queue_free(&self.queue)
                return self.on_write_queue_empty()
        if not self.writing:
            self.writing = True
            self.update_interest()
        return self.maybe_resume()

    cdef int on_write_queue_empty(self) except -1:
        """Everything has left: go on with what waited for that."""
        if self.writing:
            self.writing = False
            self.update_interest()
        self.maybe_resume()
        if self.pending is not None or self.queue.count:
            # resume_writing wrote more.
            return 0
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_result(None)
        if self.conn_lost:
            # resume_writing ended the connection.
            return 0
        if self.closing:
            return self.schedule_connection_lost(None)
        if self.eof_requested:
            self.half_close()
        return 0

    cdef int write_failed(self, int number) except -1:
        cdef object error = os_error(number)
        self.drop_buffer()
        self.writing = False
        self.fail_empty_waiter(error)
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
        self.flush_deferred_writes()
        if self.conn_lost:
            # All of it has left, or could not; either way the end is on its way.
            return
        if self.pending is None and self.queue.count == 0:
            self.schedule_connection_lost(None)
        else:
            self.update_interest()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the kernel has not taken yet."""
        self.flush_deferred_writes()
        return self.buffered_size()

    cdef int force_close(self, object error) except -1:
        # What is lost is what the kernel did not take. asyncio would have offered it the rest before.
        self.flush_deferred_writes()
        return Transport.force_close(self, error)

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return optional information such as socket, sockname or peername."""
        if name == "socket":
            # Whoever takes the socket into his own hands comes after what was written.
            self.flush_deferred_writes()
        return Transport.get_extra_info(self, name, default)

    cdef int flush_deferred_writes(self) except -1:
        if not self.writing and (self.pending is not None or self.queue.count):
            self.flush()
        if self.corked:
            self.uncork()
        return 0

    def _make_empty_waiter(self) -> object:
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self.empty_waiter = self.loop.create_future()
        if self.pending is not None or self.queue.count:
            if not self.writing:
                self.flush()
        else:
            self.empty_waiter.set_result(None)
        return self.empty_waiter

    def _make_room_waiter(self) -> object:
        """A future for when the kernel takes more of a file; between `_make_empty_waiter` and `_reset_empty_waiter`."""
        self.empty_waiter = self.loop.create_future()
        # Blocked with an empty queue: the next flush finds that all of it has left.
        self.writing = True
        self.update_interest()
        return self.empty_waiter

    def _reset_empty_waiter(self) -> None:
        self.empty_waiter = None

    cdef int fail_empty_waiter(self, object error) except -1:
        """Tell a sendfile that waits that it waits for nothing."""
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_exception(error)
            # Heard, even if nobody waits any more: the child of a fork may end without a turn.
            self.empty_waiter.exception()
        return 0

    cdef int on_fork_in_child(self) except -1:
        cdef NativeProtocol native_protocol = self.native_protocol
        self.corked = False
        self.fail_empty_waiter(ConnectionAbortedError("The file is sent by the parent process"))
        if native_protocol is not None:
            native_protocol.on_fork_in_child()
        return Transport.on_fork_in_child(self)
