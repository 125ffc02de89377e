"""Datagram transports that receive and send whole batches: one recvmmsg, one loop over the datagrams, one sendmmsg.

With a native handler a batch is received, answered and sent without the GIL. Only the datagrams that the handler
declines reach Python, as one list. Where the kernel supports it, runs of datagrams are sent as one message that the
kernel cuts (`corenet.transports.datagram_batch`); protocol and handler see only single datagrams. Network errors (port
unreachable, a firewall) belong to single datagrams and go to ``error_received``; they never close the endpoint. Unix
sockets receive one datagram at a time, because theirs may be longer than a slot of the batch.

Socket options belong to the open file, which others may share: by dup, by fork, or because the program gave us the
socket. So this module sets no option that changes what they receive. UDP_GRO is one, and it cannot be undone: what the
kernel has already joined stays joined in the queue and then comes without its segment size. Only users set it
(`SocketOptions.udp_gro`); where it is set, its segment sizes are used. IP_PKTINFO only adds control data. It is set on
sockets that this loop has made, and used on others where it is set.
"""

import socket
from asyncio.log import logger
from asyncio.trsock import TransportSocket

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
)
from cpython.list cimport PyList_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

from corenet.core cimport libc as c
from corenet.core.counters cimport KIND_DATAGRAM, count_created, count_destroyed
from corenet.core.engine cimport Engine
from corenet.core.libc cimport (
    PyContext_Enter,
    PyContext_Exit,
    errno,
    sockaddr,
    sockaddr_storage,
    socklen_t,
)
from corenet.core.scheduler cimport RECEIVE_BUFFER_SIZE
from corenet.transports.address cimport PacketInfo, from_object, pktinfo_of, to_object, to_peer
from corenet.transports.base cimport Transport, call_method1, call_method2, os_error, can_receive
from corenet.transports.datagram_batch cimport (
    BATCH,
    Batch,
    BatchArena,
    Segment,
    is_wildcard_bound,
    is_on,
    read_control,
    receive_into,
    send_from,
    switch_on,
    transmit,
)
from corenet.transports.datagramqueue cimport datagrams_drop, datagrams_free, datagrams_load, datagrams_push
from corenet.transports.native_handler cimport native_handler, run_native_batch

from corenet.limits import DATAGRAM_BATCHES_PER_EVENT, DATAGRAM_ENOBUFS_DELAY, GSO_MAX_BYTES, LOST_WRITES_BEFORE_WARNING
from corenet.transports import transport_types

cdef int BUDGET = DATAGRAM_BATCHES_PER_EVENT
cdef size_t GSO_BYTES = GSO_MAX_BYTES
cdef int64_t PAUSE_NS = DATAGRAM_ENOBUFS_DELAY
cdef int WARN_AFTER = LOST_WRITES_BEFORE_WARNING


cdef inline bint send_blocked(DatagramTransport self) noexcept:
    """Return whether the queue waits for EPOLLOUT or, after ENOBUFS, for the retry timer."""
    return self.writing or self.retry is not None


cdef inline bint drop_lost_write(DatagramTransport self) except -1:
    """Return whether a datagram is dropped because the transport is closed or lost; counts it."""
    if self.fd >= 0 and not (self.conn_lost and self.address is not None):
        return False
    if self.conn_lost >= WARN_AFTER:
        logger.warning("socket.send() raised exception.")
    self.conn_lost += 1
    return True


@cython.final
cdef class DatagramTransport(Transport):
    """One datagram socket, connected or not."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        count_created(KIND_DATAGRAM)

    def __dealloc__(self) -> None:
        datagrams_free(&self.queue)
        count_destroyed(KIND_DATAGRAM)

    @property
    def __class__(self) -> type:
        return transport_types.DatagramTransport

    cdef int attach_protocol(self, object protocol) except -1:
        # Before the assignments, because the attribute's code may set yet another protocol.
        cdef object many = getattr(protocol, "datagrams_received", None)
        self.protocol = protocol
        self.protocol_connected = True
        self.batch_callback = many
        return 0

    # --- the native handler ---------------------------------------------------------------------------------------

    cdef void set_native_handler(self, native_handler fn, void *ctx, object keep_alive):
        """Let `fn(ctx, ...)` answer datagrams before Python sees them; NULL removes the handler.

        `keep_alive` owns what `ctx` points to and is held as long as the handler is set. The handler runs on the loop's
        thread without the GIL and must not block.
        """
        self.native_state.handler = fn
        self.native_state.context = ctx
        self.keep_alive = keep_alive

    def native_counters(self) -> tuple[int, int, int]:
        """Return how many datagrams the native handler answered, dropped, and declined to Python.

        An answer that the kernel did not accept counts as dropped.
        """
        return (self.native_answered, self.dropped, self.native_declined)

    # --- receiving ------------------------------------------------------------------------------------------------

    cdef Batch *batch(self) except NULL:
        """Return the batch buffers of the loop, allocated at the first call."""
        if self.loop.datagram_arena is None:
            self.loop.datagram_arena = BatchArena()
        return &(<BatchArena>self.loop.datagram_arena).batch

    cdef int on_events(self, uint32_t events) except -1:
        cdef object context = self.context
        cdef int left = BUDGET
        cdef int got
        cdef bint moved = False
        cdef unsigned long long errors = self.errors
        cdef unsigned long long sent = self.loop.bytes_sent
        if context is None or self.fd < 0:
            return 0
        if PyContext_Enter(context) < 0:
            return self.fail_context_entered()
        try:
            if self.writing and events & ~<uint32_t>c.EPOLLIN:
                self.flush()
            if events & ~<uint32_t>c.EPOLLOUT:
                while left > 0 and can_receive(self):
                    left -= 1
                    if self.native_state.handler != NULL:
                        got = self.receive_native()
                    elif self.family == c.AF_INET or self.family == c.AF_INET6:
                        got = self.receive_batch()
                    else:
                        got = self.receive_each()
                    moved = moved or got > 0
                    if got < BATCH:
                        break
            self.corked = False
            if self.queue.count and not send_blocked(self):
                self.flush()
            if events & (c.EPOLLERR | c.EPOLLHUP) or self.spurious_events:
                self.note_spurious_event(moved or self.errors != errors or self.loop.bytes_sent != sent)
        finally:
            self.corked = False
            PyContext_Exit(context)
        return 0

    cdef int receive_native(self) except -2:
        cdef Batch *batch = self.batch()
        cdef Segment *left
        cdef int count, i
        cdef list datagrams
        batch.bytes_sent = 0
        with nogil:
            count = run_native_batch(&self.native_state, self.fd, batch)
        self.loop.bytes_received += batch.bytes_received
        self.loop.bytes_sent += batch.bytes_sent
        self.native_answered += batch.answered
        self.dropped += batch.dropped
        self.native_declined += batch.declined_count
        if count < 0:
            self.receive_failed(-count)
            return 0
        if batch.declined_count:
            datagrams = []
            for i in range(batch.declined_count):
                left = &batch.declined[i]
                datagrams.append(self.received_datagram(batch, left.slot, left.offset, left.length))
            self.deliver(datagrams)
        return count

    cdef tuple received_datagram(self, Batch *batch, uint32_t slot, uint32_t offset, uint32_t length):
        """Return (bytes, source address) of a received datagram."""
        cdef const sockaddr *peer = <const sockaddr *>&batch.peers[slot]
        cdef socklen_t peer_length = batch.inputs[slot].msg_hdr.msg_namelen
        return (
            PyBytes_FromStringAndSize(<const char *>batch.input_vectors[slot].iov_base + offset, length),
            to_peer(peer, peer_length, &batch.pktinfos[slot]) if self.native_state.wildcard_bound else to_object(peer, peer_length),
        )

    cdef int receive_batch(self) except -2:
        cdef Batch *batch = self.batch()
        cdef int count, i
        cdef list datagrams = []
        cdef uint32_t segment, length, offset
        count = receive_into(batch, self.fd)
        if count < 0:
            self.receive_failed(-count)
            return 0
        self.loop.bytes_received += batch.bytes_received
        for i in range(count):
            segment = read_control(batch, i)
            length = batch.inputs[i].msg_len
            if segment == 0 or length <= segment:
                datagrams.append(self.received_datagram(batch, i, 0, length))
                continue
            offset = 0
            while offset < length:
                datagrams.append(self.received_datagram(batch, i, offset, min(segment, length - offset)))
                offset += segment
        if count:
            self.deliver(datagrams)
        return count

    cdef int receive_each(self) except -2:
        """Receive with one system call for each datagram, into the loop's receive buffer."""
        cdef uint8_t *buffer = self.loop.receive_buffer()
        cdef sockaddr_storage source
        cdef socklen_t length
        cdef ssize_t got
        cdef list datagrams = []
        cdef int number = 0
        while len(datagrams) < BATCH:
            length = sizeof(source)
            got = c.c_recvfrom(self.fd, buffer, RECEIVE_BUFFER_SIZE, c.MSG_DONTWAIT, <sockaddr *>&source, &length)
            if got < 0:
                number = errno
                break
            self.loop.bytes_received += got
            datagrams.append(
                (
                    PyBytes_FromStringAndSize(<const char *>buffer, got),
                    to_object(<const sockaddr *>&source, length) if length else None,
                )
            )
        if datagrams:
            self.deliver(datagrams)
        if number:
            self.receive_failed(number)
        return <int>len(datagrams)

    cdef int deliver(self, list datagrams) except -1:
        """Pass a batch to the protocol: as one list to `datagrams_received`, else one by one while it is open."""
        cdef tuple item
        cdef object protocol
        # The answer to one datagram is sent at once, the answers to several together.
        self.corked = PyList_GET_SIZE(datagrams) > 1
        # Held during the call, which may set another protocol.
        many = self.batch_callback
        if many is not None:
            try:
                many(datagrams)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.report_callback_error(many, (), error)
            return 0
        for item in datagrams:
            protocol = self.protocol
            if self.closing or protocol is None:
                return 0
            try:
                call_method2(protocol, "datagram_received", item[0], item[1])
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.report_callback_error(protocol.datagram_received, (), error)
        return 0

    cdef int receive_failed(self, int number) except -1:
        if number == c.EAGAIN or number == c.EINTR:
            return 0
        return self.call_error_received(os_error(number))

    cdef int call_error_received(self, object error) except -1:
        """Pass a network error, which belongs to one datagram, to the protocol's `error_received`."""
        cdef object protocol = self.protocol
        self.errors += 1
        if protocol is None:
            return 0
        try:
            call_method1(protocol, "error_received", error)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as failure:
            self.report_callback_error(protocol.error_received, (error,), failure)
        return 0

    def resume_reading(self) -> None:
        """Receive again after `pause_reading`; does nothing when not paused."""
        if self.closing or not self.paused:
            return
        self.paused = False
        self.update_interest()

    # --- sending --------------------------------------------------------------------------------------------------

    cdef Py_ssize_t buffered_size(self) noexcept:
        return self.queue.size

    cdef void drop_buffer(self) noexcept:
        datagrams_drop(&self.queue, self.queue.count)

    def sendto(self, data: object, addr: object = None) -> None:
        """Send one datagram, now or when the socket is writable; `addr` may be omitted on a connected socket."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.address is not None and addr is not None and addr != self.address:
            raise ValueError(f"Invalid address: must be None or {self.address}")
        self.send(data, addr)

    def send_many(self, datagrams: object) -> None:
        """Send ``[(data, address), ...]`` with as few system calls as possible; see `sendto`."""
        cdef bint corked = self.corked
        self.corked = True
        try:
            for data, addr in datagrams:
                self.sendto(data, addr)
        finally:
            self.corked = corked
        if not corked and self.queue.count and not send_blocked(self):
            self.flush()

    cdef int send(self, object data, object address) except -1:
        cdef sockaddr_storage target
        cdef socklen_t length = 0
        cdef PacketInfo pktinfo
        cdef Py_buffer view
        cdef ssize_t sent
        cdef int number
        if not PyBytes_CheckExact(data) and type(data) is not bytearray and type(data) is not memoryview:
            # A subclass may run Python code in `__buffer__`: run it here, before the states are checked.
            data = bytes(memoryview(data))
        if drop_lost_write(self):
            return 0
        if not self.native_state.connected:
            try:
                self.resolve(self.address if address is None else address, &target, &length)
            except OSError as error:
                return self.call_error_received(error)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                return self.fatal(error, "Fatal write error on datagram transport")
            # Checked again, because resolving may have run Python code.
            if drop_lost_write(self):
                return 0
        pktinfo.family = 0
        if self.native_state.wildcard_bound and pktinfo_of(address, &pktinfo) and pktinfo.family != self.family:
            # The PeerAddress is from a socket of the other family.
            pktinfo.family = 0
        if not self.conn_lost and (self.corked or self.queue.count or self.flushing):
            return self.enqueue(data if PyBytes_CheckExact(data) else bytes(data), &target, length, &pktinfo)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        if pktinfo.family:
            sent = send_from(self.fd, view.buf, view.len, &target, length, &pktinfo)
        elif length:
            sent = c.c_sendto(
                self.fd, view.buf, view.len, c.MSG_DONTWAIT | c.MSG_NOSIGNAL, <const sockaddr *>&target, length
            )
        else:
            sent = c.c_send(self.fd, view.buf, view.len, c.MSG_DONTWAIT | c.MSG_NOSIGNAL)
        number = errno
        PyBuffer_Release(&view)
        if sent >= 0:
            self.loop.bytes_sent += sent
            return 0
        if number == c.EAGAIN or number == c.EINTR:
            if self.conn_lost:
                # Between `close` and connection_lost nothing is queued: the datagram is dropped.
                return 0
            self.loop.check_open()
            datagrams_push(&self.queue, data if PyBytes_CheckExact(data) else bytes(data), &target, length, &pktinfo)
            self.writing = True
            self.update_interest()
            return self.maybe_pause()
        return self.call_error_received(os_error(number))

    cdef int resolve(self, object address, sockaddr_storage *out, socklen_t *length) except -1:
        """Convert `address` to a sockaddr; a host name is resolved as by ``socket.sendto``, which may block."""
        cdef object found
        if address is None:
            raise os_error(c.ENOTCONN)
        if from_object(address, self.family, out, length) == 0:
            return 0
        if self.family != c.AF_INET and self.family != c.AF_INET6:
            raise TypeError(f"not an address of this socket's family: {address!r}")
        if not isinstance(address, tuple) or len(address) < 2:
            raise TypeError(f"not an address of this socket's family: {address!r}")
        # Unpacked, because the release build does not check bounds of an index.
        host, port, *_ = address
        # Forms that CPython's socket module accepts without a lookup.
        if host == "":
            host = "0.0.0.0" if self.family == c.AF_INET else "::"
        elif host == "<broadcast>" and self.family == c.AF_INET:
            host = "255.255.255.255"
        _, _, _, _, found = next(iter(socket.getaddrinfo(host, port, self.family, socket.SOCK_DGRAM)))
        if from_object(found, self.family, out, length) != 0:
            raise TypeError(f"not an address of this socket's family: {address!r}")
        return 0

    cdef int enqueue(
        self, bytes data, const sockaddr_storage *address, socklen_t length, const PacketInfo *pktinfo
    ) except -1:
        """Queue a datagram; corked ones are sent when the callback has returned."""
        datagrams_push(&self.queue, data, address, length, pktinfo)
        if self.corked and not self.flushing and not send_blocked(self):
            self.defer_flush()
            if self.queue.count >= BATCH or self.queue.size > self.high:
                self.flush()
        return self.maybe_pause()

    cdef int on_flush(self) except -1:
        self.flush_deferred = False
        return self.flush_deferred_writes()

    cdef int flush_deferred_writes(self) except -1:
        if self.queue.count and not send_blocked(self):
            self.flush()
        return 0

    def _try_again(self) -> None:
        """Send the queue when the retry timer has expired."""
        self.retry = None
        self.flush_deferred_writes()

    cdef int flush(self) except -1:
        """Send the datagrams that are queued now, a batch at a time, until the kernel accepts no more.

        What `error_received` sends meanwhile, perhaps for each error, is sent in the next iteration.
        """
        cdef bint emptied
        if self.flushing:
            return 0
        self.flushing = True
        try:
            emptied = self.empty_queue()
        finally:
            self.flushing = False
            if self.queue.count and self.fd >= 0 and not self.conn_lost and not send_blocked(self) and not self.loop.closed:
                self.retry = self.loop.call_later_ns(0, self._try_again, ())
        return self.on_write_queue_empty() if emptied else 0

    cdef bint empty_queue(self) except -1:
        """Send the datagrams that are queued at the start; return True when the queue is empty afterwards."""
        cdef Batch *batch = self.batch()
        cdef size_t left = self.queue.count
        cdef int sent
        while self.queue.count and self.fd >= 0 and not self.conn_lost:
            if left == 0:
                self.writing = False
                self.update_interest()
                return False
            batch.bytes_sent = 0
            sent = transmit(
                batch, self.fd, 0, <int>min(<size_t>datagrams_load(&self.queue, batch), left), &self.native_state.gso_max_size
            )
            self.loop.bytes_sent += batch.bytes_sent
            if sent >= 0:
                datagrams_drop(&self.queue, sent)
                left -= min(<size_t>sent, left)
                continue
            if sent == -c.EINTR:
                continue
            if sent == -c.EAGAIN or sent == -c.ENOBUFS:
                # ENOBUFS (device queue full, no memory) ends without an event. The socket buffer has space, so
                # EPOLLOUT would be reported at once, again and again: retry by timer instead.
                self.writing = sent == -c.EAGAIN
                self.update_interest()
                if not self.writing and self.retry is None and not self.loop.closed:
                    self.retry = self.loop.call_later_ns(PAUSE_NS, self._try_again, ())
                self.maybe_resume()
                return False
            # The error belongs to the first datagram only.
            datagrams_drop(&self.queue, 1)
            left -= 1
            self.call_error_received(os_error(-sent))
        return True

    cdef int on_write_queue_empty(self) except -1:
        if self.queue.count:
            return 0
        if self.writing:
            self.writing = False
            self.update_interest()
        self.maybe_resume()
        if self.closing and not self.conn_lost and not self.queue.count:
            return self.schedule_connection_lost(None)
        return 0

    def close(self) -> None:
        """Stop receiving, send what is queued, then close; connection_lost(None) follows."""
        if self.closing:
            return
        self.closing = True
        if self.queue.count:
            self.update_interest()
            if not self.corked:
                self.flush_deferred_writes()
        else:
            self.schedule_connection_lost(None)

    cdef int force_close(self, object error) except -1:
        # asyncio has sent at once what is held here, so only what the kernel refuses is lost.
        self.flush_deferred_writes()
        return Transport.force_close(self, error)

    cdef int on_descriptor_closed(self) except -1:
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        self.native_state.handler = NULL
        self.native_state.context = NULL
        self.keep_alive = None
        self.batch_callback = None
        return 0

    @property
    def udp_gso(self) -> bool:
        """Whether runs of datagrams of equal size are sent as one message; False if the socket does not support it."""
        return self.native_state.gso_max_size > 0

    @udp_gso.setter
    def udp_gso(self, wanted: bool) -> None:
        self.native_state.gso_max_size = GSO_BYTES if wanted and self.udp else 0

    # --- information ----------------------------------------------------------------------------------------------

    @property
    def _address(self) -> object:
        return self.address

    cdef object lookup_extra(self, str name):
        cdef sockaddr_storage address
        cdef socklen_t length = sizeof(address)
        cdef object found
        if self.fd < 0:
            return None
        if name == "socket_options":
            from corenet.transports.options import read_options

            return read_options(self.sock, udp_gso=self.native_state.gso_max_size > 0 if self.udp else None)
        if name == "socket":
            found = TransportSocket(self.sock)
        elif name == "sockname":
            if c.getsockname(self.fd, <sockaddr *>&address, &length) < 0:
                return None
            found = to_object(<const sockaddr *>&address, length)
        elif name == "peername":
            if c.getpeername(self.fd, <sockaddr *>&address, &length) < 0:
                return None
            found = to_object(<const sockaddr *>&address, length)
        else:
            return None
        if self.extra is None:
            self.extra = {}
        self.extra[name] = found
        return found


cdef int prepare(DatagramTransport transport, bint made) except -1:
    """Enable what the kernel supports for a UDP socket: segmentation, and the local address of received datagrams."""
    cdef int fd = transport.fd
    cdef int level = c.IPPROTO_IP if transport.family == c.AF_INET else c.IPPROTO_IPV6
    cdef int option = c.IP_PKTINFO if transport.family == c.AF_INET else c.IPV6_RECVPKTINFO
    if transport.sock.type != socket.SOCK_DGRAM or transport.sock.proto not in (0, socket.IPPROTO_UDP):
        return 0
    transport.udp = True
    transport.native_state.gso_max_size = GSO_BYTES
    if not transport.native_state.connected and is_wildcard_bound(fd):
        transport.native_state.wildcard_bound = switch_on(fd, level, option) if made else is_on(fd, level, option)
    return 0


def make_datagram(
    loop: Engine,
    sock: object,
    protocol: object,
    address: object = None,
    waiter: object = None,
    extra: dict | None = None,
    made: bool = False,
) -> DatagramTransport:
    """Return a transport on a non-blocking datagram socket; `address` is the default destination.

    `made` means that the loop has made the socket, so its options may be set.
    """
    cdef DatagramTransport transport = DatagramTransport.__new__(DatagramTransport)
    cdef sockaddr_storage peer
    cdef socklen_t length = sizeof(peer)
    cdef int family = sock.family
    cdef int fd = sock.fileno()
    loop.check_open()
    loop.remove_stale_handlers(fd)
    transport.family = family
    transport.sock = sock
    transport.address = address
    transport.native_state.connected = c.getpeername(fd, <sockaddr *>&peer, &length) == 0 and length > 0
    transport.attach(loop, fd, protocol, extra)
    if transport.family == c.AF_INET or transport.family == c.AF_INET6:
        prepare(transport, made)
    transport.lookup_extra("sockname")
    transport.lookup_extra("peername")
    loop.call_soon_c(transport._call_connection_made, (waiter,), None)
    return transport
