"""C door of the engine: what transports need of the loop they live on.

`scratch` is the loop's receive buffer, valid until the next receive; `turn` numbers the turns; `request_flush` asks for one call
of a watcher's `on_flush`: as soon as the callback that runs has returned, or, in an event of a descriptor, when the
callbacks of this turn have run.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from corenet.core.handles cimport Handle, TimerHandle
from corenet.core.poller cimport Poller, Watcher
from corenet.core.ready_queue cimport Inbox, Ring
from corenet.core.receive_pool cimport ReceivePool
from corenet.core.timers cimport TimerHeap

cdef enum:
    SCRATCH_SIZE = 262144

cdef class Engine:
    cdef Poller poller
    cdef TimerHeap timers
    cdef Inbox inbox
    cdef Ring ready
    cdef Ring due
    cdef Ring flush_after_iteration
    cdef Ring flush_after_callback
    cdef uint8_t *scratch
    cdef ReceivePool receive_pool
    cdef object datagram_arena
    cdef uint64_t turn
    cdef uint64_t gc_tracked_timers         # the collector has been shown every timer whose `order` is below this
    cdef int64_t last_poll
    cdef int64_t gil_yield_at   # when another loop's thread is let have the GIL, if there is one
    cdef int64_t gil_hold_ns   # for how long this one keeps it; longer when nobody took it
    cdef unsigned long long bytes_sent_at_poll     # bytes_sent at the last poll
    cdef bint closed_since_poll                       # a descriptor was closed, or half of it, since the last poll
    cdef int polls_skipped
    cdef bint stop_requested
    cdef bint running
    cdef bint in_callback       # a callback of the ready ones or of a timer runs, not one of a descriptor
    cdef bint closed
    cdef bint debug
    cdef bint custom_clock
    cdef bint in_live_count
    cdef bint threadsafe_handles   # those of call_soon_threadsafe are ThreadSafeHandles
    # Timed one by one: in debug mode, and for a while after something was slow.
    cdef bint time_each_callback
    cdef bint slow_watch
    cdef int64_t slow_watch_until
    cdef int64_t slow_ns
    cdef int64_t iteration_start
    cdef int64_t run_began
    cdef int64_t ran_ns
    cdef int64_t slept_ns
    cdef unsigned long long callbacks_before
    cdef unsigned long long events_before
    cdef unsigned long long slow_count
    cdef object slow
    cdef object last_callback
    cdef unsigned long long bytes_received
    cdef unsigned long long bytes_sent
    cdef unsigned long long callbacks_run
    cdef uint64_t callback      # the number of the ready one or timer that runs
    cdef unsigned long long timers_fired

    cdef Handle call_soon_c(self, object callback, tuple args, object context)
    cdef TimerHandle call_at_c(self, double seconds, object callback, tuple args, object context)
    cdef TimerHandle call_later_ns(self, int64_t delay_ns, object callback, tuple args)
    cdef int request_flush(self, Watcher watcher) except -1
    cdef void defer_rest_of_batch(self) noexcept
    cdef uint8_t *receive_buffer(self) except NULL
    cdef int push_handle(self, Handle handle) except -1
    cdef int64_t clock(self) except? -1
    cdef int run_iteration(self) except -1
    cdef int expire(self, int64_t now) except -1
    cdef int64_t sleep(self, int64_t now) except -1
    cdef int deliver(self) except -1
    cdef int run_handles(self, Ring *ring) except -1
    cdef int run_io_handle(self, Handle handle) except -1
    cdef int run_timed(self, Handle handle) except -1
    cdef int check_slow_iteration(self, int64_t now) except -1
    cdef int note_slow(self, object source, int fd, int64_t took, bint exact) except -1
    cdef int flush_after_callback_now(self) except -1
    cdef int run_flushes(self, Ring *ring) except -1
    cdef int notify_closing(self) except -1
    cdef int notify_registrations_lost(self, list unwatched) except -1
    cdef void gc_track_pending(self) noexcept
    cdef void drop_all(self) noexcept
    cdef FdHandlers descriptor(self, int fd, bint writing)
    cdef int check_watchable(self, int fd) except -1
    cdef int check_not_owned(self, int fd) except -1
    cdef int check_open(self) except -1
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
    cdef object edge_registration_owner        # weak reference to the owner of an edge-triggered entry in the kernel's table
    cdef int unclaimed_edges          # edges since the last wait that found nobody
    cdef bint fd_was_reused           # another file was found under the number of a standing entry
    cdef bint armed_oneshot

    cdef int arm(self, object owner) except -1
    cdef int rearm_remaining(self) except -1
    cdef bint has_handlers(self) noexcept


cdef inline uint64_t callback_of(Engine loop) noexcept:
    """A number for the callback that runs, of the ready ones, a timer or a descriptor's event: another for each."""
    return loop.callback + loop.poller.events_seen
