"""The writer of native streams, and the protocol that feeds a reader: the code that runs for each message.

The code that runs once per connection (connecting, handlers of servers, upgrades to TLS) is Python, in
`corenet.transports.streams`. `drain` returns one shared, completed awaitable when there is nothing to wait for and no
error to raise, which is the usual case.
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
    """An awaitable that is always completed; it has the methods of a coroutine, so a task can run it."""

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
        """Do nothing."""


cdef CompletedAwaitable DONE = CompletedAwaitable()


cdef class ProtocolCore(NativeProtocol):
    """Feeds received bytes to a reader, and makes `drain` wait while the transport has paused writing."""

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
        """Take bytes from a foreign transport."""
        if self._stream_reader is not None:
            self._stream_reader.feed_data(data)

    def pause_writing(self) -> None:
        """Called above the high watermark: `drain` waits from now on."""
        assert not self._paused
        self._paused = True

    def resume_writing(self) -> None:
        """Called at the low watermark: wake the waiting `drain` calls."""
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
        """The connection was lost: drop the reader and wake the waiting `drain` calls."""
        self._connection_lost = True
        self.reader = self._stream_reader = None
        if self._paused:
            self.wake_drain_waiters(error)

    def _drain_helper(self) -> object:
        return wait_until_resumed(self)


async def wait_until_resumed(ProtocolCore protocol not None) -> None:
    """Wait while `protocol` is paused.

    Raises:
        ConnectionResetError: the connection was lost.
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
    """Base of `corenet.StreamWriter`: the methods that are called for each message."""

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
        """Use `transport` from now on."""
        self._transport = transport
        self.stream = transport if type(transport) is StreamTransport else None

    @property
    def transport(self) -> object:
        """The transport of this writer."""
        return self._transport

    def write(self, data: object) -> None:
        """Send `data`, now or when the socket is writable; never blocks; see `drain`."""
        cdef StreamTransport stream = self.stream
        if stream is not None and PyBytes_CheckExact(data):
            stream.write_bytes(data)
        else:
            self._transport.write(data)

    def writelines(self, data: object) -> None:
        """Send several bytes-like objects."""
        self._transport.writelines(data)

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""
        return self._transport.is_closing()

    cdef bint drain_is_immediate(self) except -1:
        """Return whether `drain` has nothing to wait for and no error to raise."""
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
        """Wait while the transport has paused writing.

        Raises:
            ConnectionResetError: the connection was lost; or the exception that ended the reader.
        """
        if self.drain_is_immediate():
            return DONE
        return wait_to_drain(self)


async def wait_to_drain(WriterCore writer not None) -> None:
    """The waiting part of `drain`."""
    if writer._reader is not None:
        error = writer._reader.exception()
        if error is not None:
            raise error
    if writer._transport.is_closing():
        # Let connection_lost run, or a program that only writes and drains would never get the error.
        await asyncio.sleep(0)
    await writer._protocol._drain_helper()
