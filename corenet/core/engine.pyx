"""The engine: one turn is poll, ready callbacks, descriptors, due timers, flushes; repeated until it is told to stop.

Rules. The order within a turn is asyncio's: callbacks that were ready before the poll, then descriptors in the order
of the batch, then timers that were due when the poll returned; what any of these schedule waits for the next turn. A
reader that is removed in the same batch is not called. A batch may be spread over several turns, as if the kernel had
reported less: once much was received, what it woke runs first. While callbacks are ready the poll is left out, at
most `SKIP_TURNS` turns and `SKIP_NS` nanoseconds, because a system call costs more than a short callback; not when
something was sent or closed since the last one, which both ends of a connection in one process would wait for, nor when
something was registered: its descriptor is looked at in the next turn, so that callbacks have asyncio's order. The GIL
is released only when the wait may sleep, and at times when other loops have something to do. Nothing here knows asyncio: `corenet.loop` overrides the hooks whose names
begin with an underscore.

What was slow is found for nothing: a turn begins by reading the clock anyway. Which of its callbacks it was is certain
when there was only one; else callbacks are timed one by one for a while, so that whoever does it again is known.

Turns and descriptors are two jobs in one file: every shared object adds 0.1 to 0.3 ms to the import of the package.
"""

import sys
from collections import deque

cimport cython
from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject, PyObject_GenericSetAttr
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from corenet.core cimport libc as c
from corenet.core.gc_hooks cimport VisitProc, install_gc_hooks
from corenet.core.counters cimport KIND_ENGINE, count_created, count_destroyed
from corenet.core.handles cimport (
    Handle,
    TimerHandle,
    deadline_ns,
    gc_untrack,
    new_handle,
    new_threadsafe,
    new_timer,
    seconds_of,
    gc_track,
)
from corenet.core.poller cimport Poller, Watch, Watcher, yield_gil, other_loops_awake
from corenet.core.ready_queue cimport Inbox, Ring, ring_free, ring_grow, ring_init, ring_pop, ring_push, ring_visit
from corenet.core.receive_pool cimport ReceivePool
from corenet.core.libc cimport PyContext_CopyCurrent, sole_owner
from corenet.core.timers cimport TimerHeap

from corenet.limits import (
    GIL_HOLD_NANOSECONDS,
    POLL_SKIP_NANOSECONDS,
    POLL_SKIP_ITERATIONS,
    SLOW_WATCH_SECONDS,
    SLOW_LOG_SIZE,
    SLOW_MIN_AVERAGE_NANOSECONDS,
    RECEIVE_BURST_CALLBACKS,
)

cdef int SKIP_TURNS = POLL_SKIP_ITERATIONS
cdef int64_t SKIP_NS = POLL_SKIP_NANOSECONDS
cdef int64_t KEEP_GIL_NS = GIL_HOLD_NANOSECONDS
cdef size_t FRESH_CALLBACKS = RECEIVE_BURST_CALLBACKS
cdef int64_t WORTH_NS = SLOW_MIN_AVERAGE_NANOSECONDS
cdef int64_t ATTENTION_NS = SLOW_WATCH_SECONDS * <int64_t>1000000000

cdef enum:
    # More than a batch ever holds.
    ALL_EVENTS = 1 << 30


@cython.final
cdef class WakeupWatcher(Watcher):
    """Reads the eventfd of the inbox, so that it is quiet again; the items are taken at the start of a turn."""

    cdef int fd

    cdef int on_events(self, uint32_t events) except -1:
        cdef uint64_t value
        c.c_read(self.fd, &value, sizeof(value))
        return 0


@cython.final
cdef class FdHandlers(Watcher):
    """A reader and a writer of one descriptor: handles that are called again and again, or waiters that end.

    A waiter is a future. Waits for reading of a socket object that can be recognised stay in the kernel's table as
    edge-triggered between one wait and the next: whoever waits has just seen that there was nothing, so the next edge is
    his. Whether the entry is still that of the file which has the number now is asked by an ADD, which fails then and is
    cheaper than a change. All other waits are one-shot and leave a disarmed entry behind, so the next wait is one MOD;
    when the descriptor was closed meanwhile the MOD fails and becomes an ADD. An edge that nobody waits for may be one
    that came before its receive; two in a row mean that nobody reads, and end it. A number under which another file was
    found (dup2) has no standing waits any more: the first file may come back, and with it an entry of the past.
    """

    cdef int arm(self, object owner) except -1:
        """Make the kernel's interest what is wanted, which must be something."""
        cdef uint32_t events = 0
        self.edge_registration_owner = None
        if self.reader is not None or self.read_waiter is not None:
            events |= c.EPOLLIN
        if self.writer is not None or self.write_waiter is not None:
            events |= c.EPOLLOUT
        self.armed_oneshot = self.read_waiter is not None or self.write_waiter is not None
        if self.armed_oneshot:
            if owner is not None and events == c.EPOLLIN and self.reader is None:
                events |= c.EPOLLET
                self.armed_oneshot = False
            else:
                owner = None
                events |= c.EPOLLONESHOT
        else:
            owner = None
        if self.engine.poller.find(self.fd) is self:
            self.engine.poller.modify(self.fd, events)
        else:
            self.engine.poller.add(self.fd, events, self)
        self.edge_registration_owner = owner
        return 0

    cdef int rearm_remaining(self) except -1:
        """The same for what is left when one side has ended; when the kernel refuses, those who wait are told.

        Who has ended, or is being woken, has no part in that failure.
        """
        try:
            self.arm(None)
        except Exception as error:
            self.on_registration_lost(error)
        return 0

    cdef int on_registration_lost(self, object error) except -1:
        """Nothing will come any more: waits end with `error`, reader and writer are dropped.

        That is reported for them unless the program has closed the descriptor itself: then nobody is called any more
        in asyncio either, and nobody is told.
        """
        cdef object read_waiter, write_waiter
        cdef Handle reader, writer
        cdef bint closed = isinstance(error, OSError) and error.errno in (c.EBADF, c.ENOENT, c.EPERM)
        read_waiter, self.read_waiter = self.read_waiter, None
        write_waiter, self.write_waiter = self.write_waiter, None
        reader, self.reader = self.reader, None
        writer, self.writer = self.writer, None
        self.edge_registration_owner = None
        self.armed_oneshot = False
        if self.engine.poller.find(self.fd) is self:
            self.engine.poller.remove(self.fd)
        # Events that were reported already may be about to call them.
        if reader is not None:
            reader.cancel()
            self.engine._handler_dropped(self.fd, False)
        if writer is not None:
            writer.cancel()
            self.engine._handler_dropped(self.fd, True)
        if read_waiter is not None and not read_waiter.done():
            read_waiter.set_exception(error)
        if write_waiter is not None and not write_waiter.done():
            write_waiter.set_exception(type(error)(*error.args))
        if not closed and (reader is not None or writer is not None):
            self.engine._watcher_failed(error, self.fd)
        return 0

    cdef bint has_handlers(self) noexcept:
        return (
            self.reader is not None
            or self.writer is not None
            or self.read_waiter is not None
            or self.write_waiter is not None
        )

    cdef int on_events(self, uint32_t events) except -1:
        cdef bint once = self.armed_oneshot
        cdef object read_waiter = None
        cdef object write_waiter = None
        cdef Handle reader = None
        cdef Handle writer = None
        # Hang-ups and errors wake both sides: each learns by its own call what happened.
        if events & ~<uint32_t>c.EPOLLOUT:
            reader = self.reader
            read_waiter = self.read_waiter
            self.read_waiter = None
        if self.edge_registration_owner is not None:
            if read_waiter is not None:
                return self.engine.set_waiter_result(read_waiter)
            self.unclaimed_edges += 1
            if self.unclaimed_edges > 1:
                self.edge_registration_owner = None
                self.engine.poller.remove(self.fd)
            return 0
        if events & ~<uint32_t>c.EPOLLIN:
            writer = self.writer
            write_waiter = self.write_waiter
            self.write_waiter = None
        if once:
            if self.has_handlers():
                self.rearm_remaining()
        elif not self.has_handlers():
            self.engine.poller.remove(self.fd)
        if read_waiter is not None:
            self.engine.set_waiter_result(read_waiter)
        if write_waiter is not None:
            self.engine.set_waiter_result(write_waiter)
        if reader is not None:
            self.engine.run_io_handle(reader)
        # The reader's callback may have cancelled the writer; then this does nothing.
        if writer is not None:
            self.engine.run_io_handle(writer)
        return 0


cdef void drop_flushes(Ring *ring) noexcept:
    """Let go of watchers that wanted to be called."""
    cdef PyObject *item = ring_pop(ring)
    while item != NULL:
        Py_DECREF(<object>item)
        item = ring_pop(ring)


cdef int drop_flushes_in_child(Ring *ring) except -1:
    """In the child of a fork: the same, and nothing of theirs is sent here."""
    cdef PyObject *item = ring_pop(ring)
    cdef Watcher watcher
    while item != NULL:
        watcher = <Watcher>item
        Py_DECREF(watcher)
        watcher.on_fork_in_child()
        item = ring_pop(ring)
    return 0


cdef void release_all(Ring *ring) noexcept:
    """Let go of handles and of what they hold, which runs destructors."""
    cdef PyObject *item = ring_pop(ring)
    while item != NULL:
        (<Handle>item).release()
        Py_DECREF(<object>item)
        item = ring_pop(ring)


cdef int gc_track_one(PyObject *handle, void *_context) noexcept:
    gc_track(handle)
    return 0


# What the collector must not empty: the fields are used by every method, and all of them have an end of their own.
@cython.no_gc_clear
cdef class Engine:
    """Runs callbacks, timers and descriptor watchers on one thread."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        cdef WakeupWatcher doorbell
        ring_init(&self.ready, 1024)
        ring_init(&self.due, 64)
        ring_init(&self.flush_after_iteration, 64)
        ring_init(&self.flush_after_callback, 64)
        self.poller = Poller()
        self.timers = TimerHeap()
        self.inbox = Inbox()
        self.receive_pool = ReceivePool()
        doorbell = WakeupWatcher()
        doorbell.fd = self.inbox.wake_fd
        self.poller.add(doorbell.fd, c.EPOLLIN, doorbell)
        self.custom_clock = type(self).time is not Engine.time
        self.slow = deque(maxlen=SLOW_LOG_SIZE)
        # asyncio's 0.1 seconds.
        self.slow_ns = 100000000
        self.in_live_count = True
        count_created(KIND_ENGINE)

    def __dealloc__(self) -> None:
        # The collector may have emptied the object fields by now; only C fields can be asked.
        if self.in_live_count:
            count_destroyed(KIND_ENGINE)
        if self.ready.items != NULL:
            ring_free(&self.ready)
        if self.due.items != NULL:
            ring_free(&self.due)
        if self.flush_after_iteration.items != NULL:
            ring_free(&self.flush_after_iteration)
        if self.flush_after_callback.items != NULL:
            ring_free(&self.flush_after_callback)
        PyMem_RawFree(self.scratch)

    # --- callbacks ------------------------------------------------------------------------------------------------

    cdef int check_open(self) except -1:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        return 0

    cdef int push_handle(self, Handle handle) except -1:
        if self.inbox.items.count:
            self.inbox.drain(&self.ready)
        ring_push(&self.ready, <PyObject *>handle)
        Py_INCREF(handle)
        return 0

    cdef Handle call_soon_c(self, object callback, tuple args, object context):
        """`call_soon` for C callers."""
        cdef Handle handle
        self.check_open()
        handle = new_handle(self, callback, args, context)
        if self.running:
            gc_untrack(handle)
        self.push_handle(handle)
        if self.debug:
            self._handle_created(handle)
        return handle

    cdef TimerHandle call_later_ns(self, int64_t delay_ns, object callback, tuple args):
        """`call_later` for C callers, in nanoseconds."""
        cdef int64_t when = self.clock() + delay_ns
        cdef TimerHandle handle = new_timer(self, self.timers, when, seconds_of(when), callback, args, None)
        if self.running:
            gc_untrack(handle)
        return handle

    def call_soon(self, callback: object, *args: object, context: object = None) -> Handle:
        """Call ``callback(*args)`` in the next turn, inside `context` or a copy of the current one."""
        cdef Handle handle
        if self.closed:
            self.check_open()
        if self.debug:
            self._check_call(callback, "call_soon", False)
        handle = new_handle(self, callback, args, context)
        if self.inbox.items.count:
            # What was put by call_soon_threadsafe earlier runs earlier.
            self.inbox.drain(&self.ready)
        if self.running:
            gc_untrack(handle)
        ring_push(&self.ready, <PyObject *>handle)
        Py_INCREF(handle)
        if self.debug:
            self._handle_created(handle)
        return handle

    def call_soon_threadsafe(self, callback: object, *args: object, context: object = None) -> Handle:
        """Do the same from any thread, waking the loop when it sleeps."""
        cdef Handle handle
        if self.closed:
            self.check_open()
        if self.debug:
            self._check_call(callback, "call_soon_threadsafe", True)
        if self.threadsafe_handles:
            handle = new_threadsafe(self, callback, args, context)
        else:
            handle = new_handle(self, callback, args, context)
        if self.debug:
            self._handle_created(handle)
        self.inbox.put(handle)
        return handle

    def call_later(self, delay: object, callback: object, *args: object, context: object = None) -> TimerHandle:
        """Call ``callback(*args)`` after `delay` seconds, never earlier; equal deadlines keep their order."""
        if delay is None:
            raise TypeError("delay must not be None")
        if type(delay) is not float and type(delay) is not int:
            # As asyncio, which adds it to the time: a Decimal is refused, a Fraction is not. Annotated as an object,
            # since Cython would make a C double of a float before anybody could look.
            delay = 0.0 + delay
        return self.call_at_c(seconds_of(self.clock()) + <double>delay, callback, args, context)

    def call_at(self, when: float, callback: object, *args: object, context: object = None) -> TimerHandle:
        """Call ``callback(*args)`` when ``loop.time()`` has reached `when` seconds."""
        if when is None:
            raise TypeError("when cannot be None")
        return self.call_at_c(when, callback, args, context)

    cdef TimerHandle call_at_c(self, double seconds, object callback, tuple args, object context):
        cdef TimerHandle handle
        if self.closed:
            self.check_open()
        if self.debug:
            self._check_call(callback, "call_at", False)
        handle = new_timer(self, self.timers, deadline_ns(seconds), seconds, callback, args, context)
        if self.running:
            gc_untrack(handle)
        if self.debug:
            self._handle_created(handle)
        return handle

    def time(self) -> float:
        """Return the monotonic clock in seconds."""
        return seconds_of(c.clock_ns(c.CLOCK_MONOTONIC))

    cdef inline int64_t clock(self) except? -1:
        """Now in nanoseconds, by the clock of `time`."""
        if self.custom_clock:
            return deadline_ns(self.time())
        return c.clock_ns(c.CLOCK_MONOTONIC)

    def __setattr__(self, name: str, value: object) -> None:
        """A `time` put in the place of ours, as tests of programs do, is the clock of the timers too."""
        if name == "time":
            self.custom_clock = True
        PyObject_GenericSetAttr(self, name, value)

    def __delattr__(self, name: str) -> None:
        if name == "time":
            self.custom_clock = type(self).time is not Engine.time
        PyObject_GenericSetAttr(self, name, <object>NULL)

    cdef int request_flush(self, Watcher watcher) except -1:
        ring_push(&self.flush_after_callback if self.in_callback else &self.flush_after_iteration, <PyObject *>watcher)
        Py_INCREF(watcher)
        return 0

    cdef uint8_t *receive_buffer(self) except NULL:
        """The buffer of `SCRATCH_SIZE` bytes into which everything is received first."""
        if self.scratch == NULL:
            self.scratch = <uint8_t *>PyMem_RawMalloc(SCRATCH_SIZE)
            if self.scratch == NULL:
                PyErr_NoMemory()
        return self.scratch

    # --- the turn -------------------------------------------------------------------------------------------------

    cdef int run_iteration(self) except -1:
        cdef int64_t now = self.clock()
        if now - self.iteration_start >= self.slow_ns:
            self.check_slow_iteration(now)
        elif self.slow_watch and now >= self.slow_watch_until:
            self.slow_watch = False
            self.time_each_callback = self.debug
        if other_loops_awake() and now >= self.gil_yield_at:
            if yield_gil():
                self.gil_hold_ns = SKIP_NS
            else:
                # They are in calls that need no GIL.
                self.gil_hold_ns = min(2 * self.gil_hold_ns + SKIP_NS, KEEP_GIL_NS)
            now = self.clock()
            self.gil_yield_at = now + self.gil_hold_ns
        self.last_callback = None
        self.turn += 1
        self.inbox.drain(&self.ready)
        # Who asked again while the last turn ended waits in `flush_after_iteration`, and must not wait for an event.
        if self.ready.count or self.due.count or self.flush_after_iteration.count:
            if (
                self.polls_skipped < SKIP_TURNS
                and now - self.last_poll < SKIP_NS
                # What was sent or closed may be news for another descriptor of this process.
                and self.bytes_sent == self.bytes_sent_at_poll
                and not self.closed_since_poll
                # What is registered in a turn is looked at in the next one.
                and not self.poller.interest_changed
            ):
                self.polls_skipped += 1
            else:
                self.polls_skipped = 0
                self.last_poll = now
                self.bytes_sent_at_poll = self.bytes_sent
                self.closed_since_poll = False
                self.poller.poll(0)
        else:
            self.polls_skipped = 0
            self.bytes_sent_at_poll = self.bytes_sent
            self.closed_since_poll = False
            now = self.sleep(now)
        self.iteration_start = now
        self.callbacks_before = self.callbacks_run
        self.events_before = self.poller.events_seen
        if self.timers.length:
            self.expire(now)
        if self.ready.count:
            self.run_handles(&self.ready)
        if self.poller.batch_next < self.poller.batch_length:
            self.deliver()
        if self.due.count:
            self.run_handles(&self.due)
        if self.flush_after_iteration.count:
            self.run_flushes(&self.flush_after_iteration)
        return 0

    cdef int expire(self, int64_t now) except -1:
        """Take due timers out of the heap, in the order of their deadlines."""
        while self.timers.length and self.timers.entries[0].when <= now:
            if self.due.count > self.due.mask:
                # Before the timer leaves the heap: it must not be lost when there is no memory.
                ring_grow(&self.due)
            ring_push(&self.due, self.timers.pop())
            self.timers_fired += 1
        return 0

    cdef int64_t sleep(self, int64_t now) except -1:
        """Wait for descriptors, other threads or the next timer; returns the time after it."""
        cdef int64_t timeout = -1
        if self.timers.length:
            timeout = max(self.timers.entries[0].when - now, 0)
        if self.stop_requested or timeout == 0 or not self.inbox.prepare_sleep():
            self.poller.poll(0)
        else:
            try:
                self.poller.poll(timeout)
            finally:
                self.inbox.woke()
        self.inbox.drain(&self.ready)
        self.last_poll = self.clock()
        self.slept_ns += self.last_poll - now
        return self.last_poll

    cdef int deliver(self) except -1:
        """Dispatch the batch; the exception of one watcher does not cost the others their events."""
        cdef int64_t began, took
        self.poller.dispatch_paused = False
        while self.poller.batch_next < self.poller.batch_length and not self.poller.dispatch_paused:
            try:
                if not self.slow_watch:
                    self.poller.dispatch(ALL_EVENTS)
                    continue
                began = c.clock_ns(c.CLOCK_MONOTONIC)
                self.poller.dispatch(1)
                took = c.clock_ns(c.CLOCK_MONOTONIC) - began
                if took >= self.slow_ns:
                    self.note_slow(None, self.poller.last_fd(), took, True)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._watcher_failed(error, self.poller.last_fd())
        return 0

    cdef void defer_rest_of_batch(self) noexcept:
        """Let what was received be used while it is in the processor's cache: the rest of the batch comes next turn.

        Only when few callbacks wait, for a batch is as many turns then as it has such descriptors; and not in the last
        turn of a run, which is a whole one.
        """
        if 0 < self.ready.count <= FRESH_CALLBACKS and not self.stop_requested:
            self.poller.dispatch_paused = True

    cdef int run_handles(self, Ring *ring) except -1:
        """Run what is in `ring` now; what these callbacks add waits for the next turn."""
        cdef size_t left = ring.count
        cdef PyObject *item
        cdef Handle handle
        self.callbacks_run += left
        self.in_callback = True
        while left:
            left -= 1
            item = ring_pop(ring)
            if item == NULL:
                # The child of a fork in a callback has closed the loop, or run it.
                break
            handle = <Handle>item
            Py_DECREF(handle)
            if not sole_owner(item):
                gc_track(item)
            self.callback += 1
            if self.time_each_callback:
                self.run_timed(handle)
            else:
                if left == 0:
                    self.last_callback = handle.callback
                handle.run_once()
            if self.flush_after_callback.count:
                self.flush_after_callback_now()
        self.in_callback = False
        return 0

    cdef int run_io_handle(self, Handle handle) except -1:
        """Run the handle of a descriptor, which is kept unless its wait was for one time."""
        self.callbacks_run += 1
        # While only attentive, the event as a whole is timed.
        if self.debug and not self.slow_watch:
            return self.run_timed(handle)
        if self.debug:
            self._run_in_debug(handle)
            return 0
        return handle.run() if handle.keep else handle.run_once()

    cdef int run_timed(self, Handle handle) except -1:
        """Run one handle with a look at the clock before and after it."""
        cdef object source = handle.callback
        cdef int64_t began, took
        began = c.clock_ns(c.CLOCK_MONOTONIC)
        try:
            if self.debug:
                self._run_in_debug(handle)
            else:
                run_handle(handle)
        finally:
            took = c.clock_ns(c.CLOCK_MONOTONIC) - began
            if took >= self.slow_ns and source is not None:
                self.note_slow(source, -1, took, True)
        return 0

    cdef int check_slow_iteration(self, int64_t now) except -1:
        """The turn before this one was: name who was alone in it, and watch more closely from now on."""
        cdef unsigned long long callbacks = self.callbacks_run - self.callbacks_before
        cdef unsigned long long events = self.poller.events_seen - self.events_before
        cdef object source = self.last_callback
        if self.iteration_start == 0 or self.custom_clock:
            # The first turn of this run, or a clock that jumps as it likes.
            return 0
        if (now - self.iteration_start) // <int64_t>max(callbacks + events, <unsigned long long>1) < WORTH_NS:
            # Long because there was much to do.
            return 0
        if not self.time_each_callback and callbacks + events:
            if source is not None:
                self.note_slow(source, -1, now - self.iteration_start, callbacks == 1 and events == 0)
            else:
                # The callbacks, if any, were those of readers and writers.
                self.note_slow(None, self.poller.last_fd(), now - self.iteration_start, events == 1)
        self.slow_watch = self.time_each_callback = True
        self.slow_watch_until = now + ATTENTION_NS
        return 0

    cdef int note_slow(self, object source, int fd, int64_t took, bint exact) except -1:
        """Remember in words what took so long; `fd` stands for whoever has its events when `source` is None.

        The words come from code of the program, such as a ``__repr__``, whose failure must not end the run.
        """
        cdef Watcher watcher
        cdef FdHandlers descriptor
        cdef object words
        self.slow_count += 1
        if source is None:
            watcher = self.poller.find(fd)
            source = watcher
            if isinstance(watcher, Watch):
                source = (<Watch>watcher).callback
            elif isinstance(watcher, FdHandlers):
                descriptor = <FdHandlers>watcher
                source = descriptor.writer if descriptor.reader is None else descriptor.reader
                if source is not None:
                    source = (<Handle>source).callback
        try:
            words = self._describe_source(source, fd)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            words = f"{type(source).__name__} at descriptor {fd}, without a description: {type(error).__name__}"
        self.slow.append((words, took, exact))
        return 0

    cdef int flush_after_callback_now(self) except -1:
        """Call those who asked for it during the callback that has just returned; what they send leaves at once."""
        self.in_callback = False
        self.run_flushes(&self.flush_after_callback)
        self.in_callback = True
        return 0

    cdef int run_flushes(self, Ring *ring) except -1:
        """Call each that is in `ring` now, once; who asks again meanwhile is called with the next turn.

        What is flushed here may resume its protocol, which may write, and pause itself by marks of its own, each time
        that it is called: nothing but the count bounds that. Nobody is left over when the loop does not run, since
        then nobody asks: what is written leaves at once.
        """
        cdef size_t left = ring.count
        cdef PyObject *item
        cdef Watcher watcher
        while left:
            left -= 1
            item = ring_pop(ring)
            if item == NULL:
                # Such a call has forked: the ring was emptied before that, or is the child's.
                return 0
            watcher = <Watcher>item
            Py_DECREF(watcher)
            try:
                watcher.on_flush()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self._watcher_failed(error, -1)
        return 0

    def run(self) -> None:
        """Run turns until `stop` is called; one turn when it was called before.

        Raises:
            RuntimeError: the engine is closed or running already.
        """
        cdef int64_t now
        self.check_open()
        if self.running:
            raise RuntimeError("This event loop is already running")
        self.running = True
        self.poller.loop_started()
        self.gil_yield_at = 0
        # The first turn always looks at the descriptors, so that run after stop is one whole turn.
        self.polls_skipped = SKIP_TURNS
        self.iteration_start = 0
        self.run_began = c.clock_ns(c.CLOCK_MONOTONIC)
        try:
            while True:
                self.run_iteration()
                if self.stop_requested or self.closed:
                    # Closed in the child of a fork: only there, a callback may close the loop.
                    break
        finally:
            now = c.clock_ns(c.CLOCK_MONOTONIC)
            self.ran_ns += now - self.run_began
            self.run_began = 0
            self.stop_requested = False
            self.poller.loop_stopped()
            self.running = False
            # SystemExit and its like leave in the middle of a callback; what it and the turn wrote still leaves.
            self.in_callback = False
            # First, because what leaves may raise as well.
            self.gc_track_pending()
            self.run_flushes(&self.flush_after_callback)
            self.run_flushes(&self.flush_after_iteration)
            if now - self.iteration_start >= self.slow_ns:
                self.check_slow_iteration(now)
            self.last_callback = None

    cdef void gc_track_pending(self) noexcept:
        """Show the collector what was hidden from it while this ran."""
        cdef Py_ssize_t i
        ring_visit(&self.ready, gc_track_one, NULL)
        ring_visit(&self.due, gc_track_one, NULL)
        if self.gc_tracked_timers == self.timers.next_order:
            return
        for i in range(self.timers.length):
            if self.timers.entries[i].order >= self.gc_tracked_timers:
                gc_track(self.timers.entries[i].owner)
        self.gc_tracked_timers = self.timers.next_order

    def stop(self) -> None:
        """End `run` with the current turn."""
        self.stop_requested = True

    def _dispose(self) -> None:
        """Drop everything and close the descriptors; the engine cannot be used again."""
        if self.running:
            raise RuntimeError("Cannot close a running event loop")
        if not self.closed:
            self.notify_closing()
            self.drop_all()

    cdef int notify_closing(self) except -1:
        """Tell those who are registered; what goes wrong with one is reported."""
        cdef int fd = 0
        cdef Watcher watcher
        while fd < self.poller.slot_count:
            watcher = self.poller.find(fd)
            try:
                if watcher is not None:
                    watcher.on_closing()
            except Exception as error:
                self._watcher_failed(error, fd)
            fd += 1
        return 0

    cdef void drop_all(self) noexcept:
        """What `_dispose` does, and the collector where nobody closed the engine."""
        cdef PyObject *item
        # First: what is dropped runs destructors, which may ask for more.
        self.closed = True
        self.inbox.closed = True
        release_all(&self.inbox.items)
        self.inbox.close()
        while self.timers.length:
            item = self.timers.pop()
            (<Handle>item).release()
            Py_DECREF(<object>item)
        release_all(&self.ready)
        release_all(&self.due)
        drop_flushes(&self.flush_after_iteration)
        drop_flushes(&self.flush_after_callback)
        self.poller.dispose()
        PyMem_RawFree(self.scratch)
        self.scratch = NULL
        self.receive_pool.clear()
        self.last_callback = None

    def _reinit_after_fork(self) -> None:
        """In the child of a fork: share nothing with the parent's loop, and count as not running."""
        if self.closed:
            return
        was_running = self.running
        unwatched: list = []
        self.running = False
        self.in_callback = False
        self.gc_track_pending()
        try:
            self.inbox.reinit_after_fork()
        finally:
            try:
                unwatched = self.poller.reinit_after_fork()
            finally:
                # What callbacks have written so far is the parent's to send, also what the kernel did not take.
                drop_flushes_in_child(&self.flush_after_callback)
                drop_flushes_in_child(&self.flush_after_iteration)
                if was_running:
                    self.poller.notify_forked()
        self.notify_registrations_lost(unwatched)

    cdef int notify_registrations_lost(self, list unwatched) except -1:
        """Tell those whose descriptors the kernel does not watch in this child; without a doorbell there is no loop."""
        cdef Watcher watcher
        cdef object error
        for watcher, error in unwatched:
            if isinstance(watcher, WakeupWatcher):
                self.poller.close_epoll_fd()
                raise error
        for watcher, error in unwatched:
            try:
                watcher.on_registration_lost(error)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as failure:
                self._watcher_failed(failure, (<Watch>watcher).fd if isinstance(watcher, Watch) else -1)
        return 0

    def _flush_before_fork(self) -> None:
        """Before a fork by a callback of this loop: what was written so far leaves, and both sides have nothing held."""
        self.run_flushes(&self.flush_after_callback)
        self.run_flushes(&self.flush_after_iteration)

    # --- descriptors ----------------------------------------------------------------------------------------------

    cdef FdHandlers descriptor(self, int fd, bint writing):
        """The Descriptor of `fd`, made when there is none. Raises RuntimeError when a transport owns the number."""
        cdef Watcher watcher = self.poller.find(fd)
        cdef FdHandlers found
        if isinstance(watcher, FdHandlers):
            return <FdHandlers>watcher
        if watcher is not None and (writing or not watcher.yield_to_reader()):
            if self.poller.owner_of(fd) is watcher or not self.poller.kernel_lost_registration(fd):
                kind = "" if isinstance(watcher, Watch) else "transport "
                raise RuntimeError(f"File descriptor {fd!r} is used by {kind}{watcher!r}")
            # Closed without being unwatched; the number belongs to somebody else now.
            self.poller.remove(fd)
        self.check_not_owned(fd)
        found = FdHandlers.__new__(FdHandlers)
        found.engine = self
        found.fd = fd
        return found

    cdef int check_not_owned(self, int fd) except -1:
        """Refuse the descriptor of a transport that is paused, and so not in the poller."""
        cdef Watcher owner = self.poller.owner_of(fd)
        if owner is not None and not (<object>owner).is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {owner!r}")
        return 0

    def _set_handler(self, fd: int, writing: bool, callback: object, args: tuple) -> Handle:
        """Set reader or writer of `fd`, cancelling what was there."""
        cdef FdHandlers descriptor
        cdef Handle handle, previous
        cdef int number = fd
        self.check_open()
        descriptor = self.descriptor(number, writing)
        handle = new_handle(self, callback, args, None)
        handle.keep = True
        if self.debug:
            self._handle_created(handle)
        if writing:
            previous, descriptor.writer = descriptor.writer, handle
            descriptor.write_waiter = None
        else:
            previous, descriptor.reader = descriptor.reader, handle
            descriptor.read_waiter = None
        if previous is not None:
            previous.cancel()
        # What the poll has seen already was for whoever was registered then.
        self.poller.invalidate_pending_events(number)
        try:
            descriptor.arm(None)
        except BaseException:
            self.clear_direction(descriptor, writing)
            self._handler_dropped(number, writing)
            raise
        return handle

    def _clear_handler(self, fd: int, writing: bool) -> bool:
        cdef Watcher watcher
        cdef FdHandlers descriptor
        if self.closed:
            return False
        watcher = self.poller.find(fd)
        if not isinstance(watcher, FdHandlers):
            if watcher is not None:
                if not writing and watcher.yield_to_reader():
                    return True
                raise RuntimeError(f"File descriptor {fd!r} is used by transport {watcher!r}")
            self.check_not_owned(fd)
            return False
        descriptor = <FdHandlers>watcher
        return self.clear_direction(descriptor, writing)

    cdef bint clear_direction(self, FdHandlers descriptor, bint writing) except -1:
        """Let go of one side; False when there was nothing."""
        cdef Handle handle
        cdef object waiter
        cdef bint found
        if writing:
            handle, descriptor.writer = descriptor.writer, None
            waiter, descriptor.write_waiter = descriptor.write_waiter, None
        else:
            handle, descriptor.reader = descriptor.reader, None
            waiter, descriptor.read_waiter = descriptor.read_waiter, None
        if handle is None and waiter is None:
            return False
        # A wait that was given up is nobody's any more.
        found = handle is not None or not waiter.done()
        if handle is not None:
            handle.cancel()
        # A kernel that still has the one-shot interest of the side that is gone wakes us once and finds nobody.
        descriptor.armed_oneshot = descriptor.armed_oneshot and descriptor.has_handlers()
        if descriptor.has_handlers():
            descriptor.rearm_remaining()
        else:
            descriptor.edge_registration_owner = None
            self.poller.remove(descriptor.fd)
        return found

    cdef int wait_ready(self, int fd, bint writing, object waiter, object owner) except -1:
        """Wake `waiter`, a future, when `fd` is ready: in place of whoever waited before, until it is ready or closed.

        A waiter that was given up may be left behind: it is skipped. `owner` is a weak reference to the object that
        owns `fd`, or None; a wait for reading that finds the same owner as the last one changes nothing in the kernel.
        """
        cdef FdHandlers descriptor = self.descriptor(fd, writing)
        cdef Handle previous
        if writing:
            previous, descriptor.writer = descriptor.writer, None
            descriptor.write_waiter = waiter
        else:
            previous, descriptor.reader = descriptor.reader, None
            descriptor.read_waiter = waiter
            descriptor.unclaimed_edges = 0
            if descriptor.fd_was_reused:
                owner = None
            elif owner is not None and descriptor.edge_registration_owner is owner:
                if self.poller.kernel_has_registration(fd):
                    return 0
                descriptor.fd_was_reused = True
                owner = None
        if previous is not None:
            previous.cancel()
        try:
            descriptor.arm(owner)
        except BaseException:
            self.clear_direction(descriptor, writing)
            raise
        return 0

    cdef int wake_waiters(self, int fd) except -1:
        """Wake those who wait for `fd` because its owner closes it; the call that they try then tells them."""
        cdef Watcher watcher = self.poller.find(fd)
        cdef FdHandlers descriptor
        cdef object reading, writing
        if not isinstance(watcher, FdHandlers):
            return 0
        descriptor = <FdHandlers>watcher
        reading, descriptor.read_waiter = descriptor.read_waiter, None
        writing, descriptor.write_waiter = descriptor.write_waiter, None
        if not descriptor.has_handlers():
            descriptor.edge_registration_owner = None
            self.poller.remove(fd)
        if reading is not None:
            self.set_waiter_result(reading)
        if writing is not None:
            self.set_waiter_result(writing)
        return 0

    cdef int set_waiter_result(self, object waiter) except -1:
        """Finish what waited for a descriptor, unless it was given up."""
        if not waiter.done():
            waiter.set_result(None)
        return 0

    def _wait_ready(self, fd: int, writing: bool, waiter: object, owner: object) -> None:
        self.wait_ready(fd, writing, waiter, owner)

    def watch(self, fd: int, events: int, callback: object, mode: int = 0) -> Watch:
        """Call ``callback(events)`` from the poll itself, in the context of this call; see `Poller.watch`.

        Replaces an earlier watch of the same descriptor. An exception of the callback goes to the exception handler;
        the watch stays.

        Raises:
            RuntimeError: a transport, or a reader or writer, uses the descriptor.
        """
        cdef int number = fd
        self.check_open()
        self.check_watchable(number)
        return self.poller.register_watch(number, events, callback, mode, PyContext_CopyCurrent())

    def unwatch(self, target: object) -> bool:
        """Undo `watch`, by descriptor or by what it returned; False when it was not watched.

        Raises:
            RuntimeError: a transport, or a reader or writer, uses the descriptor.
        """
        if not isinstance(target, Watch):
            self.check_watchable(target)
        return self.poller.unwatch(target)

    cdef int check_watchable(self, int fd) except -1:
        """Refuse a descriptor whose events go elsewhere, unless it was closed since and its number is a new one's."""
        cdef Watcher watcher = self.poller.find(fd)
        if watcher is None:
            return self.check_not_owned(fd)
        if isinstance(watcher, Watch):
            return 0
        if isinstance(watcher, FdHandlers) and not (<FdHandlers>watcher).has_handlers():
            # Left standing for the next wait of a sock_ method; whoever comes now has more use for it.
            (<FdHandlers>watcher).edge_registration_owner = None
            self.poller.remove(fd)
            return 0
        if self.poller.kernel_lost_registration(fd):
            self.poller.remove(fd)
            # A transport keeps a number that is not its own any more; what it asks for here is refused.
            self.poller.disown(fd, watcher)
            return 0
        if isinstance(watcher, FdHandlers):
            raise RuntimeError(f"File descriptor {fd!r} is used by a reader or writer")
        raise RuntimeError(f"File descriptor {fd!r} is used by transport {watcher!r}")

    # --- hooks and figures ----------------------------------------------------------------------------------------

    def _callback_failed(self, handle: Handle, callback: object, args: tuple, error: BaseException) -> None:
        sys.unraisablehook(UnraisableArgs(error, f"Exception in callback {callback!r}", handle))

    def _handler_dropped(self, fd: int, writing: bool) -> None:
        """Called when the kernel's refusal has ended the reader or writer of `fd`."""

    def _watcher_failed(self, error: BaseException, fd: int) -> None:
        sys.unraisablehook(UnraisableArgs(error, f"Exception in the watcher of descriptor {fd}", self))

    def _check_call(self, callback: object, method: str, any_thread: bool) -> None:
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")

    def _handle_created(self, handle: Handle) -> None:
        """Called for each new handle in debug mode."""

    def _run_in_debug(self, handle: Handle) -> None:
        run_handle(handle)

    def _check_open(self) -> None:
        self.check_open()

    def _set_engine_debug(self, enabled: bool) -> None:
        self.debug = enabled
        self.time_each_callback = self.debug or self.slow_watch

    def _use_threadsafe_handles(self) -> None:
        """From now on, handles of `call_soon_threadsafe` wait for their callback when another thread cancels them."""
        self.threadsafe_handles = True

    def _set_slow(self, seconds: float) -> None:
        """Set from how many seconds on a callback counts as slow."""
        # A century is as good as never, and fits.
        self.slow_ns = <int64_t>(min(max(<double>seconds, 0.0), 3e9) * 1e9)

    def _describe_callback(self, callback: object, args: tuple) -> str:
        return repr(callback)

    def _describe_source(self, source: object, fd: int) -> str:
        """Say in words what `source` is; None when the owner of descriptor `fd` is gone by now."""
        return f"the former owner of descriptor {fd}" if source is None else repr(source)

    def raw_statistics(self) -> dict[str, object]:
        """Counts since the start and present depths; see `corenet.loop.statistics`."""
        cdef int64_t ran = self.ran_ns
        if self.run_began:
            ran += c.clock_ns(c.CLOCK_MONOTONIC) - self.run_began
        return {
            "iterations": self.turn,
            "polls": self.poller.waits,
            "poll_seconds": self.slept_ns / 1e9,
            "run_seconds": (ran - self.slept_ns) / 1e9,
            "callbacks": self.callbacks_run,
            "ready": self.ready.count + self.due.count,
            "timers": self.timers.length,
            "timers_fired": self.timers_fired,
            # Without the doorbell of other threads, which is ours.
            "descriptors": max(self.poller.registered - 1, 0),
            "events": self.poller.events_seen,
            "stale_events": self.poller.events_stale,
            "wakeups": self.inbox.wakeups,
            "bytes_received": self.bytes_received,
            "bytes_sent": self.bytes_sent,
            "slow_count": self.slow_count,
            "slow": tuple(self.slow),
        }


class UnraisableArgs:
    """What `sys.unraisablehook` wants to know about an exception that nobody can catch."""

    def __init__(self, error: BaseException, message: str, source: object) -> None:
        self.exc_type = type(error)
        self.exc_value = error
        self.exc_traceback = error.__traceback__
        self.err_msg = message
        self.object = source


def run_handle(handle: Handle) -> None:
    """Run `handle` as the engine does: those of descriptors are kept, all others let go of their callback."""
    if handle.keep:
        handle.run()
    else:
        handle.run_once()


cdef int traverse_pending(PyObject *self, VisitProc visit, void *context) noexcept:
    """What the engine holds in C: it alone owns what lies in its inbox and among its timers."""
    cdef Py_ssize_t i
    cdef int stop
    # Half-made by a `__cinit__` that failed, it may have neither of the two; a ring without memory is an empty one.
    if <object>(<Engine>self).inbox is not None:
        stop = ring_visit(&(<Engine>self).inbox.items, visit, context)
        if stop:
            return stop
    if <object>(<Engine>self).timers is not None:
        for i in range((<Engine>self).timers.length):
            stop = visit((<Engine>self).timers.entries[i].owner, context)
            if stop:
                return stop
    return (
        ring_visit(&(<Engine>self).ready, visit, context)
        or ring_visit(&(<Engine>self).due, visit, context)
        or ring_visit(&(<Engine>self).flush_after_iteration, visit, context)
        or ring_visit(&(<Engine>self).flush_after_callback, visit, context)
    )


cdef void clear_pending(PyObject *self) noexcept:
    # Half-made: then it holds nothing in C either.
    if <object>(<Engine>self).receive_pool is not None and not (<Engine>self).closed:
        (<Engine>self).drop_all()


install_gc_hooks(Engine, traverse_pending, clear_pending)
