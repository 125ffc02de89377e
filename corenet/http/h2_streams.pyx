"""The streams of an HTTP/2 connection: states, flow control, budgets, and what is sent (RFC 9113 sections 5 and 6.9).

`H2Streams` is the part of a connection that knows its streams. `H2Connection` in `h2.pyx` inherits it and receives.

States and events of a stream (RFC 9113 section 5.1; server push is refused, so there are no reserved states)::

    state              | headers           | end sent          | end received       | reset, error
    -------------------+-------------------+-------------------+--------------------+-------------
    IDLE               | OPEN              |                   |                    |
    OPEN               | OPEN              | HALF_CLOSED_LOCAL | HALF_CLOSED_REMOTE | CLOSED
    HALF_CLOSED_LOCAL  | HALF_CLOSED_LOCAL |                   | CLOSED             | CLOSED
    HALF_CLOSED_REMOTE | (sent only)       | CLOSED            |                    | CLOSED
    CLOSED             |                   |                   |                    |

headers: a field block is sent or received. end sent: the frame with END_STREAM is sent, after any data that
waits for the peer's window. A stream number above the highest one used is IDLE; any other one that is not in `streams`
is CLOSED. The connection remembers the last `HTTP2_CLOSED_STREAMS` reset streams, because frames for them may be in
flight. A frame for a stream that both sides have ended is a connection error.

Flow control. Receiving: data that the user has not acknowledged counts against the peer's windows. Only
`acknowledge` opens them again, so a slow user slows the peer. Data for a stream that was reset is
acknowledged here. Sending: data beyond the peer's windows waits in the stream's queue; streams are served in turn.

Invariants: `streams` holds exactly the streams that are neither IDLE nor CLOSED; `open_streams` is their number;
`pending` holds exactly those with a queue; `unsent_octets` is the sum of the queues; a stream's `unacknowledged` bytes
are credited to the connection exactly once, by `acknowledge` or when the stream closes.

The budgets of the connection, for frames that move no message forward and for streams that end in a reset, refill with
time and with completed work. Time is an argument.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

cimport cython

from corenet.http.field_grammar cimport length_of
from corenet.http.h2_frames cimport (
    CANCEL,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    F_DATA,
    F_PING,
    F_RST_STREAM,
    F_WINDOW_UPDATE,
    FRAME_HEAD,
    LARGEST_STREAM,
    INITIAL_MAX_FRAME_SIZE,
    NO_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    add_frame,
    add_goaway,
    add_uint32_frame,
    split_field_block,
    write_head,
)
from corenet.http.h2_messages cimport (
    B_REQUEST,
    B_RESPONSE,
    B_TRAILERS,
    Messages,
    check_trailers,
    count_sent,
    encode_block,
    pseudo_of_request,
    pseudo_of_response,
    received_whole,
)
from corenet.http.hpack cimport HpackEncoder, octets_free, octets_reserve

from corenet.http.errors import Http2Error, LocalProtocolError
from corenet.http.events import End, Informational
from corenet.http.h2_events import Drained, StreamReset, error_name
from corenet.http.headers import Headers
from corenet.limits import (
    HTTP2_CLOSED_STREAMS,
    HTTP2_CONTROL_EARNED,
    HTTP2_CONTROL_FRAMES,
    HTTP2_CONTROL_RATE,
    HTTP2_MAX_STREAMS,
    HTTP2_RESET_RATE,
    HTTP2_RESETS,
    HTTP2_SMALL_FRAME,
)

__all__: list = []

cdef Py_ssize_t SMALL_FRAME = HTTP2_SMALL_FRAME
cdef Py_ssize_t MAX_CLOSED = HTTP2_CLOSED_STREAMS
cdef double CONTROL_FRAMES = HTTP2_CONTROL_FRAMES
cdef double CONTROL_RATE = HTTP2_CONTROL_RATE
cdef double CONTROL_CREDIT = HTTP2_CONTROL_EARNED
cdef double RESETS = HTTP2_RESETS
cdef double RESET_RATE = HTTP2_RESET_RATE
cdef bytes HTTPS = b"https"


@cython.final
cdef class H2Stream(Messages):
    """One stream that is open or half closed."""


cdef class H2Streams:
    """The streams of one connection."""

    def __cinit__(self, *_args, **_kwargs):
        self.streams = {}
        self.pending = {}
        self.reset_streams = {}

    def __dealloc__(self):
        octets_free(&self.out)

    cdef int start(self, bint server, table_size) except -1:
        """Begin without streams; all windows have the protocol's default size."""
        self.server = server
        self.encoder = HpackEncoder(table_size)
        self.control_budget = CONTROL_FRAMES
        self.reset_budget = RESETS
        self.receive_window = self.stream_window = DEFAULT_WINDOW
        self.send_window = self.peer_stream_window = DEFAULT_WINDOW
        # Used until the peer's settings arrive: the least that the RFC recommends (section 6.5.2).
        self.peer_max_streams = HTTP2_MAX_STREAMS.default
        self.next_stream = 2 if server else 1
        self.goaway_stream = LARGEST_STREAM
        return 0

    # --- properties ---------------------------------------------------------------------------------------------------

    @property
    def stream_limit(self):
        """How many concurrent streams the peer allows us to open."""
        return self.peer_max_streams

    @property
    def accepting(self):
        """True while a client may send requests, now or after a stream has ended: there was no GOAWAY or error."""
        return (not self.server and not self.failed and not self.goaway_received and not self.goaway_sent
                and self.next_stream <= LARGEST_STREAM)

    @property
    def can_open(self):
        """True when a client may send a request now: the peer allows one more stream."""
        return self.accepting and self.open_streams < self.peer_max_streams

    def is_open(self, int64_t stream_id):
        """Return whether a message may still be sent or received on this stream."""
        return stream_id in self.streams

    cpdef int64_t unsent(self, int64_t stream_id=0) except -1:
        """Bytes of bodies that wait for the peer's windows: of one stream, or of all."""
        cdef H2Stream stream
        if stream_id == 0:
            return self.unsent_octets
        stream = self.streams.get(stream_id)
        return 0 if stream is None else stream.queued

    # --- streams ------------------------------------------------------------------------------------------------------

    cdef H2Stream make_stream(self, uint32_t number):
        cdef H2Stream stream = H2Stream.__new__(H2Stream)
        stream.number = number
        stream.receive_window = self.stream_window
        stream.send_window = self.peer_stream_window
        stream.length_left = stream.send_left = -1
        self.streams[number] = stream
        self.open_streams += 1
        return stream

    cdef bint is_idle(self, uint32_t number) noexcept:
        """True when no stream with this number was ever opened."""
        if number & 1:
            return number > self.last_peer_stream if self.server else number >= self.next_stream
        return True

    cdef int late(self, uint32_t number) except -1:
        """Handle a frame for a stream that is not open: raise, or return when it is ignored."""
        if self.is_idle(number):
            self.fail(PROTOCOL_ERROR, "a frame on a stream that was not opened")
        by_peer = self.reset_streams.get(number)
        if by_peer is None and number > self.forgotten:
            self.fail(STREAM_CLOSED, "a frame on a stream that has ended")
        if by_peer is not False:
            self.spend_control()
        return 0

    cdef int received_end(self, H2Stream stream, list trailers, list events) except -1:
        cdef str reason
        if stream.state == CLOSED:
            return 0
        reason = received_whole(stream)
        if reason is not None:
            return self.stream_error(stream, PROTOCOL_ERROR, reason, events)
        events.append((stream.number, End(Headers(trailers)) if trailers else End()))
        if stream.state == OPEN:
            stream.state = HALF_CLOSED_REMOTE
        else:
            self.close(stream)
            self.ended_well()
        return 0

    cdef int sent_end(self, H2Stream stream) except -1:
        stream.finished = True
        if stream.state == OPEN:
            stream.state = HALF_CLOSED_LOCAL
        else:
            self.close(stream)
            self.ended_well()
        return 0

    cdef int ended_well(self) except -1:
        self.credit_control_frames()
        self.reset_budget = min(RESETS, self.reset_budget + 1)
        return 0

    cdef int stream_error(self, H2Stream stream, int code, str reason, list events) except -1:
        """Reset a stream on which the peer violated the protocol (RFC 9113 section 5.4.2).

        It counts like a reset by the peer, because a peer that provokes resets causes the same work (CVE-2025-8671).
        """
        self.close(stream)
        if stream.surfaced:
            events.append((stream.number, StreamReset(code, False, False, reason)))
        return self.refuse(stream.number, code)

    cdef int refuse(self, uint32_t number, int code) except -1:
        add_uint32_frame(&self.out, F_RST_STREAM, number, code)
        self.remember_reset(number, False)
        return self.spend_reset()

    cdef int close(self, H2Stream stream) except -1:
        """Move a stream to CLOSED. Only this method does that."""
        stream.state = CLOSED
        del self.streams[stream.number]
        self.open_streams -= 1
        if stream.queue is not None:
            self.unsent_octets -= stream.queued
            stream.queue = None
            self.pending.pop(stream.number, None)
        if stream.unacknowledged:
            self.credit_connection(stream.unacknowledged)
            stream.unacknowledged = 0
        return 0

    cdef int remember_reset(self, uint32_t number, bint by_peer) except -1:
        cdef uint32_t oldest
        if len(self.reset_streams) >= MAX_CLOSED:
            oldest = next(iter(self.reset_streams))
            del self.reset_streams[oldest]
            if oldest > self.forgotten:
                self.forgotten = oldest
        self.reset_streams[number] = by_peer
        return 0

    # --- the connection -----------------------------------------------------------------------------------------------

    cdef int fail(self, int code, str reason) except -1:
        """End the connection (RFC 9113 section 5.4.1). Requests that are complete can be answered before the GOAWAY."""
        self.failed = self.fault_unsent = self.goaway_sent = True
        self.fault_code, self.fault_reason = code, reason.encode()
        self.leave_streams(self.server)
        raise Http2Error(f"{reason} ({error_name(code)})", code)

    cdef int leave_streams(self, bint incomplete_only) except -1:
        """Forget the streams, with `incomplete_only` those whose request is not complete. Nothing is sent."""
        cdef H2Stream stream
        for stream in list(self.streams.values()):
            if incomplete_only and stream.state == HALF_CLOSED_REMOTE:
                continue
            del self.streams[stream.number]
            self.pending.pop(stream.number, None)
            self.open_streams -= 1
            self.unsent_octets -= stream.queued
        return 0

    cdef int refill(self, double now) except -1:
        """Refill the budgets with time."""
        if now > self.clock:
            self.control_budget = min(CONTROL_FRAMES, self.control_budget + (now - self.clock) * CONTROL_RATE)
            self.reset_budget = min(RESETS, self.reset_budget + (now - self.clock) * RESET_RATE)
            self.clock = now
        return 0

    cdef int spend_control(self) except -1:
        """Count a frame that moves no message forward."""
        self.control_budget -= 1
        if self.control_budget < 0:
            self.fail(ENHANCE_YOUR_CALM, "too many frames that move no message forward")
        return 0

    cdef int spend_reset(self) except -1:
        """Count a stream of a client that ended in a reset."""
        if self.server:
            self.reset_budget -= 1
            if self.reset_budget < 0:
                self.fail(ENHANCE_YOUR_CALM, "too many streams that end in a reset")
        return 0

    cdef int credit_control_frames(self) except -1:
        self.control_budget = min(CONTROL_FRAMES, self.control_budget + CONTROL_CREDIT)
        return 0

    cpdef int ping(self, bytes data) except -1:
        """Send a PING with eight bytes; the reply is a `Pong` event with the same bytes.

        Raises:
            LocalProtocolError: when they are not eight.
        """
        if length_of(data) != 8:
            raise LocalProtocolError("the data of a PING must have eight bytes")
        return add_frame(&self.out, F_PING, 0, 0, PyBytes_AS_STRING(data), 8)

    cpdef int goaway(self, int64_t code=NO_ERROR, bytes debug=b"") except -1:
        """Send GOAWAY: a server refuses new streams from now on, open ones continue."""
        self.goaway_sent = True
        return add_goaway(&self.out, self.last_peer_stream, <uint32_t>code, debug)

    cpdef bytes data_to_send(self, bint last=True):
        """Remove and return the bytes to send to the peer; empty when there are none.

        `last`: after a connection error they end with the GOAWAY, and nothing can be sent afterwards. A server that
        answers complete requests before it says False until then.
        """
        cdef bytes data
        if last and self.fault_unsent:
            self.fault_unsent = False
            self.leave_streams(False)
            self.goaway(self.fault_code, self.fault_reason)
        if self.out.size == 0:
            return b""
        data = PyBytes_FromStringAndSize(<const char *>self.out.data, self.out.size)
        self.out.size = 0
        if self.out.capacity > INITIAL_MAX_FRAME_SIZE:
            octets_free(&self.out)
        return data

    # --- flow control -------------------------------------------------------------------------------------------------

    cpdef int acknowledge(self, int64_t stream_id, int64_t size) except -1:
        """Record that the user has consumed `size` bytes of Data, so that the peer may send as many more.

        Has no effect on a closed stream, whose bytes were acknowledged when it closed.

        Raises:
            LocalProtocolError: when so many were not received.
        """
        cdef H2Stream stream = self.streams.get(stream_id)
        if stream is None:
            return 0
        if size < 0 or size > stream.unacknowledged:
            raise LocalProtocolError(f"{size} bytes acknowledged of {stream.unacknowledged} that were received")
        stream.unacknowledged -= size
        self.credit_connection(size)
        if stream.state == HALF_CLOSED_REMOTE:
            return 0
        stream.credit += size
        if stream.credit * 2 >= self.stream_window and stream.credit > 0:
            add_uint32_frame(&self.out, F_WINDOW_UPDATE, stream.number, <uint32_t>stream.credit)
            stream.receive_window += stream.credit
            stream.credit = 0
        return 0

    cdef int credit_connection(self, int64_t size) except -1:
        self.connection_credit += size
        if self.connection_credit * 2 >= self.connection_target and self.connection_credit > 0:
            self.open_connection_window()
        return 0

    cdef int open_connection_window(self) except -1:
        add_uint32_frame(&self.out, F_WINDOW_UPDATE, 0, <uint32_t>self.connection_credit)
        self.receive_window += self.connection_credit
        self.connection_credit = 0
        return 0

    # --- sending ------------------------------------------------------------------------------------------------------

    cpdef int64_t send_request(self, request, bint end=False, bytes scheme=HTTPS) except -1:
        """Open a stream with a `Request` and return its number; `end`: it has no body.

        Field names are sent in lower case, `Host` as the authority.

        Raises:
            LocalProtocolError: when no stream can be opened (`can_open`) or a field is not allowed in HTTP/2.
        """
        cdef H2Stream stream
        cdef list pseudo
        if not self.can_open:
            raise LocalProtocolError("no stream can be opened on this connection now")
        pseudo = pseudo_of_request(request, scheme)
        stream = self.make_stream(self.next_stream)
        stream.method = request.method
        stream.surfaced = True
        try:
            self.add_block(stream, pseudo, request.headers.raw, B_REQUEST, end)
            if end:
                self.sent_end(stream)
        except BaseException:
            # Nothing was sent, so the next request uses this stream number.
            self.close(stream)
            raise
        self.next_stream += 2
        stream.head_sent = True
        return stream.number

    cdef H2Stream stream_to_send(self, int64_t stream_id):
        cdef H2Stream stream = self.streams.get(stream_id)
        if stream is None:
            raise LocalProtocolError(f"stream {stream_id} is not open")
        if stream.finished:
            raise LocalProtocolError(f"the message on stream {stream_id} has ended")
        return stream

    cpdef int send_response(self, int64_t stream_id, response, bint end=False) except -1:
        """Send the head of a `Response`, or an `Informational`, on a client's stream; `end`: it has no body.

        Raises:
            LocalProtocolError: when it is out of order or a field is not allowed in HTTP/2.
        """
        cdef H2Stream stream = self.stream_to_send(stream_id)
        cdef bint informational = type(response) is Informational
        cdef int code = response.status
        cdef list pseudo
        if not self.server or stream.head_sent or (informational and end):
            raise LocalProtocolError("a response now is out of order")
        pseudo = pseudo_of_response(stream, code, informational)
        self.add_block(stream, pseudo, response.headers.raw, B_RESPONSE, end)
        stream.head_sent = not informational
        if end:
            self.sent_end(stream)
        return 0

    cpdef int64_t send_data(self, int64_t stream_id, data, bint end=False) except -1:
        """Send a piece of the body and return how many bytes of this stream now wait for the peer's windows.

        A `Drained` event follows when none waits any more.

        Raises:
            LocalProtocolError: when it is out of order, or more or less than Content-Length says.
        """
        cdef H2Stream stream = self.stream_to_send(stream_id)
        cdef bytes piece = data if type(data) is bytes else bytes(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(piece)
        count_sent(stream, n, end)
        if n == 0 and not end:
            return stream.queued
        if stream.queue is None:
            stream.queue = [piece]
            stream.queue_at = 0
            self.pending[stream.number] = stream
        elif n:
            stream.queue.append(piece)
        stream.queued += n
        self.unsent_octets += n
        stream.finished = end
        while self.send_queued(stream, None):
            pass
        return stream.queued

    cpdef int64_t send_end(self, int64_t stream_id, trailers=None) except -1:
        """End the message, with `trailers` when there are any; return how many bytes wait before the end.

        Raises:
            LocalProtocolError: when it is out of order, or the body is shorter than Content-Length says.
        """
        cdef H2Stream stream
        cdef list fields
        if trailers is None or not len(trailers):
            return self.send_data(stream_id, b"", True)
        stream = self.stream_to_send(stream_id)
        fields = list(trailers.raw if type(trailers) is Headers else trailers)
        if not stream.head_sent or stream.send_left > 0:
            raise LocalProtocolError("trailers before the end of the body")
        if stream.queue is None:
            self.add_block(stream, [], fields, B_TRAILERS, True)
            stream.finished = True
            self.sent_end(stream)
            return 0
        check_trailers(fields)
        stream.trailers = fields
        stream.finished = True
        return stream.queued

    cdef bint send_queued(self, H2Stream stream, list events) except -1:
        """Send one frame of queued data, as far as the windows allow; True when there may be another."""
        cdef int64_t window = min(stream.send_window, self.send_window)
        cdef int64_t size = min(stream.queued, INITIAL_MAX_FRAME_SIZE)
        cdef int64_t left
        cdef Py_ssize_t take
        cdef bytes piece
        cdef bint last
        cdef uint8_t *out
        if stream.queue is None or (window <= 0 and stream.queued):
            return False
        size = max(0, min(size, window))
        last = size == stream.queued
        if size or stream.trailers is None:
            octets_reserve(&self.out, FRAME_HEAD + <Py_ssize_t>size)
            out = self.out.data + self.out.size
            write_head(out, size, F_DATA, END_STREAM if last and stream.finished and stream.trailers is None else 0,
                       stream.number)
            out += FRAME_HEAD
            left = size
            while left:
                piece = stream.queue[0]
                take = min(PyBytes_GET_SIZE(piece) - stream.queue_at, left)
                memcpy(out, PyBytes_AS_STRING(piece) + stream.queue_at, take)
                out += take
                left -= take
                stream.queue_at += take
                if stream.queue_at == PyBytes_GET_SIZE(piece):
                    del stream.queue[0]
                    stream.queue_at = 0
            self.out.size += FRAME_HEAD + size
            stream.send_window -= size
            self.send_window -= size
            stream.queued -= size
            self.unsent_octets -= size
            if last or size >= SMALL_FRAME:
                self.credit_control_frames()
        if not last:
            return True
        stream.queue = None
        del self.pending[stream.number]
        if stream.trailers is not None:
            self.add_block(stream, [], stream.trailers, B_TRAILERS, True)
        if events is not None:
            events.append((stream.number, Drained()))
        if stream.finished:
            self.sent_end(stream)
        return False

    cdef int pump(self, list events) except -1:
        """Send queued data after windows have opened: one frame for each stream in turn."""
        cdef H2Stream stream
        cdef bint sent = True
        while sent and self.pending:
            sent = False
            for stream in list(self.pending.values()):
                if stream.number in self.pending and self.send_queued(stream, events):
                    # Move the stream to the end of the queue.
                    del self.pending[stream.number]
                    self.pending[stream.number] = stream
                    sent = True
        return 0

    cdef int add_block(self, H2Stream stream, list pseudo, list fields, int what, bint end) except -1:
        """Send a field block: HEADERS, and CONTINUATION when it does not fit. After an exception nothing is sent."""
        cdef Py_ssize_t start = self.out.size
        octets_reserve(&self.out, FRAME_HEAD)
        self.out.size += FRAME_HEAD
        try:
            encode_block(stream, self.encoder, &self.out, pseudo, fields, what, end)
            return split_field_block(&self.out, start, END_STREAM if end else 0, stream.number)
        except BaseException:
            # Fields of this block may be in our table, but will never be in the peer's: empty both.
            self.out.size = start
            self.encoder.forget()
            raise

    cpdef int reset(self, int64_t stream_id, int64_t code=CANCEL) except -1:
        """Reset a stream: nothing more is sent on it, and it has no further events. Idempotent."""
        cdef H2Stream stream = self.streams.get(stream_id)
        if stream is None:
            return 0
        self.close(stream)
        add_uint32_frame(&self.out, F_RST_STREAM, stream.number, <uint32_t>code)
        return self.remember_reset(stream.number, False)
