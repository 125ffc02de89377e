"""The part of a stream transport that sockets and pipes share: events, and receiving on one descriptor.

`corenet.transports.stream_sender` has the sending side, which needs nothing of this one.

Reading: one ``recv`` per event into the loop's buffer, with the GIL, because the call cannot block. A short read
ends the event; after full reads it continues within a budget. A hang-up means "read until 0", never "close".

`attach_protocol` determines the kind of protocol once; only `on_events` selects the receiving method by it.
"""

import asyncio

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from corenet.core cimport libc as c
from corenet.core.scheduler cimport RECEIVE_BUFFER_SIZE
from corenet.core.poller cimport Watcher
from corenet.core.receive_pool cimport PooledBytes, ReceivePool
from corenet.core.libc cimport (
    PyContext_Enter,
    PyContext_Exit,
    PyObject_VectorcallMethod,
    errno,
    peek_bytes,
    propagate,
)
from corenet.transports.base cimport Transport, call_method0, call_method1, os_error, can_receive
from corenet.transports.stream_sender cimport StreamSender

from corenet.limits import READS_PER_EVENT, RECEIVE_BURST_BYTES, RECEIVE_HINT_MIN

cdef Py_ssize_t HINT_MIN = RECEIVE_HINT_MIN
cdef unsigned long long BURST_BYTES = RECEIVE_BURST_BYTES
cdef int READS = READS_PER_EVENT

cdef object BufferedProtocol = asyncio.BufferedProtocol
cdef object StreamReaderProtocol = asyncio.StreamReaderProtocol


cdef bint is_buffered(object protocol) except -1:
    """Return whether `protocol` provides receive buffers: by its class or, as in uvloop, by its methods."""
    return isinstance(protocol, BufferedProtocol) or (
        not hasattr(protocol, "data_received") and hasattr(protocol, "get_buffer") and hasattr(protocol, "buffer_updated")
    )


cdef class NativeProtocol(Watcher):
    """A protocol of ours that gets received bytes through C, without a bytes object."""

    cdef uint8_t *get_receive_buffer(self, size_t *size) except? NULL:
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
        raise TypeError(f"{type(self).__name__} has no framing; use a FramedProtocol")


cdef inline bint call_data_received(StreamBase self, bytes data) noexcept:
    """Call ``protocol.data_received(data)``; return False with the exception set."""
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


cdef class StreamBase(StreamSender):
    """Reads and writes bytes on one descriptor; subclasses define `recv_some` and what `StreamSender` needs."""

    # --- the descriptor -------------------------------------------------------------------------------------------

    cdef ssize_t recv_some(self, void *data, size_t length) noexcept:
        # The writing end of a pipe does not receive.
        c.errno = c.EBADF
        return -1

    cdef int on_pipe_reader_closed(self) except -1:
        return 0

    cdef int attach_protocol(self, object protocol) except -1:
        """Set the protocol and determine its kind, which `on_events` and the receiving methods use."""
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
        # After reading its attributes, whose code may have set yet another protocol.
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
                try:
                    self.receive_by_kind()
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    # MemoryError for one. Bytes that were received are lost: what follows must not be taken for them.
                    self.fatal(error, "Fatal error: received data could not be passed on")
            self.flush_deferred_writes()
            if events & (c.EPOLLERR | c.EPOLLHUP) or self.spurious_events:
                self.note_spurious_event(self.loop.bytes_received != before or self.loop.bytes_sent != sent_before)
        finally:
            PyContext_Exit(context)
        if self.loop.bytes_received - before >= BURST_BYTES:
            self.loop.defer_rest_of_batch()
        return 0

    cdef int receive_by_kind(self) except -1:
        if self.protocol_kind == PROTOCOL_STREAMING:
            return self.receive()
        if self.protocol_kind == PROTOCOL_BUFFERED:
            return self.receive_into()
        if self.protocol_kind == PROTOCOL_NATIVE:
            return self.receive_consumed()
        return self.on_pipe_reader_closed()

    cdef int receive(self) except -1:
        cdef uint8_t *buffer = self.loop.receive_buffer()
        cdef ssize_t got
        cdef Py_ssize_t asked
        cdef Py_ssize_t total = 0
        cdef int left = READS
        cdef bytes data
        cdef ReceivePool receive_pool = self.loop.receive_pool
        # Larger than expected, because a receive that fills its buffer does not show whether more is left.
        cdef PooledBytes *spare = receive_pool.find(self.expected + 1) if self.expected else NULL
        while left > 0 and can_receive(self):
            left -= 1
            if spare == NULL:
                asked = RECEIVE_BUFFER_SIZE
                got = self.recv_some(buffer, asked)
            else:
                asked = spare.capacity
                got = self.recv_some(PyBytes_AS_STRING(<bytes>spare.owner), asked)
            if got > 0:
                data = receive_pool.make_bytes(buffer, got) if spare == NULL else receive_pool.finish_receive(spare, got)
                spare = NULL
                total += got
                self.expected = <int>total if total >= HINT_MIN else 0
                if not call_data_received(self, data):
                    return self.callback_failed("Fatal error: protocol.data_received() call failed.")
                if got < asked or self.protocol_kind != PROTOCOL_STREAMING:
                    # A short read has emptied the socket. If the callback has set another protocol, a new event
                    # (level-triggered) brings it the rest.
                    return 0
            elif got == 0:
                return self.on_eof()
            else:
                return self.read_failed(errno)
        return 0

    cdef int receive_consumed(self) except -1:
        cdef NativeProtocol native_protocol
        cdef uint8_t *target
        cdef size_t capacity
        cdef ssize_t got
        cdef int left = READS
        while left > 0 and can_receive(self) and self.protocol_kind == PROTOCOL_NATIVE:
            left -= 1
            # A reference, because its callback may set another protocol.
            native_protocol = self.native_protocol
            capacity = RECEIVE_BUFFER_SIZE
            target = native_protocol.get_receive_buffer(&capacity)
            if target == NULL:
                target = self.loop.receive_buffer()
            got = self.recv_some(target, capacity)
            if got == 0:
                return self.on_eof()
            if got < 0:
                return self.read_failed(errno)
            native_protocol.bytes_received(target, got)
            if <size_t>got < capacity:
                return 0
        return 0

    cdef int receive_into(self) except -1:
        cdef Py_buffer view
        cdef char *memory
        cdef Py_ssize_t capacity
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
                # No Python code runs until recv returns, so the pointer stays valid without an exported buffer.
                exported = not peek_bytes(target, True, &memory, &capacity)
                if exported:
                    PyObject_GetBuffer(target, &view, PyBUF_WRITABLE)
                    memory = <char *>view.buf
                    capacity = view.len
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                return self.fatal(error, "Fatal error: protocol.get_buffer() call failed.")
            if not can_receive(self) or self.protocol is not protocol:
                # `get_buffer`, or the `__buffer__` of its result, has paused, closed, or set another protocol.
                if exported:
                    PyBuffer_Release(&view)
                continue
            got = self.recv_some(memory, capacity) if capacity else 0
            number = errno
            if exported:
                PyBuffer_Release(&view)
                if self.closing:
                    # Its `__release_buffer__` has closed the transport.
                    return 0
            if capacity == 0:
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
            if got < capacity:
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
        """The peer will send no more; `eof_received` decides whether the other direction stays open."""
        cdef bint keep_open
        self.eof_seen = True
        try:
            # Its truth value is asked for here, because that may raise, too.
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
        """Stop receiving; does nothing when paused or closing."""
        cdef NativeProtocol native_protocol = self.native_protocol
        if native_protocol is not None:
            native_protocol.on_reading_paused()
        Transport.pause_reading(self)

    def resume_reading(self) -> None:
        """Receive again after `pause_reading`; does nothing when not paused or when closing."""
        cdef NativeProtocol native_protocol = self.native_protocol
        if self.closing or not self.paused:
            return
        if native_protocol is not None and not native_protocol.on_reading_resumed():
            return
        self.paused = False
        self.update_interest()

    cdef int on_fork_in_child(self) except -1:
        cdef NativeProtocol native_protocol = self.native_protocol
        if native_protocol is not None:
            native_protocol.on_fork_in_child()
        return StreamSender.on_fork_in_child(self)
