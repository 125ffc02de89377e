"""The codec under any chunking, against itself in the other role, and against h11.

h11 is the oracle: whatever our codec accepts, h11 must read as the same message (the reverse does not hold, since ours
is stricter by intent: folded lines of requests, repeated lengths, control characters). Streams come from a small
grammar with mutations, because random bytes almost never pass the first line.
"""

import re
from typing import Any

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from corenet.http.errors import RemoteProtocolError
from corenet.http.events import Data, End, Event, Informational, Request, Response
from corenet.http.h1 import CLIENT, SERVER, H1Codec
from corenet.http.headers import Headers

TOKEN = st.text("!#$%&'*+-.^_`|~abcXYZ019", min_size=1, max_size=10).map(str.encode)
VALUE = st.binary(max_size=20).map(lambda raw: bytes(c for c in raw if c >= 0x20 and c != 0x7F).strip(b" \t"))
FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"host", b"expect", b"upgrade")
FIELDS = st.lists(st.tuples(TOKEN.filter(lambda name: name.lower() not in FRAMING), VALUE), max_size=5)
BODY = st.lists(st.binary(min_size=1, max_size=30), max_size=4)
CUTS = st.lists(st.integers(1, 30), min_size=1, max_size=20)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    out, at, turn = [], 0, 0
    while at < len(stream):
        out.append(stream[at : at + cuts[turn % len(cuts)]])
        at, turn = at + cuts[turn % len(cuts)], turn + 1
    return out


def merged(events: list[Event]) -> list[Event]:
    """Events with neighbouring Data joined: the one thing that chunking may change."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, Data) and out and isinstance(out[-1], Data):
            out[-1] = Data(out[-1].data + event.data)
        else:
            out.append(event)
    return out


def read(codec: H1Codec, chunks: list[bytes], *, eof: bool = True) -> list[Event] | str:
    """All events, or the word "refused"."""
    events: list[Event] = []
    try:
        for chunk in chunks:
            events += codec.feed(chunk)
        if eof:
            events += codec.feed_eof()
    except RemoteProtocolError:
        return "refused"
    return merged(events)


def asked(method: bytes = b"GET") -> H1Codec:
    codec = H1Codec(CLIENT)
    codec.send(Request(method, b"/", [(b"Host", b"h")]))
    codec.send(End())
    return codec


@given(TOKEN, FIELDS, BODY, FIELDS, st.booleans(), CUTS)
def test_requests_survive_the_wire(
    method: bytes, fields: Any, body: list[bytes], trailers: Any, chunked: bool, cuts: list[int]
) -> None:
    framing = (b"Transfer-Encoding", b"chunked") if chunked else (b"Content-Length", b"%d" % sum(map(len, body)))
    request = Request(method, b"/path?query", [(b"Host", b"h"), *fields, framing])
    end = End(trailers if chunked else ())
    sender = H1Codec(CLIENT)
    stream = sender.send(request) + b"".join(sender.send(Data(piece)) for piece in body) + sender.send(end)
    got = read(H1Codec(SERVER), pieces(stream, cuts))
    assert got == merged([request, *map(Data, body), end])


@given(st.integers(200, 999), FIELDS, BODY, st.sampled_from(["length", "chunked", "eof"]), CUTS)
def test_responses_survive_the_wire(status: int, fields: Any, body: list[bytes], framing: str, cuts: list[int]) -> None:
    if status in (204, 304):
        body = []
    server = H1Codec(SERVER)
    server.feed(b"GET / HTTP/1.0\r\n\r\n" if framing == "eof" else b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    sent = [*fields, (b"Content-Length", b"%d" % sum(map(len, body)))] if framing == "length" and body else fields
    stream = server.send(Response(status, sent, b"why")) + b"".join(server.send(Data(piece)) for piece in body)
    stream += server.send(End())
    got = read(asked(), pieces(stream, cuts))
    assert isinstance(got, list)
    assert [event.data for event in got if isinstance(event, Data)] == ([b"".join(body)] if body else [])
    assert isinstance(got[0], Response) and got[0].status == status and isinstance(got[-1], End)


# --- against h11 ------------------------------------------------------------------------------------------------------

LINES = st.sampled_from(
    [
        b"Content-Length: 3", b"Content-Length: 0", b"content-length: 10", b"Content-Length: 3, 3",
        b"Content-Length: x",
        b"Content-Length:3 ", b"Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED", b"Transfer-Encoding: gzip",
        b"transfer-encoding: identity", b"Connection: close", b"Connection: keep-alive, x", b"X: y", b"X:", b"X:\ty\t",
        b"X : y", b" folded", b"X: \xff", b"X: a\x01b", b"X\x00: y", b"nocolon", b": y", b"Host: h", b"Expect: nothing",
    ]
)  # fmt: skip
BODIES = st.sampled_from(
    [
        b"", b"abc", b"abcdef", b"3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n", b"0\r\n\r\n",
        b"3\r\nabcd",
        b"3\nabc\r\n", b"03\r\nabc\r\n000\r\n\r\n", b"3 \r\nabc\r\n0\r\n\r\n", b"x\r\n",
        b"A\r\n0123456789\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\n", b"3\r\nabc\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"0\r\nT: v\n\r\n",
    ]
)  # fmt: skip
STATUS_LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No",
        b"HTTP/1.1 304 Not",
        b"HTTP/1.1 404 a\xffb", b"HTTP/1.1 20 x", b"HTTP/1.1 2000", b"HTTP/1.1  200 OK", b"HTTP/2.0 200 OK",
        b"http/1.1 200",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", b"", b"\r\nHTTP/1.1 200 OK",
    ]
)  # fmt: skip
REQUEST_LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"POST /x?y HTTP/1.1", b"HEAD * HTTP/1.1", b"GET  / HTTP/1.1", b"GET /",
        b"G\x01T / HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET / HTTP/1.1 ", b"GET /a b HTTP/1.1", b"GET / http/1.1", b"",
    ]
)  # fmt: skip


def mutated(stream: bytes, changes: list[tuple[int, int]]) -> bytes:
    raw = bytearray(stream)
    for position, byte in changes:
        raw[position % len(raw)] = byte
    return bytes(raw)


# Most mutations are refused at once, so they come seldom and the examples are many: some hundreds are accepted.
DIFFERENTIAL = settings(max_examples=2000)
CHANGE = st.tuples(st.integers(0, 500), st.sampled_from(b"\x00\t\n\r :;,0aA3\x7f\xff"))
CHANGES = st.just([]) | st.just([]) | st.lists(CHANGE, max_size=2)


def by_h11(role: Any, stream: bytes) -> list[Event] | str:
    """What h11 reads: one message, in our words, or "refused"."""
    connection = h11.Connection(role)
    if role is h11.CLIENT:
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
        connection.send(h11.EndOfMessage())
    return events_of(connection, stream)


def events_of(connection: h11.Connection, stream: bytes) -> list[Event] | str:
    """The events of one message that `connection` reads."""
    out: list[Event] = []
    try:
        connection.receive_data(stream)
        connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                out.append(Request(event.method, event.target, list(event.headers.raw_items())))
            elif isinstance(event, h11.InformationalResponse):
                out.append(Informational(event.status_code, list(event.headers.raw_items())))
            elif isinstance(event, h11.Response):
                out.append(Response(event.status_code, list(event.headers.raw_items())))
            elif isinstance(event, h11.Data):
                out.append(Data(bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                out.append(End(list(event.headers.raw_items())))
                return merged(out)
            else:
                return "incomplete"
    except h11.RemoteProtocolError:
        return "refused"


def told(headers: Headers) -> Headers:
    """h11 shows a transfer coding in lower case, and keeps blanks before a fold (RFC 9112 section 5.2)."""
    fields = [(n, v.lower() if n.lower() == b"transfer-encoding" else v) for n, v in headers.raw]
    return Headers([(n, re.sub(rb"[ \t]+", b" ", v)) for n, v in fields])


def plain(events: list[Event] | str) -> Any:
    """Without what h11 does not tell: the reason phrase and the minor version."""
    if isinstance(events, str):
        return events
    out: list[Any] = []
    for event in events:
        if isinstance(event, Request):
            out.append(("request", event.method, event.target, told(event.headers)))
        elif isinstance(event, Response):
            out.append((type(event).__name__, event.status, told(event.headers)))
        elif isinstance(event, End):
            out.append(("end", told(event.trailers)))
        else:
            out.append(event)
    return out


def first_message(codec: H1Codec, stream: bytes, cuts: list[int]) -> list[Event] | str:
    """Read up to the end of the first message, as a server would."""
    events: list[Event] = []
    try:
        for chunk in pieces(stream, cuts):
            events += codec.feed(chunk)
        if not codec.receiving_done:
            events += codec.feed_eof()
    except RemoteProtocolError:
        return "refused"
    return merged(events) if codec.receiving_done else "incomplete"


@DIFFERENTIAL
@given(STATUS_LINES, st.lists(LINES, max_size=3), BODIES, CHANGES, CUTS)
def test_responses_mean_the_same_to_h11(
    line: bytes, fields: list[bytes], body: bytes, changes: list[tuple[int, int]], cuts: list[int]
) -> None:
    stream = mutated(b"\r\n".join([line, *fields]) + b"\r\n\r\n" + body, changes)
    ours = first_message(asked(), stream, cuts)
    assert ours == first_message(asked(), stream, [len(stream)])
    if isinstance(ours, list):
        assert plain(ours) == plain(by_h11(h11.CLIENT, stream))


@DIFFERENTIAL
@given(REQUEST_LINES, st.lists(LINES, max_size=3), BODIES, CHANGES, CUTS)
def test_requests_mean_the_same_to_h11(
    line: bytes, fields: list[bytes], body: bytes, changes: list[tuple[int, int]], cuts: list[int]
) -> None:
    stream = mutated(b"\r\n".join([line, b"Host: a", *fields]) + b"\r\n\r\n" + body, changes)
    ours = first_message(H1Codec(SERVER), stream, cuts)
    assert ours == first_message(H1Codec(SERVER), stream, [len(stream)])
    if isinstance(ours, list) and not stream.startswith(b"\r\n"):
        assert plain(ours) == plain(by_h11(h11.SERVER, stream))


@given(st.binary(max_size=200), st.booleans(), CUTS)
def test_random_bytes_raise_nothing_else(stream: bytes, server: bool, cuts: list[int]) -> None:
    codec = H1Codec(SERVER) if server else asked()
    got = read(codec, pieces(stream, cuts))
    assert got == "refused" or isinstance(got, list)


# --- whole responses that are correct: here both must accept ----------------------------------------------------------

WORDS = st.text("ab%_~*", min_size=1, max_size=4).map(str.encode)
BLANKS = st.sampled_from([b"", b" ", b"\t", b" \t "])
FOLDED = st.lists(WORDS, min_size=1, max_size=3).flatmap(
    lambda words: st.sampled_from([b"\r\n ", b"\r\n\t", b" \r\n  ", b" "]).map(lambda gap: gap.join(words))
)
LINE = st.tuples(WORDS, BLANKS, FOLDED, BLANKS).map(lambda part: b"%s:%s%s%s" % part)
# Without blanks before the first semicolon, which RFC 9112 section 7.1.1 allows and h11 refuses.
EXTENSION = st.sampled_from([b"", b";a", b";a=b", b';a="b;c"', b";a=b ;d", b'; a="\\""'])
CHUNKS = st.lists(
    st.tuples(st.binary(min_size=1, max_size=20), st.sampled_from(["%x", "%X", "%04x"]), EXTENSION), max_size=4
)
INTERIM = st.lists(st.tuples(st.sampled_from([100, 102, 103, 150, 199]), st.lists(LINE, max_size=2)), max_size=3)
FRAMINGS = st.sampled_from(["length", "chunked", "close"])


def head(first: bytes, lines: list[bytes]) -> bytes:
    return b"\r\n".join([first, *lines, b"", b""])


@settings(max_examples=400)
@given(
    st.sampled_from([b"GET", b"HEAD"]), INTERIM, st.sampled_from([200, 204, 206, 304, 404, 599]),
    st.lists(LINE, max_size=3), FRAMINGS, CHUNKS, st.lists(LINE, max_size=2), CUTS,
)  # fmt: skip
def test_correct_responses_are_read_by_us_as_by_h11(
    method: bytes, interim: list[tuple[int, list[bytes]]], status: int, lines: list[bytes], framing: str,
    chunks: list[tuple[bytes, str, bytes]], trailers: list[bytes], cuts: list[int],
) -> None:  # fmt: skip
    """Interim responses, folded lines, chunk extensions, trailers, and heads without a body, in any combination."""
    stream = b"".join(head(b"HTTP/1.1 %d x" % code, fields) for code, fields in interim)
    body = b"".join(data for data, _, _ in chunks)
    fields = {"length": [b"Content-Length: %d" % len(body)], "chunked": [b"Transfer-Encoding: chunked"], "close": []}
    stream += head(b"HTTP/1.1 %d" % status, lines + fields[framing])
    if method != b"HEAD" and status not in (204, 304):
        if framing == "chunked":
            body = b"".join(
                b"%s%s\r\n%s\r\n" % ((size % len(data)).encode(), more, data) for data, size, more in chunks
            )
            body += head(b"0", trailers)
        stream += body
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    ours = first_message(asked(method), stream, cuts)
    assert plain(ours) == plain(events_of(connection, stream))
    assert isinstance(ours, list) and len([event for event in ours if isinstance(event, Informational)]) == len(interim)
