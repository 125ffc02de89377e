"""The ``sock_*`` coroutines, and what asyncio's C code calls on a loop: `create_future`, `create_task`, `call_soon`.

A coroutine tries the system call first and waits only when it would block. A wait for reading leaves its interest in
epoll, so that the next wait for the same socket object (known by weak reference) and the same file needs no system
call. All other waits are one-shot: one EPOLL_CTL_MOD each, or an ADD when the descriptor was closed and its number
reused. Errors are those that the socket module would raise.

A socket object that is closed while a coroutine waits for it stays open in the kernel until the wait ends, as on
uvloop: the wait counts as a user of the socket, like a file of `makefile`. The wait then ends by what the peer does.
Without this it would never end, because epoll reports nothing for a closed descriptor.
"""

import asyncio
import io
import os
import select
import socket
from asyncio.base_events import _check_ssl_socket
from collections.abc import Coroutine
from typing import Any

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject, PyObject_Call
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport uint8_t

from corenet.core cimport libc as c
from corenet.core.engine cimport Engine
from corenet.core.handles cimport Handle, gc_untrack, new_handle
from corenet.core.ready_queue cimport ring_push
from corenet.core.libc cimport MSG_PEEK, PyErr_SetFromErrno, PyExc_OSError, PyObject_Vectorcall, errno, propagate
from corenet.core.scheduler cimport RECEIVE_BUFFER_SIZE
from corenet.transports.base cimport call_method1, socket_incref, is_socket_object, socket_decref

# Looked up at each use, as asyncio does: programs replace the classes in these modules.
cdef dict FUTURES = asyncio.futures.__dict__
cdef dict TASKS = asyncio.tasks.__dict__
cdef object InvalidStateError = asyncio.InvalidStateError
cdef object Socket = socket.socket


cdef bint is_connected(object sock) except -1:
    """Return whether `sock`, whose SO_ERROR is 0, is connected; False while it is connecting.

    Raises:
        OSError: neither (ENOTCONN): it was shut down meanwhile, or the backlog of a Unix listener is full.
    """
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno != c.ENOTCONN:
            raise
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLOUT)
        if poll.poll(0):
            # It is ready but not connected. Waiting again would return at once, forever.
            raise
        return False
    return True


cdef class SocketEngine(Engine):
    """The socket operations of an asyncio loop."""

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return self.new_future()

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: object = None, context: object = None, **kwargs: Any
    ) -> asyncio.Task[Any]:
        """Run `coro` as a task; further keywords, such as eager_start, go to the task or its factory.

        Raises:
            TypeError: the task of this Python version, or the factory, does not take a keyword.
        """
        if kwargs or self.debug or self._task_factory is not None:
            # Only keywords that the caller gave: a task factory need not accept any.
            if name is not None:
                kwargs["name"] = name
            if context is not None:
                kwargs["context"] = context
            return super().create_task(coro, **kwargs)
        if self.closed:
            self.check_open()
        if name is None and context is None:
            return PyObject_Call(TASKS["Task"], (coro,), self.loop_kwargs())
        return TASKS["Task"](coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        """Return whether debug mode is on."""
        return self.debug

    cdef object new_future(self):
        return PyObject_Call(FUTURES["Future"], (), self.loop_kwargs())

    cdef dict loop_kwargs(self):
        """The keyword argument ``loop``, in a dictionary created once: constructors in C take it without a copy."""
        if self.loop_keyword is None:
            self.loop_keyword = {"loop": self}
        return self.loop_keyword

    def _dispose(self) -> None:
        """Drop the references of the engine and those of this class."""
        Engine._dispose(self)
        self.loop_keyword = None
        self.bound_soon = None

    cdef object waiter(self, object sock, bint writing):
        """Return a future that is done when `sock` is ready. A caller that stops waiting may just drop it."""
        cdef object future = self.new_future()
        cdef object owner = None
        if not writing and type(sock) is Socket:
            # The weak reference identifies the socket object. Its descriptor number may be reused by another socket.
            owner = PyWeakref_NewRef(sock, None)
        self.wait_ready(sock.fileno(), writing, future, owner)
        return future

    cdef int set_waiter_result(self, object waiter) except -1:
        try:
            call_method1(waiter, "set_result", None)
        except InvalidStateError:
            # The future was cancelled while it waited. The data stays in the kernel for the next reader.
            pass
        return 0

    cdef Py_ssize_t send_now(self, object sock, object data, Py_ssize_t offset) except -2:
        """Send from `offset` what the kernel accepts; returns the new offset, -1 when everything was sent."""
        cdef Py_buffer view
        cdef ssize_t sent
        cdef int number
        cdef int fd
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            # After the buffer: `__buffer__` (PEP 688) may close the socket, and its number may be reused then.
            fd = sock.fileno()
            sent = c.c_send(
                fd, <const char *>view.buf + offset, view.len - offset, c.MSG_DONTWAIT | c.MSG_NOSIGNAL
            ) if offset < view.len else 0
            number = errno
            if sent > 0:
                self.bytes_sent += sent
                offset += sent
            if offset >= view.len:
                offset = -1
        finally:
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


# `Loop` takes these functions as its methods. As methods of this class they would be either CPython method descriptors,
# which are not recognised as coroutine functions, or Cython functions, which do not check the type of `self`. A typed
# argument is checked. Sizes are annotated as objects, because a Cython int would also accept a float.

@cython.binding(True)
async def sock_recv(SocketEngine self not None, sock: socket.socket, nbytes: object) -> bytes:
    """Receive up to `nbytes` bytes; empty at end of file.

    Raises:
        MemoryError: received bytes may be lost, so the stream cannot be used any more.
    """
    cdef int fd
    cdef ssize_t got
    cdef Py_ssize_t size = nbytes
    cdef uint8_t *buffer
    cdef bytes data
    cdef bint held = False
    self.check_socket(sock)
    try:
        while True:
            fd = sock.fileno()
            if size == 0:
                # As CPython's socket does; the kernel would report EAGAIN on an empty queue.
                return b""
            if 0 <= size <= RECEIVE_BUFFER_SIZE and fd >= 0:
                buffer = self.receive_buffer()
                got = c.c_recv(fd, buffer, size, c.MSG_DONTWAIT)
                if got >= 0:
                    self.bytes_received += got
                    return self.receive_pool.make_bytes(buffer, got)
                if errno != c.EAGAIN and errno != c.EINTR:
                    PyErr_SetFromErrno(PyExc_OSError)
            else:
                try:
                    data = sock.recv(nbytes)
                except (BlockingIOError, InterruptedError):
                    pass
                else:
                    self.bytes_received += <size_t>len(data)
                    return data
            held = held or socket_incref(sock)
            await self.waiter(sock, False)
    finally:
        if held:
            socket_decref(sock)


@cython.binding(True)
async def sock_recv_into(SocketEngine self not None, sock: socket.socket, buf: object) -> int:
    """Receive into `buf`; returns the number of bytes, 0 at end of file."""
    cdef size_t got
    cdef bint held = False
    self.check_socket(sock)
    try:
        while True:
            try:
                got = sock.recv_into(buf)
            except (BlockingIOError, InterruptedError):
                pass
            else:
                self.bytes_received += got
                return got
            held = held or socket_incref(sock)
            await self.waiter(sock, False)
    finally:
        if held:
            socket_decref(sock)


@cython.binding(True)
async def sock_recvfrom(SocketEngine self not None, sock: socket.socket, bufsize: object) -> tuple[bytes, object]:
    """Receive one datagram of up to `bufsize` bytes, with its sender."""
    cdef bint held = False
    self.check_socket(sock)
    try:
        while True:
            try:
                data, address = sock.recvfrom(bufsize, c.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                pass
            else:
                self.bytes_received += <size_t>len(data)
                return data, address
            held = held or socket_incref(sock)
            await self.waiter(sock, False)
    finally:
        if held:
            socket_decref(sock)


@cython.binding(True)
async def sock_recvfrom_into(SocketEngine self not None, sock: socket.socket, buf: object, nbytes: object = 0) -> tuple[int, object]:
    """Receive one datagram into `buf`; returns its length and sender."""
    cdef size_t got
    cdef bint held = False
    self.check_socket(sock)
    if not nbytes:
        nbytes = len(buf)
    try:
        while True:
            try:
                got, address = sock.recvfrom_into(buf, nbytes, c.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                pass
            else:
                self.bytes_received += got
                return got, address
            held = held or socket_incref(sock)
            await self.waiter(sock, False)
    finally:
        if held:
            socket_decref(sock)


@cython.binding(True)
async def sock_sendall(SocketEngine self not None, sock: socket.socket, data: object) -> None:
    """Send all of `data`. When this raises, an unknown part of it has been sent."""
    self.check_socket(sock)
    sent = self.send_now(sock, data, 0)
    if sent < 0:
        return
    socket_incref(sock)
    try:
        while sent >= 0:
            await self.waiter(sock, True)
            sent = self.send_now(sock, data, sent)
    finally:
        socket_decref(sock)


@cython.binding(True)
async def sock_sendto(SocketEngine self not None, sock: socket.socket, data: object, address: object) -> int:
    """Send one datagram to `address`."""
    cdef size_t sent
    cdef bint held = False
    self.check_socket(sock)
    try:
        while True:
            try:
                sent = sock.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                pass
            else:
                self.bytes_sent += sent
                return sent
            held = held or socket_incref(sock)
            await self.waiter(sock, True)
    finally:
        if held:
            socket_decref(sock)


@cython.binding(True)
async def sock_accept(SocketEngine self not None, sock: socket.socket) -> tuple[socket.socket, object]:
    """Accept a connection; the new socket is non-blocking."""
    cdef bint held = False
    self.check_socket(sock)
    try:
        while True:
            try:
                connection, address = sock.accept()
            except (BlockingIOError, InterruptedError):
                pass
            else:
                connection.setblocking(False)
                return connection, address
            held = held or socket_incref(sock)
            await self.waiter(sock, False)
    finally:
        if held:
            socket_decref(sock)


@cython.binding(True)
async def sock_connect(SocketEngine self not None, sock: socket.socket, address: object) -> None:
    """Connect to `address`. A name is resolved by the loop."""
    self.check_socket(sock)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        found = await self._ensure_resolved(
            address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
        )
        if not found:
            raise OSError("getaddrinfo() returned empty list")
        # Unpacked, because a custom resolver may return anything, and this build does not check an index.
        _, _, _, _, address = next(iter(found))
    try:
        sock.connect(address)
        return
    except (BlockingIOError, InterruptedError):
        pass
    socket_incref(sock)
    try:
        while True:
            await self.waiter(sock, True)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number or is_connected(sock):
                break
    finally:
        socket_decref(sock)
    if number:
        raise OSError(number, f"Connect call failed {address}")


@cython.binding(True)
async def sock_sendfile_native(
    SocketEngine self not None, sock: socket.socket, file: object, offset: int, count: int | None
) -> int:
    """Send `count` bytes of `file` from `offset`, or all (None), without a copy in this process."""
    held = False

    async def until_writable() -> None:
        nonlocal held
        held = held or socket_incref(sock)
        await self.waiter(sock, True)
        if is_socket_object(sock) and sock._closed:
            # The program closed the socket. Sending a large file would continue for a long time.
            raise OSError(c.EBADF, os.strerror(c.EBADF))

    try:
        return await send_file(self, sock, until_writable, file, offset, count)
    finally:
        if held:
            socket_decref(sock)


async def send_file(
    SocketEngine self not None, sock: socket.socket, until_writable: object, file: object, offset: int, count: int | None
) -> int:
    """Send `count` bytes of `file` from `offset`, or all; awaits `until_writable()` when the kernel accepts no more."""
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
                # Called each time: a file closed during the wait may have left its number to another file. The socket's
                # last: the file may be an object of the program whose fileno() closes the socket.
                source = file.fileno()
                sent = os.sendfile(sock.fileno(), source, offset, left)
            except (BlockingIOError, InterruptedError):
                sent = -1
            except OSError as error:
                if error.errno == c.ENOTCONN:
                    raise ConnectionError("socket is not connected", c.ENOTCONN) from error
                if total == 0:
                    raise asyncio.SendfileNotAvailableError("os.sendfile call failed") from error
                raise
            if sent < 0:
                await until_writable()
                continue
            if sent == 0:
                break
            self.bytes_sent += <size_t>sent
            offset += sent
            total += sent
            left -= sent
        return total
    finally:
        try:
            os.lseek(file.fileno(), offset, os.SEEK_SET)
        except (OSError, ValueError):
            # The file cannot seek. If nothing was sent, the exception that is propagating (if any) says enough.
            if total:
                raise


def has_no_pending_input(int fd) -> bool:
    """Return whether `fd`, a connected socket, has no byte, end of file or error pending; nothing is consumed."""
    cdef uint8_t byte
    return c.c_recv(fd, &byte, 1, MSG_PEEK | c.MSG_DONTWAIT) < 0 and errno == c.EAGAIN


# --- call_soon for futures and tasks ----------------------------------------------------------------------------------
#
# This relies on CPython's layout of types (`tp_vectorcall_offset`). It is kept because a `sleep(0)` costs 5,735
# instructions with it and 6,127 without (2026-11-24).

cdef extern from "Python.h":
    """
    static void corenet_set_vectorcall(PyObject *object, Py_ssize_t offset) {
        PyTypeObject *type = (PyTypeObject *)object;
        type->tp_vectorcall_offset = offset;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR;
        PyType_Modified(type);
    }
    """
    ctypedef PyObject *(*vectorcallfunc)(PyObject *, PyObject *const *, size_t, PyObject *)
    Py_ssize_t PyVectorcall_NARGS(size_t count) noexcept
    int PyUnicode_CompareWithASCIIString(object text, const char *ascii) noexcept
    object PyMethod_New(object function, object owner)
    # Make objects of `type`, of which none exists yet, callable by the vectorcallfunc at `offset` in each object.
    void set_vectorcall "corenet_set_vectorcall"(PyObject *type, Py_ssize_t offset) noexcept


@cython.final
cdef class CallSoonMethod:
    """``call_soon`` for asyncio's futures and tasks, which look it up by name and pass the context as a keyword.

    An ordinary method costs a bound method and a comparison of keyword names at each call. Here the bound method is
    created once for each loop, and arguments are read in place. Unusual calls, and all attributes of the function, go
    to the ordinary method, `function`. A replacement in an instance, a subclass or the class is found as usual.
    """

    cdef vectorcallfunc call
    cdef object function
    cdef object context_name        # the keyword string of the last call, compared by address

    def __call__(self, *args: object, **kwargs: object) -> Handle:
        return self.function(*args, **kwargs)

    def __get__(self, owner: object, kind: object) -> object:
        cdef SocketEngine loop
        if owner is None:
            return self
        if not isinstance(owner, SocketEngine):
            return PyMethod_New(self, owner)
        loop = <SocketEngine>owner
        if loop.bound_soon is not None:
            return loop.bound_soon
        if loop.closed:
            # A closed loop has been disposed of: nothing would break the reference cycle.
            return PyMethod_New(self, owner)
        loop.bound_soon = PyMethod_New(self, owner)
        return loop.bound_soon

    def __getattr__(self, name: str) -> object:
        return getattr(self.function, name)

    @property
    def __doc__(self) -> str:
        return self.function.__doc__

    def __repr__(self) -> str:
        return repr(self.function)


cdef PyObject *call_soon_vectorcall(PyObject *method, PyObject *const *items, size_t count, PyObject *names) except NULL:
    """Call `method`, a CallSoonMethod, by CPython's vectorcall protocol."""
    cdef CallSoonMethod soon = <CallSoonMethod>method
    cdef Py_ssize_t given = PyVectorcall_NARGS(count)
    cdef Py_ssize_t i
    cdef object context = None
    cdef object item
    cdef tuple args = ()
    cdef SocketEngine loop
    cdef Handle handle
    if given < 2 or not isinstance(<object>items[0], SocketEngine):
        return call_through(soon.function, items, count, names)
    loop = <SocketEngine>items[0]
    if names != NULL and PyTuple_GET_SIZE(<object>names):
        item = <object>PyTuple_GET_ITEM(<object>names, 0)
        if item is not soon.context_name:
            if PyUnicode_CompareWithASCIIString(item, "context") != 0:
                return call_through(soon.function, items, count, names)
            soon.context_name = item
        if PyTuple_GET_SIZE(<object>names) > 1:
            return call_through(soon.function, items, count, names)
        context = <object>items[given]
    if loop.debug or loop.closed:
        return call_through(soon.function, items, count, names)
    if given > 2:
        args = PyTuple_New(given - 2)
        for i in range(given - 2):
            item = <object>items[i + 2]
            Py_INCREF(item)
            PyTuple_SET_ITEM(args, i, item)
    handle = new_handle(loop, <object>items[1], args, context)
    if loop.inbox.items.count:
        loop.inbox.drain(&loop.ready)
    if loop.running:
        gc_untrack(handle)
    ring_push(&loop.ready, <PyObject *>handle)
    Py_INCREF(handle)
    Py_INCREF(handle)
    return <PyObject *>handle


cdef PyObject *call_through(object function, PyObject *const *items, size_t count, PyObject *names) except NULL:
    cdef PyObject *result = PyObject_Vectorcall(function, <PyObject **>items, count, names)
    if result == NULL:
        propagate()
    return result


cdef CallSoonMethod make_soon():
    """Create the object that `Loop` takes as its method `call_soon`."""
    cdef CallSoonMethod soon = CallSoonMethod.__new__(CallSoonMethod)
    set_vectorcall(<PyObject *>CallSoonMethod, <char *>&soon.call - <char *><PyObject *>soon)
    soon.call = <vectorcallfunc>call_soon_vectorcall
    soon.function = Engine.call_soon
    return soon


call_soon = make_soon()
