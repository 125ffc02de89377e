"""C door of the engine: what transports need of the loop they live on.

`scratch` is the loop's receive buffer, valid until the next receive; `turn` numbers the turns; `at_end` asks for one call
of a watcher's `on_turn_end`: as soon as the callback that runs has returned, or, in an event of a descriptor, when the
callbacks of this turn have run.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from corenet.core.handles cimport Handle, TimerHandle
from corenet.core.poller cimport Poller, Watcher
from corenet.core.ready cimport Inbox, Ring
from corenet.core.spares cimport Spares
from corenet.core.timers cimport TimerHeap

cdef enum:
    SCRATCH_SIZE = 262144

cdef class Engine:
    cdef Poller poller
    cdef TimerHeap timers
    cdef Inbox inbox
    cdef Ring ready
    cdef Ring due
    cdef Ring ending
    cdef Ring leaving
    cdef uint8_t *scratch
    cdef Spares spares
    cdef object datagram_arena
    cdef uint64_t turn
    cdef uint64_t shown         # the collector has been shown every timer whose `order` is below this
    cdef int64_t last_poll
    cdef int64_t hand_over_at   # when another loop's thread is let have the GIL, if there is one
    cdef int64_t keeps_gil_ns   # for how long this one keeps it; longer when nobody took it
    cdef unsigned long long sent_before     # bytes_sent at the last poll
    cdef bint stirred                       # a descriptor was closed, or half of it, since the last poll
    cdef int skipped
    cdef bint stop_requested
    cdef bint running
    cdef bint in_callback       # a callback of the ready ones or of a timer runs, not one of a descriptor
    cdef bint closed
    cdef bint debug
    cdef bint own_clock
    cdef bint counted
    cdef bint guarded_handles   # those of call_soon_threadsafe are ThreadSafeHandles
    # Timed one by one: in debug mode, and for a while after something was slow.
    cdef bint careful
    cdef bint attentive
    cdef int64_t attentive_until
    cdef int64_t slow_ns
    cdef int64_t turn_began
    cdef int64_t run_began
    cdef int64_t ran_ns
    cdef int64_t slept_ns
    cdef unsigned long long callbacks_before
    cdef unsigned long long events_before
    cdef unsigned long long slow_seen
    cdef object slow
    cdef object last_callback
    cdef unsigned long long bytes_received
    cdef unsigned long long bytes_sent
    cdef unsigned long long callbacks_run
    cdef uint64_t callback      # the number of the ready one or timer that runs
    cdef unsigned long long timers_fired

    cdef Handle soon(self, object callback, tuple args, object context)
    cdef TimerHandle timer_at(self, double seconds, object callback, tuple args, object context)
    cdef TimerHandle later_ns(self, int64_t delay_ns, object callback, tuple args)
    cdef int at_end(self, Watcher watcher) except -1
    cdef void received_much(self) noexcept
    cdef uint8_t *receive_buffer(self) except NULL
    cdef int push_handle(self, Handle handle) except -1
    cdef int64_t clock(self) except? -1
    cdef int turn_once(self) except -1
    cdef int expire(self, int64_t now) except -1
    cdef int64_t sleep(self, int64_t now) except -1
    cdef int deliver(self) except -1
    cdef int run_handles(self, Ring *ring) except -1
    cdef int run_kept(self, Handle handle) except -1
    cdef int run_carefully(self, Handle handle) except -1
    cdef int turn_was_slow(self, int64_t now) except -1
    cdef int note_slow(self, object source, int fd, int64_t took, bint exact) except -1
    cdef int end_callback(self) except -1
    cdef int call_ending(self, Ring *ring) except -1
    cdef int tell_closing(self) except -1
    cdef int tell_unwatched(self, list unwatched) except -1
    cdef void show_waiting(self) noexcept
    cdef void drop_all(self) noexcept
    cdef Descriptor descriptor(self, int fd, bint writing)
    cdef int own_or_refuse(self, int fd) except -1
    cdef int refuse_owned(self, int fd) except -1
    cdef int check_open(self) except -1
    cdef int wait_once(self, int fd, bint writing, object waiter, object owner) except -1
    cdef bint forget_side(self, Descriptor descriptor, bint writing) except -1
    cdef int abandon(self, int fd) except -1
    cdef int wake(self, object waiter) except -1

cdef class Descriptor(Watcher):
    cdef Engine engine
    cdef int fd
    cdef Handle reader
    cdef Handle writer
    cdef object read_waiter
    cdef object write_waiter
    cdef object standing        # weak reference to the owner of an edge-triggered entry in the kernel's table
    cdef int unclaimed          # edges since the last wait that found nobody
    cdef bint swapped           # another file was found under the number of a standing entry
    cdef bint armed_once

    cdef int arm(self, object owner) except -1
    cdef int arm_rest(self) except -1
    cdef bint wanted(self) noexcept


cdef inline uint64_t callback_of(Engine loop) noexcept:
    """A number for the callback that runs, of the ready ones, a timer or a descriptor's event: another for each."""
    return loop.callback + loop.poller.events_seen
