"""Datagram transports that move whole batches: one recvmmsg, one pass, one sendmmsg.

With a native handler a batch is received, answered and sent without the GIL; only what the handler declines reaches
Python, as one list. Network errors (a refused port, a firewall) belong to single datagrams and go to
``error_received``; they never close the endpoint. Unix sockets take one datagram at a time, because theirs may be
longer than a slot of the batch.
"""

import socket
from asyncio.log import logger
from asyncio.trsock import TransportSocket

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from corenet.core cimport sys as c
from corenet.core.counters cimport KIND_DATAGRAM, born, died
from corenet.core.engine cimport SCRATCH_SIZE, Engine
from corenet.core.sys cimport (
    PyContext_Enter,
    PyContext_Exit,
    PyObject_VectorcallMethod,
    errno,
    iovec,
    mmsghdr,
    sockaddr,
    sockaddr_storage,
    socklen_t,
)
from corenet.transports.address cimport from_object, to_object
from corenet.transports.base cimport Transport, call_method1, os_error

from corenet.limits import DATAGRAM_BATCH, DATAGRAM_BUDGET, DATAGRAM_SIZE, LOST_WRITES_BEFORE_WARNING
from corenet.transports import faces

cdef enum:
    BATCH = 64
    SLOT = 65536
    # Slots a page apart from a power of two, or all 64 would fight for the same lines of the cache.
    STRIDE = 65536 + 320

if DATAGRAM_BATCH.default != BATCH or DATAGRAM_SIZE.default != SLOT:
    raise ImportError("the arena's layout and the limits disagree")

cdef int BUDGET = DATAGRAM_BUDGET.default
cdef int WARN_AFTER = LOST_WRITES_BEFORE_WARNING.default


cdef int propagate() except -1:
    return -1


@cython.final
cdef class BatchArena:
    """The buffers of one loop for one batch each way; pages are touched only as datagrams need them."""

    def __cinit__(self) -> None:
        cdef int i
        cdef Batch *batch = &self.batch
        cdef int flags = c.MAP_PRIVATE | c.MAP_ANONYMOUS | c.MAP_NORESERVE
        self.mapped = <size_t>STRIDE * BATCH
        batch.received = <uint8_t *>c.mmap(NULL, self.mapped, c.PROT_READ | c.PROT_WRITE, flags, -1, 0)
        if batch.received == c.MAP_FAILED:
            batch.received = NULL
            PyErr_NoMemory()
        batch.replies = <uint8_t *>c.mmap(NULL, self.mapped, c.PROT_READ | c.PROT_WRITE, flags, -1, 0)
        if batch.replies == c.MAP_FAILED:
            batch.replies = NULL
            PyErr_NoMemory()
        batch.inputs = <mmsghdr *>PyMem_RawMalloc(BATCH * sizeof(mmsghdr))
        batch.outputs = <mmsghdr *>PyMem_RawMalloc(BATCH * sizeof(mmsghdr))
        batch.input_vectors = <iovec *>PyMem_RawMalloc(BATCH * sizeof(iovec))
        batch.output_vectors = <iovec *>PyMem_RawMalloc(BATCH * sizeof(iovec))
        batch.peers = <sockaddr_storage *>PyMem_RawMalloc(BATCH * sizeof(sockaddr_storage))
        batch.passed = <uint8_t *>PyMem_RawMalloc(BATCH)
        if (
            batch.inputs == NULL or batch.outputs == NULL or batch.input_vectors == NULL
            or batch.output_vectors == NULL or batch.peers == NULL or batch.passed == NULL
        ):
            PyErr_NoMemory()
        c.memset(batch.inputs, 0, BATCH * sizeof(mmsghdr))
        c.memset(batch.outputs, 0, BATCH * sizeof(mmsghdr))
        for i in range(BATCH):
            batch.input_vectors[i].iov_base = batch.received + <size_t>i * STRIDE
            batch.input_vectors[i].iov_len = SLOT
            batch.inputs[i].msg_hdr.msg_iov = &batch.input_vectors[i]
            batch.inputs[i].msg_hdr.msg_iovlen = 1
            batch.inputs[i].msg_hdr.msg_name = &batch.peers[i]
            batch.inputs[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)
            batch.outputs[i].msg_hdr.msg_iov = &batch.output_vectors[i]
            batch.outputs[i].msg_hdr.msg_iovlen = 1

    def __dealloc__(self) -> None:
        cdef Batch *batch = &self.batch
        if batch.received != NULL:
            c.munmap(batch.received, self.mapped)
        if batch.replies != NULL:
            c.munmap(batch.replies, self.mapped)
        PyMem_RawFree(batch.inputs)
        PyMem_RawFree(batch.outputs)
        PyMem_RawFree(batch.input_vectors)
        PyMem_RawFree(batch.output_vectors)
        PyMem_RawFree(batch.peers)
        PyMem_RawFree(batch.passed)


cdef void rearm(Batch *batch) noexcept nogil:
    """The kernel writes the length of each name; give it the room back."""
    cdef int i
    for i in range(BATCH):
        batch.inputs[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)


@cython.final
cdef class DatagramTransport(Transport):
    """One datagram socket, connected or not."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        self.last_turn = <uint64_t>-1
        born(KIND_DATAGRAM)

    def __dealloc__(self) -> None:
        self.drop_buffer()
        PyMem_RawFree(self.waiting)
        died(KIND_DATAGRAM)

    @property
    def __class__(self) -> type:
        return faces.DatagramTransport

    cdef int adopt(self, object protocol) except -1:
        self.protocol = protocol
        self.protocol_connected = True
        self.many = getattr(protocol, "datagrams_received", None)
        return 0

    # --- the native door ------------------------------------------------------------------------------------------

    cdef void set_native_handler(self, native_handler fn, void *ctx, object keep_alive):
        """Let `fn(ctx, ...)` answer datagrams before Python sees them; NULL takes it away.

        `keep_alive` is held as long as the handler is set: it owns what `ctx` points to. The handler runs on the
        loop's thread without the GIL and must not block.
        """
        self.handler = fn
        self.handler_context = ctx
        self.keep_alive = keep_alive

    def native_counters(self) -> tuple[int, int, int]:
        """Return how many datagrams the native handler answered, dropped and passed on to Python.

        An answer that the kernel did not take counts as dropped.
        """
        return (self.handled, self.dropped, self.passed_on)

    cdef int native_turn(self, Batch *batch) noexcept nogil:
        """Receive a batch, answer it, send the replies; the number received, or -errno."""
        cdef Datagram incoming, outgoing
        cdef int count, i, result, sent
        cdef int replies = 0
        cdef int done = 0
        rearm(batch)
        batch.answered = batch.dropped = batch.declined = 0
        count = c.recvmmsg(self.fd, batch.inputs, BATCH, c.MSG_DONTWAIT, NULL)
        if count < 0:
            return -errno
        incoming.now_ns = c.clock_ns(c.CLOCK_REALTIME)
        incoming.capacity = SLOT
        outgoing.now_ns = incoming.now_ns
        outgoing.capacity = SLOT
        for i in range(count):
            incoming.data = <uint8_t *>batch.input_vectors[i].iov_base
            incoming.length = batch.inputs[i].msg_len
            incoming.peer = <const sockaddr *>&batch.peers[i]
            incoming.peer_length = batch.inputs[i].msg_hdr.msg_namelen
            outgoing.data = batch.replies + <size_t>i * STRIDE
            outgoing.length = 0
            outgoing.peer = incoming.peer
            outgoing.peer_length = incoming.peer_length
            result = self.handler(self.handler_context, &incoming, &outgoing)
            batch.passed[i] = result < 0
            if result < 0:
                batch.declined += 1
            elif result == 0 or result > SLOT:
                batch.dropped += 1
            else:
                batch.output_vectors[replies].iov_base = outgoing.data
                batch.output_vectors[replies].iov_len = result
                batch.outputs[replies].msg_hdr.msg_name = NULL if self.connected else &batch.peers[i]
                batch.outputs[replies].msg_hdr.msg_namelen = 0 if self.connected else incoming.peer_length
                replies += 1
        while done < replies:
            sent = c.sendmmsg(self.fd, batch.outputs + done, replies - done, c.MSG_DONTWAIT | c.MSG_NOSIGNAL)
            if sent > 0:
                done += sent
                batch.answered += sent
                continue
            if errno == c.EINTR:
                continue
            if errno == c.EAGAIN or errno == c.ENOBUFS:
                # The peer asks again; a queue of answers would only make the overload longer.
                batch.dropped += replies - done
                break
            # The error belongs to this reply, or to an earlier one whose ICMP answer arrived: go on behind it.
            batch.dropped += 1
            done += 1
        return count

    # --- receiving ------------------------------------------------------------------------------------------------

    cdef Batch *batch(self) except NULL:
        """The batch buffers of the loop, made for its first datagram."""
        if self.loop.datagram_arena is None:
            self.loop.datagram_arena = BatchArena()
        return &(<BatchArena>self.loop.datagram_arena).batch

    def _begin(self, waiter: object) -> None:
        """Call connection_made, start to receive, tell whoever waits."""
        PyContext_Enter(self.context)
        try:
            self.protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.report("Exception in protocol.connection_made()", error)
        finally:
            PyContext_Exit(self.context)
        if not self.closing and not self.paused:
            self.reading = True
            self.update()
        if waiter is not None and not waiter.cancelled():
            waiter.set_result(None)

    cdef int on_events(self, uint32_t events) except -1:
        cdef object context = self.context
        cdef int left = BUDGET
        cdef int got
        cdef bint useful = False
        if context is None or self.fd < 0:
            return 0
        PyContext_Enter(context)
        self.corked = True
        try:
            if self.writing and events & ~<uint32_t>c.EPOLLIN:
                useful = True
                self.flush()
            if events & ~<uint32_t>c.EPOLLOUT:
                while left > 0 and self.reading:
                    useful = True
                    left -= 1
                    if self.handler != NULL:
                        got = self.receive_native()
                    elif self.family == c.AF_INET or self.family == c.AF_INET6:
                        got = self.receive_batch()
                    else:
                        got = self.receive_each()
                    if got < BATCH:
                        break
            self.corked = False
            if self.waiting_count and not self.writing:
                self.flush()
        finally:
            self.corked = False
            PyContext_Exit(context)
        if not useful and self.interest:
            self.loop.poller.remove(self.fd)
            self.interest = 0
        return 0

    cdef int on_turn_end(self) except -1:
        self.flush_due = False
        if self.waiting_count and not self.writing:
            self.flush()
        return 0

    cdef int receive_native(self) except -2:
        cdef Batch *batch = self.batch()
        cdef int count, i
        cdef list left = None
        with nogil:
            count = self.native_turn(batch)
        self.handled += batch.answered
        self.dropped += batch.dropped
        self.passed_on += batch.declined
        if count < 0:
            self.receive_failed(-count)
            return 0
        for i in range(count):
            if batch.passed[i]:
                if left is None:
                    left = []
                left.append(self.taken(batch, i))
        if left is not None:
            self.deliver(left)
        return count

    cdef tuple taken(self, Batch *batch, int i):
        return (
            PyBytes_FromStringAndSize(<const char *>batch.input_vectors[i].iov_base, batch.inputs[i].msg_len),
            to_object(<const sockaddr *>&batch.peers[i], batch.inputs[i].msg_hdr.msg_namelen),
        )

    cdef int receive_batch(self) except -2:
        cdef Batch *batch = self.batch()
        cdef int count, i
        cdef list datagrams
        rearm(batch)
        count = c.recvmmsg(self.fd, batch.inputs, BATCH, c.MSG_DONTWAIT, NULL)
        if count < 0:
            self.receive_failed(errno)
            return 0
        datagrams = [self.taken(batch, i) for i in range(count)]
        if count:
            self.deliver(datagrams)
        return count

    cdef int receive_each(self) except -2:
        """One system call a datagram, each with the whole of the loop's buffer."""
        cdef uint8_t *buffer = self.loop.receive_buffer()
        cdef sockaddr_storage source
        cdef socklen_t length
        cdef ssize_t got
        cdef list datagrams = []
        cdef int number = 0
        while len(datagrams) < BATCH:
            length = sizeof(source)
            got = c.c_recvfrom(self.fd, buffer, SCRATCH_SIZE, c.MSG_DONTWAIT, <sockaddr *>&source, &length)
            if got < 0:
                number = errno
                break
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
        """Give a batch to the protocol: as one list when it takes that, else one by one while it is open."""
        cdef PyObject *arguments[3]
        cdef PyObject *result
        cdef tuple item
        cdef object protocol
        if self.many is not None:
            try:
                self.many(datagrams)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.report("Exception in protocol.datagrams_received()", error)
            return 0
        for item in datagrams:
            protocol = self.protocol
            if self.closing or protocol is None:
                return 0
            arguments[0] = <PyObject *>protocol
            arguments[1] = <PyObject *>item[0]
            arguments[2] = <PyObject *>item[1]
            result = PyObject_VectorcallMethod("datagram_received", arguments, 3, NULL)
            if result != NULL:
                Py_DECREF(<object>result)
                continue
            try:
                propagate()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.report("Exception in protocol.datagram_received()", error)
        return 0

    cdef int receive_failed(self, int number) except -1:
        if number == c.EAGAIN or number == c.EINTR:
            return 0
        return self.note_error(os_error(number))

    cdef int note_error(self, object error) except -1:
        """An error of the network concerns one datagram: tell the protocol and go on."""
        if self.protocol is None:
            return 0
        try:
            call_method1(self.protocol, "error_received", error)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as failure:
            self.report("Exception in protocol.error_received()", failure)
        return 0

    def resume_reading(self) -> None:
        """Receive again after `pause_reading`; calls without effect are ignored."""
        if self.closing or not self.paused:
            return
        self.paused = False
        self.reading = True
        self.update()

    # --- sending --------------------------------------------------------------------------------------------------

    cdef Py_ssize_t buffered_size(self) noexcept:
        return self.waiting_bytes

    cdef void drop_buffer(self) noexcept:
        cdef PyObject *data
        while self.waiting_count:
            data = self.waiting[self.waiting_head].data
            self.waiting_head = (self.waiting_head + 1) % self.waiting_capacity
            self.waiting_count -= 1
            Py_DECREF(<object>data)
        self.waiting_bytes = 0

    def sendto(self, data: object, addr: object = None) -> None:
        """Send one datagram, now or when the socket takes it; `addr` may be left out on a connected socket."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.address is not None and addr is not None and addr != self.address:
            raise ValueError(f"Invalid address: must be None or {self.address}")
        self.send(data, addr)

    def send_many(self, datagrams: object) -> None:
        """Send ``[(data, address), ...]`` with as few system calls as it takes; see `sendto`."""
        cdef bint corked = self.corked
        self.corked = True
        try:
            for data, addr in datagrams:
                self.sendto(data, addr)
        finally:
            self.corked = corked
        if not corked and self.waiting_count and not self.writing:
            self.flush()

    cdef int send(self, object data, object address) except -1:
        cdef sockaddr_storage target
        cdef socklen_t length = 0
        cdef Py_buffer view
        cdef ssize_t sent
        cdef int number
        if self.conn_lost or self.fd < 0:
            if self.conn_lost >= WARN_AFTER:
                logger.warning("socket.send() raised exception.")
            self.conn_lost += 1
            return 0
        if not self.connected:
            try:
                self.resolve(self.address if address is None else address, &target, &length)
            except OSError as error:
                return self.note_error(error)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                return self.fatal(error, "Fatal write error on datagram transport")
        if self.corked or self.waiting_count:
            return self.wait(data if PyBytes_CheckExact(data) else bytes(data), &target, length)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        if length:
            sent = c.c_sendto(
                self.fd, view.buf, view.len, c.MSG_DONTWAIT | c.MSG_NOSIGNAL, <const sockaddr *>&target, length
            )
        else:
            sent = c.c_send(self.fd, view.buf, view.len, c.MSG_DONTWAIT | c.MSG_NOSIGNAL)
        number = errno
        PyBuffer_Release(&view)
        if sent >= 0:
            return 0
        if number == c.EAGAIN or number == c.EINTR:
            self.wait(data if PyBytes_CheckExact(data) else bytes(data), &target, length)
            self.writing = True
            return self.update()
        return self.note_error(os_error(number))

    cdef int resolve(self, object address, sockaddr_storage *out, socklen_t *length) except -1:
        """The socket address of `address`; names are looked up as ``socket.sendto`` would, which may block."""
        cdef object found
        if address is None:
            raise os_error(c.ENOTCONN)
        if from_object(address, self.family, out, length) == 0:
            return 0
        if self.family != c.AF_INET and self.family != c.AF_INET6:
            raise TypeError(f"not an address of this socket's family: {address!r}")
        found = socket.getaddrinfo(address[0], address[1], self.family, socket.SOCK_DGRAM)[0][4]
        if from_object(found, self.family, out, length) != 0:
            raise TypeError(f"not an address of this socket's family: {address!r}")
        return 0

    cdef int wait(self, bytes data, const sockaddr_storage *address, socklen_t length) except -1:
        """Queue a datagram; corked ones leave when the callback returns."""
        cdef Waiting *grown
        cdef Waiting *entry
        cdef size_t capacity, i
        if self.waiting_count == self.waiting_capacity:
            capacity = self.waiting_capacity * 2 if self.waiting_capacity else BATCH
            grown = <Waiting *>PyMem_RawMalloc(capacity * sizeof(Waiting))
            if grown == NULL:
                PyErr_NoMemory()
            for i in range(self.waiting_count):
                grown[i] = self.waiting[(self.waiting_head + i) % self.waiting_capacity]
            PyMem_RawFree(self.waiting)
            self.waiting = grown
            self.waiting_head = 0
            self.waiting_capacity = capacity
        entry = &self.waiting[(self.waiting_head + self.waiting_count) % self.waiting_capacity]
        entry.data = <PyObject *>data
        Py_INCREF(data)
        entry.address_length = length
        if length:
            c.memcpy(&entry.address, address, length)
        self.waiting_count += 1
        self.waiting_bytes += PyBytes_GET_SIZE(data)
        if self.corked and not self.writing and (self.waiting_count >= BATCH or self.waiting_bytes > self.high):
            self.flush()
        return self.maybe_pause()

    cdef int flush(self) except -1:
        """Send what waits, a batch at a time, until it is gone or the kernel takes no more."""
        cdef Batch *batch = self.batch()
        cdef int count, sent, i
        cdef Waiting *entry
        while self.waiting_count and self.fd >= 0 and not self.conn_lost:
            count = <int>min(self.waiting_count, <size_t>BATCH)
            for i in range(count):
                entry = &self.waiting[(self.waiting_head + i) % self.waiting_capacity]
                batch.output_vectors[i].iov_base = PyBytes_AS_STRING(<object>entry.data)
                batch.output_vectors[i].iov_len = PyBytes_GET_SIZE(<object>entry.data)
                batch.outputs[i].msg_hdr.msg_name = &entry.address if entry.address_length else NULL
                batch.outputs[i].msg_hdr.msg_namelen = entry.address_length
            sent = c.sendmmsg(self.fd, batch.outputs, count, c.MSG_DONTWAIT | c.MSG_NOSIGNAL)
            if sent < 0:
                if errno == c.EINTR:
                    continue
                if errno == c.EAGAIN or errno == c.ENOBUFS:
                    if not self.writing:
                        self.writing = True
                        self.update()
                    return self.maybe_resume()
                # The error belongs to the first datagram only.
                self.forget_first(1)
                self.note_error(os_error(errno))
                continue
            self.forget_first(sent)
        return self.drained()

    cdef int forget_first(self, int count) except -1:
        cdef PyObject *data
        cdef int number = errno
        while count > 0:
            count -= 1
            data = self.waiting[self.waiting_head].data
            self.waiting_head = (self.waiting_head + 1) % self.waiting_capacity
            self.waiting_count -= 1
            self.waiting_bytes -= PyBytes_GET_SIZE(<object>data)
            Py_DECREF(<object>data)
        c.errno = number
        return 0

    cdef int drained(self) except -1:
        if self.waiting_count:
            return 0
        if self.writing:
            self.writing = False
            self.update()
        self.maybe_resume()
        if self.closing and not self.conn_lost and not self.waiting_count:
            return self.schedule_lost(None)
        return 0

    def close(self) -> None:
        """Stop receiving, send what waits, then close; connection_lost(None) follows."""
        if self.closing:
            return
        self.closing = True
        self.reading = False
        if self.waiting_count:
            self.update()
            if not self.writing and not self.corked:
                self.flush()
        else:
            self.schedule_lost(None)

    cdef int released(self) except -1:
        self.handler = NULL
        self.handler_context = NULL
        self.keep_alive = None
        self.many = None
        return 0

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


def make_datagram(
    loop: Engine, sock: object, protocol: object, address: object = None, waiter: object = None, extra: dict | None = None
) -> DatagramTransport:
    """Return a transport on a non-blocking datagram socket; `address` is where it sends when told nothing else."""
    cdef DatagramTransport transport = DatagramTransport.__new__(DatagramTransport)
    cdef sockaddr_storage peer
    cdef socklen_t length = sizeof(peer)
    cdef int fd = sock.fileno()
    loop.check_open()
    if loop.poller.find(fd) is not None:
        loop.descriptor(fd)
        loop.poller.remove(fd)
    transport.family = sock.family
    transport.sock = sock
    transport.address = address
    transport.connected = c.getpeername(fd, <sockaddr *>&peer, &length) == 0 and length > 0
    transport.attach(loop, fd, protocol, extra)
    transport.lookup_extra("sockname")
    transport.lookup_extra("peername")
    loop.soon(transport._begin, (waiter,), None)
    return transport
