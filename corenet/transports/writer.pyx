"""The sending half of native streams, and the protocol that feeds a reader, both as far as every message passes them.

The rest (making connections, handlers of servers, upgrades to TLS) is called once a connection and stands in Python,
in `corenet.transports.streams`. `drain` answers with one shared, finished awaitable as long as there is nothing to
wait for or to complain about, which is nearly always.
"""

import asyncio
import collections

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from corenet.transports.reader cimport ReaderCore
from corenet.transports.stream cimport StreamTransport
from corenet.transports.streambase cimport NativeProtocol

__all__ = ["ProtocolCore", "WriterCore"]


@cython.final
cdef class CompletedAwaitable:
    """An awaitable that is always done; it has a coroutine's methods, so tasks can be made of it."""

    def __await__(self) -> CompletedAwaitable:
        return self

    def __iter__(self) -> CompletedAwaitable:
        return self

    def __next__(self) -> None:
        raise StopIteration

    def send(self, value: object) -> None:
        """Raise StopIteration: there is nothing to do."""
        raise StopIteration

    def throw(self, kind: object, value: object = None, traceback: object = None) -> None:
        """Raise the exception."""
        if isinstance(kind, BaseException):
            raise kind
        raise (value if isinstance(value, BaseException) else kind() if value is None else kind(value))

    def close(self) -> None:
        """Nothing is open."""


cdef CompletedAwaitable DONE = CompletedAwaitable()


cdef class ProtocolCore(NativeProtocol):
    """Hands what is received to a reader and keeps those waiting who write faster than the peer reads."""

    def __init__(self, reader: object, loop: object) -> None:
        self._stream_reader = reader
        self.reader = reader if isinstance(reader, ReaderCore) else None
        self._loop = loop

    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1:
        if self.reader is None:
            self.data_received(PyBytes_FromStringAndSize(<const char *>data, length))
        elif not self.reader._eof:
            self.reader.feed(data, length, None)
        return 0

    def data_received(self, data: bytes) -> None:
        """Take bytes from a transport that is not one of our streams."""
        if self._stream_reader is not None:
            self._stream_reader.feed_data(data)

    def pause_writing(self) -> None:
        """The transport has enough to send."""
        assert not self._paused
        self._paused = True

    def resume_writing(self) -> None:
        """The transport can take more."""
        assert self._paused
        self._paused = False
        self.wake_drain_waiters(None)

    cdef int wake_drain_waiters(self, object error) except -1:
        if self.drains is not None:
            for waiter in self.drains:
                if not waiter.done():
                    if error is None:
                        waiter.set_result(None)
                    else:
                        waiter.set_exception(error)
        return 0

    def _lost(self, error: BaseException | None) -> None:
        """The connection has ended: nobody needs to wait any more."""
        self._connection_lost = True
        self.reader = self._stream_reader = None
        if self._paused:
            self.wake_drain_waiters(error)

    def _drain_helper(self) -> object:
        return wait_until_resumed(self)


async def wait_until_resumed(ProtocolCore protocol not None) -> None:
    """Wait while `protocol` is paused.

    Raises:
        ConnectionResetError: when the connection was lost.
    """
    if protocol._connection_lost:
        raise ConnectionResetError("Connection lost")
    if not protocol._paused:
        return
    if protocol.drains is None:
        protocol.drains = collections.deque()
    waiter = protocol._loop.create_future()
    protocol.drains.append(waiter)
    try:
        await waiter
    finally:
        protocol.drains.remove(waiter)


cdef class WriterCore:
    """What `corenet.StreamWriter` adds to asyncio's: the calls made for every message."""

    def __init__(self, transport: object, protocol: object, reader: object, loop: object) -> None:
        if reader is not None and not isinstance(reader, asyncio.StreamReader):
            raise TypeError(f"reader must be a StreamReader or None, not {reader!r}")
        self._protocol = protocol
        self._reader = reader
        self._loop = loop
        self.core = protocol if isinstance(protocol, ProtocolCore) else None
        self.source = reader if isinstance(reader, ReaderCore) else None
        self._set_transport(transport)

    def _set_transport(self, transport: object) -> None:
        """Write to `transport` from now on."""
        self._transport = transport
        self.stream = transport if type(transport) is StreamTransport else None

    @property
    def transport(self) -> object:
        """The transport below."""
        return self._transport

    def write(self, data: object) -> None:
        """Send `data`, now or as soon as the peer takes it; never blocks, see `drain`."""
        cdef StreamTransport stream = self.stream
        if stream is not None and PyBytes_CheckExact(data):
            stream.write_bytes(data)
        else:
            self._transport.write(data)

    def writelines(self, data: object) -> None:
        """Send several pieces."""
        self._transport.writelines(data)

    def is_closing(self) -> bool:
        """Tell whether the connection is closing or closed."""
        return self._transport.is_closing()

    cdef bint drain_is_immediate(self) except -1:
        """Nothing to wait for, nothing to complain about."""
        if self.core is None or self.core._paused or self.core._connection_lost:
            return False
        if self.source is not None:
            if self.source._exception is not None:
                return False
        elif self._reader is not None and self._reader.exception() is not None:
            return False
        if self.stream is not None:
            return not self.stream.closing
        return not self._transport.is_closing()

    def drain(self) -> object:
        """Wait until the transport wants more to send.

        Raises:
            ConnectionResetError: when the connection was lost; or what ended the reader.
        """
        if self.drain_is_immediate():
            return DONE
        return wait_to_drain(self)


async def wait_to_drain(WriterCore writer not None) -> None:
    """Wait as `drain` says."""
    if writer._reader is not None:
        error = writer._reader.exception()
        if error is not None:
            raise error
    if writer._transport.is_closing():
        # connection_lost must have its turn, or a loop of writes and drains would never hear of it.
        await asyncio.sleep(0)
    await writer._protocol._drain_helper()
