"""C interface of the poller: watchers by descriptor, each registration with its own generation.

Methods of a `Watcher`:

on_events              an event of its descriptor
on_flush               once after it has called `Scheduler.request_flush`
on_fork_in_child       in the child of a fork, for watchers that requested a flush, are registered, or own a descriptor:
                       they drop their unsent data, which the parent sends
on_registration_lost   the kernel refused to register the descriptor in the child: no event will come
on_closing             the loop is closed while it is registered
yield_to_reader        a reader is set or removed on its descriptor; it returns True after it has left the poller
callback_to_report     what a report of a slow event names: the callback, or the watcher itself
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t

from corenet.core.libc cimport epoll_event

cdef struct Slot:
    uint32_t generation
    uint32_t events
    PyObject *watcher
    PyObject *owner         # borrowed: the transport that owns the descriptor, registered or not

cdef bint other_loops_awake() noexcept
cdef bint yield_gil() noexcept

cdef class Watcher:
    cdef int on_events(self, uint32_t events) except -1
    cdef int on_flush(self) except -1
    cdef int on_fork_in_child(self) except -1
    cdef int on_registration_lost(self, object error) except -1
    cdef int on_closing(self) except -1
    cdef bint yield_to_reader(self) except -1
    cdef object callback_to_report(self)

cdef class Watch(Watcher):
    cdef Poller poller
    cdef object callback
    cdef object context
    cdef readonly int fd
    cdef readonly int mode

cdef class Poller:
    cdef object unused          # without a Python field Cython makes a type without cyclic collection
    cdef int epfd
    cdef Slot *slots
    cdef int slot_count
    cdef epoll_event *batch
    cdef int batch_length
    cdef int batch_next
    cdef bint closed
    cdef bint counted_awake       # its loop runs, and counts as awake except while it waits in `poll`
    cdef bint interest_changed       # an interest was added or changed since the last poll
    cdef bint dispatch_paused        # set by a watcher: the rest of the batch is dispatched in the next iteration
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
