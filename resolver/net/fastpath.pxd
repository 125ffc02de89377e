# C interface of fastpath: one function that answers a message or passes it on.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from resolver.net.cookies cimport CookieState
from resolver.net.rate_limit cimport RateState
from resolver.observe.observer cimport ObserverState
from resolver.observe.samples cimport SampleRing, Samples
from resolver.policy.access cimport access_table

cdef enum:
    FAST_DROP = 0
    FAST_SLOW_PATH = -1
    FAST_REASONS = 64           # malformed packets are counted by the parser's reason; number of these counters
    # Dimensions of the table of replies. `resolver.observe.labels` has the transports and types.
    FAST_TRANSPORTS = 5
    FAST_TYPES = 32
    FAST_TYPE_SHIFT = 5
    FAST_RCODES = 32            # as many as there are types, so that a type is found by the same shift
    FAST_NOT_CACHED = 16        # added to the rcode of a reply that is no cached answer
    FAST_BUCKETS = 16           # the most buckets of a histogram
    # Who records replies, as bits of `FastState.recorders`.
    BY_OBSERVER = 1
    BY_SAMPLES = 2

cdef struct FastCounters:
    uint64_t received
    # Replies by transport, type and rcode: one increment for each. The rcodes of cached answers are 0 to 15, those of
    # other replies have FAST_NOT_CACHED added; BADCOOKIE is 23, in the place of YXRRSET, which nothing here is.
    uint64_t replies[FAST_TRANSPORTS][FAST_TYPES * FAST_RCODES]
    uint64_t timed[FAST_BUCKETS]          # measured cached answers, by bucket of the time since their batch was received
    uint64_t timed_ns           # the sum of these times
    uint64_t truncated
    uint64_t passed             # to Python: misses
    uint64_t due                # to Python: one query for each answer that expires soon, for a prefetch
    uint64_t non_plain          # to Python: well-formed, but not plain queries
    uint64_t refused
    uint64_t denied             # queries of clients whose access is DROP
    uint64_t dropped            # shorter than a header, or a response
    uint64_t format_errors      # answered FORMERR
    uint64_t malformed[64]

# The state of the fast path: a plain structure, so that code without the GIL touches no Python object.
cdef struct FastState:
    void *answers               # an AnswerContext
    const access_table *access
    const access_table *notify_peers    # who may send NOTIFY without access; NULL: there are no own zones
    const access_table *transfer_peers  # who may query for SOA, AXFR and IXFR without access; NULL as above
    bint knows_keys             # views have TSIG keys, so a signature may give a client without access the access of a view
    size_t largest_reply
    bint pass_without_rd
    bint prefetch               # pass one query for an answer that expires soon to Python
    int stream_access           # decision and view of the stream's client, as `access_lookup` returns them
    CookieState *cookies        # NULL: cookies are ignored
    uint8_t stream_ip[16]       # address of the stream's client; for datagrams it is the sender
    size_t stream_ip_size
    int keepalive               # idle timeout of the stream (100 ms) for RFC 7828; -1: the option is ignored
    int64_t left                # seconds for which the reply made last is valid; 0 when it is not from the cache
    FastCounters *counters
    uint64_t *replies           # row of the transport in `counters.replies`; that of UDP, except while a stream is served
    RateState *rates            # NULL: nothing is limited
    bint verified               # the query answered last had a valid cookie; only set with `rates`
    ObserverState *observer     # records answers; NULL: none
    SampleRing *samples         # gets samples of answers; it stays when `recorders` no longer has it
    uint32_t recorders          # who records answers; 0: none
    int found                   # what `access_lookup` returned for the last message
    uint16_t stream_port        # port and transport of the stream's client, only set for `observer`
    int stream_protocol

cdef class FastPath:
    cdef FastState state
    cdef FastCounters own_counters
    cdef FastPath counters_owner
    cdef list lanes
    cdef object answer_cache
    cdef object access_owner
    cdef object peers_owner
    cdef object server_cookies
    cdef object latency
    cdef object rate_limits
    cdef object observer_owner
    cdef Samples samples_owner
    cdef uint8_t *buffer
    cdef int select_stream(self, int transport, int port) except -1
    cdef void sum_counters(self, FastCounters *total) noexcept
    cdef int start_own_samples(self, uint64_t seed) except -1

cdef int fast_answer(FastState *state, const uint8_t *data, size_t size, const void *peer, size_t peer_size,
                     int64_t now, uint8_t *out, size_t capacity, bint stream, size_t block) noexcept nogil

cdef void note_time(FastCounters *counters, int64_t nanoseconds) noexcept nogil


cdef class ClientQuery:
    cdef readonly uint16_t id
    cdef readonly uint16_t flags
    cdef readonly uint16_t qtype
    cdef readonly uint16_t qclass
    cdef readonly uint16_t payload
    cdef readonly uint16_t question_end
    cdef readonly uint8_t edns_version
    cdef readonly bint has_edns
    cdef readonly bint do
    cdef readonly bint padded
    cdef readonly bytes qname
    cdef readonly bytes options
    cdef readonly bytes wire
