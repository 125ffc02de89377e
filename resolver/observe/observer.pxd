# C interface of the observer: what the fast path calls for each answer that it gives.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from resolver.observe.event cimport Event
from resolver.observe.log_line cimport LineForm
from resolver.observe.pieces cimport PieceQueue

# One of the two outputs. `queue` NULL: off.
cdef struct Output:
    PieceQueue *queue
    uint32_t sample             # one query of this many is recorded
    uint8_t bits_v4             # of client addresses that are recorded
    uint8_t bits_v6

cdef struct ObserverState:
    Output log
    Output tap
    uint64_t random             # state of the generator that chooses samples
    int64_t now                 # nanoseconds since 1970, read once for a batch
    LineForm *form
    bint every_view
    uint8_t logs_view[256]
    uint32_t tap_types          # bits of the message types that are recorded
    const uint8_t *head         # identity and version, as fields of dnstap
    uint32_t head_size

cdef void observe_fast(ObserverState *state, const uint8_t *query, size_t query_size, const uint8_t *reply, size_t reply_size,
                       const uint8_t *address, size_t address_size, uint16_t port, int protocol, int view) noexcept nogil
cdef void set_time(ObserverState *state) noexcept nogil


cdef class Observer:
    cdef ObserverState state
    cdef LineForm form
    cdef object log_pieces
    cdef object tap_pieces
    cdef bytes head
    cdef object is_own
    cdef Observer parent            # of the observer of a lane
    cdef Observer for_lane(self, uint64_t seed)
    cdef int tap_client(self, const Event *event, int kind) except -1
    cdef bint is_for_own_zone(self, bytes data) except -1
    cdef int record_upstream(self, object ask, bytes packet, bytes message, str transport, double seconds) except -1


cdef class ObservedSink:
    cdef Observer owner
    cdef object sink
    cdef bytes query
    cdef Event event
    cdef uint8_t address[16]
    cdef bint logged
    cdef bint tapped
    cdef bint answered
    cdef int record(self, bytes packet) except -1
