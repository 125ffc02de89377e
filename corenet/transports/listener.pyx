"""Accepts connections in bursts, and pauses when the process has run out of descriptors.

One event accepts up to `ACCEPTS_PER_EVENT` connections, so that a flood cannot starve open connections; the
level-triggered registration brings the rest. As on asyncio, all of them are accepted before the first of their
protocols is called, in the next iteration, so a protocol that closes the server does not affect the others.

A listener that is shared with other processes is registered with EPOLLEXCLUSIVE, so that one connection wakes one of
them. It registers again after each burst, which puts it at the end of the kernel's queue; otherwise the process that
registered first would get nearly all connections.

After EMFILE and similar errors the listener is unregistered for a second, because the kernel would report the waiting
connection again and again. It does not come back if the program has closed its socket meanwhile, because the number may
be reused. From `start` to `pause` it increments the ``_io_refs`` of the socket object, as uvloop does: if the program
closes the socket, it stays open until the server is closed. Whether the listener is registered is what the poller says:
there is no flag that could differ from it. A `start` that fails changes nothing.

Connections inherit TCP_NODELAY from listening sockets that the loop has bound. For a socket that the program gave,
whose options are not changed, it is set on each connection.
"""

import socket
from asyncio.trsock import TransportSocket

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t

from corenet.core cimport libc as c
from corenet.core.counters cimport KIND_LISTENER, count_created, count_destroyed
from corenet.core.engine cimport FdHandlers, Engine
from corenet.core.poller cimport Watcher
from corenet.core.libc cimport (
    PyContext_Copy,
    PyContext_CopyCurrent,
    PyContext_Enter,
    PyContext_Exit,
    errno,
    propagate,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    sockaddr_storage,
    socklen_t,
)
from corenet.transports.base cimport socket_incref, socket_decref, os_error
from corenet.transports.stream cimport ConnectionList, StreamTransport, new_stream

from corenet.limits import ACCEPTS_PER_EVENT, ACCEPT_RETRY_SECONDS

cdef const char *NO_ADDRESS = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
cdef int BURST = ACCEPTS_PER_EVENT
cdef int64_t RETRY_NS = <int64_t>ACCEPT_RETRY_SECONDS * 1000000000


cdef bytes shared_local_address(int fd):
    """Return the local address of all connections accepted on `fd`; None if they may differ."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    cdef socklen_t size = sizeof(int)
    cdef int transparent = 0
    if c.getsockname(fd, <sockaddr *>&address, &length) < 0 or length > sizeof(address):
        return None
    if address.ss_family == c.AF_INET:
        if (<sockaddr_in *>&address).sin_addr.s_addr == 0:
            return None
        c.getsockopt(fd, c.IPPROTO_IP, c.IP_TRANSPARENT, &transparent, &size)
    elif address.ss_family == c.AF_INET6:
        if c.memcmp(&(<sockaddr_in6 *>&address).sin6_addr, NO_ADDRESS, 16) == 0:
            return None
        c.getsockopt(fd, c.IPPROTO_IPV6, c.IPV6_TRANSPARENT, &transparent, &size)
    elif address.ss_family != c.AF_UNIX:
        return None
    return None if transparent else PyBytes_FromStringAndSize(<const char *>&address, length)


@cython.final
cdef class Listener(Watcher):
    """Accepts connections of one listening socket; for TLS, `accept_tls(sock)` takes each accepted socket."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        count_created(KIND_LISTENER)

    def __dealloc__(self) -> None:
        count_destroyed(KIND_LISTENER)

    def __init__(
        self,
        loop: Engine,
        sock: object,
        protocol_factory: object,
        connections: ConnectionList | None = None,
        accept_tls: object = None,
        backlog: int = 100,
        exclusive: bool = False,
        nodelay: bool = True,
    ) -> None:
        cdef int inherited = 0
        cdef socklen_t size = sizeof(int)
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.family = sock.family
        self.protocol_factory = protocol_factory
        self.connections = connections
        self.accept_tls = accept_tls
        self.accept_budget = max(1, min(BURST, backlog))
        self.events = c.EPOLLIN | c.EPOLLEXCLUSIVE if exclusive else c.EPOLLIN
        self.context = PyContext_CopyCurrent()
        if self.family == c.AF_INET or self.family == c.AF_INET6:
            c.getsockopt(self.fd, c.IPPROTO_TCP, c.TCP_NODELAY, &inherited, &size)
            self.nodelay = nodelay and not inherited
        self.local = shared_local_address(self.fd)

    def limit(self, capacity: object) -> None:
        """Accept at most ``capacity(active)`` connections per event, where `active` is the number of open connections.

        The others wait in the kernel's backlog. There is no event for new capacity. After a result of 0 the loop polls
        again at once: use it only when capacity returns within an iteration or two. A negative result is the time in
        microseconds for which nothing is accepted.
        """
        self.capacity = capacity

    def start(self) -> None:
        """Begin to accept.

        Raises:
            OSError: the kernel refuses to register the socket.
            RuntimeError: a transport or a watch uses the descriptor.
        """
        cdef Watcher other
        if self.loop is None or self.fd < 0 or self.is_registered():
            return
        other = self.loop.poller.find(self.fd)
        if other is None:
            self.loop.check_not_owned(self.fd)
        elif not isinstance(other, (Listener, FdHandlers)):
            if not self.loop.poller.kernel_lost_registration(self.fd):
                raise RuntimeError(f"File descriptor {self.fd!r} is used by {other!r}")
            # Its owner's descriptor was closed; the number is our socket's now.
            self.loop.poller.remove(self.fd)
            self.loop.poller.disown(self.fd, other)
        # As on asyncio, the server that starts last accepts, and replaces the reader of the descriptor.
        self.loop.poller.add(self.fd, self.events, self)
        # After `add`, which may raise.
        self.holds_socket_ref = self.holds_socket_ref or socket_incref(self.sock)
        if isinstance(other, Listener):
            # After our reference was counted, or this could close the socket.
            (<Listener>other).pause()

    cdef bint is_registered(self) noexcept:
        """Return whether connections are accepted, that is, whether the poller's slot is ours."""
        return self.loop.poller.find(self.fd) is self

    def stop(self) -> None:
        """Stop accepting; the socket stays open."""
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        if self.loop is not None and (self.is_registered() or self.holds_socket_ref):
            self.pause()
        elif (
            self.loop is not None
            and self.sock.fileno() == self.fd
            and isinstance(self.loop.poller.find(self.fd), FdHandlers)
        ):
            # A reader that replaced this listener is removed with the server, as in asyncio.
            self.loop._clear_handler(self.fd, False)
        self.fd = -1

    cdef bint yield_to_reader(self) except -1:
        """As in asyncio, remove_reader on a listening socket pauses the server, and add_reader replaces it."""
        self.pause()
        return True

    cdef int on_closing(self) except -1:
        return self.pause()

    cdef int pause(self) except -1:
        """Unregister; a socket that the program has closed meanwhile is closed now."""
        self.unregister()
        if self.holds_socket_ref:
            self.holds_socket_ref = False
            socket_decref(self.sock)
        return 0

    cdef void unregister(self) noexcept:
        """Unregister, unless the slot has another watcher because the program has closed the socket."""
        if self.is_registered():
            self.loop.poller.remove(self.fd)

    def __repr__(self) -> str:
        return f"<Listener fd={self.fd}>"

    cdef int on_registration_lost(self, object error) except -1:
        return self.pause_and_retry("the listening socket cannot be watched", error)

    cdef int on_events(self, uint32_t events) except -1:
        self.accept_burst()
        if self.events != c.EPOLLIN and self.is_registered() and not self.loop.closed:
            self.unregister()
            self._resume_accepting()
        return 0

    def _resume_accepting(self) -> None:
        """Accept again; retry later if the kernel has no memory for that; do nothing if the socket was closed."""
        self.retry = None
        if self.sock.fileno() != self.fd:
            return
        try:
            self.start()
        except OSError as error:
            if error.errno not in (c.ENOMEM, c.ENOSPC):
                raise
            self.pause_and_retry("the listening socket cannot be watched", error)

    cdef int accept_burst(self) except -1:
        """Accept what waits, up to the budget and the capacity."""
        cdef sockaddr_storage address
        cdef socklen_t length
        cdef int left = self.accept_budget
        cdef int fd
        if self.capacity is not None:
            left = min(left, <int>self.capacity(0 if self.connections is None else self.connections.active))
        if left < 0:
            self.pause()
            self.retry = self.loop.call_later_ns(<int64_t>-left * 1000, self._resume_accepting, ())
            return 0
        # A callback may close the loop in the child of a fork: then the parent accepts waiting connections.
        while left > 0 and self.is_registered() and not self.loop.closed:
            left -= 1
            length = sizeof(address)
            fd = c.accept4(self.fd, <sockaddr *>&address, &length, c.SOCK_NONBLOCK | c.SOCK_CLOEXEC)
            if fd < 0:
                if errno == c.EAGAIN:
                    return 0
                if errno == c.EINTR or errno == c.ECONNABORTED:
                    continue
                return self.accept_failed(errno)
            self.on_connection(fd, &address, length)
        return 0

    cdef int on_connection(self, int fd, void *address, unsigned int length) except -1:
        cdef StreamTransport transport
        cdef object protocol, context
        cdef int one = 1
        try:
            # Each connection has its own context, so that one factory does not see the variables of another.
            context = PyContext_Copy(self.context)
            if PyContext_Enter(context) < 0:
                propagate()
        except BaseException:
            c.c_close(fd)
            raise
        try:
            if self.accept_tls is not None:
                sock = socket.socket(self.family, socket.SOCK_STREAM, 0, fileno=fd)
                fd = -1
                sock.setblocking(False)
                self.accept_tls(sock)
                return 0
            protocol = self.protocol_factory()
            if self.nodelay:
                c.setsockopt(fd, c.IPPROTO_TCP, c.TCP_NODELAY, &one, sizeof(one))
            transport = new_stream(self.loop, fd, self.family, None, protocol, None, self.connections, context)
            fd = -1
            transport.local = self.local
            if self.family != c.AF_UNIX and length <= sizeof(sockaddr_in6):
                c.memcpy(&transport.peer, address, length)
                transport.peer_length = <int>length
        except BaseException as error:
            if fd >= 0:
                c.c_close(fd)
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise
            if self.loop.debug:
                self.loop.call_exception_handler(
                    {"message": "Error on transport creation for incoming connection", "exception": error}
                )
            return 0
        finally:
            PyContext_Exit(context)
        return transport.schedule_connection_made()

    cdef int accept_failed(self, int number) except -1:
        """Report the error; if a resource has run out, also pause for ACCEPT_RETRY_SECONDS."""
        cdef object error = os_error(number)
        if number == c.EINVAL:
            # The socket was shut down. Its hang-up would be reported again and again.
            self.pause()
        if number not in (c.EMFILE, c.ENFILE, c.ENOBUFS, c.ENOMEM):
            self.loop.call_exception_handler(
                {"message": "socket.accept() failed", "exception": error, "socket": TransportSocket(self.sock)}
            )
            return 0
        return self.pause_and_retry("socket.accept() out of system resource", error)

    cdef int pause_and_retry(self, str message, object error) except -1:
        """Unregister, accept again after ACCEPT_RETRY_SECONDS, and report the error."""
        self.pause()
        self.retry = self.loop.call_later_ns(RETRY_NS, self._resume_accepting, ())
        self.loop.call_exception_handler(
            {"message": message, "exception": error, "socket": TransportSocket(self.sock)}
        )
        return 0
