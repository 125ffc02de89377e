"""Lanes: a thread that receives the datagrams of one socket, answers them by a native handler, and never takes the GIL.

The loop's thread also runs Python: a garbage collection, a long callback or a reload delays whatever it would do next.
A lane is not delayed by them. What the handler declines is copied into a buffer of limited size; an eventfd tells the
loop, which takes the datagrams out (`take`) and sends its replies through the transport of the same socket.

States: new (`start` was not called), running, stopped (the thread has ended, its descriptors are closed). `stop` ends
each state, and waits for one batch at most. A forked child has no thread, but shares the descriptors: there `stop` only
closes its copies of them.

Owners: the lane owns a duplicate of the socket's descriptor, so the transport may be closed at any time. `thread` holds
the lane while it runs. `keep_alive` owns what the handler's context points to.

Locks, in this order: `turn`, `work`, `exchange`. The thread holds `work` while it uses the handler and the batch; the
holder may change them. `exchange` guards the buffer that is filled. The loop takes a full buffer by exchanging it for
an empty one, and reads it without a lock.

Invariant: when `filled` becomes larger than 0, the eventfd is written afterwards. The loop reads the eventfd before it
exchanges the buffers, so no datagram stays without an event.
"""

import atexit
import os
import signal
import threading

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from corenet.core cimport libc as c
from corenet.core.libc cimport errno, sockaddr
from corenet.transports.address cimport to_object, to_peer
from corenet.transports.base cimport os_error
from corenet.transports.datagram cimport DatagramTransport, native_handler
from corenet.transports.datagram_batch cimport BATCH, Batch, BatchArena, Segment
from corenet.transports.native_handler cimport run_native_batch

from corenet.limits import DATAGRAM_BATCHES_PER_EVENT, LANE_BUFFER, LANE_ERROR_DELAY

cdef int BATCHES = DATAGRAM_BATCHES_PER_EVENT
cdef size_t BUFFER = LANE_BUFFER
cdef int ERROR_DELAY_MS = LANE_ERROR_DELAY


cdef inline size_t padded(size_t size) noexcept nogil:
    return (size + 7) & ~<size_t>7


cdef bint keep_declined(LaneState *lane) noexcept nogil:
    """Copy the declined datagrams of the batch to the buffer; return whether the loop must be told."""
    cdef Batch *batch = lane.batch
    cdef Segment *segment
    cdef Declined *kept
    cdef size_t size
    cdef int i
    cdef bint was_empty
    c.pthread_mutex_lock(&lane.exchange)
    was_empty = lane.filled == 0
    for i in range(batch.declined_count):
        segment = &batch.declined[i]
        size = sizeof(Declined) + padded(segment.length)
        if size > lane.capacity - lane.filled:
            lane.counters.overflowed += 1
            continue
        kept = <Declined *>(lane.filling + lane.filled)
        kept.length = segment.length
        kept.peer_length = batch.inputs[segment.slot].msg_hdr.msg_namelen
        kept.pktinfo = batch.pktinfos[segment.slot]
        kept.peer = batch.peers[segment.slot]
        c.memcpy(
            <uint8_t *>kept + sizeof(Declined), <uint8_t *>batch.input_vectors[segment.slot].iov_base + segment.offset,
            segment.length,
        )
        lane.filled += size
    was_empty = was_empty and lane.filled > 0
    c.pthread_mutex_unlock(&lane.exchange)
    return was_empty


cdef int answer_batch(LaneState *lane) noexcept nogil:
    """Receive and answer one batch; return the number of messages received, or -errno."""
    cdef uint64_t one = 1
    cdef int count
    cdef bint tell = False
    c.pthread_mutex_lock(&lane.turn)
    c.pthread_mutex_lock(&lane.work)
    c.pthread_mutex_unlock(&lane.turn)
    count = run_native_batch(&lane.native_state, lane.fd, lane.batch)
    lane.counters.answered += lane.batch.answered
    lane.counters.dropped += lane.batch.dropped
    lane.counters.declined += lane.batch.declined_count
    if count > 0 and lane.batch.declined_count:
        tell = keep_declined(lane)
    elif count < 0 and count != -c.EAGAIN and count != -c.EINTR:
        lane.counters.errors += 1
    c.pthread_mutex_unlock(&lane.work)
    if tell:
        # It cannot fail: the counter of the eventfd is far from its maximum.
        c.c_write(lane.wake_fd, &one, sizeof(one))
    return count


cdef void run_lane(LaneState *lane) noexcept nogil:
    """Answer batches until `stop_fd` is readable."""
    cdef c.epoll_event events[2]
    cdef int ready, i, left, count
    cdef int timeout = -1
    while True:
        ready = c.epoll_wait(lane.poll_fd, events, 2, timeout)
        for i in range(ready):
            if events[i].data.fd == lane.stop_fd:
                return
        timeout = -1
        # As in the loop: a flood must not keep the thread from looking at `stop_fd`.
        left = BATCHES
        count = BATCH
        while left > 0 and count == BATCH:
            left -= 1
            count = answer_batch(lane)
        if count < 0 and count != -c.EAGAIN and count != -c.EINTR:
            # An error of one datagram is gone with this call. One that stays, as a shortage of memory, must not spin.
            c.epoll_wait(lane.stop_poll_fd, events, 1, ERROR_DELAY_MS)


@cython.final
cdef class Lane:
    """The thread that serves the socket of a transport, which must be open.

    Raises:
        OSError: a descriptor cannot be had.
        MemoryError: the buffers cannot be allocated.
    """

    def __cinit__(self, transport: DatagramTransport) -> None:
        cdef LaneState *lane = &self.state
        lane.fd = lane.stop_fd = lane.wake_fd = lane.poll_fd = lane.stop_poll_fd = -1
        c.pthread_mutex_init(&lane.turn, NULL)
        c.pthread_mutex_init(&lane.work, NULL)
        c.pthread_mutex_init(&lane.exchange, NULL)
        self.arena = BatchArena()
        lane.batch = &self.arena.batch
        lane.capacity = BUFFER
        lane.filling = <uint8_t *>PyMem_RawMalloc(BUFFER)
        self.draining = <uint8_t *>PyMem_RawMalloc(BUFFER)
        if lane.filling == NULL or self.draining == NULL:
            raise MemoryError("buffer of a lane")
        if transport.fd < 0:
            raise os_error(c.EBADF)
        # The handler is set by `set_native_handler`.
        lane.native_state = transport.native_state
        lane.native_state.handler = NULL
        lane.native_state.context = NULL
        lane.fd = os.dup(transport.fd)
        lane.stop_fd = opened(c.eventfd(0, c.EFD_CLOEXEC | c.EFD_NONBLOCK))
        lane.wake_fd = opened(c.eventfd(0, c.EFD_CLOEXEC | c.EFD_NONBLOCK))
        lane.poll_fd = opened(c.epoll_create1(c.EPOLL_CLOEXEC))
        lane.stop_poll_fd = opened(c.epoll_create1(c.EPOLL_CLOEXEC))
        watch(lane.poll_fd, lane.fd)
        watch(lane.poll_fd, lane.stop_fd)
        watch(lane.stop_poll_fd, lane.stop_fd)

    def __dealloc__(self) -> None:
        # The thread holds the lane, so it has ended or was never started.
        self.close_descriptors()
        PyMem_RawFree(self.state.filling)
        PyMem_RawFree(self.draining)
        c.pthread_mutex_destroy(&self.state.turn)
        c.pthread_mutex_destroy(&self.state.work)
        c.pthread_mutex_destroy(&self.state.exchange)

    cdef int hold(self) except -1:
        """Keep the thread from the handler and its context until `release`; waits for a batch at most."""
        with nogil:
            c.pthread_mutex_lock(&self.state.turn)
            c.pthread_mutex_lock(&self.state.work)
        return 0

    cdef void release(self) noexcept:
        """End `hold`."""
        c.pthread_mutex_unlock(&self.state.work)
        c.pthread_mutex_unlock(&self.state.turn)

    cdef int set_native_handler(self, native_handler fn, void *ctx, object keep_alive) except -1:
        """Let `fn(ctx, ...)` answer the datagrams. It runs in the lane's thread, without the GIL, and must not block.

        `ctx` belongs to this lane alone, and `keep_alive` owns it.
        """
        self.hold()
        self.state.native_state.handler = fn
        self.state.native_state.context = ctx
        self.release()
        # Only now, because the thread has used the old context until now.
        self.keep_alive = keep_alive
        return 0

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: there is no handler, or the lane was started before, or the system has no thread for it.
        """
        if self.state.native_state.handler == NULL or self.thread is not None or self.state.fd < 0:
            raise RuntimeError("a lane is started once, with a handler")
        thread = threading.Thread(target=self._run, name="corenet-lane", daemon=True)
        thread.start()
        self.thread = thread
        self.process = os.getpid()
        # A daemon thread does not delay the exit of the interpreter, which must not free what the thread uses.
        atexit.register(self.stop)

    def _run(self) -> None:
        # Signals are for the loop's thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with nogil:
            run_lane(&self.state)

    def stop(self) -> None:
        """End the thread and close its descriptors. What it has declined can still be taken. May be called again."""
        cdef uint64_t one = 1
        cdef object thread = self.thread
        if thread is not None:
            self.thread = None
            if self.process == os.getpid():
                c.c_write(self.state.stop_fd, &one, sizeof(one))
                thread.join()
            atexit.unregister(self.stop)
        self.close_descriptors()

    cdef int close_descriptors(self) noexcept:
        close_one(&self.state.fd)
        close_one(&self.state.stop_fd)
        close_one(&self.state.wake_fd)
        close_one(&self.state.poll_fd)
        close_one(&self.state.stop_poll_fd)
        return 0

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to `take`; -1 after `stop`."""
        return self.state.wake_fd

    def take(self, most: int) -> list[tuple[bytes, object]]:
        """Return up to `most` declined datagrams with their senders' addresses, in the order of their arrival.

        When the list has `most` of them, there may be more: call it again. When it is shorter, wait for `fileno`. After
        `stop` it returns what was left.

        Raises:
            MemoryError: there is no memory for a datagram, which is lost.
        """
        cdef list found = []
        cdef uint64_t one = 1
        cdef uint64_t count
        cdef uint8_t *buffer
        cdef Declined *kept
        while len(found) < most:
            if self.drained == self.drain_end:
                if self.state.wake_fd >= 0:
                    c.c_read(self.state.wake_fd, &count, sizeof(count))
                elif self.process != os.getpid():
                    break  # never started, or its thread is in another process
                c.pthread_mutex_lock(&self.state.exchange)
                buffer = self.state.filling
                self.state.filling = self.draining
                self.draining = buffer
                self.drain_end = self.state.filled
                self.state.filled = 0
                c.pthread_mutex_unlock(&self.state.exchange)
                self.drained = 0
                if self.drain_end == 0:
                    break
            kept = <Declined *>(self.draining + self.drained)
            # Before the objects are made: a datagram for which there is no memory is lost alone.
            self.drained += sizeof(Declined) + padded(kept.length)
            try:
                found.append((
                    PyBytes_FromStringAndSize(<const char *>kept + sizeof(Declined), kept.length),
                    to_peer(<const sockaddr *>&kept.peer, kept.peer_length, &kept.pktinfo)
                    if self.state.native_state.wildcard_bound
                    else to_object(<const sockaddr *>&kept.peer, kept.peer_length),
                ))
            except MemoryError:
                # The event was taken from `fileno`, and there may be more. It can only fail when the event is there.
                c.c_write(self.state.wake_fd, &one, sizeof(one))
                if not found:
                    raise
                break
        return found

    def counters(self) -> dict[str, int]:
        """Return how many datagrams were answered, dropped, declined, and lost because the buffer was full."""
        return {
            "answered": self.state.counters.answered,
            "dropped": self.state.counters.dropped,
            "declined": self.state.counters.declined,
            "overflowed": self.state.counters.overflowed,
            "errors": self.state.counters.errors,
        }


cdef void close_one(int *fd) noexcept:
    if fd[0] >= 0:
        c.c_close(fd[0])
    fd[0] = -1


cdef int opened(int fd) except -1:
    """Return `fd`, the result of a system call; raise OSError when it failed."""
    if fd < 0:
        raise os_error(errno)
    return fd


cdef int watch(int poll_fd, int fd) except -1:
    cdef c.epoll_event event
    event.events = c.EPOLLIN
    event.data.fd = fd
    if c.epoll_ctl(poll_fd, c.EPOLL_CTL_ADD, fd, &event) < 0:
        raise os_error(errno)
    return 0
