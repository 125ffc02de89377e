"""The ``sock_*`` coroutines: try the call first, and wait only when it would block.

A wait for reading finds the interest of the one before still in the kernel's table when it is the same socket object,
known by its weak reference; then it costs no system call. All others are one-shot: one EPOLL_CTL_MOD, which becomes an
ADD when the descriptor was closed and its number came back. Errors of the calls are raised as the socket module would.
"""

import asyncio
import io
import os
import socket
from asyncio.base_events import _check_ssl_socket
from typing import Any

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject_Call
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport uint8_t

from corenet.core cimport sys as c
from corenet.core.engine cimport SCRATCH_SIZE, Engine
from corenet.core.sys cimport PyErr_SetFromErrno, PyExc_OSError, errno
from corenet.transports.base cimport call_method1


cdef object Future = asyncio.Future
cdef object InvalidStateError = asyncio.InvalidStateError
cdef object Socket = socket.socket


cdef class SocketEngine(Engine):
    """The socket operations of an asyncio loop."""

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return self.new_future()

    def get_debug(self) -> bool:
        """Tell whether debug mode is on."""
        return self.debug

    cdef object new_future(self):
        # The keyword comes from a dictionary made once: a constructor in C takes it without a copy.
        if self.of_this_loop is None:
            self.of_this_loop = {"loop": self}
        return PyObject_Call(Future, (), self.of_this_loop)

    def _dispose(self) -> None:
        """Let go of the loop's own dictionary too, which holds the loop."""
        Engine._dispose(self)
        self.of_this_loop = None

    cdef object waiter(self, object sock, bint writing):
        """A future that is done when `sock` is ready; one that is given up may be forgotten."""
        cdef object future = self.new_future()
        cdef object owner = None
        if not writing and type(sock) is Socket:
            # The same object as long as it lives, by which the socket is recognised; its number may come back.
            owner = PyWeakref_NewRef(sock, None)
        self.wait_once(sock.fileno(), writing, future, owner)
        return future

    cdef int wake(self, object waiter) except -1:
        try:
            call_method1(waiter, "set_result", None)
        except InvalidStateError:
            # Cancelled while it waited: what arrived is for the next who asks.
            pass
        return 0

    cdef Py_ssize_t send_now(self, object sock, object data, Py_ssize_t offset) except -2:
        """Send from `offset` on what the kernel takes; returns how far it came, -1 when that was all."""
        cdef Py_buffer view
        cdef ssize_t sent
        cdef int number
        cdef int fd = sock.fileno()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        sent = c.c_send(
            fd, <const char *>view.buf + offset, view.len - offset, c.MSG_DONTWAIT | c.MSG_NOSIGNAL
        ) if offset < view.len else 0
        number = errno
        if sent > 0:
            offset += sent
        if offset >= view.len:
            offset = -1
        PyBuffer_Release(&view)
        if sent < 0 and number != c.EAGAIN and number != c.EINTR:
            c.errno = number
            PyErr_SetFromErrno(PyExc_OSError)
        return offset

    cdef int check_socket(self, object sock) except -1:
        if type(sock) is not Socket:
            _check_ssl_socket(sock)
        if self.debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        return 0

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """Receive up to `nbytes` bytes; empty at end of file."""
        cdef int fd
        cdef ssize_t got
        cdef Py_ssize_t room = nbytes
        cdef uint8_t *buffer
        self.check_socket(sock)
        while True:
            fd = sock.fileno()
            if 0 <= room <= SCRATCH_SIZE and fd >= 0:
                buffer = self.receive_buffer()
                got = c.c_recv(fd, buffer, room, c.MSG_DONTWAIT)
                if got >= 0:
                    return self.bytes_of(buffer, got)
                if errno != c.EAGAIN and errno != c.EINTR:
                    PyErr_SetFromErrno(PyExc_OSError)
            else:
                try:
                    return sock.recv(nbytes)
                except (BlockingIOError, InterruptedError):
                    pass
            await self.waiter(sock, False)

    async def sock_recv_into(self, sock: socket.socket, buf: object) -> int:
        """Receive into `buf`; returns the number of bytes, 0 at end of file."""
        self.check_socket(sock)
        while True:
            try:
                return sock.recv_into(buf)
            except (BlockingIOError, InterruptedError):
                pass
            await self.waiter(sock, False)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, object]:
        """Receive one datagram of up to `bufsize` bytes, with its sender."""
        self.check_socket(sock)
        while True:
            try:
                return sock.recvfrom(bufsize)
            except (BlockingIOError, InterruptedError):
                pass
            await self.waiter(sock, False)

    async def sock_recvfrom_into(self, sock: socket.socket, buf: object, nbytes: int = 0) -> tuple[int, object]:
        """Receive one datagram into `buf`; returns its length and sender."""
        self.check_socket(sock)
        if not nbytes:
            nbytes = len(buf)
        while True:
            try:
                return sock.recvfrom_into(buf, nbytes)
            except (BlockingIOError, InterruptedError):
                pass
            await self.waiter(sock, False)

    async def sock_sendall(self, sock: socket.socket, data: object) -> None:
        """Send all of `data`; how much has left is unknown when this raises."""
        self.check_socket(sock)
        sent = self.send_now(sock, data, 0)
        while sent >= 0:
            await self.waiter(sock, True)
            sent = self.send_now(sock, data, sent)

    async def sock_sendto(self, sock: socket.socket, data: object, address: object) -> int:
        """Send one datagram to `address`."""
        self.check_socket(sock)
        while True:
            try:
                return sock.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                pass
            await self.waiter(sock, True)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, object]:
        """Accept a connection; the new socket does not block."""
        self.check_socket(sock)
        while True:
            try:
                connection, address = sock.accept()
            except (BlockingIOError, InterruptedError):
                pass
            else:
                connection.setblocking(False)
                return connection, address
            await self.waiter(sock, False)

    async def sock_connect(self, sock: socket.socket, address: object) -> None:
        """Connect to `address`; names are resolved by the loop."""
        self.check_socket(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            found = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            if not found:
                raise OSError("getaddrinfo() returned empty list")
            # Unpacked: a resolver set by the user may answer anything, and an index is not checked in this build.
            _, _, _, _, address = next(iter(found))
        try:
            sock.connect(address)
            return
        except (BlockingIOError, InterruptedError):
            pass
        await self.waiter(sock, True)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, f"Connect call failed {address}")

    async def _sock_sendfile_native(self, sock: socket.socket, file: object, offset: int, count: int | None) -> int:
        try:
            source = file.fileno()
            size = os.fstat(source).st_size
        except (AttributeError, io.UnsupportedOperation, OSError):
            raise asyncio.SendfileNotAvailableError("not a regular file")
        left = count if count else max(0, size - offset)
        total = 0
        try:
            while left > 0:
                try:
                    sent = os.sendfile(sock.fileno(), source, offset, left)
                except (BlockingIOError, InterruptedError):
                    await self.waiter(sock, True)
                    continue
                except OSError as error:
                    if error.errno == c.ENOTCONN:
                        raise ConnectionError("socket is not connected", c.ENOTCONN) from error
                    if total == 0:
                        raise asyncio.SendfileNotAvailableError("os.sendfile call failed") from error
                    raise
                if sent == 0:
                    break
                offset += sent
                total += sent
                left -= sent
            return total
        finally:
            if total:
                os.lseek(source, offset, os.SEEK_SET)
