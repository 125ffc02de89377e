"""The scheduler runs iterations until `stop` is called: poll, ready callbacks, descriptor events, due timers, flushes.

Order: as in asyncio, first the callbacks that were ready before the poll, then descriptor events in the order of the
batch, then the timers that were due when the poll returned. What these schedule runs in the next iteration. A reader
that is removed during a batch is not called. A batch may be spread over several iterations, as if the kernel had
reported fewer events: when a transport has received much data, the callbacks that this made ready run before the rest
of the batch, while the data is in the CPU cache.

Poll: while callbacks are ready, the poll is skipped for at most `SKIP_ITERATIONS` iterations and `SKIP_NS` nanoseconds,
because a system call costs more than a short callback. It is not skipped when something was sent or closed since the
last poll, because both ends of a connection may be in this process; nor when a descriptor was registered, which is
polled in the next iteration so that callbacks have asyncio's order. The GIL is released only when the wait may sleep,
and from time to time while other loops are awake.

Slow callbacks are detected without a clock of their own, because an iteration begins by reading the clock anyway. When
an iteration had only one callback, that one was slow. Otherwise each callback is timed for a while, so that it is found
when it is slow again.

Which watchers exist, and what they do with their events, is not known here: `corenet.core.engine` registers readers,
writers and waiters, `corenet.transports` the rest. Nothing depends on asyncio: `corenet.loop` overrides the hooks whose
names begin with an underscore.
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
from corenet.core.libc cimport sole_owner
from corenet.core.timers cimport TimerHeap

from corenet.limits import (
    GIL_HOLD_NANOSECONDS,
    POLL_SKIP_NANOSECONDS,
    POLL_SKIP_ITERATIONS,
    SLOW_WATCH_SECONDS,
    SLOW_LOG_SIZE,
    SLOW_MIN_AVERAGE_NANOSECONDS,
    RECEIVE_BURST_CALLBACKS,
    RECEIVE_SIZE,
)

RECEIVE_BUFFER_SIZE = RECEIVE_SIZE
cdef int SKIP_ITERATIONS = POLL_SKIP_ITERATIONS
cdef int64_t SKIP_NS = POLL_SKIP_NANOSECONDS
cdef int64_t GIL_HOLD_NS = GIL_HOLD_NANOSECONDS
cdef size_t BURST_CALLBACKS = RECEIVE_BURST_CALLBACKS
cdef int64_t MIN_AVERAGE_NS = SLOW_MIN_AVERAGE_NANOSECONDS
cdef int64_t SLOW_WATCH_NS = SLOW_WATCH_SECONDS * <int64_t>1000000000

cdef enum:
    # More events than a batch holds.
    ALL_EVENTS = 1 << 30


@cython.final
cdef class WakeupWatcher(Watcher):
    """Resets the eventfd of the inbox by reading it; the items are taken at the start of the next iteration."""

    cdef int fd

    cdef int on_events(self, uint32_t events) except -1:
        cdef uint64_t value
        c.c_read(self.fd, &value, sizeof(value))
        return 0


cdef void drop_flushes(Ring *ring) noexcept:
    """Drop the watchers of `ring` without calling them."""
    cdef PyObject *item = ring_pop(ring)
    while item != NULL:
        Py_DECREF(<object>item)
        item = ring_pop(ring)


cdef int drop_flushes_in_child(Ring *ring) except -1:
    """In the child of a fork: drop the watchers and call `on_fork_in_child`, which drops their unsent data."""
    cdef PyObject *item = ring_pop(ring)
    cdef Watcher watcher
    while item != NULL:
        watcher = <Watcher>item
        Py_DECREF(watcher)
        watcher.on_fork_in_child()
        item = ring_pop(ring)
    return 0


cdef void release_all(Ring *ring) noexcept:
    """Drop the handles of `ring` and release their callbacks, which may run destructors."""
    cdef PyObject *item = ring_pop(ring)
    while item != NULL:
        (<Handle>item).release()
        Py_DECREF(<object>item)
        item = ring_pop(ring)


cdef int gc_track_one(PyObject *handle, void *_context) noexcept:
    gc_track(handle)
    return 0


# no_gc_clear: every method uses the fields. The collector clears only what `clear_pending` drops.
@cython.no_gc_clear
cdef class Scheduler:
    """Runs callbacks and timers, and dispatches the events of descriptors, on one thread."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        cdef WakeupWatcher wakeup
        # Sizes in items; the rings grow.
        ring_init(&self.ready, 1024)
        ring_init(&self.due, 64)
        ring_init(&self.flush_after_iteration, 64)
        ring_init(&self.flush_after_callback, 64)
        self.poller = Poller()
        self.timers = TimerHeap()
        self.inbox = Inbox()
        self.receive_pool = ReceivePool()
        wakeup = WakeupWatcher()
        wakeup.fd = self.inbox.wake_fd
        self.poller.add(wakeup.fd, c.EPOLLIN, wakeup)
        self.custom_clock = type(self).time is not Scheduler.time
        self.slow = deque(maxlen=SLOW_LOG_SIZE)
        # asyncio's default, 0.1 seconds.
        self.slow_ns = 100000000
        self.in_live_count = True
        count_created(KIND_ENGINE)

    def __dealloc__(self) -> None:
        # The collector may have cleared the object fields; only C fields are valid here.
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
        """`call_soon` for C callers; `context` None means a copy of the current one."""
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
        """Call ``callback(*args)`` in the next iteration, inside `context` or a copy of the current one.

        Raises:
            RuntimeError: the loop is closed.
        """
        cdef Handle handle
        if self.closed:
            self.check_open()
        if self.debug:
            self._check_call(callback, "call_soon", False)
        handle = new_handle(self, callback, args, context)
        if self.inbox.items.count:
            # Earlier calls of call_soon_threadsafe run first.
            self.inbox.drain(&self.ready)
        if self.running:
            gc_untrack(handle)
        ring_push(&self.ready, <PyObject *>handle)
        Py_INCREF(handle)
        if self.debug:
            self._handle_created(handle)
        return handle

    def call_soon_threadsafe(self, callback: object, *args: object, context: object = None) -> Handle:
        """Like `call_soon`, from any thread; wakes the loop when it sleeps.

        Raises:
            RuntimeError: the loop is closed.
        """
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
        """Call ``callback(*args)`` after `delay` seconds, never earlier; equal deadlines keep their order.

        Raises:
            RuntimeError: the loop is closed.
            TypeError: `delay` is no number that can be added to a float.
        """
        if delay is None:
            raise TypeError("delay must not be None")
        # The annotation is `object`, because Cython would convert a `float` argument to a C double before these tests.
        if type(delay) is not float and type(delay) is not int:
            # As asyncio, which adds it to the time: a Decimal raises TypeError, a Fraction does not.
            delay = 0.0 + delay
        return self.call_at_c(seconds_of(self.clock()) + <double>delay, callback, args, context)

    def call_at(self, when: object, callback: object, *args: object, context: object = None) -> TimerHandle:
        """Call ``callback(*args)`` when ``loop.time()`` has reached `when` seconds.

        Raises:
            RuntimeError: the loop is closed.
            TypeError: `when` is no number.
        """
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
        """Return the time of the monotonic clock in seconds."""
        return seconds_of(c.clock_ns(c.CLOCK_MONOTONIC))

    cdef inline int64_t clock(self) except? -1:
        """Return the time of `time` in nanoseconds."""
        if self.custom_clock:
            return deadline_ns(self.time())
        return c.clock_ns(c.CLOCK_MONOTONIC)

    def __setattr__(self, name: str, value: object) -> None:
        """A `time` that is set on the instance, as tests of programs do, is used for the timers, too."""
        if name == "time":
            self.custom_clock = True
        PyObject_GenericSetAttr(self, name, value)

    def __delattr__(self, name: str) -> None:
        if name == "time":
            self.custom_clock = type(self).time is not Scheduler.time
        PyObject_GenericSetAttr(self, name, <object>NULL)

    cdef int request_flush(self, Watcher watcher) except -1:
        ring_push(&self.flush_after_callback if self.in_callback else &self.flush_after_iteration, <PyObject *>watcher)
        Py_INCREF(watcher)
        return 0

    cdef uint8_t *receive_buffer(self) except NULL:
        """Return the buffer of `RECEIVE_BUFFER_SIZE` bytes that data is received into; allocate it at the first
        call."""
        if self.scratch == NULL:
            self.scratch = <uint8_t *>PyMem_RawMalloc(RECEIVE_BUFFER_SIZE)
            if self.scratch == NULL:
                PyErr_NoMemory()
        return self.scratch

    # --- one iteration --------------------------------------------------------------------------------------------

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
                # The other loops are in calls without the GIL: offer it less often.
                self.gil_hold_ns = min(2 * self.gil_hold_ns + SKIP_NS, GIL_HOLD_NS)
            now = self.clock()
            self.gil_yield_at = now + self.gil_hold_ns
        self.last_callback = None
        self.iteration += 1
        self.inbox.drain(&self.ready)
        # `flush_after_iteration` holds watchers that asked for a flush during the last flushes: do not sleep then.
        if self.ready.count or self.due.count or self.flush_after_iteration.count:
            if (
                self.polls_skipped < SKIP_ITERATIONS
                and now - self.last_poll < SKIP_NS
                # What was sent or closed may have made another descriptor of this process ready.
                and self.bytes_sent == self.bytes_sent_at_poll
                and not self.closed_since_poll
                # A new registration is polled in the next iteration.
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
        """Move due timers from the heap to `due`, in the order of their deadlines."""
        while self.timers.length and self.timers.entries[0].when <= now:
            if self.due.count > self.due.mask:
                # Before the timer leaves the heap, so that it is not lost when this raises MemoryError.
                ring_grow(&self.due)
            ring_push(&self.due, self.timers.pop())
            self.timers_fired += 1
        return 0

    cdef int64_t sleep(self, int64_t now) except -1:
        """Wait for descriptors, other threads or the next timer; return the time afterwards."""
        cdef int64_t timeout = -1
        if self.timers.length:
            timeout = max(self.timers.entries[0].when - now, 0)
        if self.stop_requested or timeout == 0 or not self.inbox.prepare_sleep():
            self.poller.poll(0)
        else:
            try:
                self.poller.poll(timeout)
            finally:
                self.inbox.end_sleep()
        self.inbox.drain(&self.ready)
        self.last_poll = self.clock()
        self.slept_ns += self.last_poll - now
        return self.last_poll

    cdef int deliver(self) except -1:
        """Dispatch the batch. An exception of one watcher is reported and the others still get their events."""
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
        """Dispatch the rest of the batch in the next iteration, so that received data is used while in the CPU cache.

        Only when few callbacks are ready, because each descriptor with much data then takes an iteration; and not
        in the last iteration of a run, which dispatches the whole batch.
        """
        if 0 < self.ready.count <= BURST_CALLBACKS and not self.stop_requested:
            self.poller.dispatch_paused = True

    cdef int run_handles(self, Ring *ring) except -1:
        """Run the handles that are in `ring` now; those that are added meanwhile run in the next iteration."""
        cdef size_t left = ring.count
        cdef PyObject *item
        cdef Handle handle
        self.callbacks_run += left
        self.in_callback = True
        while left:
            left -= 1
            item = ring_pop(ring)
            if item == NULL:
                # In the child of a fork, a callback has closed or run the loop.
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
        """Run the handle of a descriptor; it keeps its callback if `keep` is set."""
        self.callbacks_run += 1
        # During a slow watch, `deliver` times the whole event.
        if self.debug and not self.slow_watch:
            return self.run_timed(handle)
        if self.debug:
            self._run_in_debug(handle)
            return 0
        return handle.run() if handle.keep else handle.run_once()

    cdef int run_timed(self, Handle handle) except -1:
        """Run one handle and measure its time."""
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
        """The previous iteration was slow: record its last callback, and time each from now on."""
        cdef unsigned long long callbacks = self.callbacks_run - self.callbacks_before
        cdef unsigned long long events = self.poller.events_seen - self.events_before
        cdef object source = self.last_callback
        if self.iteration_start == 0 or self.custom_clock:
            # The first iteration of this run, or a custom clock, which may jump.
            return 0
        if (now - self.iteration_start) // <int64_t>max(callbacks + events, <unsigned long long>1) < MIN_AVERAGE_NS:
            # Long because it had many callbacks.
            return 0
        if not self.time_each_callback and callbacks + events:
            if source is not None:
                self.note_slow(source, -1, now - self.iteration_start, callbacks == 1 and events == 0)
            else:
                # Only descriptor events and callbacks of readers and writers.
                self.note_slow(None, self.poller.last_fd(), now - self.iteration_start, events == 1)
        self.slow_watch = self.time_each_callback = True
        self.slow_watch_until = now + SLOW_WATCH_NS
        return 0

    cdef int note_slow(self, object source, int fd, int64_t took, bint exact) except -1:
        """Record a description of the slow callback `source`; None means the handler of descriptor `fd`.

        The description may run code of the program, such as a ``__repr__``, whose exceptions must not end the run.
        """
        cdef Watcher watcher
        cdef object description
        self.slow_count += 1
        if source is None:
            watcher = self.poller.find(fd)
            if watcher is not None:
                source = watcher.callback_to_report()
        try:
            description = self._describe_source(source, fd)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            description = f"{type(source).__name__} at descriptor {fd}, without a description: {type(error).__name__}"
        self.slow.append((description, took, exact))
        return 0

    cdef int flush_after_callback_now(self) except -1:
        """Flush the watchers that asked for it during the callback that has just returned."""
        self.in_callback = False
        self.run_flushes(&self.flush_after_callback)
        self.in_callback = True
        return 0

    cdef int run_flushes(self, Ring *ring) except -1:
        """Flush each watcher that is in `ring` now once; requests made meanwhile are served in the next iteration.

        A flush may resume its protocol, which may write and be paused again, each time: only the count bounds that.
        When the loop does not run, no requests are made, because writes are sent at once.
        """
        cdef size_t left = ring.count
        cdef PyObject *item
        cdef Watcher watcher
        while left:
            left -= 1
            item = ring_pop(ring)
            if item == NULL:
                # A flush has forked: the ring was emptied before the fork or in the child.
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
        """Run iterations until `stop` is called; one iteration when it was called before.

        Raises:
            RuntimeError: the loop is closed or is already running.
        """
        cdef int64_t now
        self.check_open()
        if self.running:
            raise RuntimeError("This event loop is already running")
        self.running = True
        self.poller.loop_started()
        self.gil_yield_at = 0
        # The first iteration always polls, so that run after stop is one complete iteration.
        self.polls_skipped = SKIP_ITERATIONS
        self.iteration_start = 0
        self.run_began = c.clock_ns(c.CLOCK_MONOTONIC)
        try:
            while True:
                self.run_iteration()
                if self.stop_requested or self.closed:
                    # Closed: only in the child of a fork may a callback close the loop.
                    break
        finally:
            now = c.clock_ns(c.CLOCK_MONOTONIC)
            self.ran_ns += now - self.run_began
            self.run_began = 0
            self.stop_requested = False
            self.poller.loop_stopped()
            self.running = False
            # SystemExit and KeyboardInterrupt leave a callback early; what was written so far is still sent.
            self.in_callback = False
            # First, because the flushes may raise, too.
            self.gc_track_pending()
            self.run_flushes(&self.flush_after_callback)
            self.run_flushes(&self.flush_after_iteration)
            if now - self.iteration_start >= self.slow_ns:
                self.check_slow_iteration(now)
            self.last_callback = None

    cdef void gc_track_pending(self) noexcept:
        """Make the garbage collector track the handles that were untracked while the loop ran."""
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
        """End `run` after the current iteration."""
        self.stop_requested = True

    def _dispose(self) -> None:
        """Drop everything and close the descriptors; the loop cannot be used any more.

        Raises:
            RuntimeError: the loop is running.
        """
        if self.running:
            raise RuntimeError("Cannot close a running event loop")
        if not self.closed:
            self.notify_closing()
            self.drop_all()

    cdef int notify_closing(self) except -1:
        """Call `on_closing` of each registered watcher; exceptions are reported."""
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
        """Drop everything: for `_dispose`, and for the collector when the loop was not closed."""
        cdef PyObject *item
        # First, because dropping runs destructors, which may schedule callbacks.
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
        """In the child of a fork: share nothing with the parent's loop; the loop counts as not running."""
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
                # The parent sends what callbacks have written so far, also what the kernel did not accept.
                drop_flushes_in_child(&self.flush_after_callback)
                drop_flushes_in_child(&self.flush_after_iteration)
                if was_running:
                    self.poller.notify_forked()
        self.notify_registrations_lost(unwatched)

    cdef int notify_registrations_lost(self, list unwatched) except -1:
        """Call `on_registration_lost` where registering failed in this child. Without the wake-up eventfd the loop
        cannot run: its epoll descriptor is closed and the error raised."""
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
        """Before a fork by a callback of this loop: send what was written so far, so that neither side holds it."""
        self.run_flushes(&self.flush_after_callback)
        self.run_flushes(&self.flush_after_iteration)

    # --- hooks and statistics -------------------------------------------------------------------------------------

    def _callback_failed(self, handle: Handle, callback: object, args: tuple, error: BaseException) -> None:
        sys.unraisablehook(UnraisableArgs(error, f"Exception in callback {callback!r}", handle))

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
        """From now on `call_soon_threadsafe` returns ThreadSafeHandles."""
        self.threadsafe_handles = True

    def _set_slow(self, seconds: float) -> None:
        """Set the time in seconds from which on a callback counts as slow."""
        # Limited to about a century, so that it fits into 64 bits of nanoseconds.
        self.slow_ns = <int64_t>(min(max(<double>seconds, 0.0), 3e9) * 1e9)

    def _describe_callback(self, callback: object, args: tuple) -> str:
        return repr(callback)

    def _describe_source(self, source: object, fd: int) -> str:
        """Describe `source`; None means that the owner of descriptor `fd` no longer exists."""
        return f"the former owner of descriptor {fd}" if source is None else repr(source)

    def raw_statistics(self) -> dict[str, object]:
        """Return counters since the start and current queue lengths; see `corenet.loop.statistics`."""
        cdef int64_t ran = self.ran_ns
        if self.run_began:
            ran += c.clock_ns(c.CLOCK_MONOTONIC) - self.run_began
        return {
            "iterations": self.iteration,
            "polls": self.poller.waits,
            "poll_seconds": self.slept_ns / 1e9,
            "run_seconds": (ran - self.slept_ns) / 1e9,
            "callbacks": self.callbacks_run,
            "ready": self.ready.count + self.due.count,
            "timers": self.timers.length,
            "timers_fired": self.timers_fired,
            # Without the wake-up eventfd of the scheduler itself.
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
    """The argument of `sys.unraisablehook` for an exception that no caller can catch."""

    def __init__(self, error: BaseException, message: str, source: object) -> None:
        self.exc_type = type(error)
        self.exc_value = error
        self.exc_traceback = error.__traceback__
        self.err_msg = message
        self.object = source


def run_handle(handle: Handle) -> None:
    """Run `handle` as the scheduler does: handles of descriptors keep their callback, all others release it."""
    if handle.keep:
        handle.run()
    else:
        handle.run_once()


cdef int traverse_pending(PyObject *self, VisitProc visit, void *context) noexcept:
    """Visit the references in C memory: the scheduler alone owns the items of its inbox and timers."""
    cdef Py_ssize_t i
    cdef int stop
    # After a `__cinit__` that failed, inbox or timers may be None; a ring without memory has no items.
    if <object>(<Scheduler>self).inbox is not None:
        stop = ring_visit(&(<Scheduler>self).inbox.items, visit, context)
        if stop:
            return stop
    if <object>(<Scheduler>self).timers is not None:
        for i in range((<Scheduler>self).timers.length):
            stop = visit((<Scheduler>self).timers.entries[i].owner, context)
            if stop:
                return stop
    return (
        ring_visit(&(<Scheduler>self).ready, visit, context)
        or ring_visit(&(<Scheduler>self).due, visit, context)
        or ring_visit(&(<Scheduler>self).flush_after_iteration, visit, context)
        or ring_visit(&(<Scheduler>self).flush_after_callback, visit, context)
    )


cdef void clear_pending(PyObject *self) noexcept:
    # After a failed `__cinit__` there are no references in C memory.
    if <object>(<Scheduler>self).receive_pool is not None and not (<Scheduler>self).closed:
        (<Scheduler>self).drop_all()


install_gc_hooks(Scheduler, traverse_pending, clear_pending)
