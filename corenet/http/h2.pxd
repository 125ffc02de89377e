# C interface of the HTTP/2 connection; both roles, no I/O.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t

from corenet.http.h2_frames cimport FrameHead
from corenet.http.h2_messages cimport Messages
from corenet.http.hpack cimport HpackDecoder, HpackEncoder, Octets


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


cdef class H2Connection:
    cdef readonly bint server
    cdef HpackDecoder decoder
    cdef HpackEncoder encoder
    cdef Octets out
    cdef dict streams
    cdef dict pending               # streams with a queue, in the order in which they are served
    cdef dict reset_streams         # number -> True when the peer has reset it; the last HTTP2_CLOSED_STREAMS
    cdef uint32_t forgotten         # the highest number removed from `reset_streams`
    cdef uint32_t next_stream, last_peer_stream, goaway_stream
    cdef readonly int open_streams  # opened by the client and not closed
    cdef bint failed
    cdef readonly bint goaway_sent, goaway_received
    # frames
    cdef bytes held                 # an incomplete frame
    cdef Py_ssize_t preface_left
    cdef bint settings_seen
    cdef int settings_unacknowledged
    cdef bint in_data, data_end
    cdef H2Stream data_stream       # of the DATA frame being received; None when it is skipped
    cdef Py_ssize_t data_left, pad_left
    cdef PyObject *body             # owned: bytes for the Data event `body_event` during `feed`; `body_size` are filled
    cdef Py_ssize_t body_size
    cdef object body_event
    cdef uint32_t block_stream      # of the field block being received, 0 for none
    cdef int block_flags, continuations
    cdef bytearray block
    # limits
    cdef Py_ssize_t max_head
    cdef int max_streams
    cdef Py_ssize_t table_size
    cdef int64_t window_target, connection_target
    cdef double control_budget, reset_budget, clock
    # flow control and settings
    cdef int64_t receive_window, connection_credit, stream_window
    cdef int64_t send_window, peer_stream_window
    cdef int64_t unsent_octets
    cdef int64_t peer_max_streams

    cpdef list feed(self, data, double now=*)
    cpdef bytes data_to_send(self)
    cpdef int acknowledge(self, int64_t stream_id, int64_t size) except -1
    cpdef int64_t send_request(self, request, bint end=*, bytes scheme=*) except -1
    cpdef int send_response(self, int64_t stream_id, response, bint end=*) except -1
    cpdef int64_t send_data(self, int64_t stream_id, data, bint end=*) except -1
    cpdef int64_t send_end(self, int64_t stream_id, trailers=*) except -1
    cpdef int reset(self, int64_t stream_id, int64_t code=*) except -1
    cpdef int ping(self, bytes data) except -1
    cpdef int goaway(self, int64_t code=*, bytes debug=*) except -1
    cpdef int64_t unsent(self, int64_t stream_id=*) except -1

    cdef int fail(self, int code, str reason) except -1
    cdef int spend_control(self) except -1
    cdef int spend_reset(self) except -1
    cdef int earn(self) except -1
    cdef int run(self, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef int begin_data(self, const uint8_t *p, Py_ssize_t length, int flags, uint32_t number, list events) except -1
    cdef int deliver(self, H2Stream stream, const uint8_t *p, Py_ssize_t n, Py_ssize_t room, list events) except -1
    cdef int finish_body(self) except -1
    cdef int frame(self, const FrameHead *head, const uint8_t *p, list events) except -1
    cdef int begin_block(self, int flags, uint32_t number, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef int end_block(self, int flags, uint32_t number, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef int on_settings(self, int flags, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef int on_window_update(self, uint32_t number, const uint8_t *p, list events) except -1
    cdef int on_goaway(self, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef int late(self, uint32_t number) except -1
    cdef bint is_idle(self, uint32_t number) noexcept
    cdef int received_end(self, H2Stream stream, list trailers, list events) except -1
    cdef int stream_error(self, H2Stream stream, int code, str reason, list events) except -1
    cdef int refuse(self, uint32_t number, int code) except -1
    cdef int close(self, H2Stream stream) except -1
    cdef int remember_reset(self, uint32_t number, bint by_peer) except -1
    cdef H2Stream make_stream(self, uint32_t number)
    cdef H2Stream stream_to_send(self, int64_t stream_id)
    cdef int credit_connection(self, int64_t size) except -1
    cdef int begin(self) except -1
    cdef int open_connection_window(self) except -1
    cdef int ended_well(self) except -1
    cdef int add_block(self, H2Stream stream, list pseudo, list fields, int what, bint end) except -1
    cdef int sent_end(self, H2Stream stream) except -1
    cdef bint send_queued(self, H2Stream stream, list events) except -1
    cdef int pump(self, list events) except -1
