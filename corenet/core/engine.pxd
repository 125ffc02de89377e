"""C interface of the engine: a scheduler with readers, writers, waiters and watches of descriptors.

`wait_ready` is for the ``sock_*`` methods, `wake_waiters` and `check_not_owned` for what owns a descriptor.
"""

from corenet.core.handles cimport Handle
from corenet.core.poller cimport Watcher
from corenet.core.scheduler cimport Scheduler

cdef class Engine(Scheduler):
    cdef FdHandlers descriptor(self, int fd, bint writing)
    cdef int check_watchable(self, int fd) except -1
    cdef int remove_stale_handlers(self, int fd) except -1
    cdef int check_not_owned(self, int fd) except -1
    cdef int wait_ready(self, int fd, bint writing, object waiter, object owner) except -1
    cdef bint clear_direction(self, FdHandlers descriptor, bint writing) except -1
    cdef int wake_waiters(self, int fd) except -1
    cdef int set_waiter_result(self, object waiter) except -1

cdef class FdHandlers(Watcher):
    cdef Engine engine
    cdef int fd
    cdef Handle reader
    cdef Handle writer
    cdef object read_waiter
    cdef object write_waiter
    cdef object edge_registration_owner        # weak reference to the owner of the kept edge-triggered registration
    cdef int unclaimed_edges          # edge events since the last wait for which there was no waiter
    cdef bint fd_was_reused           # another file was found under the number of a kept registration
    cdef bint armed_oneshot

    cdef int arm(self, object owner) except -1
    cdef int rearm_remaining(self) except -1
    cdef bint has_interest(self) noexcept
