"""epoll with level, edge, one-shot and exclusive registration, and events that cannot reach the wrong owner.

Rule: each registration, and each change of what it asks for, has a generation of its own, which travels with the
descriptor in the event's 64 bits; an event whose generation is no longer that of the descriptor's slot is dropped. So a
callback may close a descriptor and another may get the same number within one batch, and no watcher is called with an
event that was gathered under another interest. Nothing is lost by that: epoll_ctl looks at the descriptor anew, so what
is still ready is reported by the next wait, in every mode. The kernel's table is never trusted to agree with ours: ADD
falls back to MOD and MOD to ADD, because descriptors are closed and duplicated behind our back; both fall back to DEL and
ADD, because an exclusive entry cannot be changed.

`slots[fd].events` is what the kernel waits for: it loses its events, and keeps its modes, when a one-shot event is
delivered. So the child of a fork, which fills a table of its own, does not arm again what has fired: its entry there has
a generation of the past. What the parent's batch still holds is dropped there: it is ready still, and reported anew.

Loops that are awake are counted for the whole process, so that one that has the GIL knows whether others want it. The
poller of a loop counts it from `loop_started` to `loop_stopped`, except while it waits in `poll`; a poller that no loop runs
counts nothing.

Ownership: `slots[fd].watcher` is a reference of ours, from `add` to `remove` or `dispose`. `slots[fd].owner` is
borrowed: a transport that nobody holds must end although its number is noted here. Its owner calls `own` and `disown`;
`disown` cannot fail, and comes before anything that can in the owner's teardown.
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

from corenet.limits import GIL_YIELD_SPINS

cdef extern from *:
    """
    #include <sched.h>

    /* Loops that run and do not sleep: all but one of them wait for the GIL, or are in a call without it. Changed by
       pollers that are `counted_awake`, and by nobody else. */
    static int corenet_awake;
    #define corenet_stir(more) ((void)__atomic_add_fetch(&corenet_awake, (more), __ATOMIC_RELAXED))
    #define corenet_stirring() __atomic_load_n(&corenet_awake, __ATOMIC_RELAXED)
    #define corenet_calm() __atomic_store_n(&corenet_awake, 0, __ATOMIC_RELAXED)

    /* Turns that loops began while others were awake: when it moves, another one has had the GIL. */
    static unsigned int corenet_turns;
    #define corenet_next_turn() ((void)__atomic_add_fetch(&corenet_turns, 1, __ATOMIC_RELAXED))
    #define corenet_turn() __atomic_load_n(&corenet_turns, __ATOMIC_RELAXED)
    """
    int sched_yield() nogil
    void awake_loops_add "corenet_stir"(int more) nogil
    int awake_loops "corenet_stirring"() nogil
    void awake_loops_reset "corenet_calm"() nogil
    void next_turn "corenet_next_turn"() nogil
    unsigned int turn "corenet_turn"() nogil

cdef int YIELDS = GIL_YIELD_SPINS

READ = <int>c.EPOLLIN
WRITE = <int>c.EPOLLOUT
PEER_CLOSED = <int>c.EPOLLRDHUP
HANGUP = <int>c.EPOLLHUP
ERROR = <int>c.EPOLLERR

LEVEL = 0
EDGE = 1
ONESHOT = 2
EXCLUSIVE = 4

# Above what the kernel gives: NR_OPEN cannot be set to as much.
cdef int64_t LAST_FD = 0x7FFFFFFE

cdef enum:
    BATCH = 1024
    MODE_EDGE = 1
    MODE_ONESHOT = 2
    MODE_EXCLUSIVE = 4

# What an entry keeps when its events are taken out.
cdef uint32_t MODES = c.EPOLLONESHOT | <uint32_t>c.EPOLLET | c.EPOLLEXCLUSIVE

# Set when the kernel does not know epoll_pwait2; waits are then rounded up to whole milliseconds.
cdef bint no_epoll_pwait2 = False


def loops_awake() -> int:
    """Return how many loops of this process run and do not wait for anything."""
    return awake_loops()


cdef bint other_loops_awake() noexcept:
    """Tell, at the start of a turn, whether another loop is awake; if so, count this turn."""
    if awake_loops() <= 1:
        return False
    next_turn()
    return True


cdef bint yield_gil() noexcept:
    """Let another loop's thread have the GIL; False when none took it.

    Released for the length of a system call only, it is taken again before anybody has woken up. The interpreter
    itself makes a thread give way no earlier than 5 ms after another has asked, which is a long time for loops that
    call each other.
    """
    cdef int _i
    cdef unsigned int before
    before = turn()
    with nogil:
        for _i in range(YIELDS):
            sched_yield()
            if turn() != before:
                break
    return turn() != before


cdef class Watcher:
    """What a descriptor's events are delivered to; transports and listeners derive from it."""

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
        # A descriptor is its transport's alone.
        return False


@cython.final
cdef class Watch(Watcher):
    """One registration made by `Poller.watch`; it lives until it is unwatched or its poller is closed."""

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

    @property
    def active(self) -> bool:
        """Whether this watch is registered: not unwatched, not replaced, its poller open."""
        return self.poller is not None and self.poller.find(self.fd) is self

    def __repr__(self) -> str:
        words = [name for bit, name in ((MODE_EDGE, "edge"), (MODE_ONESHOT, "oneshot"), (MODE_EXCLUSIVE, "exclusive"))
                 if self.mode & bit]
        state = "" if self.active else " removed"
        return f"<Watch fd={self.fd} mode={'|'.join(words) or 'level'}{state} {self.callback!r}>"

    def rearm(self, events: int) -> None:
        """Ask for `events` again: the way to wait once more after a one-shot event, or for other events.

        What is ready already is reported anew, also to an edge-triggered watch.

        Raises:
            ValueError: the watch was removed, or its mode is EXCLUSIVE, which the kernel does not let change.
            OSError: the kernel refuses, EBADF when the descriptor was closed meanwhile.
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
        raise ValueError(f"events must be READ, WRITE, PEER_CLOSED or several of them, not {events!r}")
    return <uint32_t>value


cdef class Poller:
    """Waits for descriptors and calls their watchers.

    Level-triggered watches are reported as long as there is something to do; edge-triggered ones only when more
    arrives, so the callback must read or write until the call would block. Errors and hang-ups are reported whether
    asked for or not, and mean only that a read will not block.
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

    # --- C door ---------------------------------------------------------------------------------------------------

    cdef int reserve(self, int fd) except -1:
        """Make room for the slot of `fd`. The table grows for descriptors alone: OSError, EBADF, for any other number."""
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
            # Asked first: a number that is only large would cost memory, the largest ones more than there is.
            PyErr_SetFromErrno(PyExc_OSError)
        wanted = min(max(64, <int64_t>fd + 1, <int64_t>self.slot_count * 2), LAST_FD + 1)
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
        """Put an interest into the kernel's table, in place of whatever it has there: 0, or an errno.

        After a refusal the former entry stands as it was. One that had to be taken out, since it or the new one is
        exclusive, is put back; when the kernel has no room for it either, its watcher leaves the slot as well.
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
            # What was taken out is nobody's: a duplicate kept it after its number had been closed.
            return number
        if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, self.slots[fd].events, self.slots[fd].generation) < 0:
            self.remove(fd)
        return number

    cdef int add(self, int fd, uint32_t events, Watcher watcher) except -1:
        """Register `fd` for `events` under a new generation, in place of whatever held its slot."""
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
        """Change the events of a registered `fd`, also when the kernel has forgotten it meanwhile.

        What the batch still holds for it becomes stale; what is ready under the new interest is reported anew.
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
        """Make stale what is still in the batch for `fd`; for a registered one `modify` must follow."""
        if 0 <= fd < self.slot_count:
            self.slots[fd].generation += 1

    cdef void remove(self, int fd) noexcept:
        """Forget `fd`; events of it that are still in the batch become stale."""
        cdef Slot *slot
        cdef PyObject *previous
        if fd < 0 or fd >= self.slot_count:
            return
        slot = &self.slots[fd]
        previous = slot.watcher
        if previous == NULL:
            return
        # The descriptor may be closed already; then the kernel has removed it and there is nothing to report.
        self.epoll_ctl_raw(c.EPOLL_CTL_DEL, fd, 0, 0)
        slot.generation += 1
        slot.events = 0
        slot.watcher = NULL
        self.registered -= 1
        Py_DECREF(<object>previous)

    cdef bint kernel_lost_registration(self, int fd) noexcept:
        """Tell whether the kernel no longer knows a registered `fd`: it was closed behind our back.

        Asked by an ADD for nothing, since a MOD would arm a one-shot registration again.
        """
        if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, 0, 0) < 0:
            return errno != c.EEXIST
        self.epoll_ctl_raw(c.EPOLL_CTL_DEL, fd, 0, 0)
        return True

    cdef bint kernel_has_registration(self, int fd) noexcept:
        """Have a registered `fd` looked at in the next turn, if the kernel still has the entry of the file behind it."""
        if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, 0, 0) < 0:
            self.interest_changed = True
            return errno == c.EEXIST
        self.epoll_ctl_raw(c.EPOLL_CTL_DEL, fd, 0, 0)
        return False

    cdef int last_fd(self) noexcept:
        """The descriptor of the event that was dispatched last."""
        return <int>(self.batch[self.batch_next - 1].data.u64 & 0xFFFFFFFF) if self.batch_next > 0 else -1

    cdef Watcher find(self, int fd):
        """The watcher registered for `fd`, or None."""
        if fd < 0 or fd >= self.slot_count or self.slots[fd].watcher == NULL:
            return None
        return <Watcher>self.slots[fd].watcher

    cdef int own(self, int fd, Watcher owner) except -1:
        """Note whose descriptor `fd` is, also while nothing is registered for it; the owner must `disown` it."""
        self.reserve(fd)
        self.slots[fd].owner = <PyObject *>owner
        return 0

    cdef void disown(self, int fd, Watcher owner) noexcept:
        """Undo `own`, unless somebody else has the number by now."""
        if 0 <= fd < self.slot_count and self.slots[fd].owner == <PyObject *>owner:
            self.slots[fd].owner = NULL

    cdef Watcher owner_of(self, int fd):
        """The transport whose descriptor `fd` is, or None."""
        if fd < 0 or fd >= self.slot_count or self.slots[fd].owner == NULL:
            return None
        return <Watcher>self.slots[fd].owner

    cdef void loop_started(self) noexcept:
        """Count the loop of this poller as awake from now on, except while it waits."""
        self.counted_awake = True
        awake_loops_add(1)

    cdef void loop_stopped(self) noexcept:
        """Undo `loop_started`; nothing in the child of a fork, where nobody is counted."""
        if self.counted_awake:
            self.counted_awake = False
            awake_loops_add(-1)

    cdef int poll(self, int64_t timeout_ns) except -1:
        """Fill the batch; `timeout_ns` 0 does not block and keeps the GIL, negative waits without end.

        What an exception left undelivered in the batch comes first: one-shot and edge events would be lost.
        """
        cdef int got
        cdef timespec limit
        cdef int milliseconds
        # Awake again before the GIL is asked for: whoever has it is to know.
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
                milliseconds = <int>min((timeout_ns + 999999) // 1000000, 86400000)
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
        """Deliver up to `most` events; stops at the first exception and goes on behind it when called again.

        A watcher that sets `dispatch_paused` is the last one of this call.
        """
        cdef epoll_event *event
        cdef int fd
        cdef Slot *slot
        cdef Watcher watcher
        cdef int delivered = 0
        while self.batch_next < self.batch_length and delivered < most and not self.dispatch_paused:
            event = &self.batch[self.batch_next]
            self.batch_next += 1
            # A cast, not a mask: Cython makes a Python integer of a literal that does not fit into an int.
            fd = <int>event.data.u64
            if fd < 0 or fd >= self.slot_count:
                self.events_stale += 1
                continue
            slot = &self.slots[fd]
            if slot.generation != <uint32_t>(event.data.u64 >> 32) or slot.watcher == NULL:
                self.events_stale += 1
                continue
            if slot.events & c.EPOLLONESHOT:
                # The kernel has taken the events out, and kept the modes.
                slot.events &= MODES
            watcher = <Watcher>slot.watcher
            delivered += 1
            self.events_seen += 1
            watcher.on_events(event.events)
        return delivered

    cdef void dispose(self) noexcept:
        """Close the epoll descriptor and let go of all watchers."""
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
        """Close the epoll descriptor: every wait fails from now on."""
        if self.epfd >= 0:
            c.c_close(self.epfd)
            self.epfd = -1

    cdef list reinit_after_fork(self):
        """After a fork, in the child: wait on a table of our own, under the old number, with the same interests.

        The inherited one is the parent's: what is removed there is removed for the parent. So it is closed first, and
        stays closed when this fails. Returns (watcher, error) for those that the kernel has no room for: they are not
        registered any more, and must be told. A descriptor that was closed behind our back is none of them: as in the
        parent, whoever owns its slot finds that out himself.
        """
        cdef int fd
        cdef int fresh
        cdef int number = self.epfd
        cdef uint32_t generation
        cdef list unwatched = []
        # The threads of other loops have stayed in the parent, and so have all runs.
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
                # One-shot and fired. Its entry must be there, or the descriptor would count as closed; no entry can be
                # made that does not wait for errors and hang-ups, so its only event is made a stale one.
                generation -= 1
            if self.epoll_ctl_raw(c.EPOLL_CTL_ADD, fd, self.slots[fd].events, generation) < 0:
                number = errno
                if number != c.EBADF and number != c.EPERM:
                    unwatched.append((<object>self.slots[fd].watcher, OSError(number, os.strerror(number))))
                    self.remove(fd)
        return unwatched

    cdef int notify_forked(self) except -1:
        """In the child of a fork, after `reinit_after_fork`: tell the watchers, and those who own a number and are paused."""
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

    # --- Python door ----------------------------------------------------------------------------------------------

    cdef Watch register_watch(self, int fd, object events, object callback, object mode, object context):
        """`watch` with the context in which the callback is to run; None: whatever it is called in."""
        cdef Watch watch
        cdef int number = mode
        cdef uint32_t mask = checked_events(events)
        if number & ~(MODE_EDGE | MODE_ONESHOT | MODE_EXCLUSIVE):
            raise ValueError(f"unknown mode {mode!r}")
        if number & MODE_ONESHOT and number & MODE_EXCLUSIVE:
            raise ValueError("ONESHOT and EXCLUSIVE exclude each other")
        if number & MODE_EXCLUSIVE and mask & ~<uint32_t>(c.EPOLLIN | c.EPOLLOUT):
            # epoll_ctl(2), EPOLLEXCLUSIVE: anything else is EINVAL.
            raise ValueError("an exclusive watch can ask for READ and WRITE only")
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

        `mode` is LEVEL, or EDGE, ONESHOT, EXCLUSIVE or a union of them that the kernel allows. The callback gets
        the bits that are set, which may hold HANGUP and ERROR unasked.

        Raises:
            ValueError: `events` names nothing that can be asked for, ONESHOT meets EXCLUSIVE, or EXCLUSIVE is to
                watch for anything but READ and WRITE.
            TypeError: `callback` cannot be called.
            OSError: the kernel refuses the descriptor, EPERM for a regular file, EBADF for a closed one.
        """
        return self.register_watch(fd, events, callback, mode, None)

    def unwatch(self, target: object) -> bool:
        """Stop watching a descriptor, or what a `Watch` watches; False when it was not watched."""
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
        """Wait up to `timeout` seconds (None: without end), deliver the events and return their number.

        Releases the GIL while it waits. A signal ends the wait early. An exception of a callback passes through;
        the events behind it are delivered by the next call.

        Raises:
            ValueError: the poller is closed, or `timeout` is not a number.
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
                self.poll(<int64_t>(min(seconds, 1e9) * 1e9) + 1)
        return self.dispatch(BATCH)

    def fileno(self) -> int:
        """Return the epoll descriptor, -1 once closed."""
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
