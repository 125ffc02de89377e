"""TCP and Unix stream transports, and the list of a server's connections.

`stream_sender` sends and `streambase` receives; this module has what only sockets have: addresses and Python socket objects, both made
on demand, and the constructors for accepted and connected descriptors.
"""

import socket
from asyncio import constants
from asyncio.trsock import TransportSocket

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject

from corenet.core cimport libc as c
from corenet.core.counters cimport KIND_STREAM, count_created, count_destroyed
from corenet.core.engine cimport Engine
from corenet.core.libc cimport msghdr, sockaddr, sockaddr_storage, socklen_t
from corenet.transports.address cimport to_object
from corenet.transports.stream_sender cimport CORK_UNPROBED, CORK_UNSUPPORTED, VECTOR_LIMIT
from corenet.transports.streambase cimport NativeProtocol, StreamBase

from corenet.transports import transport_types

cdef object NATIVE_SENDFILE = constants._SendfileMode.TRY_NATIVE


@cython.final
cdef class StreamTransport(StreamBase):
    """One connected stream socket."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        count_created(KIND_STREAM)

    def __dealloc__(self) -> None:
        unlink(&self.link)
        count_destroyed(KIND_STREAM)

    @property
    def __class__(self) -> type:
        return transport_types.StreamTransport

    @property
    def _start_tls_compatible(self) -> bool:
        return True

    @property
    def _sendfile_compatible(self) -> object:
        return NATIVE_SENDFILE

    @property
    def _sock(self) -> object:
        return self.python_socket()

    def write_frame(self, payload: object) -> None:
        """Send `payload` as one frame of the protocol's framer, with its header in the same system call.

        Raises:
            TypeError: the protocol is not a FramedProtocol.
            FrameError: the payload cannot be a frame of this framer.
        """
        self.write_frames((payload,))

    def write_frames(self, payloads: object) -> None:
        """Send each of `payloads` as one frame, with as few system calls as possible.

        Raises:
            TypeError: the protocol is not a FramedProtocol.
            FrameError: a payload cannot be a frame; nothing is sent.
        """
        cdef NativeProtocol native_protocol = self.native_protocol
        if native_protocol is None:
            raise TypeError(f"{type(self.protocol).__name__} has no framing; use a FramedProtocol")
        native_protocol.send_frames(self, payloads)

    cdef ssize_t recv_some(self, void *data, size_t length) noexcept:
        cdef ssize_t got = c.c_recv(self.fd, data, length, c.MSG_DONTWAIT)
        if got > 0:
            self.loop.bytes_received += got
        return got

    cdef ssize_t send_some(self, const void *data, size_t length) noexcept nogil:
        return c.c_send(self.fd, data, length, c.MSG_DONTWAIT | c.MSG_NOSIGNAL)

    cdef ssize_t send_queue(self) noexcept nogil:
        cdef msghdr message
        c.memset(&message, 0, sizeof(message))
        message.msg_iov = self.queue.vectors + self.queue.head
        message.msg_iovlen = min(self.queue.count, VECTOR_LIMIT)
        return c.c_sendmsg(self.fd, &message, c.MSG_DONTWAIT | c.MSG_NOSIGNAL)

    cdef int half_close(self) except -1:
        if self.fd >= 0:
            self.loop.closed_since_poll = True
            c.c_shutdown(self.fd, c.SHUT_WR)
        return 0

    cdef object python_socket(self):
        """Return the socket object of the descriptor, made at the first call; from then on it owns the descriptor."""
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
            if self.local is not None:
                found = to_object(<const sockaddr *>PyBytes_AS_STRING(self.local), PyBytes_GET_SIZE(self.local))
            elif self.fd < 0 or c.getsockname(self.fd, <sockaddr *>&address, &length) < 0:
                return None
            else:
                found = to_object(<const sockaddr *>&address, length)
        if found is not None:
            if self.extra is None:
                self.extra = {}
            self.extra[name] = found
        return found

    cdef int close_descriptor(self) except -1:
        """Store the addresses, which programs may read after the end, then close."""
        cdef sockaddr_storage address
        cdef socklen_t length = sizeof(address)
        if self.fd < 0:
            return 0
        try:
            if not self.still_owns_fd():
                return 0
            if self.local is None and c.getsockname(self.fd, <sockaddr *>&address, &length) == 0:
                self.local = PyBytes_FromStringAndSize(<const char *>&address, min(length, sizeof(address)))
            if self.peer_length <= 0:
                self.lookup_extra("peername")
        finally:
            StreamBase.close_descriptor(self)
        return 0

    cdef void detach(self) noexcept:
        unlink(&self.link)
        StreamBase.detach(self)

    cdef int on_descriptor_closed(self) except -1:
        cdef ConnectionList connections = self.connections
        self.native_protocol = None
        self.fail_empty_waiter(ConnectionError("Connection is closed by peer"))
        if connections is not None:
            self.connections = None
            connections.left()
        return 0


cdef void unlink(Link *link) noexcept:
    """Remove `link` from its list, if any."""
    if link.following != NULL:
        link.previous.following = link.following
        link.following.previous = link.previous
        link.previous = link.following = NULL


cdef class ConnectionList:
    """The open connections of one server, as an intrusive list: 24 bytes per connection.

    `tls_members` are TLS transports whose stream has ended and whose protocol has not got connection_lost yet.
    """

    def __cinit__(self, *_args, **_kwargs) -> None:
        self.head.previous = self.head.following = &self.head

    def __dealloc__(self) -> None:
        # The collector may free a server before its connections: none may keep a pointer to this list.
        while self.head.following != &self.head:
            unlink(self.head.following)

    def __init__(self, on_empty: object) -> None:
        self.on_empty = on_empty

    cdef void join(self, StreamTransport member) noexcept:
        """Insert `member` at the front; its `detach` removes it, then it calls `left`."""
        cdef Link *link = &member.link
        link.member = <PyObject *>member
        link.previous = &self.head
        link.following = self.head.following
        link.following.previous = link
        self.head.following = link
        member.connections = self
        self.active += 1

    cdef int left(self) except -1:
        """A member has ended: decrement `active`, and call `on_empty` at 0."""
        self.active -= 1
        if self.active == 0 and self.on_empty is not None:
            self.on_empty()
        return 0

    cdef int insert_tls(self, object above) except -1:
        """Add the TLS transport `above`, whose stream is about to end."""
        if self.tls_members is None:
            self.tls_members = set()
        self.tls_members.add(above)
        self.active += 1
        return 0

    cdef int remove_tls(self, object above) except -1:
        """Remove the TLS transport `above` after its connection_lost."""
        self.tls_members.discard(above)
        return self.left()

    def members(self) -> list[object]:
        """Return the open connections, each as the transport closest to the socket."""
        cdef list found = []
        cdef Link *link = self.head.following
        while link != &self.head:
            found.append(<object>link.member)
            link = link.following
        if self.tls_members is not None:
            found.extend(self.tls_members)
        return found

    def clear_on_empty(self) -> None:
        """Drop `on_empty`, which breaks the reference cycle with the server."""
        self.on_empty = None


cdef StreamTransport new_stream(
    Engine loop, int fd, int family, object sock, object protocol, dict extra, ConnectionList connections,
    object context=None
):
    """Return a transport on `fd`, which `sock` owns unless it is None; nothing is called or registered yet.

    Its callbacks run in `context`, by default a copy of the current one.
    """
    cdef StreamTransport transport = StreamTransport.__new__(StreamTransport)
    transport.family = family
    transport.cork_support = CORK_UNPROBED if family == c.AF_INET or family == c.AF_INET6 else CORK_UNSUPPORTED
    transport.sock = sock
    transport.attach(loop, fd, protocol, extra, context)
    if connections is not None:
        connections.join(transport)
    return transport


def make_stream(
    loop: Engine,
    sock: object,
    protocol: object,
    waiter: object = None,
    extra: dict | None = None,
    connections: ConnectionList | None = None,
    context: object = None,
) -> StreamTransport:
    """Return a transport on a connected, non-blocking socket; `waiter` is set after connection_made.

    The protocol is called in `context`, by default a copy of the current one.
    """
    cdef StreamTransport transport
    cdef int one = 1
    cdef int family = sock.family
    cdef int fd = sock.fileno()
    loop.check_open()
    loop.remove_stale_handlers(fd)
    if family == c.AF_INET or family == c.AF_INET6:
        c.setsockopt(fd, c.IPPROTO_TCP, c.TCP_NODELAY, &one, sizeof(one))
    transport = new_stream(loop, fd, family, sock, protocol, extra, connections, context)
    loop.call_soon_c(transport._call_connection_made, (waiter,), None)
    return transport
