"""The sending side of a stream transport: writes, their queue, watermarks, corking, half-close and close.

Writing: the first write of each callback is sent at once, so a callback that writes once and then blocks the thread,
forks or calls os._exit has sent its data, as with asyncio. Later writes of the same callback are held and sent together
when it returns, also before a fork and before other code uses the descriptor. If the last callback that wrote did so
several times, the first write of the next is sent with MSG_MORE: TCP holds it and sends it with what follows, when it
is uncorked at the end of the callback, or after 200 ms. A TCP_CORK that the program has set stays, and then the program
decides when to send. What the kernel does not accept waits for EPOLLOUT. docs/adr/0012 gives reasons and costs. While a
file is being sent (`empty_waiter`), writes raise RuntimeError, and the sender of the file waits here until the socket
is writable.

The queue is an array of iovecs, which is sent without joining or copying. Their owners are immutable bytes objects:
mutable data is copied first, because the program may change it while it is queued. A partial write advances the first
vector.
"""

from asyncio.log import logger

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromObject,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from corenet.core cimport libc as c
from corenet.core.libc cimport errno, iovec, memcpy, peek_bytes, socklen_t
from corenet.core.scheduler cimport callback_of
from corenet.transports.base cimport Transport, os_error

from corenet.limits import CORK_BYTES, LOST_WRITES_BEFORE_WARNING, SEND_RELEASE_GIL, WRITE_COPY_BELOW, WRITE_VECTORS

VECTOR_LIMIT = WRITE_VECTORS
cdef size_t RELEASE_GIL_ABOVE = SEND_RELEASE_GIL
cdef size_t CORK = CORK_BYTES
cdef size_t COPY_BELOW = WRITE_COPY_BELOW
cdef int WARN_AFTER = LOST_WRITES_BEFORE_WARNING

cdef enum:
    NEVER = 0


cdef int queue_reserve(WriteQueue *queue) except -1:
    """Make space for one more entry at the end: move all to the front if half of it is free, else grow."""
    cdef size_t capacity
    cdef iovec *vectors
    cdef PyObject **owners
    cdef size_t i
    if queue.head >= 16 and queue.head >= queue.capacity // 2:
        for i in range(queue.count):
            queue.vectors[i] = queue.vectors[queue.head + i]
            queue.owners[i] = queue.owners[queue.head + i]
        queue.head = 0
        return 0
    capacity = queue.capacity * 2 if queue.capacity else 16
    vectors = <iovec *>PyMem_RawMalloc(capacity * sizeof(iovec))
    owners = <PyObject **>PyMem_RawMalloc(capacity * sizeof(PyObject *))
    if vectors == NULL or owners == NULL:
        PyMem_RawFree(vectors)
        PyMem_RawFree(owners)
        PyErr_NoMemory()
    if queue.count:
        memcpy(vectors, queue.vectors + queue.head, queue.count * sizeof(iovec))
        memcpy(owners, queue.owners + queue.head, queue.count * sizeof(PyObject *))
    PyMem_RawFree(queue.vectors)
    PyMem_RawFree(queue.owners)
    queue.vectors = vectors
    queue.owners = owners
    queue.capacity = capacity
    queue.head = 0
    return 0


cdef int queue_push(WriteQueue *queue, object owner, const char *data, size_t length) except -1:
    """Append `length` bytes at `data`, which `owner` keeps alive and unchanged."""
    cdef size_t end
    if queue.head + queue.count == queue.capacity:
        queue_reserve(queue)
    end = queue.head + queue.count
    queue.vectors[end].iov_base = <void *>data
    queue.vectors[end].iov_len = length
    queue.owners[end] = <PyObject *>owner
    Py_INCREF(owner)
    queue.count += 1
    queue.size += length
    return 0


cdef void queue_consume(WriteQueue *queue, size_t length) noexcept:
    """Remove `length` bytes from the front and release the owners of complete entries."""
    cdef iovec *first
    cdef PyObject *owner
    queue.size -= length
    while queue.count:
        first = &queue.vectors[queue.head]
        if length < first.iov_len:
            first.iov_base = <char *>first.iov_base + length
            first.iov_len -= length
            return
        length -= first.iov_len
        owner = queue.owners[queue.head]
        queue.head += 1
        queue.count -= 1
        Py_DECREF(<object>owner)
    queue.head = 0


cdef void queue_free(WriteQueue *queue) noexcept:
    """Drop all entries and free the memory."""
    cdef PyObject *owner
    while queue.count:
        queue.count -= 1
        owner = queue.owners[queue.head + queue.count]
        Py_DECREF(<object>owner)
    PyMem_RawFree(queue.vectors)
    PyMem_RawFree(queue.owners)
    queue.vectors = NULL
    queue.owners = NULL
    queue.head = queue.capacity = queue.size = 0


cdef list pieces_of(object things):
    """Return a list of bytes objects: each item itself if it is bytes, else a copy, which the program cannot change."""
    cdef list pieces = []
    for thing in things:
        if not PyBytes_CheckExact(thing):
            if not PyObject_CheckBuffer(thing):
                raise TypeError(f"data argument must be a bytes-like object, not {type(thing).__name__!r}")
            thing = PyBytes_FromObject(thing)
        pieces.append(thing)
    return pieces


cdef inline bint only_sending(StreamSender self) noexcept:
    """Return whether an empty queue needs no action: nothing is closing, paused, or waiting for it."""
    return not (
        self.writing
        or self.protocol_paused
        or self.closing
        or self.conn_lost
        or self.eof_due
        or self.empty_waiter is not None
    )


cdef class StreamSender(Transport):
    """Writes bytes to one descriptor; subclasses define `send_some`, `send_queue` and `half_close`."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        self.last_write_callback = NEVER

    def __dealloc__(self) -> None:
        queue_free(&self.queue)

    # --- the descriptor -------------------------------------------------------------------------------------------

    # Defaults that fail: the reading end of a pipe does not send.

    cdef ssize_t send_some(self, const void *data, size_t length) noexcept nogil:
        c.errno = c.EBADF
        return -1

    cdef ssize_t send_queue(self) noexcept nogil:
        c.errno = c.EBADF
        return -1

    cdef int half_close(self) except -1:
        return 0

    cdef int probe_cork_support(self) except -1:
        """Determine whether this is TCP: SCTP supports MSG_MORE, too, but cannot be uncorked."""
        cdef int cork = 0
        cdef socklen_t size = sizeof(cork)
        self.cork_support = CORK_UNSUPPORTED
        if self.fd >= 0 and c.getsockopt(self.fd, c.IPPROTO_TCP, c.TCP_CORK, &cork, &size) == 0:
            self.cork_support = CORK_SUPPORTED
        return 0

    cdef int uncork(self) except -1:
        """Make TCP send what it holds after MSG_MORE, unless the program has set TCP_CORK."""
        cdef int cork = 0
        cdef socklen_t size = sizeof(cork)
        self.corked = False
        if self.fd >= 0 and c.getsockopt(self.fd, c.IPPROTO_TCP, c.TCP_CORK, &cork, &size) == 0 and cork == 0:
            c.setsockopt(self.fd, c.IPPROTO_TCP, c.TCP_CORK, &cork, sizeof(cork))
        return 0

    cdef int on_flush(self) except -1:
        self.flush_deferred = False
        return self.flush_deferred_writes()

    # --- writing --------------------------------------------------------------------------------------------------

    cdef Py_ssize_t buffered_size(self) noexcept:
        if self.pending is not None:
            return PyBytes_GET_SIZE(self.pending)
        return self.queue.size

    cdef void drop_buffer(self) noexcept:
        self.pending = None
        queue_free(&self.queue)

    def write(self, data: object) -> None:
        """Send `data`, now or when the socket is writable; never blocks. Mutable data is copied if it is queued."""
        cdef Py_buffer view
        cdef char *start
        cdef Py_ssize_t length
        if PyBytes_CheckExact(data):
            length = PyBytes_GET_SIZE(data)
            self.check_writable()
            if length:
                self.submit(data, PyBytes_AS_STRING(data), length)
            return
        if peek_bytes(data, False, &start, &length) and <size_t>length <= RELEASE_GIL_ABOVE:
            # No Python code runs before the bytes are sent or copied, so the pointer stays valid.
            self.check_writable()
            if length:
                self.submit(None, start, length)
            return
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            # After `__buffer__` of its class (PEP 688), which may end the stream or begin to send a file.
            self.check_writable()
            if view.len:
                self.submit(None, <const char *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int write_bytes(self, bytes data) except -1:
        """`write` for C callers."""
        cdef Py_ssize_t length = PyBytes_GET_SIZE(data)
        self.check_writable()
        if length:
            return self.submit(data, PyBytes_AS_STRING(data), length)
        return 0

    cdef int check_writable(self) except -1:
        if self.eof_requested:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        return 0

    def writelines(self, list_of_data: object) -> None:
        """Send several bytes-like objects with as few system calls as possible, without joining them.

        Raises:
            TypeError: an item is not bytes-like; nothing is sent.
        """
        cdef list pieces = pieces_of(list_of_data)
        self.check_writable()
        self.submit_pieces(pieces)

    cdef int submit_pieces(self, list pieces) except -1:
        """`submit` each of `pieces`, bytes objects or FrameViews, as parts of one write."""
        cdef Py_buffer view
        self.in_writelines = True
        try:
            for piece in pieces:
                # Both are immutable, so the pointer stays valid without an exported buffer.
                PyObject_GetBuffer(piece, &view, PyBUF_SIMPLE)
                PyBuffer_Release(&view)
                if view.len:
                    self.submit(piece, <const char *>view.buf, view.len)
        except MemoryError as error:
            # A part is queued. Later writes must not follow a gap in the stream.
            self.force_close(error)
            raise
        finally:
            self.in_writelines = False
        return self.after_write()

    cdef int submit(self, object owner, const char *data, size_t length) except -1:
        """Send at once if nothing is queued and this callback has not written yet, else queue.

        `owner` keeps the bytes alive and unchanged; None: they are copied if they are queued. Large data without an
        owner is sent at once even if the callback has written, because copying it costs more than a system call.
        """
        cdef ssize_t sent = 0
        cdef uint64_t callback
        cdef bint more
        if self.conn_lost:
            if self.conn_lost >= WARN_AFTER:
                logger.warning("socket.send() raised exception.")
            self.conn_lost += 1
            return 0
        if self.pending is None and self.queue.count == 0 and not self.in_writelines:
            callback = callback_of(self.loop)
            if (
                self.last_write_callback != callback
                or length >= CORK
                or (owner is None and length >= COPY_BELOW)
                or not self.loop.running
            ):
                more = (
                    self.multiple_writes
                    and self.cork_support == CORK_SUPPORTED
                    and length < CORK
                    and self.last_write_callback != callback
                    and self.loop.running
                )
                self.last_write_callback = callback
                self.multiple_writes = False
                if more:
                    sent = c.c_send(self.fd, data, length, c.MSG_DONTWAIT | c.MSG_NOSIGNAL | c.MSG_MORE)
                elif length > RELEASE_GIL_ABOVE:
                    with nogil:
                        sent = self.send_some(data, length)
                else:
                    sent = self.send_some(data, length)
                if sent > 0:
                    self.loop.bytes_sent += sent
                    self.corked = more
                if sent == <ssize_t>length:
                    return self.defer_flush() if more else 0
                if sent < 0:
                    if errno != c.EAGAIN and errno != c.EINTR:
                        return self.write_failed(errno)
                    sent = 0
                # As asyncio: raises on a closed loop, which would never send the rest.
                self.loop.check_open()
                try:
                    self.enqueue(owner, data + sent, length - sent)
                except MemoryError as error:
                    # Later writes must not follow a gap in the stream.
                    self.force_close(error)
                    raise
                self.writing = True
                self.update_interest()
                return self.maybe_pause()
        self.enqueue(owner, data, length)
        return 0 if self.in_writelines else self.after_write()

    cdef int enqueue(self, object owner, const char *data, size_t length) except -1:
        cdef bytes whole
        if owner is None:
            owner = PyBytes_FromStringAndSize(data, length)
            data = PyBytes_AS_STRING(owner)
        if self.queue.count == 0 and self.pending is None and PyBytes_CheckExact(owner):
            # The common case, one object per callback, needs no queue.
            if PyBytes_AS_STRING(owner) == data and <size_t>PyBytes_GET_SIZE(owner) == length:
                self.pending = owner
                return 0
        if self.pending is not None:
            whole = self.pending
            queue_push(&self.queue, whole, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
            # After the push, which may raise MemoryError: the data must not be lost.
            self.pending = None
        return queue_push(&self.queue, owner, data, length)

    cdef int after_write(self) except -1:
        """Flush now if this is the callback's first write or much is queued; otherwise when it returns."""
        if self.pending is None and self.queue.count == 0:
            return 0
        if not self.writing:
            if (
                self.last_write_callback != callback_of(self.loop)
                or <size_t>self.buffered_size() >= CORK
                or self.queue.count >= VECTOR_LIMIT
                # Above the high watermark the protocol must be paused before its callback ends.
                or self.buffered_size() > self.high
                or not self.loop.running
            ):
                self.flush()
            else:
                if self.cork_support == CORK_UNPROBED:
                    self.probe_cork_support()
                self.multiple_writes = True
                return self.defer_flush()
        return self.maybe_pause()

    cdef int flush(self) except -1:
        """Send what is queued until the queue is empty or the kernel accepts no more."""
        cdef ssize_t sent
        cdef size_t asked
        cdef bytes whole
        cdef const char *data
        if self.conn_lost or self.fd < 0:
            self.drop_buffer()
            return 0
        self.last_write_callback = callback_of(self.loop)
        if self.pending is not None:
            whole = self.pending
            asked = PyBytes_GET_SIZE(whole)
            data = PyBytes_AS_STRING(whole)
            if asked > RELEASE_GIL_ABOVE:
                with nogil:
                    sent = self.send_some(data, asked)
            else:
                sent = self.send_some(data, asked)
            if sent > 0:
                self.loop.bytes_sent += sent
                self.corked = False
            if sent == <ssize_t>asked:
                self.pending = None
                return 0 if only_sending(self) else self.on_write_queue_empty()
            if sent < 0:
                if errno != c.EAGAIN and errno != c.EINTR:
                    return self.write_failed(errno)
                sent = 0
            self.pending = None
            try:
                queue_push(&self.queue, whole, data + sent, asked - sent)
            except MemoryError as error:
                # A part of the data is sent and its rest is lost: later writes must not follow the gap.
                self.force_close(error)
                raise
        else:
            while self.queue.count:
                asked = self.queue.size
                if asked > RELEASE_GIL_ABOVE:
                    with nogil:
                        sent = self.send_queue()
                else:
                    sent = self.send_queue()
                if sent < 0:
                    if errno == c.EINTR:
                        continue
                    if errno != c.EAGAIN:
                        return self.write_failed(errno)
                    break
                self.loop.bytes_sent += sent
                self.corked = False
                queue_consume(&self.queue, sent)
                if self.queue.count and <size_t>sent < asked and self.queue.count < VECTOR_LIMIT:
                    break
            if self.queue.count == 0:
                queue_free(&self.queue)
                return self.on_write_queue_empty()
        if not self.writing:
            self.writing = True
            self.update_interest()
        return self.maybe_resume()

    cdef int on_write_queue_empty(self) except -1:
        """Everything was sent: resume the protocol, complete a sendfile's wait, close or half-close."""
        if self.writing:
            self.writing = False
            self.update_interest()
        self.maybe_resume()
        if self.pending is not None or self.queue.count:
            # resume_writing wrote more.
            return 0
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_result(None)
        if self.conn_lost:
            # resume_writing ended the connection.
            return 0
        if self.closing:
            return self.schedule_connection_lost(None)
        if self.eof_due:
            self.eof_due = False
            self.half_close()
        return 0

    cdef int write_failed(self, int number) except -1:
        cdef object error = os_error(number)
        self.drop_buffer()
        self.writing = False
        self.fail_empty_waiter(error)
        return self.fatal(error, "Fatal write error on socket transport")

    def can_write_eof(self) -> bool:
        """Return True: `write_eof` is supported."""
        return True

    def write_eof(self) -> None:
        """Close the sending direction (half-close) when everything queued was sent."""
        if self.closing or self.eof_requested:
            return
        self.eof_requested = True
        if self.pending is None and self.queue.count == 0:
            self.half_close()
        else:
            self.eof_due = True

    def close(self) -> None:
        """Stop receiving, send what is queued, then close; connection_lost(None) follows."""
        if self.closing:
            return
        self.closing = True
        self.flush_deferred_writes()
        if self.conn_lost:
            # The flush has sent everything or failed; either way connection_lost is scheduled.
            return
        if self.pending is None and self.queue.count == 0:
            self.schedule_connection_lost(None)
        else:
            self.update_interest()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the kernel has not accepted yet."""
        self.flush_deferred_writes()
        return self.buffered_size()

    cdef int force_close(self, object error) except -1:
        # asyncio has sent at once what is held here, so only what the kernel refuses is lost.
        self.flush_deferred_writes()
        return Transport.force_close(self, error)

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return optional information such as socket, sockname or peername."""
        if name == "socket":
            # The program may use the socket directly, so send first what was written.
            self.flush_deferred_writes()
        return Transport.get_extra_info(self, name, default)

    cdef int flush_deferred_writes(self) except -1:
        if not self.writing and (self.pending is not None or self.queue.count):
            self.flush()
        if self.corked:
            self.uncork()
        return 0

    def _make_empty_waiter(self) -> object:
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self.empty_waiter = self.loop.create_future()
        if self.pending is not None or self.queue.count:
            if not self.writing:
                self.flush()
        else:
            self.empty_waiter.set_result(None)
        return self.empty_waiter

    def _make_writable_waiter(self) -> object:
        """Return a future for when the socket is writable; between `_make_empty_waiter` and `_reset_empty_waiter`."""
        self.empty_waiter = self.loop.create_future()
        # Blocked with an empty queue: the next flush sets the future.
        self.writing = True
        self.update_interest()
        return self.empty_waiter

    def _reset_empty_waiter(self) -> None:
        self.empty_waiter = None

    cdef int fail_empty_waiter(self, object error) except -1:
        """Set `error` on the future that a sendfile waits for."""
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_exception(error)
            # Mark it as retrieved: the child of a fork may end without running the sendfile's task.
            self.empty_waiter.exception()
        return 0

    cdef int on_fork_in_child(self) except -1:
        self.corked = False
        self.eof_due = False  # after the queue, which the parent sends; from here it would cut that off
        self.fail_empty_waiter(ConnectionAbortedError("The file is sent by the parent process"))
        return Transport.on_fork_in_child(self)
