"""The HTTP/1.1 codec, both roles, without I/O: bytes in and events out, events in and bytes out (RFC 9112).

Ambiguous framing is refused. Content-Length together with Transfer-Encoding, a repeated or malformed Content-Length, a
coding other than one `chunked`, a bare CR or LF, control characters, blanks before the colon, and sizes that overflow
raise `RemoteProtocolError`; after that the codec accepts nothing. A folded line is refused in a request and joined with
one space in a response (RFC 9112 section 5.2). However the input is split, the events are the same, except for the
sizes of Data. Everything that the peer sends is limited: head bytes, fields, 1xx responses, chunk extensions, pipelined
bytes. The interface is like that of h11, with which the tests compare it. Both directions are in one file, because
`note_field` reads the fields that decide the framing for both.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr

cimport cython

from corenet.http.field_grammar cimport (
    TARGET,
    TOKEN,
    VALUE,
    field_line,
    has_member,
    is_blank,
    length_of,
    same_name,
    span,
)

from corenet.http.errors import LocalProtocolError, RemoteProtocolError
from corenet.http.events import Data, End, Informational, Request, Response
from corenet.http.headers import Headers
from corenet.limits import (
    HTTP_CHUNK_EXTENSION_BYTES,
    HTTP_CHUNK_LINE_SIZE,
    HTTP_FIELD_COUNT,
    HTTP_HEAD_SIZE,
    HTTP_INFORMATIONAL_RESPONSES,
    HTTP_COALESCE_BELOW,
    HTTP_PIPELINE_BYTES,
)

__all__ = ["CLIENT", "SERVER", "H1Codec"]

CLIENT = False
SERVER = True

cdef enum Receiving:
    R_HEAD
    R_LENGTH
    R_CHUNK_SIZE
    R_CHUNK_BLANK       # blanks between the size and the ";" of its extension
    R_CHUNK_EXTENSION
    R_CHUNK_LF          # the LF that ends the chunk's head
    R_CHUNK_DATA
    R_CHUNK_CR          # the CR LF after a chunk's data
    R_CHUNK_CRLF
    R_TRAILER
    R_UNTIL_CLOSE
    R_DONE
    R_CLOSED
    R_ERROR

cdef enum Sending:
    S_IDLE
    S_LENGTH
    S_CHUNKED
    S_UNTIL_CLOSE
    S_DONE
    S_ERROR

# Fifteen hexadecimal digits are 60 bits: no sum can overflow, no body is that large.
cdef enum:
    CHUNK_DIGITS = 15
    LENGTH_DIGITS = 18  # decimal ones, of a Content-Length: fewer than 60 bits

# A chunk may be two bytes with five of framing; an event for each would take thirty times the memory.
cdef Py_ssize_t SHORT_CHUNK = HTTP_COALESCE_BELOW

cdef bytes CRLF = b"\r\n"
cdef bytes HEAD = b"HEAD"
cdef bytes CONNECT = b"CONNECT"
cdef object NO_FIELDS = []


cdef inline int hex_digit(uint8_t c) noexcept nogil:
    if 0x30 <= c <= 0x39:
        return c - 0x30
    c |= 0x20
    if 0x61 <= c <= 0x66:
        return c - 0x57
    return -1


@cython.final
cdef class H1Codec:
    """The codec of one connection. `H1Codec(CLIENT)` receives responses, `H1Codec(SERVER)` requests.

    `max_head` limits a head in bytes, `max_fields` the fields of a head.

    Raises:
        ValueError: a limit is out of its range.
    """

    def __cinit__(self, *_args, **_kwargs):
        self.held = self.request_method = b""

    def __init__(self, bint server=False, *, max_head=None, max_fields=None):
        self.server = server
        self.max_head = HTTP_HEAD_SIZE.default if max_head is None else HTTP_HEAD_SIZE.check(max_head, "H1Codec max_head")
        self.max_fields = (
            HTTP_FIELD_COUNT.default if max_fields is None else HTTP_FIELD_COUNT.check(max_fields, "H1Codec max_fields"))
        self.max_chunk_line = HTTP_CHUNK_LINE_SIZE
        self.max_extensions = HTTP_CHUNK_EXTENSION_BYTES
        self.max_informational = HTTP_INFORMATIONAL_RESPONSES
        self.max_pipeline = HTTP_PIPELINE_BYTES
        self.held = b""
        self.receive = R_HEAD
        self.peer_version = 11
        self.clear()

    cdef void clear(self) noexcept:
        """Begin a new exchange. `held`, which may have a pipelined request, is kept."""
        self.receive = R_HEAD
        self.sending = S_IDLE
        self.scan = self.line_start = self.lines = 0
        self.left = self.extensions = 0
        self.informational = 0
        self.unexpected_data = self.content_coded = self.expects_continue = False
        self.peer_close = self.own_close = False
        self.request_method = b""

    # --- state ----------------------------------------------------------------------------------------------------

    @property
    def receiving_done(self):
        """True when the peer's message is complete."""
        return self.receive == R_DONE

    @property
    def sending_done(self):
        """True when our message is complete."""
        return self.sending == S_DONE

    @property
    def started(self):
        """True when a byte of the peer's message was received."""
        return ((self.receive != R_HEAD and self.receive != R_CLOSED) or self.informational > 0
                or PyBytes_GET_SIZE(self.held) > 0)

    @property
    def until_close(self):
        """True while a body is received that ends with the connection."""
        return self.receive == R_UNTIL_CLOSE

    @property
    def reusable(self):
        """True when both messages are complete, neither side wants to close, and no unexpected bytes arrived."""
        return (self.receive == R_DONE and self.sending == S_DONE and not self.unexpected_data
                and not self.peer_close and not self.own_close)

    cpdef int next_cycle(self) except -1:
        """Start the next exchange on the same connection. In a server, `feed(b"")` then returns a pipelined request.

        Raises:
            LocalProtocolError: the last exchange is not `reusable`.
        """
        if not self.reusable:
            raise LocalProtocolError("this connection cannot carry another exchange")
        self.clear()
        return 0

    # --- receiving ------------------------------------------------------------------------------------------------

    cpdef list feed(self, data):
        """Process received bytes and return the events that they complete.

        Raises:
            RemoteProtocolError: the bytes are not HTTP/1.1 or are framed ambiguously; further bytes raise it too.
        """
        cdef list events = []
        cdef bytes piece = data if type(data) is bytes else bytes(data)
        if self.receive == R_ERROR:
            raise RemoteProtocolError("bytes after a protocol error")
        if PyBytes_GET_SIZE(self.held):
            piece = self.held + piece
            self.held = b""
        self.run(piece, events)
        return events

    @property
    def length_left(self):
        """Bytes still to come of a body with Content-Length; 0 for any other framing."""
        return self.left if self.receive == R_LENGTH else 0

    cpdef list count_received(self, int64_t size):
        """Record that `size` bytes of a body with Content-Length were received directly into their final memory.

        Raises:
            LocalProtocolError: `size` is negative or more than the rest of the body.
        """
        cdef list events = []
        if self.receive != R_LENGTH or size < 0 or size > self.left:
            raise LocalProtocolError(f"{size} is not a number of bytes within the rest of the body")
        self.left -= size
        if self.left == 0:
            self.finish(events, NO_FIELDS)
        return events

    cpdef list feed_eof(self):
        """Record that the peer sends no more, and return the resulting events.

        Raises:
            RemoteProtocolError: the message was not complete.
        """
        cdef list events = []
        if self.receive == R_UNTIL_CLOSE:
            self.finish(events, NO_FIELDS)
        elif self.receive == R_DONE or (self.receive == R_HEAD and not self.started):
            if self.receive == R_HEAD:
                self.receive = R_CLOSED
        elif self.receive not in (R_CLOSED, R_ERROR):
            self.fail("the connection ended inside a message")
        self.peer_close = True
        return events

    cdef int fail(self, str message, int status=400) except -1:
        self.receive = R_ERROR
        self.peer_close = True
        self.held = b""
        raise RemoteProtocolError(message, status)

    cdef int run(self, bytes data, list events) except -1:
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t end, take
        cdef list trailers
        cdef bytes piece
        cdef object last = None         # the event of a short chunk; further ones in this read are joined to it
        cdef object joined = None
        while True:
            if self.receive == R_HEAD or self.receive == R_TRAILER:
                end = self.head_end(p + at, n - at, self.receive == R_TRAILER)
                if end < 0:
                    self.held = data if at == 0 else data[at:]
                    break
                if self.receive == R_HEAD:
                    self.parse_head(p + at, end, events)
                else:
                    trailers = self.parse_fields(p + at, end, True)
                    self.finish(events, trailers)
                at += end
                self.scan = self.line_start = self.lines = 0
            elif self.receive == R_LENGTH or self.receive == R_CHUNK_DATA:
                take = n - at
                if take == 0:
                    break
                if take > self.left:
                    take = self.left
                piece = data if take == n else PyBytes_FromStringAndSize(<const char *>p + at, take)
                at += take
                if self.receive == R_LENGTH or take >= SHORT_CHUNK:
                    if joined is not None:
                        last.data = bytes(joined)
                        joined = None
                    last = None
                    events.append(Data(piece))
                elif last is None:
                    last = Data(piece)
                    events.append(last)
                else:
                    if joined is None:
                        joined = bytearray(last.data)
                    joined += piece
                self.left -= take
                if self.left == 0:
                    if self.receive == R_LENGTH:
                        self.finish(events, NO_FIELDS)
                    else:
                        self.receive = R_CHUNK_CR
            elif self.receive == R_UNTIL_CLOSE:
                if at < n:
                    events.append(Data(data if at == 0 else data[at:]))
                break
            elif self.receive == R_DONE:
                if at < n:
                    if self.server:
                        # A pipelined request is kept until next_cycle.
                        if n - at > self.max_pipeline:
                            self.fail("too many bytes sent ahead of the response", 413)
                        self.held = data if at == 0 else data[at:]
                    else:
                        self.unexpected_data = True
                break
            elif self.receive == R_CLOSED:
                if at < n:
                    self.fail("bytes after the end of the connection")
                break
            else:
                if at == n:
                    break
                at += self.chunk_head(p + at, n - at)
        if joined is not None:
            last.data = bytes(joined)
        return 0

    cdef Py_ssize_t head_end(self, const uint8_t *p, Py_ssize_t n, bint trailer) except -2:
        """Offset after the empty line that ends a field section, or -1; stores how far it has searched."""
        cdef const uint8_t *hit
        cdef Py_ssize_t i
        while self.scan < n:
            hit = <const uint8_t *>memchr(p + self.scan, 0x0A, n - self.scan)
            if hit == NULL:
                self.scan = n
                break
            i = hit - p
            if i == self.line_start or p[i - 1] != 0x0D:
                self.fail("a line ends with LF alone")
            self.scan = i + 1
            if i + 1 > self.max_head:
                break
            if i - self.line_start == 1:
                if self.lines > 0 or trailer:
                    return i + 1
                if not self.server or i > 1:
                    self.fail("an empty line where the message should begin")
                # RFC 9112 section 2.2: a server ignores one empty line before the request line.
            else:
                self.lines += 1
                if self.lines > self.max_fields + 1:
                    self.fail(f"more than {self.max_fields} header fields", 431)
            self.line_start = i + 1
        if n > self.max_head:
            self.fail(f"header section over {self.max_head} bytes", 431)
        return -1

    cdef int parse_head(self, const uint8_t *p, Py_ssize_t n, list events) except -1:
        cdef Py_ssize_t line, size, i, j
        cdef int status, version
        cdef bytes method, target, reason
        cdef list fields
        self.content_coded = self.expects_continue = False
        if p[0] == 0x0D and p[1] == 0x0A:
            p += 2
            n -= 2
        size = <const uint8_t *>memchr(p, 0x0A, n) - p - 1      # head_end has checked that the line ends with CR LF
        line = size + 2
        if self.server:
            i = span(p, size, TOKEN)
            if i == 0 or i >= size or p[i] != 0x20:
                self.fail("the request line does not begin with a method")
            method = PyBytes_FromStringAndSize(<const char *>p, i)
            j = i + 1 + span(p + i + 1, size - i - 1, TARGET)
            if j == i + 1 or j >= size or p[j] != 0x20:
                self.fail("the request line has no valid target")
            target = PyBytes_FromStringAndSize(<const char *>p + i + 1, j - i - 1)
            version = self.http_version(p + j + 1, size - j - 1)
            fields = self.parse_fields(p + line, n - line, False)
            self.request_method = method
            self.frame_request(method, version)
            events.append(Request(method, target, Headers(fields), version))
        else:
            if size < 12 or p[8] != 0x20:
                self.fail("the status line is malformed")
            version = self.http_version(p, 8)
            status = 0
            for i in range(9, 12):
                if not 0x30 <= p[i] <= 0x39:
                    self.fail("the status is not three digits")
                status = status * 10 + p[i] - 0x30
            if status < 100 or (size > 12 and p[12] != 0x20):
                self.fail("the status is not three digits of 100 or more")
            reason = b""
            if size > 13:
                if span(p + 13, size - 13, VALUE) != size - 13:
                    self.fail("the reason phrase has a control character")
                reason = PyBytes_FromStringAndSize(<const char *>p + 13, size - 13)
            fields = self.parse_fields(p + line, n - line, False)
            if status < 200:
                if status == 101:
                    self.fail("the server switches protocols without a request to do so")
                self.informational += 1
                if self.informational > self.max_informational:
                    self.fail(f"more than {self.max_informational} informational responses")
                events.append(Informational(status, Headers(fields), reason, version))
                return 0
            self.frame_response(status, version)
            events.append(Response(status, Headers(fields), reason, version))
        if self.left == 0 and self.receive == R_LENGTH:
            self.finish(events, NO_FIELDS)
        return 0

    cdef int http_version(self, const uint8_t *p, Py_ssize_t n) except -1:
        """Return the version of ``HTTP/1.x``: 10 for 1.0, 11 for 1.1 and above."""
        if n != 8 or p[:5] != b"HTTP/" or p[6] != 0x2E or not 0x30 <= p[5] <= 0x39 or not 0x30 <= p[7] <= 0x39:
            self.fail("the HTTP version is malformed")
        if p[5] != 0x31:
            self.fail(f"HTTP/{p[5] - 0x30} is not supported", 505)
        # RFC 9110 section 2.5: a higher minor version is treated as the highest known one.
        return 10 if p[7] == 0x30 else 11

    cdef list parse_fields(self, const uint8_t *p, Py_ssize_t n, bint trailer):
        """Parse a field section into (name, value) pairs; p[:n] ends with the empty line found by head_end."""
        cdef list fields = []
        cdef list folds
        cdef bytes name, value
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t colon, stop, start, size
        self.field_length = -1
        self.field_lengths = self.field_codings = self.field_hosts = 0
        self.field_close = self.field_keep = False
        self.field_coding_known = True
        while n - at > 2:
            size = <const uint8_t *>memchr(p + at, 0x0A, n - at) - p - at - 1
            colon = span(p + at, size, TOKEN)
            if colon == 0:
                if is_blank(p[at]):
                    self.fail("a folded header line")
                self.fail("a header line without a field name")
            if colon == size or p[at + colon] != 0x3A:
                self.fail("a field name has an invalid character or no colon")
            start = at + colon + 1
            stop = at + size
            while start < stop and is_blank(p[start]):
                start += 1
            while stop > start and is_blank(p[stop - 1]):
                stop -= 1
            if span(p + start, stop - start, VALUE) != stop - start:
                self.fail("a field value with a control character")
            name = PyBytes_FromStringAndSize(<const char *>p + at, colon)
            value = PyBytes_FromStringAndSize(<const char *>p + start, stop - start)
            at += size + 2
            if is_blank(p[at]) and not self.server:
                # RFC 9112 section 5.2: a user agent replaces each fold of a response by a space.
                folds = [value] if start < stop else []
                while is_blank(p[at]):
                    at += self.fold(p + at, n - at, folds)
                value = b" ".join(folds)
            if not trailer:
                self.note_field(<const uint8_t *>PyBytes_AS_STRING(name), colon,
                                <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
            fields.append((name, value))
        return fields

    cdef Py_ssize_t fold(self, const uint8_t *p, Py_ssize_t n, list folds) except -1:
        """Append the text of the folded line at p, which begins with a blank; returns the length of the line."""
        cdef Py_ssize_t size = <const uint8_t *>memchr(p, 0x0A, n) - p - 1
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t stop = size
        while start < stop and is_blank(p[start]):
            start += 1
        while stop > start and is_blank(p[stop - 1]):
            stop -= 1
        if start == stop:
            self.fail("a folded header line without text")
        if span(p + start, stop - start, VALUE) != stop - start:
            self.fail("a field value with a control character")
        folds.append(PyBytes_FromStringAndSize(<const char *>p + start, stop - start))
        return size + 2

    cdef int note_field(self, const uint8_t *name, Py_ssize_t n, const uint8_t *v, Py_ssize_t m) except -1:
        """Record the fields that decide the framing and whether the connection persists."""
        cdef Py_ssize_t i
        if n == 14 and same_name(name, n, "content-length", 14):
            self.field_lengths += 1
            if m == 0 or m > LENGTH_DIGITS:
                self.fail("Content-Length is not a number")
            self.field_length = 0
            for i in range(m):
                if not 0x30 <= v[i] <= 0x39:
                    self.fail("Content-Length is not a number")
                self.field_length = self.field_length * 10 + v[i] - 0x30
        elif n == 17 and same_name(name, n, "transfer-encoding", 17):
            self.field_codings += 1
            if not same_name(v, m, "chunked", 7):
                self.field_coding_known = False
        elif n == 10 and same_name(name, n, "connection", 10):
            if has_member(v, m, "close", 5):
                self.field_close = True
            if has_member(v, m, "keep-alive", 10):
                self.field_keep = True
        elif n == 4 and same_name(name, n, "host", 4):
            self.field_hosts += 1
        elif n == 16 and same_name(name, n, "content-encoding", 16):
            self.content_coded = True
        elif n == 6 and same_name(name, n, "expect", 6):
            self.expects_continue = same_name(v, m, "100-continue", 12)
        return 0

    cdef int frame_length(self, int version) except -1:
        """The rules of RFC 9112 section 6.3 that requests and responses share; 1 when a body is framed."""
        self.peer_version = version
        self.peer_close = self.field_close or (version == 10 and not self.field_keep)
        if self.field_codings:
            if self.field_lengths:
                self.fail("both Content-Length and Transfer-Encoding")
            if version == 10:
                self.fail("Transfer-Encoding in an HTTP/1.0 message")
            if self.field_codings > 1 or not self.field_coding_known:
                self.fail("a transfer coding other than one chunked", 501)
            self.receive = R_CHUNK_SIZE
            self.chunk_digits = 0
            self.chunk_line = 0
            self.left = 0
            return 1
        if self.field_lengths > 1:
            self.fail("more than one Content-Length")
        if self.field_lengths:
            self.receive = R_LENGTH
            self.left = self.field_length
            return 1
        return 0

    cdef int frame_request(self, bytes method, int version) except -1:
        if self.field_hosts > 1 or (self.field_hosts == 0 and version == 11):
            self.fail("a request needs exactly one Host field")
        if not self.frame_length(version):
            self.receive = R_LENGTH
            self.left = 0
        return 0

    cdef int frame_response(self, int status, int version) except -1:
        cdef int framed = self.frame_length(version)
        if self.request_method == HEAD or status == 204 or status == 304 or (
                self.request_method == CONNECT and status < 300):
            # These never have a body, whatever their fields (RFC 9112 section 6.3, rules 1 and 2).
            self.receive = R_LENGTH
            self.left = 0
            if self.request_method == CONNECT and status < 300:
                # What follows is a tunnel, not HTTP (RFC 9110 section 9.3.6).
                self.peer_close = True
        elif not framed:
            self.receive = R_UNTIL_CLOSE
            self.peer_close = True
        return 0

    cdef Py_ssize_t chunk_head(self, const uint8_t *p, Py_ssize_t n) except -1:
        """Parse chunk sizes, extensions and the line ends around data; returns how many bytes were used."""
        cdef Py_ssize_t i = 0
        cdef uint8_t c
        cdef int digit
        while i < n:
            c = p[i]
            i += 1
            if self.receive == R_CHUNK_CR:
                if c != 0x0D:
                    self.fail("chunk data longer than its size")
                self.receive = R_CHUNK_CRLF
                continue
            if self.receive == R_CHUNK_CRLF:
                if c != 0x0A:
                    self.fail("chunk data longer than its size")
                self.receive = R_CHUNK_SIZE
                self.chunk_digits = 0
                self.chunk_line = 0
                self.left = 0
                continue
            self.chunk_line += 1
            if self.chunk_line > self.max_chunk_line:
                self.fail("the line of a chunk size is too long")
            if self.receive == R_CHUNK_LF:
                if c != 0x0A:
                    self.fail("a bare CR in a chunk size line")
                if self.left:
                    self.receive = R_CHUNK_DATA
                else:
                    self.receive = R_TRAILER
                return i
            if self.receive == R_CHUNK_SIZE:
                digit = hex_digit(c)
                if digit >= 0:
                    self.chunk_digits += 1
                    if self.chunk_digits > CHUNK_DIGITS:
                        self.fail("a chunk size is too large")
                    self.left = self.left * 16 + digit
                    continue
                if self.chunk_digits == 0:
                    self.fail("a chunk without a size")
            if c == 0x0D and self.receive != R_CHUNK_BLANK:
                self.receive = R_CHUNK_LF
            elif self.receive == R_CHUNK_EXTENSION:
                self.extensions += 1
                if self.extensions > self.max_extensions:
                    self.fail("too many bytes of chunk extensions")
                if span(&c, 1, VALUE) == 0:
                    self.fail("a control character in a chunk extension")
            elif c == 0x3B:
                self.receive = R_CHUNK_EXTENSION
            elif is_blank(c):
                # RFC 9112 section 7.1.1: only an extension may follow them.
                self.receive = R_CHUNK_BLANK
            elif self.receive == R_CHUNK_BLANK:
                self.fail("blanks after a chunk size without an extension")
            else:
                self.fail("a chunk size is not a hexadecimal number")
        return i

    cdef int finish(self, list events, list trailers) except -1:
        self.receive = R_DONE
        events.append(End(Headers(trailers)) if trailers else End())
        return 0

    # --- sending --------------------------------------------------------------------------------------------------

    cpdef bytes send(self, event):
        """Return the bytes that encode `event`.

        Raises:
            LocalProtocolError: the event is out of order, badly framed, or has a forbidden character.
        """
        cdef type kind = type(event)
        if self.sending == S_ERROR:
            raise LocalProtocolError("no event can be sent after a LocalProtocolError")
        try:
            if kind is Data:
                return self.send_body(event.data)
            if kind is End:
                return self.send_end(event.trailers.raw)
            if kind is Request:
                return self.send_request(event.method, event.target, event.headers.raw, -1)
            if kind is Response or kind is Informational:
                return self.send_response(event, kind is Informational)
        except LocalProtocolError:
            self.sending = S_ERROR
            raise
        raise TypeError(f"{event!r} is not an event that can be sent")

    cpdef bytes send_request(self, bytes method, bytes target, list fields, int64_t length):
        """Return a request head; a `length` of 0 or more adds Content-Length, -1 leaves the framing to `fields`.

        Raises:
            LocalProtocolError: a request cannot be sent now, is badly framed, or has a forbidden character.
        """
        if self.server or self.sending != S_IDLE:
            raise LocalProtocolError("a request cannot be sent now")
        cdef Py_ssize_t n = length_of(method)
        if n == 0 or span(<const uint8_t *>PyBytes_AS_STRING(method), n, TOKEN) != n:
            raise LocalProtocolError(f"{method!r} is not a method")
        n = length_of(target)
        if n == 0 or span(<const uint8_t *>PyBytes_AS_STRING(target), n, TARGET) != n:
            raise LocalProtocolError(f"{target!r} is not a request target")
        if length >= 0:
            fields = [*fields, (b"Content-Length", b"%d" % length)]
        self.request_method = method
        return self.write_head(method + b" " + target + b" HTTP/1.1\r\n", fields, True, True, 0)

    cpdef int repeat_request(self, bytes method) except -1:
        """Record that the bytes of an earlier `send_request` without a body are sent again.

        They were checked then. They must not have a `Connection` field, because it is not evaluated here.

        Raises:
            LocalProtocolError: a request cannot be sent now.
        """
        if self.server or self.sending != S_IDLE:
            raise LocalProtocolError("a request cannot be sent now")
        self.request_method = method
        self.sending = S_DONE
        return 0

    def send_response(self, event, bint informational):
        """Return the bytes of a response head; without framing fields, this chooses the framing.

        Raises:
            LocalProtocolError: a response cannot be sent now, is badly framed, or has a forbidden character.
        """
        cdef int status = event.status
        cdef bytes reason = event.reason
        if not self.server or self.sending != S_IDLE or self.receive == R_HEAD:
            raise LocalProtocolError("a response cannot be sent now")
        if not (100 <= status <= 199 if informational else 200 <= status <= 999):
            raise LocalProtocolError(f"{status} is not a status of this kind of response (1xx or final)")
        cdef Py_ssize_t n = length_of(reason)
        if span(<const uint8_t *>PyBytes_AS_STRING(reason), n, VALUE) != n:
            raise LocalProtocolError("the reason phrase has a control character")
        cdef bytes start = b"HTTP/1.1 %d %b\r\n" % (status, reason)
        if informational:
            return start + b"".join([field_line(name, value) for name, value in event.headers.raw]) + CRLF
        no_body = status == 204 or status == 304 or self.request_method == HEAD or (
            self.request_method == CONNECT and status < 300)
        return self.write_head(start, event.headers.raw, not no_body, False, status)

    cdef bytes write_head(self, bytes start, list fields, bint may_have_body, bint request, int status):
        cdef list parts = [start]
        cdef tuple field
        cdef bytes name, value
        self.field_length = -1
        self.field_lengths = self.field_codings = self.field_hosts = 0
        self.field_close = self.field_keep = False
        self.field_coding_known = True
        cdef bint content_coded = self.content_coded
        cdef bint expects = self.expects_continue
        cdef int receive = self.receive
        for field in fields:
            name, value = field
            parts.append(field_line(name, value))
            try:
                self.note_field(<const uint8_t *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                                <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
            except RemoteProtocolError as error:
                # Parsed as received fields are, but the error is the caller's.
                self.receive = receive
                raise LocalProtocolError(str(error)) from None
        self.content_coded = content_coded
        self.expects_continue = expects
        if self.field_lengths > 1 or (self.field_lengths and self.field_codings):
            raise LocalProtocolError("a message may have only one Content-Length or one Transfer-Encoding")
        if self.field_codings > 1 or not self.field_coding_known:
            raise LocalProtocolError("the only transfer coding that can be sent is one chunked")
        if request and self.field_hosts != 1:
            raise LocalProtocolError("a request needs exactly one Host field")
        self.own_close = self.field_close
        if self.field_codings:
            if not request and (self.peer_version == 10 or status == 204):
                raise LocalProtocolError("Transfer-Encoding cannot be sent to an HTTP/1.0 client or with 204")
            self.sending = S_CHUNKED
        elif self.field_lengths:
            if status == 204:
                raise LocalProtocolError("Content-Length cannot be sent with 204")
            self.sending = S_LENGTH
            self.send_left = self.field_length
        elif request or not may_have_body:
            self.sending = S_LENGTH
            self.send_left = 0
        elif self.peer_version == 11:
            self.sending = S_CHUNKED
            parts.append(b"Transfer-Encoding: chunked\r\n")
        else:
            self.sending = S_UNTIL_CLOSE
            self.own_close = True
        if not may_have_body:
            self.sending = S_LENGTH
            self.send_left = 0
        if not request and not self.field_close and (self.own_close or self.peer_close):
            parts.append(b"Connection: close\r\n")
            self.own_close = True
        parts.append(CRLF)
        return b"".join(parts)

    cdef bytes send_body(self, bytes data):
        cdef Py_ssize_t n = length_of(data)
        if self.sending == S_LENGTH:
            if n > self.send_left:
                raise LocalProtocolError("the body is longer than its Content-Length")
            self.send_left -= n
            return data
        if self.sending == S_CHUNKED:
            # An empty chunk would end the body.
            return b"%x\r\n%b\r\n" % (n, data) if n else b""
        if self.sending == S_UNTIL_CLOSE:
            return data
        raise LocalProtocolError("a body cannot be sent now")

    cdef bytes send_end(self, list trailers):
        cdef bytes out = b""
        if self.sending == S_CHUNKED:
            out = b"0\r\n" + b"".join([field_line(name, value) for name, value in trailers]) + CRLF
        elif trailers:
            raise LocalProtocolError("trailers can be sent with a chunked body only")
        elif self.sending == S_LENGTH:
            if self.send_left:
                raise LocalProtocolError(f"the body is {self.send_left} bytes shorter than its Content-Length")
        elif self.sending != S_UNTIL_CLOSE:
            raise LocalProtocolError("the end of a message cannot be sent now")
        self.sending = S_DONE
        return out
