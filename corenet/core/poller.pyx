"""epoll with level, edge, one-shot and exclusive registration, whose events cannot reach a wrong watcher.

Rule: each registration and each change of its interest has its own generation, which the event's 64 bits carry together
with the descriptor. An event whose generation is not that of the descriptor's slot is dropped. So within one batch a
callback may close a descriptor and another may get the same number, and no watcher gets an event that was reported for
an earlier interest. No event is lost, because epoll_ctl checks readiness again: what is still ready is reported by the
next wait, in every mode. The kernel's table may differ from ours, because the program may close and duplicate
descriptors: ADD falls back to MOD and MOD to ADD. Both fall back to DEL and ADD, because an exclusive entry cannot be
changed.

`slots[fd].events` is what the kernel waits for. When a one-shot event is delivered, it loses its events and keeps its
modes. So the child of a fork, which fills a new table, does not arm again what has fired: the entry there has an old
generation. The child drops the parent's batch, because what is still ready is reported again.

The awake loops of the process are counted, so that the loop that has the GIL knows whether others want it. The poller
of a loop counts it from `loop_started` to `loop_stopped`, except while it waits in `poll`. A poller that no loop runs
counts nothing.

Ownership: `slots[fd].watcher` is an owned reference from `add` to `remove` or `dispose`. `slots[fd].owner` is borrowed,
because a transport that nothing refers to must be freed although its descriptor is noted here. The owner calls `own`
and `disown`; `disown` cannot fail, and the owner's teardown calls it before anything that can.
"""

import os

cimport cython
from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t

from corenet.core cimport libc as c
from corenet.core.gc_hooks cimport VisitProc, install_gc_hooks
from corenet.core.counters cimport KIND_WATCH, count_created, count_destroyed
from corenet.core.handles cimport enter_copy
from corenet.core.libc cimport (
    PyContext_Enter,
    PyContext_Exit,
    PyErr_CheckSignals,
    PyErr_SetFromErrno,
    PyExc_OSError,
    epoll_event,
    errno,
    timespec,
)

from corenet.limits import GIL_YIELD_SPINS, POLL_BATCH

cdef extern from *:
    """
    #include <sched.h>

    /* Number of loops that run and do not sleep: all but one of them wait for the GIL or are in a call without it.
       Only pollers that are `counted_awake` change it. */
    static int corenet_awake;
    #define corenet_awake_add(more) ((void)__atomic_add_fetch(&corenet_awake, (more), __ATOMIC_RELAXED))
    #define corenet_awake_count() __atomic_load_n(&corenet_awake, __ATOMIC_RELAXED)
    #define corenet_awake_reset() __atomic_store_n(&corenet_awake, 0, __ATOMIC_RELAXED)

    /* Iterations that loops began while others were awake: when it changes, another loop has had the GIL. */
    static unsigned int corenet_iterations;
    #define corenet_iteration_began() ((void)__atomic_add_fetch(&corenet_iterations, 1, __ATOMIC_RELAXED))
    #define corenet_iterations_begun() __atomic_load_n(&corenet_iterations, __ATOMIC_RELAXED)
    """
    int sched_yield() nogil
    void awake_loops_add "corenet_awake_add"(int more) nogil
    int awake_loops "corenet_awake_count"() nogil
    void awake_loops_reset "corenet_awake_reset"() nogil
    void iteration_began "corenet_iteration_began"() nogil
    unsigned int iterations_begun "corenet_iterations_begun"() nogil

cdef int YIELDS = GIL_YIELD_SPINS
cdef int BATCH = POLL_BATCH

READ = <int>c.EPOLLIN
WRITE = <int>c.EPOLLOUT
PEER_CLOSED = <int>c.EPOLLRDHUP
HANGUP = <int>c.EPOLLHUP
ERROR = <int>c.EPOLLERR

LEVEL = 0
EDGE = 1
ONESHOT = 2
EXCLUSIVE = 4

# Larger than any descriptor: fs.nr_open cannot be set as high.
cdef int64_t LAST_FD = 0x7FFFFFFE

cdef enum:
    FIRST_SLOTS = 64            # the size of the first table, in slots
    LONGEST_WAIT_MS = 86400000  # one day: epoll_wait takes an int

cdef enum:
    MODE_EDGE = 1
    MODE_ONESHOT = 2
    MODE_EXCLUSIVE = 4

# The bits that an entry keeps when a one-shot event was delivered.
cdef uint32_t MODES = c.EPOLLONESHOT | <uint32_t>c.EPOLLET | c.EPOLLEXCLUSIVE

# Set when the kernel does not have epoll_pwait2; waits are then rounded up to whole milliseconds.
cdef bint no_epoll_pwait2 = False


def loops_awake() -> int:
    """Return how many loops of this process run and are not waiting in a poll."""
    return awake_loops()


cdef bint other_loops_awake() noexcept:
    """Return, at the start of an iteration, whether another loop is awake; if so, count this iteration."""
    if awake_loops() <= 1:
        return False
    iteration_began()
    return True


cdef bint yield_gil() noexcept:
    """Offer the GIL to the threads of other loops; return False when none took it.

    If it were released only for one system call, this thread would take it again before another has woken up. The
    interpreter switches threads no earlier than 5 ms after another has asked for the GIL, which is long for loops that
    exchange data.
    """
    cdef int _i
    cdef unsigned int before
    before = iterations_begun()
    with nogil:
        for _i in range(YIELDS):
            sched_yield()
            if iterations_begun() != before:
                break
    return iterations_begun() != before


cdef class Watcher:
    """Receives the events of a descriptor; base class of transports and listeners."""

    cdef int on_events(self, uint32_t events) except -1:
        raise NotImplementedError

    cdef int on_flush(self) except -1:
        return 0

    cdef int on_fork_in_child(self) except -1:
        return 0

    cdef int on_registration_lost(self, object error) except -1:
        raise error

    cdef int on_closing(self) except -1:
        return 0

    cdef bint yield_to_reader(self) except -1:
        # By default a watcher keeps its descriptor.
        return False

    cdef object callback_to_report(self):
        return self


@cython.final
cdef class Watch(Watcher):
    """One registration made by `Poller.watch`, valid until it is unwatched or replaced, or its poller is closed."""

    def __cinit__(self) -> None:
        count_created(KIND_WATCH)

    def __dealloc__(self) -> None:
        count_destroyed(KIND_WATCH)

    cdef int on_events(self, uint32_t events) except -1:
        cdef object context = self.context
        if context is None:
            self.callback(<int>events)
            return 0
        if PyContext_Enter(context) < 0:
            context = enter_copy(context)
        try:
            self.callback(<int>events)
        finally:
            PyContext_Exit(context)
        return 0

    cdef object callback_to_report(self):
        return self.callback

    @property
    def active(self) -> bool:
        """Whether this watch is registered: it was not unwatched or replaced, and its poller is open."""
        return self.poller is not None and self.poller.find(self.fd) is self

    def __repr__(self) -> str:
        modes = [name for bit, name in ((MODE_EDGE, "edge"), (MODE_ONESHOT, "oneshot"), (MODE_EXCLUSIVE, "exclusive"))
                 if self.mode & bit]
        state = "" if self.active else " removed"
        return f"<Watch fd={self.fd} mode={'|'.join(modes) or 'level'}{state} {self.callback!r}>"

    def rearm(self, events: int) -> None:
        """Set the interest to `events`: to wait again after a one-shot event, or for other events.

        What is already ready is reported again, also to an edge-triggered watch.

        Raises:
            ValueError: the watch was removed, its mode is EXCLUSIVE, which the kernel does not allow to change, or
                `events` is no union of READ, WRITE and PEER_CLOSED.
            OSError: the kernel refuses; EBADF when the descriptor was closed meanwhile.
        """
        if self.poller is None or self.poller.find(self.fd) is not self:
            raise ValueError(f"descriptor {self.fd} is no longer watched by this watch")
        if self.mode & MODE_EXCLUSIVE:
            raise ValueError("an exclusive watch cannot be changed; remove it and watch again")
        self.poller.modify(self.fd, checked_events(events) | mode_bits(self.mode))


cdef uint32_t mode_bits(int mode) noexcept:
    cdef uint32_t bits = 0
    if mode & MODE_EDGE:
        bits |= c.EPOLLET
    if mode & MODE_ONESHOT:
        bits |= c.EPOLLONESHOT
    if mode & MODE_EXCLUSIVE:
        bits |= c.EPOLLEXCLUSIVE
    return bits


cdef uint32_t checked_events(object events) except? 0:
    cdef long value = events
    if value & ~<long>(c.EPOLLIN | c.EPOLLOUT | c.EPOLLRDHUP) or value == 0:
        raise ValueError(f"events must be a union of READ, WRITE and PEER_CLOSED, not {events!r}")
    return <uint32_t>value


cdef class Poller:
    """Waits for events of descriptors and calls their watchers.

    A level-triggered watch gets events as long as the descriptor is ready; an edge-triggered one only when its
    readiness changes, so the callback must read or write until the call would block. Errors and hang-ups are always
    reported and mean only that a read will not block.

    Raises:
        OSError: no epoll descriptor can be made.
    """

    def __cinit__(self) -> None:
        self.epfd = -1
        self.batch = <epoll_event *>PyMem_RawMalloc(BATCH * sizeof(epoll_event))
        if self.batch == NULL:
            PyErr_NoMemory()
        self.epfd = c.epoll_create1(c.EPOLL_CLOEXEC)
        if self.epfd < 0:
            PyErr_SetFromErrno(PyExc_OSError)

    def __dealloc__(self) -> None:
        self.dispose()
        PyMem_RawFree(self.batch)

    # --- C interface ----------------------------------------------------------------------------------------------

    cdef int reserve(self, int fd) except -1:
        """Grow the table to hold the slot of `fd`; OSError, EBADF, for a number that is not an open descriptor."""
        cdef int64_t wanted
        cdef Slot *grown
        if fd < 0:
            raise ValueError(f"invalid descriptor {fd}")
        if self.closed:
            raise ValueError("the poller is closed")
        if fd < self.slot_count:
            return 0
        if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, 0, 0) == 0:
            self.epoll_ctl_raw(c.EPOLL_CTL_DEL, fd, 0, 0)
        elif errno == c.EBADF:
            # Checked first: the table for a large number would cost memory, for the largest more than there is.
            PyErr_SetFromErrno(PyExc_OSError)
        wanted = min(max(FIRST_SLOTS, <int64_t>fd + 1, <int64_t>self.slot_count * 2), LAST_FD + 1)
        grown = <Slot *>PyMem_RawRealloc(self.slots, wanted * sizeof(Slot))
        if grown == NULL:
            PyErr_NoMemory()
        c.memset(&grown[self.slot_count], 0, (wanted - self.slot_count) * sizeof(Slot))
        self.slots = grown
        self.slot_count = <int>wanted
        return 0

    cdef int epoll_ctl_raw(self, int operation, int fd, uint32_t events, uint32_t generation) noexcept:
        cdef epoll_event event
        event.events = events
        event.data.u64 = (<uint64_t>generation << 32) | <uint32_t>fd
        return c.epoll_ctl(self.epfd, operation, fd, &event)

    cdef int epoll_ctl_with_fallback(self, int operation, int fd, uint32_t events, uint32_t generation) noexcept:
        """Set the interest of `fd` in the kernel's table, replacing any entry that it has; return 0 or an errno.

        After a refusal the former entry is unchanged. If it had to be removed, because it or the new one is exclusive,
        it is added again; if the kernel has no memory for that, the slot's watcher is removed, too.
        """
        cdef int number
        if self.epoll_ctl_raw(operation, fd, events, generation) == 0:
            return 0
        number = errno
        if operation == c.EPOLL_CTL_MOD and number == c.ENOENT:
            return 0 if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, events, generation) == 0 else errno
        if operation == c.EPOLL_CTL_ADD and number == c.EEXIST:
            if self.epoll_ctl_raw(c.EPOLL_CTL_MOD, fd, events, generation) == 0:
                return 0
            number = errno
        if number != c.EINVAL or self.epoll_ctl_raw(c.EPOLL_CTL_DEL, fd, 0, 0) < 0:
            return number
        if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, events, generation) == 0:
            return 0
        number = errno
        if self.slots[fd].watcher == NULL:
            # The removed entry had no watcher: a duplicate had kept it in the kernel after its number was closed.
            return number
        if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, self.slots[fd].events, self.slots[fd].generation) < 0:
            self.remove(fd)
        return number

    cdef int add(self, int fd, uint32_t events, Watcher watcher) except -1:
        """Register `fd` for `events` under a new generation, replacing the watcher of its slot."""
        cdef int number
        cdef Slot *slot
        cdef PyObject *previous
        cdef uint32_t generation
        self.reserve(fd)
        slot = &self.slots[fd]
        generation = slot.generation + 1
        number = self.epoll_ctl_with_fallback(c.EPOLL_CTL_ADD, fd, events, generation)
        if number:
            c.errno = number
            PyErr_SetFromErrno(PyExc_OSError)
        self.interest_changed = True
        previous = slot.watcher
        slot.generation = generation
        slot.events = events
        slot.watcher = <PyObject *>watcher
        Py_INCREF(watcher)
        if previous != NULL:
            Py_DECREF(<object>previous)
        else:
            self.registered += 1
        return 0

    cdef int modify(self, int fd, uint32_t events) except -1:
        """Change the events of a registered `fd`, also when the kernel no longer has its entry.

        Events of the batch that were not dispatched become stale; what is ready is reported again for the new interest.
        """
        cdef int number
        cdef Slot *slot
        cdef uint32_t generation
        self.reserve(fd)
        slot = &self.slots[fd]
        generation = slot.generation + 1
        number = self.epoll_ctl_with_fallback(c.EPOLL_CTL_MOD, fd, events, generation)
        if number:
            c.errno = number
            PyErr_SetFromErrno(PyExc_OSError)
        self.interest_changed = True
        slot.generation = generation
        slot.events = events
        return 0

    cdef void invalidate_pending_events(self, int fd) noexcept:
        """Make the events of `fd` in the batch stale; for a registered `fd`, `modify` must follow."""
        if 0 <= fd < self.slot_count:
            self.slots[fd].generation += 1

    cdef void remove(self, int fd) noexcept:
        """Remove the registration of `fd`; its events that are still in the batch become stale."""
        cdef Slot *slot
        cdef PyObject *previous
        if fd < 0 or fd >= self.slot_count:
            return
        slot = &self.slots[fd]
        previous = slot.watcher
        if previous == NULL:
            return
        # If the descriptor is already closed, the kernel has removed the entry and this fails, which is ignored.
        self.epoll_ctl_raw(c.EPOLL_CTL_DEL, fd, 0, 0)
        slot.generation += 1
        slot.events = 0
        slot.watcher = NULL
        self.registered -= 1
        Py_DECREF(<object>previous)

    cdef bint kernel_lost_registration(self, int fd) noexcept:
        """Return whether the kernel no longer has the entry of a registered `fd`, because the program has closed it.

        Tested by an ADD without events, because a MOD would arm a one-shot registration again.
        """
        if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, 0, 0) < 0:
            return errno != c.EEXIST
        self.epoll_ctl_raw(c.EPOLL_CTL_DEL, fd, 0, 0)
        return True

    cdef bint kernel_has_registration(self, int fd) noexcept:
        """Return whether the kernel has the entry of a registered `fd`'s file; if so, the next iteration polls."""
        if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, 0, 0) < 0:
            self.interest_changed = True
            return errno == c.EEXIST
        self.epoll_ctl_raw(c.EPOLL_CTL_DEL, fd, 0, 0)
        return False

    cdef int last_fd(self) noexcept:
        """Return the descriptor of the event that was dispatched last, -1 when there was none."""
        return <int>self.batch[self.batch_next - 1].data.u64 if self.batch_next > 0 else -1

    cdef Watcher find(self, int fd):
        """Return the watcher registered for `fd`, or None."""
        if fd < 0 or fd >= self.slot_count or self.slots[fd].watcher == NULL:
            return None
        return <Watcher>self.slots[fd].watcher

    cdef int own(self, int fd, Watcher owner) except -1:
        """Record the owner of `fd`, also while nothing is registered for it; the owner must `disown` it."""
        self.reserve(fd)
        self.slots[fd].owner = <PyObject *>owner
        return 0

    cdef void disown(self, int fd, Watcher owner) noexcept:
        """Undo `own`, unless `fd` has another owner by now."""
        if 0 <= fd < self.slot_count and self.slots[fd].owner == <PyObject *>owner:
            self.slots[fd].owner = NULL

    cdef Watcher owner_of(self, int fd):
        """Return the watcher, a transport, that has called `own` for `fd`, or None."""
        if fd < 0 or fd >= self.slot_count or self.slots[fd].owner == NULL:
            return None
        return <Watcher>self.slots[fd].owner

    cdef void loop_started(self) noexcept:
        """Count the loop of this poller as awake from now on, except while it waits in `poll`."""
        self.counted_awake = True
        awake_loops_add(1)

    cdef void loop_stopped(self) noexcept:
        """Undo `loop_started`; does nothing in the child of a fork, where the count was reset."""
        if self.counted_awake:
            self.counted_awake = False
            awake_loops_add(-1)

    cdef int poll(self, int64_t timeout_ns) except -1:
        """Fill the batch; `timeout_ns` 0 does not block and keeps the GIL, a negative one waits without limit.

        Events that an exception left undispatched come first, because one-shot and edge events would be lost.
        """
        cdef int got
        cdef timespec limit
        cdef int milliseconds
        # Counted as awake again before the GIL is requested, so that the loop that has it knows.
        cdef int one = 1 if self.counted_awake else 0
        global no_epoll_pwait2
        if self.batch_next < self.batch_length:
            return self.batch_length - self.batch_next
        self.interest_changed = False
        self.batch_next = 0
        self.batch_length = 0
        self.waits += 1
        if timeout_ns == 0:
            got = c.epoll_wait(self.epfd, self.batch, BATCH, 0)
        elif timeout_ns < 0:
            awake_loops_add(-one)
            with nogil:
                got = c.epoll_wait(self.epfd, self.batch, BATCH, -1)
                awake_loops_add(one)
        else:
            got = -1
            if not no_epoll_pwait2:
                limit.tv_sec = timeout_ns // 1000000000
                limit.tv_nsec = timeout_ns % 1000000000
                awake_loops_add(-one)
                with nogil:
                    got = c.epoll_pwait2(self.epfd, self.batch, BATCH, &limit)
                    awake_loops_add(one)
                if got < 0 and errno in (c.ENOSYS, c.EPERM):
                    # EPERM: a system-call filter older than the call.
                    no_epoll_pwait2 = True
            if no_epoll_pwait2:
                milliseconds = <int>min((timeout_ns + 999999) // 1000000, LONGEST_WAIT_MS)
                awake_loops_add(-one)
                with nogil:
                    got = c.epoll_wait(self.epfd, self.batch, BATCH, milliseconds)
                    awake_loops_add(one)
        if got < 0:
            if errno != c.EINTR:
                PyErr_SetFromErrno(PyExc_OSError)
            got = 0
            PyErr_CheckSignals()
        self.batch_length = got
        return got

    cdef int dispatch(self, int most) except -1:
        """Dispatch up to `most` events; an exception ends the call, and the next call continues after that event.

        A watcher that sets `dispatch_paused` is the last of this call.
        """
        cdef epoll_event *event
        cdef int fd
        cdef Slot *slot
        cdef Watcher watcher
        cdef int delivered = 0
        while self.batch_next < self.batch_length and delivered < most and not self.dispatch_paused:
            event = &self.batch[self.batch_next]
            self.batch_next += 1
            # A cast and not a mask, because Cython makes a Python integer of a literal that does not fit into an int.
            fd = <int>event.data.u64
            if fd < 0 or fd >= self.slot_count:
                self.events_stale += 1
                continue
            slot = &self.slots[fd]
            if slot.generation != <uint32_t>(event.data.u64 >> 32) or slot.watcher == NULL:
                self.events_stale += 1
                continue
            if slot.events & c.EPOLLONESHOT:
                # The kernel has disarmed the entry: no events, same modes.
                slot.events &= MODES
            watcher = <Watcher>slot.watcher
            delivered += 1
            self.events_seen += 1
            watcher.on_events(event.events)
        return delivered

    cdef void dispose(self) noexcept:
        """Close the epoll descriptor and drop all watchers."""
        cdef int fd
        cdef PyObject *watcher
        cdef Slot *slots = self.slots
        cdef int count = self.slot_count
        self.closed = True
        self.slots = NULL
        self.slot_count = 0
        self.registered = 0
        self.batch_next = self.batch_length = 0
        self.close_epoll_fd()
        for fd in range(count):
            watcher = slots[fd].watcher
            if watcher != NULL:
                Py_DECREF(<object>watcher)
        PyMem_RawFree(slots)

    cdef void close_epoll_fd(self) noexcept:
        """Close the epoll descriptor: each wait fails from now on."""
        if self.epfd >= 0:
            c.c_close(self.epfd)
            self.epfd = -1

    cdef list reinit_after_fork(self):
        """In the child of a fork: make a new epoll descriptor under the old number, with the same interests.

        The inherited one is shared with the parent, and removing an entry would remove it for the parent. So it is
        closed first, and stays closed when this fails. Returns (watcher, error) for each watcher that the kernel
        refused: it is no longer registered, and `on_registration_lost` must be called. A descriptor that the program
        has closed is not among them: as in the parent, the watcher of its slot detects that itself.
        """
        cdef int fd
        cdef int fresh
        cdef int number = self.epfd
        cdef uint32_t generation
        cdef list unwatched = []
        # Other threads do not exist in the child, so no loop runs.
        awake_loops_reset()
        self.counted_awake = False
        if self.closed or number < 0:
            return unwatched
        self.batch_next = self.batch_length = 0
        self.close_epoll_fd()
        fresh = c.epoll_create1(c.EPOLL_CLOEXEC)
        if fresh < 0:
            PyErr_SetFromErrno(PyExc_OSError)
        if fresh != number:
            if c.dup3(fresh, number, c.O_CLOEXEC) < 0:
                c.c_close(fresh)
                PyErr_SetFromErrno(PyExc_OSError)
            c.c_close(fresh)
        self.epfd = number
        for fd in range(self.slot_count):
            if self.slots[fd].watcher == NULL:
                continue
            generation = self.slots[fd].generation
            if self.slots[fd].events & ~MODES == 0:
                # A one-shot entry that has fired. It must exist, or the descriptor would count as closed. Each entry
                # waits for errors and hang-ups, so it gets an old generation, which makes its only event stale.
                generation -= 1
            if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, self.slots[fd].events, generation) < 0:
                number = errno
                if number != c.EBADF and number != c.EPERM:
                    unwatched.append((<object>self.slots[fd].watcher, OSError(number, os.strerror(number))))
                    self.remove(fd)
        return unwatched

    cdef int notify_forked(self) except -1:
        """After `reinit_after_fork`: call `on_fork_in_child` of the watchers and of owners that are paused."""
        cdef int fd = 0
        cdef Watcher watcher, owner
        while fd < self.slot_count:
            watcher = self.find(fd)
            owner = self.owner_of(fd)
            if watcher is not None:
                watcher.on_fork_in_child()
            if owner is not None and owner is not watcher:
                owner.on_fork_in_child()
            fd += 1
        return 0

    # --- Python interface -----------------------------------------------------------------------------------------

    cdef Watch register_watch(self, int fd, object events, object callback, object mode, object context):
        """`watch` with the context in which the callback runs; None: the context of the caller of `dispatch`."""
        cdef Watch watch
        cdef int number = mode
        cdef uint32_t mask = checked_events(events)
        if number & ~(MODE_EDGE | MODE_ONESHOT | MODE_EXCLUSIVE):
            raise ValueError(f"unknown mode {mode!r}; use LEVEL, or a union of EDGE, ONESHOT and EXCLUSIVE")
        if number & MODE_ONESHOT and number & MODE_EXCLUSIVE:
            raise ValueError("ONESHOT and EXCLUSIVE cannot be combined")
        if number & MODE_EXCLUSIVE and mask & ~<uint32_t>(c.EPOLLIN | c.EPOLLOUT):
            # epoll_ctl(2), EPOLLEXCLUSIVE: anything else is EINVAL.
            raise ValueError("an exclusive watch supports only READ and WRITE")
        if not callable(callback):
            raise TypeError(f"a callable object was expected, got {callback!r}")
        watch = Watch.__new__(Watch)
        watch.poller = self
        watch.callback = callback
        watch.context = context
        watch.fd = fd
        watch.mode = number
        self.add(watch.fd, mask | mode_bits(number), watch)
        return watch

    def watch(self, fd: int, events: int, callback: object, mode: int = 0) -> Watch:
        """Call ``callback(events)`` when `fd` is ready; replaces an earlier watch of the same descriptor.

        `mode` is LEVEL, or EDGE, ONESHOT, EXCLUSIVE or a union of them that the kernel allows. The callback gets the
        bits that are set, which may include HANGUP and ERROR although they are not in `events`.

        Raises:
            ValueError: `events` is no union of READ, WRITE and PEER_CLOSED, `mode` has an unknown bit, ONESHOT is
                combined with EXCLUSIVE, or EXCLUSIVE with an event other than READ and WRITE; `fd` is negative, or the
                poller is closed.
            TypeError: `callback` is not callable.
            OSError: the kernel refuses the descriptor: EPERM for a regular file, EBADF for a closed one.
        """
        return self.register_watch(fd, events, callback, mode, None)

    def unwatch(self, target: object) -> bool:
        """Stop watching a descriptor, given as number or `Watch`; return False when it was not watched."""
        cdef int fd
        cdef Watcher found
        if isinstance(target, Watch):
            fd = (<Watch>target).fd
            found = self.find(fd)
            if found is not target:
                return False
        else:
            fd = target
            found = self.find(fd)
            if found is None:
                return False
        self.remove(fd)
        return True

    def wait(self, timeout: float | None = None) -> int:
        """Wait up to `timeout` seconds (None: without limit), dispatch the events and return their number.

        Releases the GIL while it waits. A signal ends the wait early. An exception of a callback is raised; the
        remaining events are dispatched by the next call.

        Raises:
            ValueError: the poller is closed, or `timeout` is NaN.
        """
        cdef double seconds
        if self.closed:
            raise ValueError("the poller is closed")
        if timeout is None:
            self.poll(-1)
        else:
            seconds = timeout
            if seconds != seconds:
                raise ValueError("timeout is not a number")
            if seconds <= 0:
                self.poll(0)
            else:
                # Limited to 32 years, so that it fits into 64 bits of nanoseconds. Rounded up, not to wait too short.
                self.poll(<int64_t>(min(seconds, 1e9) * 1e9) + 1)
        return self.dispatch(BATCH)

    def fileno(self) -> int:
        """Return the epoll descriptor, -1 after `close`."""
        return self.epfd

    def close(self) -> None:
        """Close the epoll descriptor and drop all watches; further calls do nothing."""
        self.dispose()

    def __enter__(self) -> Poller:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.dispose()


cdef int visit_watchers(PyObject *self, VisitProc visit, void *context) noexcept:
    cdef int fd, stop
    for fd in range((<Poller>self).slot_count):
        if (<Poller>self).slots[fd].watcher != NULL:
            stop = visit((<Poller>self).slots[fd].watcher, context)
            if stop:
                return stop
    return 0


cdef void drop_watchers(PyObject *self) noexcept:
    (<Poller>self).dispose()


install_gc_hooks(Poller, visit_watchers, drop_watchers)
