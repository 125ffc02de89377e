# C interface: the streams of an HTTP/2 connection.

from libc.stdint cimport int64_t, uint32_t

from corenet.http.h2_messages cimport Messages
from corenet.http.hpack cimport HpackEncoder, Octets


cdef enum State:
    OPEN
    HALF_CLOSED_LOCAL
    HALF_CLOSED_REMOTE
    CLOSED

cdef enum:
    DEFAULT_WINDOW = 65_535     # RFC 9113 section 6.9.2


cdef class H2Stream(Messages):
    cdef uint32_t number
    cdef int state
    cdef bint surfaced              # the user has got an event of it
    # receiving
    cdef int64_t receive_window     # what the peer may still send
    cdef int64_t unacknowledged     # received, not yet consumed by the user
    cdef int64_t credit             # consumed, not yet announced to the peer
    # sending
    cdef int64_t send_window        # what we may still send
    cdef bint finished              # the user has given the end, which may still be queued
    cdef list queue                 # bytes that wait for a window
    cdef Py_ssize_t queue_at        # bytes of the first that were sent
    cdef int64_t queued
    cdef list trailers              # to be sent after the queue, or None


cdef class H2Streams:
    cdef readonly bint server
    cdef HpackEncoder encoder
    cdef Octets out                 # bytes for the peer
    cdef dict streams
    cdef dict pending               # streams with a queue, in the order in which they are served
    cdef dict reset_streams         # number -> True when the peer has reset it; the last HTTP2_CLOSED_STREAMS
    cdef uint32_t forgotten         # the highest number removed from `reset_streams`
    cdef uint32_t next_stream, last_peer_stream, goaway_stream
    cdef readonly int open_streams  # opened by the client and not closed
    cdef bint failed, fault_unsent
    cdef int fault_code
    cdef bytes fault_reason
    cdef readonly bint goaway_sent, goaway_received
    cdef double control_budget, reset_budget, clock
    # flow control
    cdef int64_t connection_target, receive_window, connection_credit, stream_window
    cdef int64_t send_window, peer_stream_window
    cdef int64_t unsent_octets
    cdef int64_t peer_max_streams

    cdef int start(self, bint server, table_size) except -1
    cdef int refill(self, double now) except -1
    cpdef int64_t unsent(self, int64_t stream_id=*) except -1
    cpdef bytes data_to_send(self, bint last=*)
    cpdef int acknowledge(self, int64_t stream_id, int64_t size) except -1
    cdef int credit_connection(self, int64_t size) except -1
    cdef int open_connection_window(self) except -1
    cdef int fail(self, int code, str reason) except -1
    cdef int leave_streams(self, bint incomplete_only) except -1
    cdef int spend_control(self) except -1
    cdef int spend_reset(self) except -1
    cdef int credit_control_frames(self) except -1
    cdef H2Stream make_stream(self, uint32_t number)
    cdef int received_end(self, H2Stream stream, list trailers, list events) except -1
    cdef int ended_well(self) except -1
    cdef int stream_error(self, H2Stream stream, int code, str reason, list events) except -1
    cdef int refuse(self, uint32_t number, int code) except -1
    cdef int close(self, H2Stream stream) except -1
    cdef int remember_reset(self, uint32_t number, bint by_peer) except -1
    cdef bint is_idle(self, uint32_t number) noexcept
    cdef int late(self, uint32_t number) except -1
    cpdef int64_t send_request(self, request, bint end=*, bytes scheme=*) except -1
    cdef H2Stream stream_to_send(self, int64_t stream_id)
    cpdef int send_response(self, int64_t stream_id, response, bint end=*) except -1
    cpdef int64_t send_data(self, int64_t stream_id, data, bint end=*) except -1
    cpdef int64_t send_end(self, int64_t stream_id, trailers=*) except -1
    cdef bint send_queued(self, H2Stream stream, list events) except -1
    cdef int pump(self, list events) except -1
    cdef int sent_end(self, H2Stream stream) except -1
    cdef int add_block(self, H2Stream stream, list pseudo, list fields, int what, bint end) except -1
    cpdef int reset(self, int64_t stream_id, int64_t code=*) except -1
    cpdef int ping(self, bytes data) except -1
    cpdef int goaway(self, int64_t code=*, bytes debug=*) except -1
