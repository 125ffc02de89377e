"""Transports on the two ends of a pipe, FIFO, character device or socket that is given as a file object.

A reading end is closed at end of file, whatever eof_received returns, because there is no other direction to keep
open. A writing end waits for the error event by which the kernel reports that the reader has closed; waiting for the
next write to fail would keep the pipe of a dead child process open for ever. There is no .pxd, because no other
module needs the types.
"""

import os
import stat

cimport cython
from libc.stddef cimport size_t

from corenet.core cimport libc as c
from corenet.core.counters cimport KIND_PIPE, count_created, count_destroyed
from corenet.core.engine cimport Engine
from corenet.core.poller cimport Watcher
from corenet.core.libc cimport propagate
from corenet.transports.base cimport Transport, call_method0
from corenet.transports.stream_sender cimport VECTOR_LIMIT
from corenet.transports.streambase cimport PROTOCOL_WRITE_ONLY, StreamBase

from corenet.transports import transport_types


@cython.final
cdef class ReadPipeTransport(StreamBase):
    """The reading end of a pipe."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        count_created(KIND_PIPE)

    def __dealloc__(self) -> None:
        count_destroyed(KIND_PIPE)

    @property
    def __class__(self) -> type:
        return transport_types.ReadPipeTransport

    cdef ssize_t recv_some(self, void *data, size_t length) noexcept:
        cdef ssize_t got = c.c_read(self.fd, data, length)
        if got > 0:
            self.loop.bytes_received += got
        return got

    cdef int callback_failed(self, str _message) except -1:
        """Report an exception of data_received and continue, as asyncio does for pipes."""
        try:
            propagate()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.report_callback_error(self.protocol.data_received, (), error)
        return 0

    cdef int on_eof(self) except -1:
        self.eof_seen = True
        try:
            call_method0(self.protocol, "eof_received")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.report_callback_error(self.protocol.eof_received, (), error)
        self.close()
        return 0


@cython.final
cdef class WritePipeTransport(StreamBase):
    """The writing end of a pipe."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        count_created(KIND_PIPE)

    def __dealloc__(self) -> None:
        count_destroyed(KIND_PIPE)

    @property
    def __class__(self) -> type:
        return transport_types.WritePipeTransport

    cdef ssize_t send_some(self, const void *data, size_t length) noexcept nogil:
        return c.c_write(self.fd, data, length)

    cdef ssize_t send_queue(self) noexcept nogil:
        return c.writev(
            self.fd, self.queue.vectors + self.queue.head, <int>min(self.queue.count, VECTOR_LIMIT)
        )

    cdef int attach_protocol(self, object protocol) except -1:
        StreamBase.attach_protocol(self, protocol)
        # Whatever the protocol is, it gets no bytes.
        self.protocol_kind = PROTOCOL_WRITE_ONLY
        return 0

    cdef int on_pipe_reader_closed(self) except -1:
        cdef object error = BrokenPipeError() if self.buffered_size() else None
        return self.force_close(error)

    def write_eof(self) -> None:
        """Close when everything queued was written."""
        self.close()


class DupedPipe:
    """Owns the duplicated descriptor that a second transport on the same pipe uses."""

    def __init__(self, pipe: object, fd: int, shared: bool) -> None:
        self.pipe = pipe
        self.fd = fd
        self.shared = shared

    def fileno(self) -> int:
        """Return the duplicated descriptor."""
        return self.fd

    def close(self) -> None:
        """Close the duplicated descriptor, and the file object unless the first transport owns it."""
        os.close(self.fd)
        if not self.shared:
            self.pipe.close()


cdef StreamBase attach_pipe(StreamBase transport, Engine loop, object pipe, object protocol, object waiter, dict extra):
    cdef int fd = pipe.fileno()
    cdef Watcher present
    cdef object owner = pipe
    loop.check_open()
    # The owner first, because a paused transport is not registered.
    present = loop.poller.owner_of(fd)
    if present is None:
        present = loop.poller.find(fd)
    if isinstance(present, Transport):
        # Several transports on one descriptor, such as standard output: epoll has one entry for each number, so the
        # later transports get duplicates.
        fd = os.dup(fd)
        owner = DupedPipe(pipe, fd, (<Transport>present).sock is pipe)
    else:
        loop.remove_stale_handlers(fd)
    try:
        os.set_blocking(fd, False)
        transport.sock = owner
        transport.attach(loop, fd, protocol, {"pipe": pipe} if extra is None else {**extra, "pipe": pipe})
    except BaseException:
        if owner is not pipe:
            os.close(fd)
        raise
    loop.call_soon_c(transport._call_connection_made, (waiter,), None)
    return transport


def make_read_pipe(
    loop: Engine, pipe: object, protocol: object, waiter: object = None, extra: dict | None = None
) -> ReadPipeTransport:
    """Return a transport on the reading end `pipe`.

    Raises:
        ValueError: `pipe` is a regular file or a directory, which epoll cannot wait for.
    """
    mode = os.fstat(pipe.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
        raise ValueError("Pipe transport is for pipes/sockets only.")
    return attach_pipe(ReadPipeTransport.__new__(ReadPipeTransport), loop, pipe, protocol, waiter, extra)


def make_write_pipe(
    loop: Engine, pipe: object, protocol: object, waiter: object = None, extra: dict | None = None
) -> WritePipeTransport:
    """Return a transport on the writing end `pipe`.

    Raises:
        ValueError: `pipe` is a regular file or a directory, which epoll cannot wait for.
    """
    cdef StreamBase transport
    mode = os.fstat(pipe.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
        raise ValueError("Pipe transport is only for pipes, sockets and character devices")
    transport = attach_pipe(WritePipeTransport.__new__(WritePipeTransport), loop, pipe, protocol, waiter, extra)
    # A terminal is readable when the user types, which says nothing about the writing direction.
    transport.paused = bool(stat.S_ISCHR(mode))
    return transport
