"""The messages on a stream of HTTP/2: what makes a request, a response or trailers malformed (RFC 9113 section 8).

`Messages` is the state of a stream's request and response. In each direction a message has these parts, in
this order; the flags say which were seen::

    part           | received                               | sent
    ---------------+----------------------------------------+-------------------------------
    informational  | `informational` counts them            |
    head           | `head_received`                        | `head_sent`
    body           | `length_left` bytes, unless `no_body`  | `send_left` bytes
    trailers       | the block that ends the stream         | the block that ends the stream

Invariants: `length_left` and `send_left` are what is left of the Content-Length, or -1 without one. Nothing is received
beyond them, and a message ends only when they are 0 or -1.

A reader returns None or the reason why the message is malformed, which is an error of the stream (section 8.1.1). What
we send is checked as well, and raises LocalProtocolError. The kind of each field (`h2_fields.pyx`) comes from HPACK.
Streams and windows are in `h2_streams.pyx`, frames in `h2_frames.pyx`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t

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
from corenet.http.hpack cimport HpackEncoder, Octets

from corenet.http.errors import LocalProtocolError
from corenet.http.events import Informational, Request, Response
from corenet.http.headers import Headers
from corenet.limits import HTTP_INFORMATIONAL_RESPONSES

__all__: list = []

cdef enum:
    LENGTH_DIGITS = 18
    VERSION = 20

cdef int MAX_INFORMATIONAL = HTTP_INFORMATIONAL_RESPONSES

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


cdef class Messages:
    """The request and the response of one stream."""


# --- receiving --------------------------------------------------------------------------------------------------------

cdef str read_request(Messages stream, uint32_t number, list fields, const uint8_t *kinds, bint end, list events):
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
        kind = kinds[i]
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
        join_cookies(fields)
    stream.method = method
    stream.head_received = True
    events.append((number, Request(method, path, Headers(fields), VERSION)))
    return None


cdef int join_cookies(list fields) except -1:
    """Join the Cookie fields to one, as in HTTP/1.1 (RFC 9113 section 8.2.3)."""
    cookies = [value for name, value in fields if name == b"cookie"]
    fields[:] = [(name, value) for name, value in fields if name != b"cookie"]
    fields.append((b"cookie", b"; ".join(cookies)))
    return 0


cdef str read_response(Messages stream, uint32_t number, list fields, const uint8_t *kinds, bint end, list events):
    """Append the event of a response, or return why it is malformed."""
    cdef int status = -1
    cdef int kind
    cdef Py_ssize_t i
    cdef bytes value
    cdef int64_t length = -1
    for i in range(len(fields)):
        kind = kinds[i]
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
        if stream.informational > MAX_INFORMATIONAL:
            return f"more than {MAX_INFORMATIONAL} informational responses"
        del fields[0]
        events.append((number, Informational(status, Headers(fields), b"", VERSION)))
        return None
    if stream.method == HEAD or status == 204 or status == 304:
        stream.no_body = True
    else:
        stream.length_left = length
        if end and length > 0:
            return "less data than Content-Length says"
    del fields[0]
    stream.head_received = True
    events.append((number, Response(status, Headers(fields), b"", VERSION)))
    return None


cdef str read_trailers(list fields, const uint8_t *kinds):
    """Return why trailers are malformed, or None."""
    cdef Py_ssize_t i
    cdef int kind
    for i in range(len(fields)):
        kind = kinds[i]
        if kind == FIELD_BAD or kind == FIELD_CONNECTION or kind >= FIELD_METHOD:
            return "trailers with a field that is not allowed there"
    return None


cdef str count_received(Messages stream, Py_ssize_t n):
    """Count `n` bytes of a body; return why they make the message malformed, or None."""
    if not stream.head_received:
        return "data before the fields of the message"
    if n and stream.no_body:
        return "data in a response that has none"
    if stream.length_left >= 0:
        if n > stream.length_left:
            return "more data than Content-Length says"
        stream.length_left -= n
    return None


cdef str received_whole(Messages stream):
    """Return why the message must not end now, or None."""
    return "less data than Content-Length says" if stream.length_left > 0 else None


# --- sending ----------------------------------------------------------------------------------------------------------

cdef list pseudo_of_request(request, bytes scheme):
    """The pseudo-header fields of a request (RFC 9113 section 8.3.1); the authority is its Host."""
    cdef bytes method = request.method
    cdef bytes host = None
    cdef bytes name, value
    cdef list pseudo
    for name, value in request.headers.raw:
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
        pseudo.append((b":path", request.target))
    return pseudo


cdef list pseudo_of_response(Messages stream, int code, bint informational):
    """The pseudo-header field of a response."""
    if not 100 <= code <= 999 or informational != (code < 200) or code == 101:
        raise LocalProtocolError(f"{code} is no status of such a response")
    status = STATUS_FIELDS.get(code)
    if status is None:
        status = STATUS_FIELDS[code] = (b":status", b"%d" % code)
    # Content-Length is then the size that the body would have had (RFC 9110 section 8.6).
    stream.no_body_sent = stream.method == HEAD or code == 304
    return [status]


cdef int encode_block(Messages stream, HpackEncoder encoder, Octets *out, list pseudo, list fields, int what,
                      bint end) except -1:
    """Append the fields of a message to `out`, compressed. After an exception the caller removes what was appended."""
    cdef tuple field
    try:
        encoder.begin(out)
        for field in pseudo:
            if not encoder.encode_known(out, field):
                add_pseudo(encoder, out, field)
        for field in fields:
            if not encoder.encode_known(out, field):
                add_field(stream, encoder, out, field, what)
        if stream.no_body_sent:
            stream.send_left = 0
        if end and stream.send_left > 0:
            raise LocalProtocolError(f"{stream.send_left} bytes of body less than Content-Length says")
    except BaseException:
        if what != B_TRAILERS:
            stream.send_left = -1
        raise
    return 0


cdef int add_pseudo(HpackEncoder encoder, Octets *out, tuple field) except -1:
    cdef bytes name = field[0]
    cdef bytes value = field[1]
    if field_kind(<const uint8_t *>PyBytes_AS_STRING(name), length_of(name),
                  <const uint8_t *>PyBytes_AS_STRING(value), length_of(value)) == FIELD_BAD:
        raise LocalProtocolError(f"{value!r} is not a {name[1:].decode()} that can be sent")
    return encoder.encode_field(out, name, value, field, False)


cdef int add_field(Messages stream, HpackEncoder encoder, Octets *out, tuple field, int what) except -1:
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
    return encoder.encode_field(out, lower, value, field, False)


cdef int count_sent(Messages stream, Py_ssize_t n, bint end) except -1:
    """Count `n` bytes of a body that are sent.

    Raises:
        LocalProtocolError: when that is more, or at the `end` less, than Content-Length says.
    """
    if not stream.head_sent:
        raise LocalProtocolError("a body before the head of its message")
    if stream.send_left >= 0:
        if n > stream.send_left:
            raise LocalProtocolError("more body than Content-Length says")
        if end and n < stream.send_left:
            raise LocalProtocolError(f"{stream.send_left - n} bytes of body less than Content-Length says")
        stream.send_left -= n
    return 0


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
