"""C door of the poller: watchers by descriptor, each registration with a generation of its own.

A `Watcher` is called by one virtual method. `on_flush` is the second hook: the engine calls it once for every
watcher that asked for it in this turn. `on_fork_in_child` is called in the child of a fork, for those that asked, those that
are registered and those that own a number: what waits to be sent is the parent's. `on_registration_lost` is called there when the
kernel has no room for the child's own registration: no event will come. `on_closing` is called for those that are
registered when the loop is closed. `yield_to_reader` is asked when a reader is set or removed on the descriptor of a
watcher that is no reader: true when it has left the poller for that.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from corenet.core.libc cimport epoll_event

cdef struct Slot:
    uint32_t generation
    uint32_t events
    PyObject *watcher
    PyObject *owner         # borrowed: the transport whose descriptor it is, registered at this moment or not

cdef bint other_loops_awake() noexcept
cdef bint yield_gil() noexcept

cdef class Watcher:
    cdef int on_events(self, uint32_t events) except -1
    cdef int on_flush(self) except -1
    cdef int on_fork_in_child(self) except -1
    cdef int on_registration_lost(self, object error) except -1
    cdef int on_closing(self) except -1
    cdef bint yield_to_reader(self) except -1

cdef class Watch(Watcher):
    cdef Poller poller
    cdef object callback
    cdef object context
    cdef readonly int fd
    cdef readonly int mode

cdef class Poller:
    cdef object unused          # Cython gives only a type with a Python field a place among the collected ones
    cdef int epfd
    cdef Slot *slots
    cdef int slot_count
    cdef epoll_event *batch
    cdef int batch_length
    cdef int batch_next
    cdef bint closed
    cdef bint counted_awake       # its loop runs, and counts as awake while it does not wait here
    cdef bint interest_changed       # something was registered, or for other events, since the last look at the descriptors
    cdef bint dispatch_paused        # set by a watcher: the rest of the batch waits for the next turn
    cdef readonly unsigned long long events_seen
    cdef readonly unsigned long long events_stale
    cdef readonly unsigned long long waits
    cdef readonly int registered

    cdef Watch register_watch(self, int fd, object events, object callback, object mode, object context)
    cdef bint kernel_lost_registration(self, int fd) noexcept
    cdef bint kernel_has_registration(self, int fd) noexcept
    cdef int last_fd(self) noexcept
    cdef void loop_started(self) noexcept
    cdef void loop_stopped(self) noexcept
    cdef int epoll_ctl_with_fallback(self, int operation, int fd, uint32_t events, uint32_t generation) noexcept
    cdef int add(self, int fd, uint32_t events, Watcher watcher) except -1
    cdef int modify(self, int fd, uint32_t events) except -1
    cdef void invalidate_pending_events(self, int fd) noexcept
    cdef void remove(self, int fd) noexcept
    cdef Watcher find(self, int fd)
    cdef int own(self, int fd, Watcher owner) except -1
    cdef void disown(self, int fd, Watcher owner) noexcept
    cdef Watcher owner_of(self, int fd)
    cdef int poll(self, int64_t timeout_ns) except -1
    cdef int dispatch(self, int most) except -1
    cdef void dispose(self) noexcept
    cdef void close_epoll_fd(self) noexcept
    cdef list reinit_after_fork(self)
    cdef int notify_forked(self) except -1
    cdef int reserve(self, int fd) except -1
    cdef int epoll_ctl_raw(self, int operation, int fd, uint32_t events, uint32_t generation) noexcept
