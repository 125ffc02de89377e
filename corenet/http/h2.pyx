"""An HTTP/2 connection, both roles, without I/O: bytes in and events out, messages in and bytes out (RFC 9113).

`feed` returns a list of (stream, event), `data_to_send` the bytes for the peer. A connection error raises `Http2Error`;
`data_to_send` then returns the GOAWAY with the reason, and the connection cannot be used any more. An error of one
stream resets that stream and is reported as `StreamReset`. Events do not depend on how the input is cut into pieces,
except for the sizes of Data.

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

What the peer controls is limited: frame size, field blocks (bytes, fields, frames) and concurrent streams. Two budgets
limit frames that move no message forward and streams that end in a reset. The budgets refill with time and with
completed work. Time is an argument of `feed`. PRIORITY frames are checked for their size and ignored (RFC 9113 section
5.3.2).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport _PyBytes_Resize, PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

cimport cython

from corenet.core.libc cimport bytes_data, new_bytes
from corenet.http.field_grammar cimport length_of
from corenet.http.h2_frames cimport (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    F_CONTINUATION,
    F_DATA,
    F_GOAWAY,
    F_HEADERS,
    F_PING,
    F_RST_STREAM,
    F_SETTINGS,
    F_WINDOW_UPDATE,
    FLOW_CONTROL_ERROR,
    FRAME_HEAD,
    FRAME_SIZE_ERROR,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    LARGEST_STREAM,
    LARGEST_WINDOW,
    LEAST_FRAME,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    NO_ERROR,
    NO_RFC7540_PRIORITIES,
    PADDED,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTING_SIZE,
    STREAM_CLOSED,
    Fault,
    FrameHead,
    add_frame,
    add_goaway,
    add_settings,
    add_uint32,
    frame_block,
    frame_fault,
    read32,
    read_head,
    setting_fault,
    strip_headers,
    write_head,
)
from corenet.http.h2_messages cimport (
    B_REQUEST,
    B_RESPONSE,
    B_TRAILERS,
    check_trailers,
    count_received,
    count_sent,
    encode_block,
    pseudo_of_request,
    pseudo_of_response,
    read_request,
    read_response,
    read_trailers,
    received_whole,
)
from corenet.http.hpack cimport HpackDecoder, HpackEncoder, octets_add, octets_free, octets_reserve

from corenet.http.errors import Http2Error, LocalProtocolError, RemoteProtocolError
from corenet.http.events import Data, End, Informational
from corenet.http.h2_events import Drained, Goaway, Pong, SettingsReceived, StreamReset, error_name
from corenet.http.headers import Headers
from corenet.limits import (
    HPACK_TABLE_SIZE,
    HTTP2_CLOSED_STREAMS,
    HTTP2_CONNECTION_WINDOW,
    HTTP2_CONTINUATIONS,
    HTTP2_CONTROL_EARNED,
    HTTP2_CONTROL_FRAMES,
    HTTP2_CONTROL_RATE,
    HTTP2_DEBUG_DATA,
    HTTP2_MAX_STREAMS,
    HTTP2_RESET_RATE,
    HTTP2_RESETS,
    HTTP2_SETTINGS_ENTRIES,
    HTTP2_SMALL_FRAME,
    HTTP2_STREAM_WINDOW,
    HTTP2_UNSENT_BYTES,
    HTTP_COALESCE_BELOW,
    HTTP_HEAD_SIZE,
)

__all__ = ["CLIENT", "PREFACE", "SERVER", "H2Connection"]

CLIENT = False
SERVER = True
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

cdef enum State:
    OPEN
    HALF_CLOSED_LOCAL
    HALF_CLOSED_REMOTE
    CLOSED

cdef enum:
    PREFACE_SIZE = 24
    DEFAULT_WINDOW = 65_535     # RFC 9113 section 6.9.2

cdef Py_ssize_t SHORT_DATA = HTTP_COALESCE_BELOW
cdef Py_ssize_t SMALL_FRAME = HTTP2_SMALL_FRAME
cdef int MAX_CONTINUATIONS = HTTP2_CONTINUATIONS
cdef int MAX_SETTINGS = HTTP2_SETTINGS_ENTRIES
cdef int64_t MAX_UNSENT = HTTP2_UNSENT_BYTES
cdef Py_ssize_t MAX_CLOSED = HTTP2_CLOSED_STREAMS
cdef Py_ssize_t MAX_DEBUG = HTTP2_DEBUG_DATA
cdef double CONTROL_FRAMES = HTTP2_CONTROL_FRAMES
cdef double CONTROL_RATE = HTTP2_CONTROL_RATE
cdef double CONTROL_EARNED = HTTP2_CONTROL_EARNED
cdef double RESETS = HTTP2_RESETS
cdef double RESET_RATE = HTTP2_RESET_RATE
cdef bytes HTTPS = b"https"


@cython.final
cdef class H2Stream:
    """One stream that is open or half closed."""


@cython.final
cdef class H2Connection:
    """One connection. `H2Connection(CLIENT)` sends requests, `H2Connection(SERVER)` answers them.

    `window` and `connection_window` are the flow-control windows given to the peer, in bytes. `max_streams` is the
    number of concurrent streams that a client may open. `max_head` (bytes) and `max_fields` bound the fields of one
    message. `table_size` is the size of each HPACK table in bytes.

    Raises:
        ValueError: when one of them is out of its range.
    """

    def __cinit__(self, *_args, **_kwargs):
        self.held = b""
        self.streams = {}
        self.pending = {}
        self.reset_streams = {}

    def __init__(self, bint server=False, *, window=None, connection_window=None, max_streams=None, max_head=None,
                 max_fields=None, table_size=None):
        self.server = server
        self.max_head = HTTP_HEAD_SIZE.default if max_head is None else HTTP_HEAD_SIZE.check(
            max_head, "H2Connection max_head")
        self.encoder = HpackEncoder(table_size)
        self.table_size = HPACK_TABLE_SIZE.default if table_size is None else table_size
        # Until the peer acknowledges our settings, its table may have the protocol's default size.
        self.decoder = HpackDecoder(
            max(self.table_size, HPACK_TABLE_SIZE.default), max_list=max_head, max_fields=max_fields)
        self.window_target = HTTP2_STREAM_WINDOW.default if window is None else HTTP2_STREAM_WINDOW.check(
            window, "H2Connection window")
        self.connection_target = (
            HTTP2_CONNECTION_WINDOW.default if connection_window is None else HTTP2_CONNECTION_WINDOW.check(
                connection_window, "H2Connection connection_window"))
        self.max_streams = HTTP2_MAX_STREAMS.default if max_streams is None else HTTP2_MAX_STREAMS.check(
            max_streams, "H2Connection max_streams")
        self.control_budget = CONTROL_FRAMES
        self.reset_budget = RESETS
        self.receive_window = self.stream_window = DEFAULT_WINDOW
        self.send_window = self.peer_stream_window = DEFAULT_WINDOW
        # Used until the peer's settings arrive: the least that the RFC recommends (section 6.5.2).
        self.peer_max_streams = HTTP2_MAX_STREAMS.default
        self.next_stream = 2 if server else 1
        self.goaway_stream = LARGEST_STREAM
        self.preface_left = PREFACE_SIZE if server else 0
        self.begin()

    def __dealloc__(self):
        octets_free(&self.out)
        Py_XDECREF(self.body)

    cdef int begin(self) except -1:
        """The connection preface (RFC 9113 section 3.4): our settings, and the connection's window."""
        cdef list entries = [(INITIAL_WINDOW_SIZE, self.window_target), (MAX_HEADER_LIST_SIZE, self.max_head)]
        if self.server:
            entries += [(MAX_CONCURRENT_STREAMS, self.max_streams), (NO_RFC7540_PRIORITIES, 1)]
        else:
            octets_add(&self.out, PyBytes_AS_STRING(PREFACE), PREFACE_SIZE)
            entries.append((ENABLE_PUSH, 0))
        if self.table_size != HPACK_TABLE_SIZE.default:
            entries.append((HEADER_TABLE_SIZE, self.table_size))
        add_settings(&self.out, entries)
        self.settings_unacknowledged = 1
        self.connection_credit = self.connection_target - DEFAULT_WINDOW
        if self.connection_credit:
            self.open_connection_window()
        return 0

    # --- properties ---------------------------------------------------------------------------------------------------

    @property
    def settings_received(self):
        """True when the peer's settings were received."""
        return self.settings_seen

    @property
    def settings_acknowledged(self):
        """True when the peer has acknowledged our settings."""
        return self.settings_unacknowledged == 0

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

    @property
    def incomplete(self):
        """True when the preface, a frame or a field block of the peer has begun and is not complete."""
        return (PyBytes_GET_SIZE(self.held) > 0 or self.block is not None or 0 < self.preface_left < PREFACE_SIZE)

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

    # --- receiving ----------------------------------------------------------------------------------------------------

    cpdef list feed(self, data, double now=0.0):
        """Process received bytes and return the events that they complete, each as (stream, event).

        `now` is a clock in seconds; without it the budgets for frames and resets do not refill with time. Check
        `data_to_send` afterwards, also when this raises.

        Raises:
            Http2Error: when the peer broke a rule or a limit for connections; nothing more can be fed or sent.
        """
        cdef list events = []
        cdef Py_buffer view
        cdef bytes joined
        if self.failed:
            raise Http2Error("bytes after a connection error", PROTOCOL_ERROR)
        if now > self.clock:
            self.control_budget = min(CONTROL_FRAMES, self.control_budget + (now - self.clock) * CONTROL_RATE)
            self.reset_budget = min(RESETS, self.reset_budget + (now - self.clock) * RESET_RATE)
            self.clock = now
        try:
            if PyBytes_GET_SIZE(self.held):
                joined = self.held + bytes(data)
                self.held = b""
                self.run(<const uint8_t *>PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined), events)
                return events
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                self.run(<const uint8_t *>view.buf, view.len, events)
            finally:
                PyBuffer_Release(&view)
        finally:
            self.finish_body()
        return events

    cpdef bytes data_to_send(self):
        """Remove and return the bytes to send to the peer; empty when there are none."""
        cdef bytes data
        if self.out.size == 0:
            return b""
        data = PyBytes_FromStringAndSize(<const char *>self.out.data, self.out.size)
        self.out.size = 0
        if self.out.room > LEAST_FRAME:
            octets_free(&self.out)
        return data

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
            add_uint32(&self.out, F_WINDOW_UPDATE, stream.number, <uint32_t>stream.credit)
            stream.receive_window += stream.credit
            stream.credit = 0
        return 0

    cdef int credit_connection(self, int64_t size) except -1:
        self.connection_credit += size
        if self.connection_credit * 2 >= self.connection_target and self.connection_credit > 0:
            self.open_connection_window()
        return 0

    cdef int open_connection_window(self) except -1:
        add_uint32(&self.out, F_WINDOW_UPDATE, 0, <uint32_t>self.connection_credit)
        self.receive_window += self.connection_credit
        self.connection_credit = 0
        return 0

    cdef int fail(self, int code, str reason) except -1:
        """End the connection (RFC 9113 section 5.4.1)."""
        self.goaway(code, reason.encode())
        self.failed = True
        self.streams.clear()
        self.pending.clear()
        self.data_stream = None
        self.open_streams = 0
        self.unsent_octets = 0
        raise Http2Error(f"{reason} ({error_name(code)})", code)

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

    cdef int earn(self) except -1:
        self.control_budget = min(CONTROL_FRAMES, self.control_budget + CONTROL_EARNED)
        return 0

    cdef int run(self, const uint8_t *p, Py_ssize_t n, list events) except -1:
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t take
        cdef FrameHead head
        cdef H2Stream stream
        if self.preface_left:
            take = min(n, self.preface_left)
            if memcmp(p, PyBytes_AS_STRING(PREFACE) + PREFACE_SIZE - self.preface_left, take) != 0:
                self.fail(PROTOCOL_ERROR, "the connection does not begin with the HTTP/2 preface")
            self.preface_left -= take
            at = take
        while True:
            if self.in_data:
                take = min(n - at, self.data_left)
                if take:
                    self.data_left -= take
                    if self.data_stream is not None:
                        self.deliver(self.data_stream, p + at, take, n - at, events)
                    at += take
                if self.data_left:
                    break
                take = min(n - at, self.pad_left)
                self.pad_left -= take
                at += take
                if self.pad_left:
                    break
                self.in_data = False
                stream, self.data_stream = self.data_stream, None
                if stream is not None and self.data_end:
                    self.received_end(stream, None, events)
                continue
            if n - at < FRAME_HEAD:
                break
            read_head(p + at, &head)
            if head.length > LEAST_FRAME:
                self.fail(FRAME_SIZE_ERROR, f"a frame of {head.length} bytes")
            if not self.settings_seen and (head.kind != F_SETTINGS or head.flags & ACK):
                self.fail(PROTOCOL_ERROR, "the first frame is not SETTINGS")
            if self.block_stream and (head.kind != F_CONTINUATION or head.number != self.block_stream):
                self.fail(PROTOCOL_ERROR, "another frame inside a field block")
            if head.kind == F_DATA:
                # The payload is passed on in pieces; only the pad length field must be complete.
                if head.flags & PADDED and n - at == FRAME_HEAD and head.length:
                    break
                at += FRAME_HEAD
                at += self.begin_data(p + at, head.length, head.flags, head.number, events)
            else:
                if n - at < FRAME_HEAD + head.length:
                    break
                at += FRAME_HEAD
                self.frame(&head, p + at, events)
                at += head.length
        if at < n:
            self.held = PyBytes_FromStringAndSize(<const char *>p + at, n - at)
        return 0

    cdef int begin_data(self, const uint8_t *p, Py_ssize_t length, int flags, uint32_t number, list events) except -1:
        """Check and account for a DATA frame; return how many bytes of its payload precede the data."""
        cdef H2Stream stream
        cdef Py_ssize_t padding = 0
        cdef int code = NO_ERROR
        cdef str reason = None
        if number == 0:
            self.fail(PROTOCOL_ERROR, "DATA on stream 0")
        if flags & PADDED:
            if length == 0 or p[0] >= length:
                self.fail(PROTOCOL_ERROR, "padding that is longer than its frame")
            padding = p[0] + 1
        self.receive_window -= length
        if self.receive_window < 0:
            self.fail(FLOW_CONTROL_ERROR, "more data than the connection's window admits")
        self.in_data = True
        self.data_left = length - padding
        self.pad_left = padding - 1 if padding else 0
        self.data_end = flags & END_STREAM
        stream = self.streams.get(number)
        if self.data_left == 0 and not self.data_end:
            self.spend_control()
        if stream is None:
            self.late(number)
        elif stream.state == HALF_CLOSED_REMOTE:
            code, reason = STREAM_CLOSED, "data after the end of the message"
        elif length > stream.receive_window:
            code, reason = FLOW_CONTROL_ERROR, "more data than the stream's window admits"
        else:
            code, reason = PROTOCOL_ERROR, count_received(stream, self.data_left)
        if reason is not None:
            self.stream_error(stream, code, reason, events)
            stream = None
        self.data_stream = stream
        if stream is None:
            self.credit_connection(length)
            return 1 if padding else 0
        stream.receive_window -= length
        stream.unacknowledged += length
        if padding:
            self.acknowledge(number, padding)
        return 1 if padding else 0

    cdef int deliver(self, H2Stream stream, const uint8_t *p, Py_ssize_t n, Py_ssize_t room, list events) except -1:
        """Add a piece of a body; consecutive pieces of a stream in one input become one event.

        `room` is the size of the remaining input: that much memory is reserved, so several frames are copied once.
        """
        cdef tuple last
        if stream.state == CLOSED:
            # The user has reset the stream after the frame began.
            return 0
        if events:
            last = events[len(events) - 1]
            if last[0] == stream.number and type(last[1]) is Data:
                if last[1] is self.body_event:
                    memcpy(bytes_data(self.body) + self.body_size, p, n)
                    self.body_size += n
                    return 0
                if len(last[1].data) < SHORT_DATA:
                    last[1].data += PyBytes_FromStringAndSize(<const char *>p, n)
                    return 0
        self.finish_body()
        if n < SHORT_DATA or room == n:
            events.append((stream.number, Data(PyBytes_FromStringAndSize(<const char *>p, n))))
            return 0
        event = Data(b"")
        self.body = new_bytes(NULL, room)
        memcpy(bytes_data(self.body), p, n)
        self.body_size = n
        self.body_event = event
        events.append((stream.number, event))
        return 0

    cdef int finish_body(self) except -1:
        """Store the collected bytes in their Data event."""
        cdef PyObject *body = self.body
        cdef object event = self.body_event
        if body != NULL:
            self.body = NULL
            self.body_event = None
            # There is no other reference to the object. On an error it is freed.
            _PyBytes_Resize(&body, self.body_size)
            event.data = <object>body
            Py_XDECREF(body)
        return 0

    cdef int frame(self, const FrameHead *head, const uint8_t *p, list events) except -1:
        """One whole frame that is not DATA; `p` is its payload."""
        cdef int kind = head.kind
        cdef int flags = head.flags
        cdef uint32_t number = head.number
        cdef Py_ssize_t n = head.length
        cdef Fault fault
        cdef H2Stream stream
        if kind == F_HEADERS:
            return self.begin_block(flags, number, p, n, events)
        if kind == F_CONTINUATION:
            if self.block_stream == 0:
                self.fail(PROTOCOL_ERROR, "CONTINUATION without HEADERS")
            self.continuations += 1
            if self.continuations > MAX_CONTINUATIONS:
                self.fail(ENHANCE_YOUR_CALM, f"a field block of more than {MAX_CONTINUATIONS} continuations")
            if len(self.block) + n > self.max_head:
                self.fail(ENHANCE_YOUR_CALM, f"a field block over {self.max_head} bytes")
            self.block += p[:n]
            if flags & END_HEADERS:
                whole = bytes(self.block)
                self.block = None
                self.block_stream = 0
                return self.end_block(self.block_flags, number, <const uint8_t *>PyBytes_AS_STRING(whole),
                                      PyBytes_GET_SIZE(whole), events)
            return 0
        # The other frames move no message forward.
        self.spend_control()
        fault = frame_fault(head)
        if fault.reason != NULL:
            self.fail(fault.code, fault.reason.decode())
        if kind == F_SETTINGS:
            return self.on_settings(flags, p, n, events)
        if kind == F_WINDOW_UPDATE:
            return self.on_window_update(number, p, events)
        if kind == F_PING:
            if flags & ACK:
                events.append((0, Pong(PyBytes_FromStringAndSize(<const char *>p, 8))))
            else:
                add_frame(&self.out, F_PING, ACK, 0, p, 8)
            return 0
        if kind == F_RST_STREAM:
            if self.is_idle(number):
                self.fail(PROTOCOL_ERROR, "RST_STREAM on a stream that was not opened")
            stream = self.streams.get(number)
            if stream is not None:
                self.close(stream)
                self.remember_reset(number, True)
                events.append((number, StreamReset(read32(p), True, read32(p) == REFUSED_STREAM)))
                self.spend_reset()
            return 0
        if kind == F_GOAWAY:
            return self.on_goaway(p, n, events)
        return 0

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

    # --- field blocks -------------------------------------------------------------------------------------------------

    cdef int begin_block(self, int flags, uint32_t number, const uint8_t *p, Py_ssize_t n, list events) except -1:
        cdef Fault fault
        if number == 0:
            self.fail(PROTOCOL_ERROR, "HEADERS on stream 0")
        fault = strip_headers(flags, &p, &n)
        if fault.reason != NULL:
            self.fail(fault.code, fault.reason.decode())
        if n > self.max_head:
            self.fail(ENHANCE_YOUR_CALM, f"a field block over {self.max_head} bytes")
        if flags & END_HEADERS:
            return self.end_block(flags, number, p, n, events)
        self.block_stream = number
        self.block_flags = flags
        self.continuations = 0
        self.block = bytearray(p[:n])
        return 0

    cdef int end_block(self, int flags, uint32_t number, const uint8_t *p, Py_ssize_t n, list events) except -1:
        """A whole field block: a request, a response or trailers."""
        cdef H2Stream stream = self.streams.get(number)
        cdef bint end = flags & END_STREAM
        cdef list fields, trailers = None
        cdef str reason
        try:
            fields = self.decoder.decode_block(p, n)
        except RemoteProtocolError as error:
            self.fail(COMPRESSION_ERROR, str(error))
        if stream is None:
            if not self.server or not self.is_idle(number):
                if self.server:
                    self.spend_control()
                return self.late(number)
            if number & 1 == 0:
                self.fail(PROTOCOL_ERROR, "a request on a stream with an even number")
            self.last_peer_stream = number
            if self.goaway_sent or self.open_streams >= self.max_streams or self.unsent_octets > MAX_UNSENT:
                return self.refuse(number, REFUSED_STREAM)
            stream = self.make_stream(number)
        elif stream.state == HALF_CLOSED_REMOTE:
            return self.stream_error(stream, STREAM_CLOSED, "fields after the end of the message", events)
        if self.decoder.over_limit:
            return self.stream_error(stream, ENHANCE_YOUR_CALM, f"fields over the limit of {self.max_head} bytes", events)
        if stream.head_received:
            reason = read_trailers(fields, self.decoder.kinds) if end else "fields inside a body"
            trailers = fields
        elif self.server:
            reason = read_request(stream, number, fields, self.decoder.kinds, end, events)
            stream.surfaced = reason is None
        else:
            reason = read_response(stream, number, fields, self.decoder.kinds, end, events)
        if reason is not None:
            return self.stream_error(stream, PROTOCOL_ERROR, reason, events)
        if end:
            self.received_end(stream, trailers, events)
        return 0

    cdef H2Stream make_stream(self, uint32_t number):
        cdef H2Stream stream = H2Stream.__new__(H2Stream)
        stream.number = number
        stream.receive_window = self.stream_window
        stream.send_window = self.peer_stream_window
        stream.length_left = stream.send_left = -1
        self.streams[number] = stream
        self.open_streams += 1
        return stream

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

    cdef int ended_well(self) except -1:
        self.earn()
        self.reset_budget = min(RESETS, self.reset_budget + 1)
        return 0

    # --- the end of streams -------------------------------------------------------------------------------------------

    cdef int stream_error(self, H2Stream stream, int code, str reason, list events) except -1:
        """Reset a stream on which the peer violated the protocol (RFC 9113 section 5.4.2).

        It counts like a reset by the peer, because a peer that provokes resets causes the same work (CVE-2025-8671).
        """
        self.close(stream)
        if stream.surfaced:
            events.append((stream.number, StreamReset(code, False, False, reason)))
        return self.refuse(stream.number, code)

    cdef int refuse(self, uint32_t number, int code) except -1:
        add_uint32(&self.out, F_RST_STREAM, number, code)
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

    # --- frames of the connection -------------------------------------------------------------------------------------

    cdef int on_settings(self, int flags, const uint8_t *p, Py_ssize_t n, list events) except -1:
        cdef Py_ssize_t at
        cdef int name
        cdef int64_t value, change
        cdef Fault fault
        cdef H2Stream stream
        if flags & ACK:
            if self.settings_unacknowledged == 0:
                self.fail(PROTOCOL_ERROR, "an acknowledgement of SETTINGS that were not sent")
            # RFC 9113 section 6.5.3: from now on our window applies, also to open streams.
            self.settings_unacknowledged = 0
            self.decoder.allow(self.table_size)
            change = self.window_target - self.stream_window
            self.stream_window = self.window_target
            for stream in self.streams.values():
                stream.receive_window += change
            return 0
        if n > SETTING_SIZE * MAX_SETTINGS:
            self.fail(ENHANCE_YOUR_CALM, f"more than {MAX_SETTINGS} settings in one frame")
        self.settings_seen = True
        for at in range(0, n, SETTING_SIZE):
            name = (p[at] << 8) | p[at + 1]
            value = read32(p + at + 2)
            fault = setting_fault(name, value, self.server)
            if fault.reason != NULL:
                self.fail(fault.code, fault.reason.decode())
            if name == HEADER_TABLE_SIZE:
                self.encoder.set_limit(value)
            elif name == MAX_CONCURRENT_STREAMS:
                self.peer_max_streams = value
            elif name == INITIAL_WINDOW_SIZE:
                change = value - self.peer_stream_window
                self.peer_stream_window = value
                for stream in self.streams.values():
                    # RFC 9113 section 6.9.2: a window may become negative.
                    stream.send_window += change
                    if stream.send_window > LARGEST_WINDOW:
                        self.fail(FLOW_CONTROL_ERROR, "a window over 2^31 - 1 bytes")
            # A larger MAX_FRAME_SIZE is not used: small frames let streams be sent in turn.
        add_frame(&self.out, F_SETTINGS, ACK, 0, NULL, 0)
        events.append((0, SettingsReceived()))
        return self.pump(events)

    cdef int on_window_update(self, uint32_t number, const uint8_t *p, list events) except -1:
        cdef int64_t more = read32(p) & 0x7FFF_FFFF
        cdef H2Stream stream
        if number == 0:
            if more == 0:
                self.fail(PROTOCOL_ERROR, "a window opened by 0")
            self.send_window += more
            if self.send_window > LARGEST_WINDOW:
                self.fail(FLOW_CONTROL_ERROR, "a window over 2^31 - 1 bytes")
            return self.pump(events)
        stream = self.streams.get(number)
        if stream is None:
            if self.is_idle(number):
                self.fail(PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was not opened")
            return 0
        if more == 0:
            return self.stream_error(stream, PROTOCOL_ERROR, "a window opened by 0", events)
        stream.send_window += more
        if stream.send_window > LARGEST_WINDOW:
            return self.stream_error(stream, FLOW_CONTROL_ERROR, "a window over 2^31 - 1 bytes", events)
        if stream.queue is not None:
            while self.send_queued(stream, events):
                pass
        return 0

    cdef int on_goaway(self, const uint8_t *p, Py_ssize_t n, list events) except -1:
        cdef uint32_t last = read32(p) & 0x7FFF_FFFF
        cdef H2Stream stream
        if self.goaway_received and last > self.goaway_stream:
            self.fail(PROTOCOL_ERROR, "a GOAWAY with a higher stream number than an earlier one")
        self.goaway_received = True
        self.goaway_stream = last
        events.append((0, Goaway(last, read32(p + 4), PyBytes_FromStringAndSize(
            <const char *>p + 8, min(n - 8, MAX_DEBUG)))))
        if not self.server:
            for stream in list(self.streams.values()):
                if stream.number > last:
                    self.close(stream)
                    self.remember_reset(stream.number, True)
                    events.append((stream.number, StreamReset(REFUSED_STREAM, True, True)))
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
        if stream is None or self.failed:
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
        cdef int64_t size = min(stream.queued, LEAST_FRAME)
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
                self.earn()
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

    cdef int sent_end(self, H2Stream stream) except -1:
        stream.finished = True
        if stream.state == OPEN:
            stream.state = HALF_CLOSED_LOCAL
        else:
            self.close(stream)
            self.ended_well()
        return 0

    cdef int add_block(self, H2Stream stream, list pseudo, list fields, int what, bint end) except -1:
        """Send a field block: HEADERS, and CONTINUATION when it does not fit."""
        cdef Py_ssize_t start = self.out.size
        octets_reserve(&self.out, FRAME_HEAD)
        self.out.size += FRAME_HEAD
        try:
            encode_block(stream, self.encoder, &self.out, pseudo, fields, what, end)
        except BaseException:
            self.out.size = start
            raise
        return frame_block(&self.out, start, END_STREAM if end else 0, stream.number)

    cpdef int reset(self, int64_t stream_id, int64_t code=CANCEL) except -1:
        """Reset a stream: nothing more is sent on it, and it has no further events. Idempotent."""
        cdef H2Stream stream = self.streams.get(stream_id)
        if stream is None:
            return 0
        self.close(stream)
        add_uint32(&self.out, F_RST_STREAM, stream.number, <uint32_t>code)
        return self.remember_reset(stream.number, False)

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
