"""C interface of the scheduler: what transports use of their loop.

`scratch` is the loop's receive buffer, whose content is valid until the next receive. `iteration` is the number of the
current iteration. `request_flush` schedules one call of a watcher's `on_flush`: during a ready callback or timer, for
when that returns; during a descriptor event, for the end of the iteration.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from corenet.core.handles cimport Handle, TimerHandle
from corenet.core.poller cimport Poller, Watcher
from corenet.core.ready_queue cimport Inbox, Ring
from corenet.core.receive_pool cimport ReceivePool
from corenet.core.timers cimport TimerHeap

cdef Py_ssize_t RECEIVE_BUFFER_SIZE      # of `Scheduler.receive_buffer`

cdef class Scheduler:
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
    cdef uint64_t iteration
    cdef uint64_t gc_tracked_timers         # timers whose `order` is below this are tracked by the garbage collector
    cdef int64_t last_poll
    cdef int64_t gil_yield_at   # when the GIL is next offered to another loop's thread, if there is one
    cdef int64_t gil_hold_ns   # time between two offers; doubles when no thread took the GIL
    cdef unsigned long long bytes_sent_at_poll     # bytes_sent at the last poll
    cdef bint closed_since_poll                       # a descriptor was closed or half-closed since the last poll
    cdef int polls_skipped
    cdef bint stop_requested
    cdef bint running
    cdef bint in_callback       # a ready callback or a timer runs, not a callback of a descriptor
    cdef bint closed
    cdef bint debug
    cdef bint custom_clock
    cdef bint in_live_count
    cdef bint threadsafe_handles   # call_soon_threadsafe makes ThreadSafeHandles
    # Each callback is timed: in debug mode, and for SLOW_WATCH_SECONDS after a slow iteration.
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
    cdef uint64_t callback      # number of ready callbacks and timers that were started
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
    cdef int check_open(self) except -1


cdef inline uint64_t callback_of(Scheduler loop) noexcept:
    """Return a number that differs for each ready callback, timer and descriptor event."""
    return loop.callback + loop.poller.events_seen
