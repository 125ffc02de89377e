"""The HTTP/1.1 codec in both roles: what it accepts, and above all what it refuses.

Each refusal is its own case, so that a change which makes the parser more lenient fails by name. That chunking does not
matter and that h11 agrees is tested in tests/property/test_h1.py.
"""

import pytest

from corenet.http.errors import LocalProtocolError, RemoteProtocolError
from corenet.http.events import Data, End, Event, Informational, Request, Response
from corenet.http.h1 import CLIENT, SERVER, H1Codec
from corenet.http.headers import Headers
from corenet.limits import (
    HTTP_CHUNK_LINE_SIZE,
    HTTP_FIELD_COUNT,
    HTTP_HEAD_SIZE,
    HTTP_INFORMATIONAL_RESPONSES,
    HTTP_PIPELINE_BYTES,
)

HOST = [(b"Host", b"example.test")]


def client(method: bytes = b"GET") -> H1Codec:
    """A client codec that has sent a request."""
    codec = H1Codec(CLIENT)
    codec.send(Request(method, b"/", HOST))
    codec.send(End())
    return codec


def body_of(events: list[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Data))


# --- responses --------------------------------------------------------------------------------------------------------


def test_a_plain_response() -> None:
    codec = client()
    events = codec.feed(b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello")
    assert events == [Response(200, [(b"Server", b"x"), (b"Content-Length", b"5")], b"OK"), Data(b"hello"), End()]
    assert codec.reusable
    codec.next_cycle()
    assert not codec.started


def test_a_chunked_response_with_extensions_and_trailers() -> None:
    codec = client()
    events = codec.feed(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b'5;name=value\r\nhello\r\n00A ; q="x"\r\n0123456789\r\n0\r\nDigest: abc\r\n\r\n'
    )
    assert body_of(events) == b"hello0123456789"
    assert events[-1] == End([(b"Digest", b"abc")])
    assert codec.reusable


def test_folded_lines_of_a_response_are_joined_and_those_of_a_request_refused() -> None:
    """RFC 9112 section 5.2."""
    events = client().feed(b"HTTP/1.1 200 OK\r\nX: a \r\n\t b\r\n c\r\nContent-Length:\r\n 2\r\nY:\r\n\r\nok")
    fields = [(b"X", b"a b c"), (b"Content-Length", b"2"), (b"Y", b"")]
    assert events == [Response(200, fields, b"OK"), Data(b"ok"), End()]
    with pytest.raises(RemoteProtocolError, match="folded"):
        H1Codec(SERVER).feed(b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n")


def test_a_response_that_ends_with_the_connection() -> None:
    codec = client()
    events = codec.feed(b"HTTP/1.1 200 OK\r\n\r\nsome") + codec.feed(b"thing")
    assert codec.until_close and not codec.receiving_done
    assert body_of(events) == b"something"
    assert codec.feed_eof() == [End()]
    assert not codec.reusable


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"200 OK\r\nContent-Length: 1000"),
        (b"HEAD", b"200 OK\r\nTransfer-Encoding: chunked"),
        (b"GET", b"204 No Content"),
        (b"GET", b"304 Not Modified\r\nContent-Length: 1000"),
        (b"CONNECT", b"200 OK\r\nContent-Length: 1000"),
    ],
)
def test_responses_that_never_have_a_body(method: bytes, head: bytes) -> None:
    codec = client(method)
    events = codec.feed(b"HTTP/1.1 " + head + b"\r\n\r\n")
    assert events[-1] == End() and codec.receiving_done


def test_informational_responses_come_before_the_final_one() -> None:
    codec = client()
    events = codec.feed(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    )
    assert [type(event) for event in events] == [Informational, Informational, Response, End]


def test_the_number_of_informational_responses_is_bounded() -> None:
    codec = client()
    with pytest.raises(RemoteProtocolError, match="informational"):
        codec.feed(b"HTTP/1.1 102 Processing\r\n\r\n" * (HTTP_INFORMATIONAL_RESPONSES + 1))


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: foo, Close", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive", True),
        (b"HTTP/1.7 200 OK\r\nContent-Length: 0", True),
    ],
)
def test_which_connections_persist(head: bytes, kept: bool) -> None:
    codec = client()
    codec.feed(head + b"\r\n\r\n")
    assert codec.receiving_done and codec.reusable is kept


def test_bytes_after_a_response_end_the_connection() -> None:
    codec = client()
    codec.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert codec.unexpected_data and not codec.reusable
    with pytest.raises(LocalProtocolError):
        codec.next_cycle()


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked", "both"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3", "both"),
        (b"Content-Length: 3\r\nContent-Length: 3", "more than one Content-Length"),
        (b"Content-Length: 3\r\ncontent-length: 4", "more than one Content-Length"),
        (b"Content-Length: 3, 3", "not a number"),
        (b"Content-Length: +3", "not a number"),
        (b"Content-Length: -3", "not a number"),
        (b"Content-Length: 0x3", "not a number"),
        (b"Content-Length:", "not a number"),
        (b"Content-Length: 1 0", "not a number"),
        (b"Content-Length: 9999999999999999999", "not a number"),
        (b"Transfer-Encoding: gzip, chunked", "transfer coding"),
        (b"Transfer-Encoding: chunked, chunked", "transfer coding"),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "transfer coding"),
        (b"Transfer-Encoding: xchunked", "transfer coding"),
        (b"Transfer-Encoding:", "transfer coding"),
        (b"Content-Length : 3", "field name"),
        (b"Content Length: 3", "field name"),
        (b"X: a\r\n \t", "without text"),
        (b"X: a\r\n b\x00", "control character"),
        (b"Content-Length: 1\r\n 2", "not a number"),
        (b" X: a", "folded"),
        (b": a", "without a field name"),
        (b"novalue", "no colon"),
        (b"X: a\x00b", "control character"),
        (b"X: a\rb", "control character"),
        (b"X: a\x7fb", "control character"),
        (b"X: a\x0bb", "control character"),
        (b"X\x80: a", "field name"),
        (b"X: a\nY: b", "LF alone"),
    ],
)
def test_ambiguous_fields_are_refused(head: bytes, reason: str) -> None:
    codec = client()
    with pytest.raises(RemoteProtocolError, match=reason):
        codec.feed(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\nabc")
    with pytest.raises(RemoteProtocolError):
        codec.feed(b"")
    assert not codec.reusable


def test_transfer_encoding_in_http_1_0_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match=r"HTTP/1\.0"):
        client().feed(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 2 0 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 200 O\x00K",
        b"http/1.1 200 OK",
        b"HTTP/1,1 200 OK",
        b"HTTP/11 200 OK.",
        b"HTTP/2.0 200 OK",
        b"HTTP/x.1 200 OK",
        b"ICY 200 OK whatever",
        b" HTTP/1.1 200 OK",
        b"\rXHTTP/1.1 200 OK",
        b"HTTP/1.1 101 Switching Protocols",
    ],
)
def test_malformed_status_lines_are_refused(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        client().feed(line + b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("reason", [b"", b" ", b" Fine \xe9", b" a b"])
def test_any_reason_phrase_is_accepted(reason: bytes) -> None:
    assert client().feed(b"HTTP/1.1 200" + reason + b"\r\nContent-Length: 0\r\n\r\n")[-1] == End()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\r\n", "without a size"),
        (b";x\r\n", "without a size"),
        (b"g\r\n", "without a size"),
        (b"0x3\r\n", "not a hexadecimal"),
        (b"-1\r\n", "without a size"),
        (b"3 4\r\n", "without an extension"),
        (b"3 \r\nabc\r\n", "without an extension"),
        (b"3\t\r\nabc\r\n", "without an extension"),
        (b"0 \r\n\r\n", "without an extension"),
        (b"3\nabc\r\n", "not a hexadecimal"),
        (b"3\r\r\n", "bare CR"),
        (b"3\r\nabcd\r\n", "longer"),
        (b"3\r\nabc\n0\r\n", "longer"),
        (b"3\r\nabc\rx", "longer"),
        (b"3\r\nabcd\n0\r\n\r\n", "longer"),
        (b"1000000000000000\r\n", "chunk size is too large"),
        (b"3;\x00\r\n", "control character"),
        (b"3;a\nb\r\n", "control character"),
        (b"3;" + b"x" * HTTP_CHUNK_LINE_SIZE, "too long"),
        (b"0\r\nX : y\r\n\r\n", "field name"),
        (b"0\r\nX: y\n\r\n", "LF alone"),
    ],
)
def test_bad_chunks_are_refused(body: bytes, reason: str) -> None:
    codec = client()
    codec.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match=reason):
        codec.feed(body)


def test_chunk_extensions_are_counted_over_the_whole_body() -> None:
    codec = client()
    codec.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="too many bytes of chunk extensions"):
        codec.feed((b"1;" + b"x" * 1000 + b"\r\na\r\n") * 100)


def test_head_limits() -> None:
    filler = b"X: " + b"y" * 1000 + b"\r\n"
    with pytest.raises(RemoteProtocolError, match="header section over") as caught:
        client().feed(b"HTTP/1.1 200 OK\r\n" + filler * (HTTP_HEAD_SIZE.default // 1000 + 1))
    assert caught.value.status == 431
    with pytest.raises(RemoteProtocolError, match="header section over"):
        client().feed(b"x" * (HTTP_HEAD_SIZE.default + 1))
    with pytest.raises(RemoteProtocolError, match="header fields") as caught:
        client().feed(b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * (HTTP_FIELD_COUNT.default + 1))
    assert caught.value.status == 431
    with pytest.raises(RemoteProtocolError, match="header fields"):
        client().feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:\r\n" * 300)
    assert H1Codec(CLIENT, max_head=1024, max_fields=16)
    with pytest.raises(ValueError, match="max_head"):
        H1Codec(CLIENT, max_head=1)


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_an_end_inside_a_message_is_an_error(received: bytes) -> None:
    codec = client()
    codec.feed(received)
    with pytest.raises(RemoteProtocolError, match="ended inside"):
        codec.feed_eof()


def test_an_end_before_any_byte_is_no_event() -> None:
    codec = client()
    assert codec.feed_eof() == []
    assert not codec.started and not codec.reusable
    with pytest.raises(RemoteProtocolError):
        codec.feed(b"x")


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_server_reads_requests_one_after_the_other() -> None:
    codec = H1Codec(SERVER)
    events = codec.feed(
        b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhiGET / HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    assert events == [Request(b"POST", b"/a?b", [(b"Host", b"h"), (b"Content-Length", b"2")]), Data(b"hi"), End()]
    assert (
        codec.send(Response(200, [(b"Content-Length", b"2")], b"OK")) == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    )
    assert codec.send(Data(b"ok")) + codec.send(End()) == b"ok"
    codec.next_cycle()
    assert codec.feed(b"") == [Request(b"GET", b"/", [(b"Host", b"h")]), End()]


def test_one_empty_line_before_a_request_is_ignored() -> None:
    assert H1Codec(SERVER).feed(b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n")[-1] == End()
    with pytest.raises(RemoteProtocolError, match="empty line"):
        H1Codec(SERVER).feed(b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/2.0", 505),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET /\x80 HTTP/1.1", 400),
        (b"GET /\x01 HTTP/1.1", 400),
        (b"GET /", 400),
        (b"GET", 400),
        (b"G(T / HTTP/1.1", 400),
        (b" GET / HTTP/1.1", 400),
        (b"\x16\x03\x01\x02", 400),
        (b"\rET / HTTP/1.1", 400),
        (b"\rXGET / HTTP/1.1", 400),
    ],
)
def test_malformed_request_lines_are_refused(line: bytes, status: int) -> None:
    codec = H1Codec(SERVER)
    with pytest.raises(RemoteProtocolError) as caught:
        codec.feed(line + b"\r\nHost: h\r\n\r\n")
    assert caught.value.status == status
    answer = codec.send(Response(status, [(b"Content-Length", b"0")]))
    assert b"Connection: close\r\n" in answer


@pytest.mark.parametrize("fields", [b"", b"Host: a\r\nHost: a\r\n"])
def test_a_request_has_exactly_one_host(fields: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="exactly one Host"):
        H1Codec(SERVER).feed(b"GET / HTTP/1.1\r\n" + fields + b"\r\n")


def test_an_old_client_gets_a_body_that_ends_with_the_connection() -> None:
    codec = H1Codec(SERVER)
    codec.feed(b"GET / HTTP/1.0\r\n\r\n")
    assert codec.send(Response(200, [], b"OK")) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    assert codec.send(Data(b"x")) == b"x"
    codec.send(End())
    assert not codec.reusable


def test_an_unframed_response_is_chunked() -> None:
    codec = H1Codec(SERVER)
    codec.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert codec.send(Informational(103, [(b"Link", b"</a>")])) == b"HTTP/1.1 103 \r\nLink: </a>\r\n\r\n"
    assert codec.send(Response(200, [], b"OK")).endswith(b"Transfer-Encoding: chunked\r\n\r\n")
    assert codec.send(Data(b"")) == b""
    assert codec.send(Data(b"x" * 16)) == b"10\r\n" + b"x" * 16 + b"\r\n"
    assert codec.send(End([(b"T", b"v")])) == b"0\r\nT: v\r\n\r\n"
    assert codec.reusable


def test_connection_close_of_a_client_is_answered() -> None:
    codec = H1Codec(SERVER)
    codec.feed(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"Connection: close" in codec.send(Response(200, [(b"Content-Length", b"0")]))
    codec.send(End())
    assert not codec.reusable


def test_expect_continue_is_shown() -> None:
    codec = H1Codec(SERVER)
    codec.feed(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n")
    assert codec.expects_continue


def test_pipelined_bytes_are_bounded() -> None:
    codec = H1Codec(SERVER)
    codec.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="ahead of the response"):
        codec.feed(b"x" * (HTTP_PIPELINE_BYTES + 1))


def test_head_and_204_responses_send_no_body() -> None:
    codec = H1Codec(SERVER)
    codec.feed(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
    codec.send(Response(200, [(b"Content-Length", b"10")]))
    codec.send(End())
    codec.next_cycle()
    codec.feed(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert codec.send(Response(204, [], b"No Content")) == b"HTTP/1.1 204 No Content\r\n\r\n"
    with pytest.raises(LocalProtocolError):
        codec.send(Data(b"x"))


# --- what we send -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        Request(b"GET", b"/", []),
        Request(b"GET", b"/", [*HOST, *HOST]),
        Request(b"GE T", b"/", HOST),
        Request(b"", b"/", HOST),
        Request(b"GET", b"/ x", HOST),
        Request(b"GET", b"", HOST),
        Request(b"GET", b"/\r\n", HOST),
        Request(b"GET", b"/", [*HOST, (b"X", b"a\r\nY: b")]),
        Request(b"GET", b"/", [*HOST, (b"X", b"a\x00")]),
        Request(b"GET", b"/", [*HOST, (b"X", b" a")]),
        Request(b"GET", b"/", [*HOST, (b"X:", b"a")]),
        Request(b"GET", b"/", [*HOST, (b"", b"a")]),
        Request(b"GET", b"/", [*HOST, (b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")]),
        Request(b"GET", b"/", [*HOST, (b"Content-Length", b"1"), (b"Content-Length", b"1")]),
        Request(b"GET", b"/", [*HOST, (b"Content-Length", b"x")]),
        Request(b"GET", b"/", [*HOST, (b"Transfer-Encoding", b"gzip")]),
        Response(200, []),
        Data(b"x"),
        End(),
    ],
)
def test_a_client_sends_nothing_ambiguous_or_out_of_order(event: Event) -> None:
    codec = H1Codec(CLIENT)
    with pytest.raises(LocalProtocolError):
        codec.send(event)
    with pytest.raises(LocalProtocolError, match="after a LocalProtocolError"):
        codec.send(Request(b"GET", b"/", HOST))


def test_the_announced_length_is_the_length_sent() -> None:
    codec = H1Codec(CLIENT)
    codec.send(Request(b"POST", b"/", [*HOST, (b"Content-Length", b"3")]))
    codec.send(Data(b"ab"))
    with pytest.raises(LocalProtocolError, match="1 bytes shorter"):
        codec.send(End())
    codec = H1Codec(CLIENT)
    codec.send(Request(b"POST", b"/", [*HOST, (b"Content-Length", b"3")]))
    with pytest.raises(LocalProtocolError, match="longer than its Content-Length"):
        codec.send(Data(b"abcd"))


def test_a_request_is_repeated_byte_for_byte() -> None:
    codec = H1Codec(CLIENT)
    codec.repeat_request(b"HEAD")
    with pytest.raises(LocalProtocolError, match="cannot be sent now"):
        codec.repeat_request(b"GET")
    assert codec.sending_done
    assert codec.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")[-1] == End()
    assert codec.reusable
    with pytest.raises(LocalProtocolError, match="cannot be sent now"):
        H1Codec(SERVER).repeat_request(b"GET")


def test_trailers_need_chunks() -> None:
    codec = H1Codec(CLIENT)
    codec.send(Request(b"GET", b"/", HOST))
    with pytest.raises(LocalProtocolError, match="trailers"):
        codec.send(End([(b"X", b"y")]))


def test_a_server_does_not_answer_before_it_was_asked() -> None:
    with pytest.raises(LocalProtocolError, match="cannot be sent now"):
        H1Codec(SERVER).send(Response(200, []))
    with pytest.raises(TypeError, match="not an event"):
        H1Codec(SERVER).send("text")  # type: ignore[arg-type]


def test_a_response_before_the_end_of_the_request_prevents_reuse() -> None:
    codec = H1Codec(CLIENT)
    codec.send(Request(b"POST", b"/", [*HOST, (b"Transfer-Encoding", b"chunked")]))
    codec.feed(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert codec.receiving_done and not codec.sending_done and not codec.reusable


@pytest.mark.parametrize(
    "event",
    [
        Request(None, b"/", HOST),  # type: ignore[arg-type]
        Request(b"GET", None, HOST),  # type: ignore[arg-type]
        Request(b"GET", b"/", [(None, b"x")]),  # type: ignore[list-item]
        Request(b"GET", b"/", [(b"Host", None)]),  # type: ignore[list-item]
        Response(200, HOST, None),  # type: ignore[arg-type]
        Response(200, [(b"Server", None)]),  # type: ignore[list-item]
        Informational(100, [(None, b"x")]),  # type: ignore[list-item]
    ],
    ids=["method", "target", "name", "value", "reason", "value of a response", "name of an informational one"],
)
def test_none_instead_of_bytes_is_refused(event: Event) -> None:
    """Cython accepts None for bytes; memory behind it was once read as the length."""
    codec = H1Codec(isinstance(event, Response))
    if isinstance(event, Response):
        codec.feed(b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n")
    with pytest.raises(TypeError, match="not None"):
        codec.send(event)


def test_none_as_a_body_is_refused() -> None:
    codec = H1Codec(CLIENT)
    codec.send(Request(b"POST", b"/", [*HOST, (b"Transfer-Encoding", b"chunked")]))
    with pytest.raises(TypeError, match="not None"):
        codec.send(Data(None))  # type: ignore[arg-type]


@pytest.mark.parametrize("raw", [[()], [(b"one",)], [None], [(None, b"x")]])
def test_fields_of_the_wrong_type_are_refused(raw: list[object]) -> None:
    headers = Headers(raw)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        headers.get("one")
