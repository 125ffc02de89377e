"""An HTTP/2 connection, both roles, without I/O: bytes in and events out, messages in and bytes out (RFC 9113).

`feed` returns a list of (stream, event), `data_to_send` the bytes for the peer. A connection error raises `Http2Error`;
`data_to_send` then returns the GOAWAY with the reason, and the connection cannot be used any more. Before that a server
can answer the requests that were complete (RFC 9113 section 6.8: activity on those streams may still complete): their
streams are open until `data_to_send` is called for the last time. An error of one stream resets that stream and is
reported as `StreamReset`. Events do not depend on how the input is cut into pieces, except for the sizes of Data.

This module receives: it takes the input apart and decides what each frame means for its stream. Streams, windows,
budgets and sending are in `h2_streams.pyx`, the rules of frames in `h2_frames.pyx`, of messages in `h2_messages.pyx`.

States of the input, and what they expect::

    state       | holds while                  | expects                          | then
    ------------+------------------------------+----------------------------------+--------------------------
    PREFACE     | `preface_left` (a server)    | the rest of the preface          | SETTINGS
    SETTINGS    | not `settings_seen`          | SETTINGS without ACK             | FRAME
    FRAME       | none of the others           | the head of a frame, its payload | DATA, BLOCK or FRAME
    DATA        | `in_data`                    | `data_left`, then `pad_left`     | FRAME
    BLOCK       | `block_stream`               | CONTINUATION of that stream      | FRAME after END_HEADERS
    FAILED      | `failed`                     | nothing: `feed` raises           |

Invariants: `held` is the start of one frame, shorter than a frame may be; a DATA frame is passed on in pieces and never
held. `body` exists only during `feed`.

What the peer controls is limited: frame size, field blocks (bytes, fields, frames) and concurrent streams. Two budgets
limit frames that move no message forward and streams that end in a reset. Time is an argument of `feed`. PRIORITY
frames are checked for their size and ignored (RFC 9113 section 5.3.2).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    _PyBytes_Resize,
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

cimport cython

from corenet.core.libc cimport bytes_data, new_bytes
from corenet.http.h2_frames cimport (
    ACK,
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
    LARGEST_WINDOW,
    INITIAL_MAX_FRAME_SIZE,
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
    add_settings,
    frame_fault,
    read32,
    read_head,
    setting_fault,
    strip_padding_and_priority,
)
from corenet.http.h2_messages cimport count_received, read_request, read_response, read_trailers
from corenet.http.h2_streams cimport CLOSED, DEFAULT_WINDOW, HALF_CLOSED_REMOTE, H2Stream, H2Streams
from corenet.http.hpack cimport HpackDecoder, octets_add

from corenet.http.errors import Http2Error, RemoteProtocolError
from corenet.http.events import Data
from corenet.http.h2_events import Goaway, Pong, SettingsReceived, StreamReset
from corenet.limits import (
    HPACK_TABLE_SIZE,
    HTTP2_CONNECTION_WINDOW,
    HTTP2_CONTINUATIONS,
    HTTP2_DEBUG_DATA,
    HTTP2_MAX_STREAMS,
    HTTP2_SETTINGS_ENTRIES,
    HTTP2_STREAM_WINDOW,
    HTTP2_UNSENT_BYTES,
    HTTP_COALESCE_BELOW,
    HTTP_HEAD_SIZE,
)

__all__ = ["CLIENT", "PREFACE", "SERVER", "H2Connection"]

CLIENT = False
SERVER = True
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

cdef enum:
    PREFACE_SIZE = 24

cdef Py_ssize_t SHORT_DATA = HTTP_COALESCE_BELOW
cdef int MAX_CONTINUATIONS = HTTP2_CONTINUATIONS
cdef int MAX_SETTINGS = HTTP2_SETTINGS_ENTRIES
cdef int64_t MAX_UNSENT = HTTP2_UNSENT_BYTES
cdef Py_ssize_t MAX_DEBUG = HTTP2_DEBUG_DATA


@cython.final
cdef class H2Connection(H2Streams):
    """One connection. `H2Connection(CLIENT)` sends requests, `H2Connection(SERVER)` answers them.

    `window` and `connection_window` are the flow-control windows given to the peer, in bytes. `max_streams` is the
    number of concurrent streams that a client may open. `max_head` (bytes) and `max_fields` bound the fields of one
    message. `table_size` is the size of each HPACK table in bytes.

    Raises:
        ValueError: when one of them is out of its range.
    """

    def __cinit__(self, *_args, **_kwargs):
        self.held = b""

    def __init__(self, bint server=False, *, window=None, connection_window=None, max_streams=None, max_head=None,
                 max_fields=None, table_size=None):
        self.start(server, table_size)
        self.max_head = HTTP_HEAD_SIZE.default if max_head is None else HTTP_HEAD_SIZE.check(
            max_head, "H2Connection max_head")
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
        self.preface_left = PREFACE_SIZE if server else 0
        self.begin()

    def __dealloc__(self):
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
    def incomplete(self):
        """True when the preface, a frame or a field block of the peer has begun and is not complete."""
        return (PyBytes_GET_SIZE(self.held) > 0 or self.block is not None or 0 < self.preface_left < PREFACE_SIZE)

    # --- receiving ----------------------------------------------------------------------------------------------------

    cpdef list feed(self, data, double now=0.0):
        """Process received bytes and return the events that they complete, each as (stream, event).

        `now` is a clock in seconds; without it the budgets for frames and resets do not refill with time. Check
        `data_to_send` afterwards, also when this raises.

        Raises:
            Http2Error: when the peer broke a rule or a limit for connections; nothing more can be fed or sent. Its
                `events` are those before the fault: a response that was complete is not lost.
        """
        cdef list events = []
        cdef Py_buffer view
        cdef bytes joined
        if self.failed:
            raise Http2Error("bytes after a connection error", PROTOCOL_ERROR)
        self.refill(now)
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
        except Http2Error as error:
            error.events = events
            raise
        finally:
            self.finish_body()
        return events

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
            if head.length > INITIAL_MAX_FRAME_SIZE:
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

    cdef int deliver(self, H2Stream stream, const uint8_t *p, Py_ssize_t n, Py_ssize_t input_left, list events) except -1:
        """Add a piece of a body; consecutive pieces of a stream in one input become one event.

        `input_left` is the size of the remaining input: that much memory is reserved, so that frames are copied
        once only.
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
        if n < SHORT_DATA or input_left == n:
            events.append((stream.number, Data(PyBytes_FromStringAndSize(<const char *>p, n))))
            return 0
        event = Data(b"")
        self.body = new_bytes(NULL, input_left)
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

    # --- field blocks -------------------------------------------------------------------------------------------------

    cdef int begin_block(self, int flags, uint32_t number, const uint8_t *p, Py_ssize_t n, list events) except -1:
        cdef Fault fault
        if number == 0:
            self.fail(PROTOCOL_ERROR, "HEADERS on stream 0")
        fault = strip_padding_and_priority(flags, &p, &n)
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
            self.decoder.set_limit(self.table_size)
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
