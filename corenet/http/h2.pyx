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
from corenet.http.field_grammar cimport length_of, same_name
from corenet.http.h2_fields cimport (
    FIELD_AUTHORITY,
    FIELD_BAD,
    FIELD_CONNECTION,
    FIELD_CONTENT_LENGTH,
    FIELD_COOKIE,
    FIELD_HOST,
    FIELD_METHOD,
    FIELD_PATH,
    FIELD_PLAIN,
    FIELD_SCHEME,
    FIELD_STATUS,
    field_kind,
)
from corenet.http.hpack cimport (
    HpackDecoder,
    HpackEncoder,
    octets_add,
    octets_free,
    octets_reserve,
)

from corenet.http.errors import Http2Error, LocalProtocolError, RemoteProtocolError
from corenet.http.events import Data, End, Informational, Request, Response
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
    HTTP_INFORMATIONAL_RESPONSES,
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

# RFC 9113 section 6.
cdef enum Frame:
    F_DATA
    F_HEADERS
    F_PRIORITY
    F_RST_STREAM
    F_SETTINGS
    F_PUSH_PROMISE
    F_PING
    F_GOAWAY
    F_WINDOW_UPDATE
    F_CONTINUATION

cdef enum Flag:
    END_STREAM = 0x01
    ACK = 0x01
    END_HEADERS = 0x04
    PADDED = 0x08
    PRIORITY = 0x20

# RFC 9113 section 6.5.2, RFC 9218 section 2.1.
cdef enum Setting:
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    NO_RFC7540_PRIORITIES = 9

# RFC 9113 section 7; `h2_events.py` has them for Python.
cdef enum Code:
    NO_ERROR
    PROTOCOL_ERROR
    INTERNAL_ERROR
    FLOW_CONTROL_ERROR
    SETTINGS_TIMEOUT
    STREAM_CLOSED
    FRAME_SIZE_ERROR
    REFUSED_STREAM
    CANCEL
    COMPRESSION_ERROR
    CONNECT_ERROR
    ENHANCE_YOUR_CALM

# The kind of block that `add_field` checks for.
cdef enum Block:
    B_REQUEST
    B_RESPONSE
    B_TRAILERS

cdef enum:
    FRAME_HEAD = 9
    PREFACE_SIZE = 24
    DEFAULT_WINDOW = 65_535     # RFC 9113 section 6.9.2
    LEAST_FRAME = 16_384        # minimum of SETTINGS_MAX_FRAME_SIZE; the largest frame that we accept and send
    LARGEST_FRAME = 16_777_215
    LARGEST_WINDOW = 0x7FFF_FFFF
    LARGEST_STREAM = 0x7FFF_FFFF
    LENGTH_DIGITS = 18
    VERSION = 20

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

cdef bytes CONNECT = b"CONNECT"
cdef bytes HEAD = b"HEAD"
cdef bytes OPTIONS = b"OPTIONS"
cdef bytes HOST = b"host"
cdef bytes ASTERISK = b"*"
cdef tuple METHOD_GET = (b":method", b"GET")
cdef tuple SCHEME_HTTPS = (b":scheme", b"https")
cdef bytes HTTPS = b"https"
cdef bytes GET = b"GET"
cdef dict STATUS_FIELDS = {}    # cache of the :status fields that were sent


cdef inline uint32_t read32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline void write32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>(value >> 16)
    p[2] = <uint8_t>(value >> 8)
    p[3] = <uint8_t>value


cdef inline void write_head(uint8_t *p, Py_ssize_t n, int kind, int flags, uint32_t number) noexcept nogil:
    p[0] = <uint8_t>(n >> 16)
    p[1] = <uint8_t>(n >> 8)
    p[2] = <uint8_t>n
    p[3] = <uint8_t>kind
    p[4] = <uint8_t>flags
    write32(p + 5, number)


cdef int64_t decimal(bytes text) noexcept:
    """The value of a Content-Length field, or -1 when it is invalid."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(text)
    cdef int64_t value = 0
    cdef Py_ssize_t i
    if n == 0 or n > LENGTH_DIGITS:
        return -1
    for i in range(n):
        if not 0x30 <= p[i] <= 0x39:
            return -1
        value = value * 10 + p[i] - 0x30
    return value


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
        self.max_informational = HTTP_INFORMATIONAL_RESPONSES
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
        cdef uint8_t[36] settings
        cdef list entries = [(INITIAL_WINDOW_SIZE, self.window_target), (MAX_HEADER_LIST_SIZE, self.max_head)]
        cdef int i, name
        cdef int64_t value
        if self.server:
            entries += [(MAX_CONCURRENT_STREAMS, self.max_streams), (NO_RFC7540_PRIORITIES, 1)]
        else:
            octets_add(&self.out, PyBytes_AS_STRING(PREFACE), PREFACE_SIZE)
            entries.append((ENABLE_PUSH, 0))
        if self.table_size != HPACK_TABLE_SIZE.default:
            entries.append((HEADER_TABLE_SIZE, self.table_size))
        for i, (name, value) in enumerate(entries):
            settings[i * 6] = 0
            settings[i * 6 + 1] = <uint8_t>name
            write32(&settings[i * 6 + 2], <uint32_t>value)
        self.add_frame(F_SETTINGS, 0, 0, settings, 6 * len(entries))
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
            self.add_uint32(F_WINDOW_UPDATE, stream.number, <uint32_t>stream.credit)
            stream.receive_window += stream.credit
            stream.credit = 0
        return 0

    cdef int credit_connection(self, int64_t size) except -1:
        self.connection_credit += size
        if self.connection_credit * 2 >= self.connection_target and self.connection_credit > 0:
            self.open_connection_window()
        return 0

    cdef int open_connection_window(self) except -1:
        self.add_uint32(F_WINDOW_UPDATE, 0, <uint32_t>self.connection_credit)
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
        cdef Py_ssize_t take, length
        cdef int kind, flags
        cdef uint32_t number
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
            length = (<Py_ssize_t>p[at] << 16) | (<Py_ssize_t>p[at + 1] << 8) | p[at + 2]
            kind = p[at + 3]
            flags = p[at + 4]
            number = read32(p + at + 5) & 0x7FFF_FFFF
            if length > LEAST_FRAME:
                self.fail(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            if not self.settings_seen and (kind != F_SETTINGS or flags & ACK):
                self.fail(PROTOCOL_ERROR, "the first frame is not SETTINGS")
            if self.block_stream and (kind != F_CONTINUATION or number != self.block_stream):
                self.fail(PROTOCOL_ERROR, "another frame inside a field block")
            if kind == F_DATA:
                # The payload is passed on in pieces; only the pad length field must be complete.
                if flags & PADDED and n - at == FRAME_HEAD and length:
                    break
                at += FRAME_HEAD
                at += self.begin_data(p + at, length, flags, number, events)
            else:
                if n - at < FRAME_HEAD + length:
                    break
                at += FRAME_HEAD
                self.frame(kind, flags, number, p + at, length, events)
                at += length
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
        elif not stream.head_received:
            code, reason = PROTOCOL_ERROR, "data before the fields of the message"
        elif length > stream.receive_window:
            code, reason = FLOW_CONTROL_ERROR, "more data than the stream's window admits"
        elif self.data_left and stream.no_body:
            code, reason = PROTOCOL_ERROR, "data in a response that has none"
        elif stream.length_left >= 0 and self.data_left > stream.length_left:
            code, reason = PROTOCOL_ERROR, "more data than Content-Length says"
        if reason is not None:
            self.stream_error(stream, code, reason, events)
            stream = None
        self.data_stream = stream
        if stream is None:
            self.credit_connection(length)
            return 1 if padding else 0
        stream.receive_window -= length
        stream.unacknowledged += length
        if stream.length_left >= 0:
            stream.length_left -= self.data_left
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

    cdef int frame(self, int kind, int flags, uint32_t number, const uint8_t *p, Py_ssize_t n, list events) except -1:
        """One whole frame that is not DATA."""
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
        if kind == F_SETTINGS:
            if number:
                self.fail(PROTOCOL_ERROR, "SETTINGS on a stream")
            return self.on_settings(flags, p, n, events)
        if kind == F_WINDOW_UPDATE:
            if n != 4:
                self.fail(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
            return self.on_window_update(number, p, events)
        if kind == F_PING:
            if number:
                self.fail(PROTOCOL_ERROR, "PING on a stream")
            if n != 8:
                self.fail(FRAME_SIZE_ERROR, "PING of a wrong size")
            if flags & ACK:
                events.append((0, Pong(PyBytes_FromStringAndSize(<const char *>p, 8))))
            else:
                self.add_frame(F_PING, ACK, 0, p, 8)
            return 0
        if kind == F_RST_STREAM:
            if n != 4:
                self.fail(FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
            if number == 0 or self.is_idle(number):
                self.fail(PROTOCOL_ERROR, "RST_STREAM on a stream that was not opened")
            stream = self.streams.get(number)
            if stream is not None:
                self.close(stream)
                self.remember_reset(number, True)
                events.append((number, StreamReset(read32(p), True, read32(p) == REFUSED_STREAM)))
                self.spend_reset()
            return 0
        if kind == F_GOAWAY:
            if number:
                self.fail(PROTOCOL_ERROR, "GOAWAY on a stream")
            if n < 8:
                self.fail(FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
            return self.on_goaway(p, n, events)
        if kind == F_PRIORITY:
            if number == 0:
                self.fail(PROTOCOL_ERROR, "PRIORITY on stream 0")
            if n != 5:
                self.fail(FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
            return 0
        if kind == F_PUSH_PROMISE:
            # A client has disabled push in its settings, and a client must not push (RFC 9113 section 8.4).
            self.fail(PROTOCOL_ERROR, "PUSH_PROMISE")
        # RFC 9113 section 4.1: frames of unknown types are ignored.
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
        cdef Py_ssize_t padding = 0
        if number == 0:
            self.fail(PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & PADDED:
            if n == 0:
                self.fail(FRAME_SIZE_ERROR, "HEADERS too short for its pad length")
            padding = p[0]
            p += 1
            n -= 1
        if flags & PRIORITY:
            if n < 5:
                self.fail(FRAME_SIZE_ERROR, "HEADERS too short for its priority fields")
            p += 5
            n -= 5
        if padding > n:
            self.fail(PROTOCOL_ERROR, "padding that is longer than its frame")
        n -= padding
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
            reason = self.read_trailers(fields) if end else "fields inside a body"
            trailers = fields
        elif self.server:
            reason = self.read_request(stream, fields, end, events)
        else:
            reason = self.read_response(stream, fields, end, events)
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

    cdef str read_request(self, H2Stream stream, list fields, bint end, list events):
        """Append the event of a request, or return why it is malformed (RFC 9113 section 8.1.1)."""
        cdef bytes method = None
        cdef bytes scheme = None
        cdef bytes authority = None
        cdef bytes path = None
        cdef bytes host = None
        cdef bytes value
        cdef tuple field
        cdef int kind
        cdef Py_ssize_t i, pseudo = 0
        cdef int cookies = 0
        for i in range(len(fields)):
            kind = self.decoder.kinds[i]
            if kind == FIELD_PLAIN:
                continue
            field = fields[i]
            value = field[1]
            if kind >= FIELD_METHOD:
                if i != pseudo:
                    return "a pseudo-header field after other fields"
                pseudo += 1
                if kind == FIELD_METHOD and method is None:
                    method = value
                elif kind == FIELD_SCHEME and scheme is None:
                    scheme = value
                elif kind == FIELD_PATH and path is None:
                    path = value
                elif kind == FIELD_AUTHORITY and authority is None:
                    authority = value
                else:
                    return "a pseudo-header field that is repeated or not for requests"
            elif kind == FIELD_HOST:
                if host is not None:
                    return "more than one Host"
                host = value
            elif kind == FIELD_COOKIE:
                cookies += 1
            elif kind == FIELD_CONTENT_LENGTH:
                if stream.length_left >= 0:
                    return "more than one Content-Length"
                stream.length_left = decimal(value)
                if stream.length_left < 0:
                    return "Content-Length is no number"
            elif kind == FIELD_CONNECTION:
                return "a field that belongs to HTTP/1.1 connections"
            else:
                return "a field with a character or value that is not allowed"
        if method is None:
            return "a request without a method"
        if method == CONNECT:
            if scheme is not None or path is not None or authority is None:
                return "CONNECT with a scheme or path, or without an authority"
            path = authority
        elif scheme is None or path is None:
            return "a request without scheme or path"
        elif path == ASTERISK and method != OPTIONS:
            return "a path of * in a request other than OPTIONS"
        if authority is None:
            authority = host
        elif host is not None and host != authority and host.lower() != authority.lower():
            return "Host differs from :authority"
        if not authority:
            return "a request without an authority"
        if end and stream.length_left > 0:
            return "less data than Content-Length says"
        if host is None:
            fields[:pseudo] = [(HOST, authority)]
        else:
            del fields[:pseudo]
        if cookies > 1:
            self.join_cookies(fields)
        stream.method = method
        stream.head_received = stream.surfaced = True
        events.append((stream.number, Request(method, path, Headers(fields), VERSION)))
        return None

    cdef int join_cookies(self, list fields) except -1:
        """Join the Cookie fields to one, as in HTTP/1.1 (RFC 9113 section 8.2.3)."""
        crumbs = [value for name, value in fields if name == b"cookie"]
        fields[:] = [(name, value) for name, value in fields if name != b"cookie"]
        fields.append((b"cookie", b"; ".join(crumbs)))
        return 0

    cdef str read_response(self, H2Stream stream, list fields, bint end, list events):
        """Append the event of a response, or return why it is malformed."""
        cdef int status = -1
        cdef int kind
        cdef Py_ssize_t i
        cdef bytes value
        cdef int64_t length = -1
        for i in range(len(fields)):
            kind = self.decoder.kinds[i]
            if kind == FIELD_PLAIN or kind == FIELD_HOST or kind == FIELD_COOKIE:
                continue
            value = (<tuple>fields[i])[1]
            if kind == FIELD_STATUS:
                if i != 0:
                    return "a status after other fields, or a second one"
                status = <int>decimal(value)
            elif kind == FIELD_CONTENT_LENGTH:
                if length >= 0:
                    return "more than one Content-Length"
                length = decimal(value)
                if length < 0:
                    return "Content-Length is no number"
            elif kind == FIELD_CONNECTION:
                return "a field that belongs to HTTP/1.1 connections"
            elif kind > FIELD_METHOD - 1:
                return "a pseudo-header field that is not for responses"
            else:
                return "a field with a character or value that is not allowed"
        if status < 0:
            return "a response without a status"
        if status < 200:
            if end:
                return "an informational response that ends the stream"
            if status == 101:
                return "a 101 response, which HTTP/2 does not have"
            stream.informational += 1
            if stream.informational > self.max_informational:
                return f"more than {self.max_informational} informational responses"
            del fields[0]
            events.append((stream.number, Informational(status, Headers(fields), b"", VERSION)))
            return None
        if stream.method == HEAD or status == 204 or status == 304:
            stream.no_body = True
        else:
            stream.length_left = length
            if end and length > 0:
                return "less data than Content-Length says"
        del fields[0]
        stream.head_received = True
        events.append((stream.number, Response(status, Headers(fields), b"", VERSION)))
        return None

    cdef str read_trailers(self, list fields):
        cdef Py_ssize_t i
        cdef int kind
        for i in range(len(fields)):
            kind = self.decoder.kinds[i]
            if kind == FIELD_BAD or kind == FIELD_CONNECTION or kind >= FIELD_METHOD:
                return "trailers with a field that is not allowed there"
        return None

    cdef int received_end(self, H2Stream stream, list trailers, list events) except -1:
        if stream.state == CLOSED:
            return 0
        if stream.length_left > 0:
            return self.stream_error(stream, PROTOCOL_ERROR, "less data than Content-Length says", events)
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
        self.add_uint32(F_RST_STREAM, number, code)
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
        cdef H2Stream stream
        if flags & ACK:
            if n:
                self.fail(FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with content")
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
        if n % 6:
            self.fail(FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        if n > 6 * MAX_SETTINGS:
            self.fail(ENHANCE_YOUR_CALM, f"more than {MAX_SETTINGS} settings in one frame")
        self.settings_seen = True
        for at in range(0, n, 6):
            name = (p[at] << 8) | p[at + 1]
            value = read32(p + at + 2)
            if name == HEADER_TABLE_SIZE:
                self.encoder.set_limit(value)
            elif name == ENABLE_PUSH:
                if value > 1 or (value and not self.server):
                    self.fail(PROTOCOL_ERROR, "a wrong value of ENABLE_PUSH")
            elif name == MAX_CONCURRENT_STREAMS:
                self.peer_max_streams = value
            elif name == INITIAL_WINDOW_SIZE:
                if value > LARGEST_WINDOW:
                    self.fail(FLOW_CONTROL_ERROR, "a window over 2^31 - 1 bytes")
                change = value - self.peer_stream_window
                self.peer_stream_window = value
                for stream in self.streams.values():
                    # RFC 9113 section 6.9.2: a window may become negative.
                    stream.send_window += change
                    if stream.send_window > LARGEST_WINDOW:
                        self.fail(FLOW_CONTROL_ERROR, "a window over 2^31 - 1 bytes")
            elif name == MAX_FRAME_SIZE:
                if not LEAST_FRAME <= value <= LARGEST_FRAME:
                    self.fail(PROTOCOL_ERROR, "a wrong value of MAX_FRAME_SIZE")
                # Larger values are ignored: small frames let streams be sent in turn.
            elif name == NO_RFC7540_PRIORITIES:
                if value > 1:
                    self.fail(PROTOCOL_ERROR, "a wrong value of NO_RFC7540_PRIORITIES")
        self.add_frame(F_SETTINGS, ACK, 0, NULL, 0)
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

    cdef int add_frame(self, int kind, int flags, uint32_t number, const void *p, Py_ssize_t n) except -1:
        octets_reserve(&self.out, FRAME_HEAD + n)
        write_head(self.out.data + self.out.size, n, kind, flags, number)
        if n:
            memcpy(self.out.data + self.out.size + FRAME_HEAD, p, n)
        self.out.size += FRAME_HEAD + n
        return 0

    cdef int add_uint32(self, int kind, uint32_t number, uint32_t value) except -1:
        cdef uint8_t[4] payload
        write32(payload, value)
        return self.add_frame(kind, 0, number, payload, 4)

    cpdef int64_t send_request(self, request, bint end=False, bytes scheme=HTTPS) except -1:
        """Open a stream with a `Request` and return its number; `end`: it has no body.

        Field names are sent in lower case, `Host` as the authority.

        Raises:
            LocalProtocolError: when no stream can be opened (`can_open`) or a field is not allowed in HTTP/2.
        """
        cdef H2Stream stream
        cdef bytes method = request.method
        cdef bytes target = request.target
        cdef list fields = request.headers.raw
        cdef list pseudo
        cdef bytes host = None
        cdef bytes name, value
        if not self.can_open:
            raise LocalProtocolError("no stream can be opened on this connection now")
        for name, value in fields:
            if same_name(<const uint8_t *>PyBytes_AS_STRING(name), length_of(name), "host", 4):
                if host is not None:
                    raise LocalProtocolError("a request needs exactly one Host field")
                host = value
        if not host:
            raise LocalProtocolError("a request needs exactly one Host field")
        pseudo = [METHOD_GET if method == GET else (b":method", method)]
        if method != CONNECT:
            pseudo.append(SCHEME_HTTPS if scheme == HTTPS else (b":scheme", scheme))
        pseudo.append((b":authority", host))
        if method != CONNECT:
            pseudo.append((b":path", target))
        stream = self.make_stream(self.next_stream)
        stream.method = method
        stream.surfaced = True
        try:
            self.add_block(stream, pseudo, fields, B_REQUEST, end)
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
        cdef object status
        if not self.server or stream.head_sent or (informational and end):
            raise LocalProtocolError("a response now is out of order")
        if not 100 <= code <= 999 or informational != (code < 200) or code == 101:
            raise LocalProtocolError(f"{code} is no status of such a response")
        status = STATUS_FIELDS.get(code)
        if status is None:
            status = STATUS_FIELDS[code] = (b":status", b"%d" % code)
        # Content-Length is then the size that the body would have had (RFC 9110 section 8.6).
        stream.no_body_sent = stream.method == HEAD or code == 304
        self.add_block(stream, [status], response.headers.raw, B_RESPONSE, end)
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
        if not stream.head_sent:
            raise LocalProtocolError("a body before the head of its message")
        if stream.send_left >= 0:
            if n > stream.send_left:
                raise LocalProtocolError("more body than Content-Length says")
            if end and n < stream.send_left:
                raise LocalProtocolError(f"{stream.send_left - n} bytes of body less than Content-Length says")
            stream.send_left -= n
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
        cdef Py_ssize_t size, at, take
        cdef bytes block
        cdef int flags = END_STREAM if end else 0
        cdef tuple field
        octets_reserve(&self.out, FRAME_HEAD)
        self.out.size += FRAME_HEAD
        try:
            self.encoder.begin(&self.out)
            for field in pseudo:
                if not self.encoder.encode_known(&self.out, field):
                    self.add_pseudo(field)
            for field in fields:
                if not self.encoder.encode_known(&self.out, field):
                    self.add_field(stream, field, what)
            if stream.no_body_sent:
                stream.send_left = 0
            if end and stream.send_left > 0:
                raise LocalProtocolError(f"{stream.send_left} bytes of body less than Content-Length says")
        except BaseException:
            # Fields of this block may be in our table, but will never be in the peer's: empty both.
            self.out.size = start
            self.encoder.forget()
            if what != B_TRAILERS:
                stream.send_left = -1
            raise
        size = self.out.size - start - FRAME_HEAD
        if size <= LEAST_FRAME:
            write_head(self.out.data + start, size, F_HEADERS, flags | END_HEADERS, stream.number)
            return 0
        block = PyBytes_FromStringAndSize(<const char *>self.out.data + start + FRAME_HEAD, size)
        self.out.size = start
        at = 0
        while at < size:
            take = min(size - at, LEAST_FRAME)
            self.add_frame(F_CONTINUATION if at else F_HEADERS,
                           (0 if at else flags) | (END_HEADERS if at + take == size else 0), stream.number,
                           PyBytes_AS_STRING(block) + at, take)
            at += take
        return 0

    cdef int add_pseudo(self, tuple field) except -1:
        cdef bytes name = field[0]
        cdef bytes value = field[1]
        if field_kind(<const uint8_t *>PyBytes_AS_STRING(name), length_of(name),
                      <const uint8_t *>PyBytes_AS_STRING(value), length_of(value)) == FIELD_BAD:
            raise LocalProtocolError(f"{value!r} is not a {name[1:].decode()} that can be sent")
        return self.encoder.encode_field(&self.out, name, value, field, False)

    cdef int add_field(self, H2Stream stream, tuple field, int what) except -1:
        """Check and send a field; its name may have upper-case letters."""
        cdef bytes name = field[0]
        cdef bytes value = field[1]
        cdef bytes lower
        cdef int kind
        length_of(value)
        lower = name.lower()
        kind = kind_to_send(lower, value)
        if kind == FIELD_HOST and what == B_REQUEST:
            # It was sent as :authority.
            return 0
        if kind == FIELD_CONTENT_LENGTH and what != B_TRAILERS:
            if stream.send_left >= 0:
                raise LocalProtocolError("a message needs one Content-Length, not several")
            stream.send_left = decimal(value)
            if stream.send_left < 0:
                raise LocalProtocolError("Content-Length is no number")
        return self.encoder.encode_field(&self.out, lower, value, field, False)

    cpdef int reset(self, int64_t stream_id, int64_t code=CANCEL) except -1:
        """Reset a stream: nothing more is sent on it, and it has no further events. Idempotent."""
        cdef H2Stream stream = self.streams.get(stream_id)
        if stream is None:
            return 0
        self.close(stream)
        self.add_uint32(F_RST_STREAM, stream.number, <uint32_t>code)
        return self.remember_reset(stream.number, False)

    cpdef int ping(self, bytes data) except -1:
        """Send a PING with eight bytes; the reply is a `Pong` event with the same bytes.

        Raises:
            LocalProtocolError: when they are not eight.
        """
        if length_of(data) != 8:
            raise LocalProtocolError("the data of a PING must have eight bytes")
        return self.add_frame(F_PING, 0, 0, PyBytes_AS_STRING(data), 8)

    cpdef int goaway(self, int64_t code=NO_ERROR, bytes debug=b"") except -1:
        """Send GOAWAY: a server refuses new streams from now on, open ones continue."""
        cdef uint8_t[8] head
        write32(head, self.last_peer_stream)
        write32(head + 4, <uint32_t>code)
        self.goaway_sent = True
        octets_reserve(&self.out, FRAME_HEAD + 8 + length_of(debug))
        write_head(self.out.data + self.out.size, 8 + PyBytes_GET_SIZE(debug), F_GOAWAY, 0, 0)
        self.out.size += FRAME_HEAD
        octets_add(&self.out, head, 8)
        return octets_add(&self.out, PyBytes_AS_STRING(debug), PyBytes_GET_SIZE(debug))


cdef int kind_to_send(bytes name, bytes value) except -1:
    """The kind of a field that we send.

    Raises:
        LocalProtocolError: when no HTTP/2 message may contain it.
    """
    cdef int kind = field_kind(<const uint8_t *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                               <const uint8_t *>PyBytes_AS_STRING(value), length_of(value))
    if kind == FIELD_CONNECTION:
        raise LocalProtocolError(f"the field {name!r} belongs to HTTP/1.1 connections")
    if kind == FIELD_BAD or kind >= FIELD_METHOD:
        raise LocalProtocolError(f"{name!r} with the value {value!r} is not a field that can be sent")
    return kind


cdef int check_trailers(list fields) except -1:
    """Check trailers that are encoded later, so that a wrong one raises at once."""
    cdef bytes name, value
    for name, value in fields:
        kind_to_send(name.lower(), value)
    return 0
