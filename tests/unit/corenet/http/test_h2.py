"""The HTTP/2 connection in both roles: what it accepts and what it refuses.

Each known attack has a test that sends its bytes and names the limit that stops it. `tests/mutants/h2.toml` removes
each of these checks; a test must fail. tests/property/test_h2.py tests that results do not depend on how the input is
segmented, and compares them with the library h2.
"""

import _testcapi

import pytest
from support.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    NO_RFC7540_PRIORITIES,
    PADDED,
    PING,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    block,
    client,
    frame,
    frames,
    get,
    goaway_code,
    headers,
    of,
    server,
    settings,
    window_update,
)

from corenet.http import h2_events as codes
from corenet.http.errors import Http2Error, LocalProtocolError
from corenet.http.events import Data, End, Event, Informational, Request, Response
from corenet.http.h2 import CLIENT, PREFACE, SERVER, H2Connection
from corenet.http.h2_events import Drained, Goaway, Pong, SettingsReceived, StreamReset
from corenet.limits import (
    HTTP2_CLOSED_STREAMS,
    HTTP2_CONTINUATIONS,
    HTTP2_CONTROL_FRAMES,
    HTTP2_CONTROL_RATE,
    HTTP2_MAX_STREAMS,
    HTTP2_RESET_RATE,
    HTTP2_RESETS,
    HTTP2_SETTINGS_ENTRIES,
    HTTP2_UNSENT_BYTES,
    HTTP_HEAD_SIZE,
    HTTP_INFORMATIONAL_RESPONSES,
)

HOST = [(b"Host", b"h")]
# 20 is HTTP/2.0, as 11 is HTTP/1.1.
WHOLE_REQUEST = [Request(b"GET", b"/", [(b"host", b"h")], 20), End()]
OK = [(b":status", b"200")]


def expect_goaway(connection: H2Connection, data: bytes, code: int, message: str = ".") -> None:
    """Feed `data`; assert a connection error `code` with a text that matches `message`, its GOAWAY, and the end."""
    connection.data_to_send()
    with pytest.raises(Http2Error, match=message) as caught:
        connection.feed(data)
    assert caught.value.code == code
    assert goaway_code(connection.data_to_send()) == code
    with pytest.raises(Http2Error):
        connection.feed(b"")
    assert connection.open_streams == 0 and not connection.can_open


def expect_reset(
    connection: H2Connection, data: bytes, stream: int, code: int, *, reported: bool = True
) -> list[Event]:
    """Feed `data`; assert a stream error `code` (RST_STREAM). Returns the events of `stream`.

    `reported`: the last event is a `StreamReset`; False: there is none, because no request had been delivered.
    """
    connection.data_to_send()
    events = of(connection.feed(data), stream)
    assert frame(RST_STREAM, 0, stream, code.to_bytes(4, "big")) in connection.data_to_send()
    assert not connection.is_open(stream)
    if reported:
        last = events[-1]
        assert isinstance(last, StreamReset) and last.code == code and not last.by_peer and last.reason
    else:
        assert not any(isinstance(event, StreamReset) for event in events)
    return events


def test_an_error_has_the_events_before_it() -> None:
    """So that they do not depend on how the input is cut; with data that was still being collected."""
    connection, stream = client(), 1
    connection.send_request(Request(b"GET", b"/", [(b"Host", b"h")]), True)
    answer = headers(stream, [(b":status", b"200")], end=False)
    answer += frame(DATA, 0, stream, bytes(9000)) + frame(DATA, END_STREAM, stream, bytes(9000))
    with pytest.raises(Http2Error) as caught:
        connection.feed(answer + frame(PING, 0, stream, bytes(8)) + frame(PING, 0, 0, bytes(8)))
    assert of(caught.value.events, stream) == [Response(200, [], b"", 20), Data(bytes(18000)), End()]
    with pytest.raises(Http2Error) as caught:
        connection.feed(answer)
    assert caught.value.events == []


def test_a_server_may_answer_complete_requests_before_the_goaway() -> None:
    """Also when their responses wait for windows. The others are forgotten, and after the GOAWAY nothing is sent."""
    connection = server()
    for stream in (1, 3, 5):
        connection.feed(get(stream, end=stream != 3))
    connection.send_response(5, Response(200, []))
    assert connection.send_data(5, bytes(100_000), True) == 100_000 - 65_535
    with pytest.raises(Http2Error):
        connection.feed(get(7) + frame(PING, 0, 1, bytes(8)) + get(9))
    assert [stream for stream in range(1, 10) if connection.is_open(stream)] == [1, 5, 7]
    assert connection.open_streams == 3 and connection.unsent() == 100_000 - 65_535
    with pytest.raises(LocalProtocolError):
        connection.send_response(3, Response(200, []), True)
    connection.data_to_send(False)
    connection.send_response(1, Response(200, []), True)
    assert [found[0] for found in frames(connection.data_to_send(False))] == [HEADERS]
    assert goaway_code(connection.data_to_send()) == 1
    assert connection.open_streams == connection.unsent() == 0
    for stream in (5, 7):
        with pytest.raises(LocalProtocolError):
            connection.send_data(stream, b"", True)
    assert connection.data_to_send() == b""


# --- connection preface -----------------------------------------------------------------------------------------------


def test_both_sides_send_their_preface() -> None:
    client, server = H2Connection(CLIENT), H2Connection(SERVER)
    hello = client.data_to_send()
    assert hello.startswith(PREFACE)
    assert [f[:3] for f in frames(hello[24:])] == [(SETTINGS, 0, 0), (WINDOW_UPDATE, 0, 0)]
    assert not client.settings_received and not client.settings_acknowledged
    assert client.feed(server.data_to_send()) == [(0, SettingsReceived())]
    assert server.feed(hello) == [(0, SettingsReceived())]
    # Acknowledgements cause no events.
    assert client.feed(server.data_to_send()) == [] and server.feed(client.data_to_send()) == []
    assert client.settings_received and client.settings_acknowledged and server.settings_acknowledged


def test_an_exchange_with_bodies_and_trailers() -> None:
    client_side, server_side = client(), server()
    sent = Request(b"POST", b"/p?q", [(b"Host", b"h:1"), (b"X-Field", b"v")])
    stream = client_side.send_request(sent)
    client_side.send_data(stream, b"body")
    client_side.send_end(stream, [(b"check", b"sum")])
    assert of(server_side.feed(client_side.data_to_send()), stream) == [
        Request(b"POST", b"/p?q", [(b"host", b"h:1"), (b"x-field", b"v")], 20), Data(b"body"), End([(b"check", b"sum")])
    ]  # fmt: skip
    server_side.send_response(stream, Informational(103, [(b"Link", b"x")]))
    server_side.send_response(stream, Response(200, [(b"Server", b"s")]))
    server_side.send_data(stream, b"answer")
    server_side.send_end(stream, [(b"T", b"v")])
    assert of(client_side.feed(server_side.data_to_send()), stream) == [
        Informational(103, [(b"link", b"x")], b"", 20), Response(200, [(b"server", b"s")], b"", 20), Data(b"answer"),
        End([(b"t", b"v")])
    ]  # fmt: skip
    assert client_side.open_streams == server_side.open_streams == 0 and not client_side.is_open(stream)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", PREFACE[:-1] + b"x", b"\x16\x03\x01"])
def test_other_protocols_are_refused(data: bytes) -> None:
    expect_goaway(H2Connection(SERVER), data, codes.PROTOCOL_ERROR, "does not begin")


@pytest.mark.parametrize("first", [frame(PING, 0, 0, bytes(8)), frame(SETTINGS, ACK, 0), get(1)])
def test_the_first_frame_is_settings(first: bytes) -> None:
    expect_goaway(H2Connection(SERVER), PREFACE + first, codes.PROTOCOL_ERROR, "not SETTINGS")
    expect_goaway(H2Connection(CLIENT), first, codes.PROTOCOL_ERROR, "not SETTINGS")


def test_our_window_is_enforced_from_the_acknowledgement_on() -> None:
    """RFC 9113 section 6.5.3: until then the client may send what the protocol's default admits, and no more."""
    connection = H2Connection(SERVER, window=100_000)
    connection.feed(PREFACE + settings() + get(1, end=False) + 4 * frame(DATA, 0, 1, bytes(16_000)))
    again = H2Connection(SERVER, window=100_000)
    again.feed(PREFACE + settings() + get(1, end=False))
    expect_reset(again, 5 * frame(DATA, 0, 1, bytes(16_000)), 1, codes.FLOW_CONTROL_ERROR)
    # A stream that is open already gets the larger window as well.
    connection.feed(frame(SETTINGS, ACK, 0) + 2 * frame(DATA, 0, 1, bytes(16_000)))
    expect_reset(connection, frame(DATA, 0, 1, bytes(4_001)), 1, codes.FLOW_CONTROL_ERROR)


def test_a_smaller_hpack_table_is_enforced_from_the_acknowledgement_on() -> None:
    # HPACK: 40 adds "a: b" to the dynamic table, be refers to its newest entry, 20 sets its size to 0.
    field = b"\x40\x01a\x01b"
    request = block(REQUEST)
    connection = H2Connection(SERVER, table_size=0)
    connection.feed(PREFACE + settings() + frame(HEADERS, END_HEADERS | END_STREAM, 1, request + field))
    events = connection.feed(frame(HEADERS, END_HEADERS | END_STREAM, 3, request + b"\xbe") + frame(SETTINGS, ACK, 0))
    assert isinstance(events[0][1], Request) and events[0][1].headers["a"] == "b"
    late = frame(HEADERS, END_HEADERS | END_STREAM, 5, request)
    expect_goaway(connection, late, codes.COMPRESSION_ERROR, "no table size update")
    connection = server(table_size=0)
    connection.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x20" + request))
    assert connection.open_streams == 1


# --- budgets against attacks ------------------------------------------------------------------------------------------


def test_rapid_reset() -> None:
    """CVE-2023-44487: each stream is opened and reset at once, so that none counts as open."""
    connection = server()
    for number in range(HTTP2_RESETS):
        connection.feed(get(2 * number + 1) + frame(RST_STREAM, 0, 2 * number + 1, bytes(4)))
    number = 2 * HTTP2_RESETS + 1
    last = get(number) + frame(RST_STREAM, 0, number, bytes(4))
    expect_goaway(connection, last, codes.ENHANCE_YOUR_CALM, "end in a reset")


def test_the_reset_budget_refills_with_time_and_completed_requests() -> None:
    connection = server()
    number = 1
    for second in range(20):
        for _ in range(HTTP2_RESET_RATE):
            connection.feed(get(number) + frame(RST_STREAM, 0, number, bytes(4)), float(second + 1))
            number += 2
    for _ in range(HTTP2_RESETS * 2):
        connection.feed(get(number))
        connection.send_response(number, Response(200, []), True)
        connection.feed(get(number + 2) + frame(RST_STREAM, 0, number + 2, bytes(4)))
        connection.data_to_send()
        number += 4


@pytest.mark.parametrize(
    "provoke",
    [
        lambda n: get(n) + window_update(n, 0),
        lambda n: get(n) + 2 * window_update(n, 0x7FFF_FFFF),
        lambda n: get(n) + frame(DATA, 0, n, b"late"),
        lambda n: get(n) + headers(n, [(b"a", b"b")]),
        lambda n: get(n, end=False) + headers(n, [(b"a", b"b")], end=False),
        lambda n: get(n, (b"content-length", b"1"), end=False) + frame(DATA, 0, n, b"xy"),
        lambda n: get(n, (b"Upper", b"case")),
    ],
    ids=[
        "WINDOW_UPDATE of 0", "window overflow", "DATA after END_STREAM", "HEADERS after END_STREAM",
        "trailers without END_STREAM", "more than content-length", "upper-case field name",
    ],
)
def test_made_you_reset(provoke: object) -> None:
    """CVE-2025-8671: the client causes stream errors, so that the server resets its own streams."""
    connection = server()
    for number in range(HTTP2_RESETS):
        connection.feed(provoke(2 * number + 1))  # type: ignore[operator]
        assert connection.open_streams == 0
    last = provoke(2 * HTTP2_RESETS + 1)  # type: ignore[operator]
    expect_goaway(connection, last, codes.ENHANCE_YOUR_CALM, "end in a reset")


def test_more_streams_than_allowed_are_refused() -> None:
    connection = server()
    for number in range(HTTP2_MAX_STREAMS.default):
        connection.feed(get(2 * number + 1))
    number = 2 * HTTP2_MAX_STREAMS.default + 1
    expect_reset(connection, get(number), number, codes.REFUSED_STREAM, reported=False)
    assert connection.open_streams == HTTP2_MAX_STREAMS.default
    # When one ends, another may be opened.
    connection.send_response(1, Response(200, []), True)
    assert of(connection.feed(get(number + 2)), number + 2) == WHOLE_REQUEST
    # Further resets end the connection.
    refused = b"".join(get(number + 4 + 2 * more) for more in range(HTTP2_RESETS + 1))
    expect_goaway(connection, refused, codes.ENHANCE_YOUR_CALM)


def test_continuation_flood() -> None:
    """CVE-2024-27316: a field block that never ends."""
    begin = frame(HEADERS, END_STREAM, 1, block(REQUEST))
    continuations = [frame(CONTINUATION, 0, 1, block([(b"a", b"b")]))] * (HTTP2_CONTINUATIONS - 1)
    connection = server()
    events = connection.feed(begin + b"".join(continuations) + frame(CONTINUATION, END_HEADERS, 1))
    assert [type(event) for _, event in events] == [Request, End]
    too_many = begin + b"".join(continuations) + 2 * frame(CONTINUATION, 0, 1)
    expect_goaway(server(), too_many, codes.ENHANCE_YOUR_CALM, "continuations")


def test_a_field_block_that_is_too_large_is_refused() -> None:
    payload = bytes(16_384)
    whole = HTTP_HEAD_SIZE.default // len(payload)
    data = frame(HEADERS, 0, 1, payload) + (whole - 1) * frame(CONTINUATION, 0, 1, payload)
    connection = server()
    connection.feed(data)
    expect_goaway(connection, frame(CONTINUATION, 0, 1, b"x"), codes.ENHANCE_YOUR_CALM, "over 65536 bytes")
    expect_goaway(server(max_head=1024), frame(HEADERS, 0, 1, bytes(1025)), codes.ENHANCE_YOUR_CALM, "over 1024 bytes")


def test_hpack_bomb() -> None:
    """Few bytes that decode to many: the stream ends, and the table stays consistent."""
    value = b"v" * 126
    store = b"\x40\x04bomb\x7e" + value
    connection = server()
    connection.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, block(REQUEST) + store))
    bomb = frame(HEADERS, END_HEADERS | END_STREAM, 3, block(REQUEST) + b"\xbe" * 4000)
    expect_reset(connection, bomb, 3, codes.ENHANCE_YOUR_CALM, reported=False)
    last = connection.feed(frame(HEADERS, END_HEADERS | END_STREAM, 5, block(REQUEST) + b"\xbe"))[0][1]
    assert isinstance(last, Request) and last.headers["bomb"] == value.decode()


@pytest.mark.parametrize("role", [SERVER, CLIENT])
@pytest.mark.parametrize(
    "flood",
    [
        settings(),
        frame(PING, 0, 0, bytes(8)),
        frame(PING, ACK, 0, bytes(8)),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(PRIORITY, 0, 77, bytes(5)),
        frame(16, 0, 0, b"\0\0\0\1u=1"),  # PRIORITY_UPDATE of RFC 9218, unknown here
        frame(99, 255, 1, bytes(100)),
        window_update(0, 1),
        window_update(1, 1),
        frame(DATA, 0, 1),
        frame(DATA, PADDED, 1, b"\7" + bytes(7)),
    ],
)
def test_floods_of_frames_without_data(role: bool, flood: bytes) -> None:
    """CVE-2019-9512, 9515, 9518 and similar floods, against a server and against a client."""
    if role is SERVER:
        connection = server()
        connection.feed(get(1, end=False))
    else:
        connection = client(b"GET")
        connection.feed(headers(1, OK, end=False))
    # Two control frames are used up: SETTINGS and its acknowledgement in the preface.
    for _ in range(HTTP2_CONTROL_FRAMES - 2):
        connection.feed(flood)
    expect_goaway(connection, flood * 2, codes.ENHANCE_YOUR_CALM, "move no message forward")


def test_control_frames_at_the_permitted_rate_are_accepted() -> None:
    connection = server()
    for second in range(1, 30):
        for _ in range(HTTP2_CONTROL_RATE):
            connection.feed(frame(PING, 0, 0, bytes(8)), float(second))
            connection.data_to_send()


@pytest.mark.parametrize(("begin", "step"), [(1e9, 0.0), (1.0, 1e-6)])
def test_budgets_refill_with_time_up_to_their_size(begin: float, step: float) -> None:
    reset = 0
    connection = server()
    for number in range(HTTP2_CONTROL_FRAMES):
        connection.feed(frame(PING, 0, 0, bytes(8)), begin + number * step)
    expect_goaway(connection, frame(PING, 0, 0, bytes(8)) * 2, codes.ENHANCE_YOUR_CALM, "move no message forward")
    connection = server()
    for reset in range(HTTP2_RESETS):
        connection.feed(get(2 * reset + 1) + window_update(2 * reset + 1, 0), begin + reset * step)
    last = 2 * reset + 3
    expect_goaway(connection, get(last) + window_update(last, 0), codes.ENHANCE_YOUR_CALM, "end in a reset")


def test_a_busy_client_may_acknowledge_each_frame() -> None:
    """Some clients answer each DATA frame with a WINDOW_UPDATE for the stream and one for the connection."""
    connection = server()
    connection.feed(get(1))
    connection.send_response(1, Response(200, []))
    for _ in range(3 * HTTP2_CONTROL_FRAMES):
        connection.send_data(1, bytes(1000))
        connection.data_to_send()
        connection.feed(window_update(0, 1000) + window_update(1, 1000))


def test_window_updates_of_one_byte_use_up_the_budget() -> None:
    """A WINDOW_UPDATE of 1 causes a DATA frame of 10 octets. It counts, and does not refill the budget."""
    connection = server()
    connection.feed(settings((INITIAL_WINDOW_SIZE, 0)) + get(1))
    connection.send_response(1, Response(200, []))
    assert connection.send_data(1, bytes(100_000), True) == 100_000
    # Three control frames are used up: two in the preface, and SETTINGS.
    for _ in range(HTTP2_CONTROL_FRAMES - 3):
        connection.feed(window_update(1, 1))
    assert len(connection.data_to_send()) > 10 * (HTTP2_CONTROL_FRAMES - 3)
    expect_goaway(connection, 2 * window_update(1, 1), codes.ENHANCE_YOUR_CALM)


def test_a_client_that_leaves_its_window_at_zero_gets_no_new_streams() -> None:
    """CVE-2019-9517: a client that reads little gets no new streams, and the caller sees how much is unsent."""
    connection = server()
    connection.feed(settings((INITIAL_WINDOW_SIZE, 0)) + get(1) + get(3))
    connection.send_response(1, Response(200, []))
    assert connection.send_data(1, bytes(HTTP2_UNSENT_BYTES), True) == HTTP2_UNSENT_BYTES
    assert of(connection.feed(get(5)), 5) == WHOLE_REQUEST
    connection.send_response(3, Response(200, []))
    connection.send_data(3, b"x")
    assert connection.unsent() == HTTP2_UNSENT_BYTES + 1 and connection.unsent(3) == 1 and connection.unsent(77) == 0
    expect_reset(connection, get(7), 7, codes.REFUSED_STREAM, reported=False)
    # The queued data of a removed stream is dropped.
    connection.feed(frame(RST_STREAM, 0, 1, bytes(4)))
    assert connection.unsent() == 1
    assert of(connection.feed(get(9)), 9) == WHOLE_REQUEST


def test_a_frame_with_too_many_settings() -> None:
    server().feed(settings(*[(99, 1)] * HTTP2_SETTINGS_ENTRIES))
    many = settings(*[(99, 1)] * (HTTP2_SETTINGS_ENTRIES + 1))
    expect_goaway(server(), many, codes.ENHANCE_YOUR_CALM, "settings in one frame")


def test_informational_responses_without_end() -> None:
    connection = client(b"GET")
    connection.feed(headers(1, [(b":status", b"103")], end=False) * HTTP_INFORMATIONAL_RESPONSES)
    expect_reset(connection, headers(1, [(b":status", b"103")], end=False), 1, codes.PROTOCOL_ERROR)


def test_the_record_of_reset_streams_is_limited() -> None:
    connection = client()
    for _ in range(HTTP2_CLOSED_STREAMS + 10):
        connection.reset(connection.send_request(Request(b"GET", b"/", HOST), True))
    # Frames in flight are ignored for streams that are still remembered as reset and for those that are not.
    for stream in (1, 3, 2 * HTTP2_CLOSED_STREAMS + 19):
        assert connection.feed(headers(stream, OK, end=False) + frame(DATA, END_STREAM, stream, b"x")) == []


# --- frames -----------------------------------------------------------------------------------------------------------


def test_frames_over_the_maximal_size() -> None:
    connection = server()
    connection.feed(get(1, end=False) + frame(DATA, 0, 1, bytes(16_384)))
    # The frame header is enough to detect it.
    expect_goaway(connection, frame(DATA, 0, 1, bytes(16_385))[:9], codes.FRAME_SIZE_ERROR)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frame(SETTINGS, 0, 0, bytes(5)), codes.FRAME_SIZE_ERROR),
        (frame(SETTINGS, ACK, 0, bytes(6)), codes.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1), codes.PROTOCOL_ERROR),
        (frame(SETTINGS, ACK, 0), codes.PROTOCOL_ERROR),
        (settings((ENABLE_PUSH, 2)), codes.PROTOCOL_ERROR),
        (settings((INITIAL_WINDOW_SIZE, 1 << 31)), codes.FLOW_CONTROL_ERROR),
        (settings((MAX_FRAME_SIZE, 16_383)), codes.PROTOCOL_ERROR),
        (settings((MAX_FRAME_SIZE, 1 << 24)), codes.PROTOCOL_ERROR),
        (settings((NO_RFC7540_PRIORITIES, 2)), codes.PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(7)), codes.FRAME_SIZE_ERROR),
        (frame(PING, 0, 1, bytes(8)), codes.PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, bytes(7)), codes.FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 1, bytes(8)), codes.PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, bytes(3)), codes.FRAME_SIZE_ERROR),
        (frame(RST_STREAM, 0, 0, bytes(4)), codes.PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 7, bytes(4)), codes.PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 2, bytes(4)), codes.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 0, bytes(5)), codes.PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 1, bytes(4)), codes.FRAME_SIZE_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, bytes(3)), codes.FRAME_SIZE_ERROR),
        (window_update(0, 0), codes.PROTOCOL_ERROR),
        (window_update(0, 0x7FFF_FFFF), codes.FLOW_CONTROL_ERROR),
        (window_update(9, 1), codes.PROTOCOL_ERROR),
        (frame(DATA, 0, 0, b"x"), codes.PROTOCOL_ERROR),
        (frame(DATA, 0, 9, b"x"), codes.PROTOCOL_ERROR),
        (frame(DATA, PADDED, 1, b""), codes.PROTOCOL_ERROR),
        (frame(DATA, PADDED, 1, b"\1"), codes.PROTOCOL_ERROR),
        (frame(DATA, PADDED, 1, b"\5abcd"), codes.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 0, b""), codes.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | PADDED, 3, b""), codes.FRAME_SIZE_ERROR),
        (frame(HEADERS, END_HEADERS | PADDED, 3, b"\5abcd"), codes.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | PRIORITY_FLAG, 3, bytes(4)), codes.FRAME_SIZE_ERROR),
        (frame(HEADERS, END_HEADERS, 3, b"\x80"), codes.COMPRESSION_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1, b""), codes.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 3, b"") + frame(PING, 0, 0, bytes(8)), codes.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 3, b"") + frame(DATA, 0, 1, b""), codes.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 3, b"") + frame(CONTINUATION, END_HEADERS, 5, b""), codes.PROTOCOL_ERROR),
        (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), codes.PROTOCOL_ERROR),
        (get(2), codes.PROTOCOL_ERROR),
    ],
)
def test_frames_that_end_the_connection(wrong: bytes, code: int) -> None:
    connection = server()
    connection.feed(get(1, end=False))
    expect_goaway(connection, wrong, code)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frame(PUSH_PROMISE, END_HEADERS, 1, bytes([0, 0, 0, 2])), codes.PROTOCOL_ERROR),
        (settings((ENABLE_PUSH, 1)), codes.PROTOCOL_ERROR),
        (headers(2, OK), codes.PROTOCOL_ERROR),
        (headers(3, OK), codes.PROTOCOL_ERROR),
        (frame(DATA, 0, 3, b"x"), codes.PROTOCOL_ERROR),
        (window_update(2, 1), codes.PROTOCOL_ERROR),
    ],
)
def test_what_a_server_may_not_send(wrong: bytes, code: int) -> None:
    expect_goaway(client(b"GET"), wrong, code)


def test_padding_and_priority_of_fields_are_ignored() -> None:
    connection = server()
    payload = b"\3" + bytes(5) + block(REQUEST) + bytes(3)
    flags = END_HEADERS | END_STREAM | PADDED | PRIORITY_FLAG
    assert of(connection.feed(frame(HEADERS, flags, 1, payload)), 1) == WHOLE_REQUEST
    assert connection.feed(frame(PRIORITY, 0, 1, bytes(5)) + frame(PRIORITY, 0, 9, bytes(5))) == []


def test_padding_counts_against_the_window_and_is_credited() -> None:
    connection = server(window=65_535)
    connection.feed(get(1, end=False))
    connection.data_to_send()
    for _ in range(2000):
        events = connection.feed(frame(DATA, PADDED, 1, b"\xff" + b"abc" + bytes(255)))
        assert events == [(1, Data(b"abc"))]
        connection.acknowledge(1, 3)
    assert any(kind == WINDOW_UPDATE and stream == 1 for kind, _, stream, _ in frames(connection.data_to_send()))
    connection.feed(frame(DATA, END_STREAM, 1))


def test_a_ping_is_answered() -> None:
    connection = server()
    connection.feed(frame(PING, 0, 0, b"12345678"))
    assert connection.data_to_send() == frame(PING, ACK, 0, b"12345678")
    connection.ping(b"abcdefgh")
    assert connection.data_to_send() == frame(PING, 0, 0, b"abcdefgh")
    assert connection.feed(frame(PING, ACK, 0, b"abcdefgh")) == [(0, Pong(b"abcdefgh"))]
    with pytest.raises(LocalProtocolError):
        connection.ping(b"short")


# --- streams ----------------------------------------------------------------------------------------------------------


def test_stream_numbers_must_increase() -> None:
    connection = server()
    connection.feed(get(5))
    # A stream below was skipped and is closed (RFC 9113 section 5.1.1).
    expect_goaway(connection, get(3), codes.STREAM_CLOSED)


def test_a_stream_number_is_used_once() -> None:
    connection = server()
    connection.feed(get(1))
    connection.send_response(1, Response(200, []), True)
    expect_goaway(connection, get(1), codes.STREAM_CLOSED)


def test_frames_after_the_end() -> None:
    for late in (frame(DATA, 0, 1, b"x"), headers(1, [(b"a", b"b")])):
        connection = server()
        connection.feed(get(1))
        expect_reset(connection, late, 1, codes.STREAM_CLOSED)
        connection = server()
        connection.feed(get(1))
        connection.send_response(1, Response(200, []), True)
        expect_goaway(connection, late, codes.STREAM_CLOSED)
        # Frames that cross the end of the stream are ignored.
        connection = server()
        connection.feed(get(1))
        connection.send_response(1, Response(200, []), True)
        crossing = window_update(1, 5) + frame(RST_STREAM, 0, 1, bytes(4)) + frame(PRIORITY, 0, 1, bytes(5))
        assert connection.feed(crossing) == []


def test_frames_that_cross_our_reset_are_ignored_and_credited() -> None:
    connection = client(b"GET", connection_window=65_535)
    connection.reset(1)
    assert connection.data_to_send() == frame(RST_STREAM, 0, 1, codes.CANCEL.to_bytes(4, "big"))
    connection.reset(1)
    assert connection.data_to_send() == b"" and connection.open_streams == 0
    assert connection.feed(headers(1, OK, end=False)) == []
    for _ in range(100):
        assert connection.feed(frame(DATA, 0, 1, bytes(16_000))) == []
    assert connection.feed(headers(1, [(b"t", b"v")])) == []
    given = sum(int.from_bytes(f[3], "big") for f in frames(connection.data_to_send()) if f[0] == WINDOW_UPDATE)
    assert 100 * 16_000 - 65_535 <= given <= 100 * 16_000


def test_a_reset_inside_a_frame() -> None:
    connection = client(b"GET")
    connection.feed(headers(1, OK, end=False))
    whole = frame(DATA, END_STREAM, 1, bytes(1000))
    assert connection.feed(whole[:500]) == [(1, Data(bytes(491)))]
    connection.reset(1)
    assert connection.feed(whole[500:] + frame(PING, ACK, 0, bytes(8))) == [(0, Pong(bytes(8)))]


def test_the_peer_resets() -> None:
    connection = client(b"GET", b"GET")
    assert connection.feed(frame(RST_STREAM, 0, 1, codes.REFUSED_STREAM.to_bytes(4, "big"))) == [
        (1, StreamReset(codes.REFUSED_STREAM, True, True))
    ]
    assert connection.feed(frame(RST_STREAM, 0, 3, codes.INTERNAL_ERROR.to_bytes(4, "big"))) == [
        (3, StreamReset(codes.INTERNAL_ERROR, True))
    ]
    assert connection.open_streams == 0
    # DATA after the peer's RST_STREAM is ignored.
    assert connection.feed(frame(DATA, 0, 1, b"x")) == []


def test_a_goaway_names_what_was_not_processed() -> None:
    connection = client(b"GET", b"GET", b"GET")
    events = connection.feed(frame(GOAWAY, 0, 0, b"\0\0\0\1\0\0\0\0" + b"d" * 1000))
    assert events == [
        (0, Goaway(1, 0, b"d" * 256)), (3, StreamReset(codes.REFUSED_STREAM, True, True)),
        (5, StreamReset(codes.REFUSED_STREAM, True, True)),
    ]  # fmt: skip
    assert not connection.can_open and connection.is_open(1)
    with pytest.raises(LocalProtocolError):
        connection.send_request(Request(b"GET", b"/", HOST), True)
    assert of(connection.feed(headers(1, OK)), 1) == [Response(200, [], b"", 20), End()]
    higher = frame(GOAWAY, 0, 0, b"\0\0\0\3\0\0\0\0")
    expect_goaway(connection, higher, codes.PROTOCOL_ERROR, "higher stream number than an")


def test_a_server_completes_open_streams_after_goaway() -> None:
    connection = server()
    connection.feed(get(1))
    connection.goaway()
    assert frames(connection.data_to_send()) == [(GOAWAY, 0, 0, b"\0\0\0\1\0\0\0\0")]
    expect_reset(connection, get(3), 3, codes.REFUSED_STREAM, reported=False)
    connection.send_response(1, Response(200, []), True)
    assert connection.open_streams == 0


def test_a_client_respects_the_servers_stream_limit() -> None:
    connection = client()
    connection.feed(settings((MAX_CONCURRENT_STREAMS, 1)))
    assert connection.stream_limit == 1 and connection.can_open
    connection.send_request(Request(b"GET", b"/", HOST), True)
    assert not connection.can_open
    with pytest.raises(LocalProtocolError, match="no stream can be opened"):
        connection.send_request(Request(b"GET", b"/", HOST), True)
    connection.feed(headers(1, OK))
    assert connection.can_open


# --- messages ---------------------------------------------------------------------------------------------------------

# :method, :scheme, :authority, :path
M, S, A, P = REQUEST


@pytest.mark.parametrize(
    "fields",
    [
        [S, A, P],
        [M, A, P],
        [M, S, A],
        [M, S, P],
        [M, M, S, A, P],
        [M, S, S, A, P],
        [M, S, A, A, P],
        [M, S, A, P, P],
        [M, S, (b"x", b"y"), A, P],
        [M, S, A, P, (b"x", b"y"), (b":path", b"/")],
        [M, S, A, P, (b":status", b"200")],
        [M, S, A, P, (b":protocol", b"websocket")],
        [M, S, A, P, (b":x", b"y")],
        [M, S, A, (b":path", b"")],
        [M, S, A, (b":path", b"relative")],
        [M, S, A, (b":path", b"/a b")],
        [M, S, A, (b":path", b"/a\r\nX: y")],
        [M, S, A, (b":path", b"/a#fragment")],
        [M, S, A, (b":path", b"*")],
        [M, S, A, (b":path", b"/\x80")],
        [(b":method", b""), S, A, P],
        [(b":method", b"GET / HTTP/1.1\r\n"), S, A, P],
        [(b":method", b"G T"), S, A, P],
        [M, (b":scheme", b"ftp"), A, P],
        [M, (b":scheme", b"https\0"), A, P],
        [M, S, (b":authority", b""), P],
        [M, S, (b":authority", b"user@h"), P],
        [M, S, (b":authority", b"h/x"), P],
        [M, S, (b":authority", b"h?x"), P],
        [M, S, (b":authority", b"h#x"), P],
        [M, S, (b":authority", b"h x"), P],
        [M, S, A, P, (b"host", b"other")],
        [M, S, P, (b"host", b"")],
        [M, S, A, P, (b"host", b"h"), (b"host", b"h")],
        [M, S, A, P, (b"Upper", b"x")],
        [M, S, A, P, (b"", b"x")],
        [M, S, A, P, (b"a b", b"x")],
        [M, S, A, P, (b"a:", b"x")],
        [M, S, A, P, (b"a\r", b"x")],
        [M, S, A, P, (b"x", b"a\rb")],
        [M, S, A, P, (b"x", b"a\nb")],
        [M, S, A, P, (b"x", b"a\0b")],
        [M, S, A, P, (b"x", b"\x7f")],
        [M, S, A, P, (b"x", b" blank")],
        [M, S, A, P, (b"x", b"blank\t")],
        [M, S, A, P, (b"connection", b"close")],
        [M, S, A, P, (b"keep-alive", b"1")],
        [M, S, A, P, (b"proxy-connection", b"close")],
        [M, S, A, P, (b"transfer-encoding", b"chunked")],
        [M, S, A, P, (b"upgrade", b"h2c")],
        [M, S, A, P, (b"te", b"gzip")],
        [M, S, A, P, (b"te", b"trailers, gzip")],
        [M, S, A, P, (b"content-length", b"1")],
        [M, S, A, P, (b"content-length", b"0"), (b"content-length", b"0")],
        [M, S, A, P, (b"content-length", b"-0")],
        [M, S, A, P, (b"content-length", b"0, 0")],
        [M, S, A, P, (b"content-length", b"")],
        [M, S, A, P, (b"content-length", b"0" * 19)],
        [(b":method", b"CONNECT"), S, A, P],
        [(b":method", b"CONNECT"), A, P],
        [(b":method", b"CONNECT"), (b"host", b"h:1")],
    ],
)
def test_requests_that_are_malformed(fields: list[tuple[bytes, bytes]]) -> None:
    """RFC 9113 sections 8.1 to 8.5: the stream is reset without an event, the connection continues."""
    connection = server()
    assert expect_reset(connection, headers(1, fields), 1, codes.PROTOCOL_ERROR, reported=False) == []
    assert of(connection.feed(get(3)), 3) == WHOLE_REQUEST


@pytest.mark.parametrize(
    ("fields", "request_"),
    [
        ([M, S, P, (b"host", b"h")], Request(b"GET", b"/", [(b"host", b"h")], 20)),
        ([P, A, S, M, (b"host", b"H")], Request(b"GET", b"/", [(b"host", b"H")], 20)),
        ([(b":method", b"OPTIONS"), S, A, (b":path", b"*")], Request(b"OPTIONS", b"*", [(b"host", b"h")], 20)),
        ([(b":method", b"CONNECT"), (b":authority", b"h:1")], Request(b"CONNECT", b"h:1", [(b"host", b"h:1")], 20)),
        ([M, S, A, P, (b"te", b"trailers")], Request(b"GET", b"/", [(b"host", b"h"), (b"te", b"trailers")], 20)),
        ([M, S, A, P, (b"x", b"")], Request(b"GET", b"/", [(b"host", b"h"), (b"x", b"")], 20)),
        (
            [M, S, A, P, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")],
            Request(b"GET", b"/", [(b"host", b"h"), (b"x", b"y"), (b"cookie", b"a=1; b=2")], 20),
        ),
    ],
)
def test_requests_that_are_allowed(fields: list[tuple[bytes, bytes]], request_: Request) -> None:
    assert server().feed(headers(1, fields)) == [(1, request_), (1, End())]


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"server", b"x")],
        [(b"x", b"y"), (b":status", b"200")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"20")],
        [(b":status", b"099")],
        [(b":status", b"2000")],
        [(b":status", b"2x0")],
        [(b":status", b"101")],
        [(b":status", b"103")],
        [(b":status", b"200"), (b"content-length", b"1")],
        [(b":status", b"200"), (b"content-length", b"0"), (b"content-length", b"0")],
        [(b":status", b"200"), (b"content-length", b"x")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
        [(b":status", b"200"), (b"X", b"y")],
        [(b":status", b"200"), (b"x", b"a\r\nb")],
    ],
)
def test_responses_that_are_malformed(fields: list[tuple[bytes, bytes]]) -> None:
    connection = client(b"GET")
    assert len(expect_reset(connection, headers(1, fields), 1, codes.PROTOCOL_ERROR)) == 1


def test_status_101_is_refused() -> None:
    expect_reset(client(b"GET"), headers(1, [(b":status", b"101")], end=False), 1, codes.PROTOCOL_ERROR)


@pytest.mark.parametrize("trailer", [(b":status", b"200"), (b"connection", b"close"), (b"X", b"y"), (b"x", b"\0")])
def test_trailers_that_are_malformed(trailer: tuple[bytes, bytes]) -> None:
    connection = client(b"GET")
    expect_reset(connection, headers(1, OK, end=False) + headers(1, [trailer]), 1, codes.PROTOCOL_ERROR)


def test_a_second_response_head_is_refused() -> None:
    expect_reset(client(b"GET"), headers(1, OK, end=False) * 2, 1, codes.PROTOCOL_ERROR)


def test_data_before_its_head_is_refused() -> None:
    expect_reset(client(b"GET"), frame(DATA, 0, 1, b"x"), 1, codes.PROTOCOL_ERROR)


@pytest.mark.parametrize("sizes", [(4,), (2,), (0, 0), (3, 1), (1, 1)])
@pytest.mark.parametrize("role", [SERVER, CLIENT])
def test_a_body_that_differs_from_its_content_length_is_refused(sizes: tuple[int, ...], role: bool) -> None:
    length = (b"content-length", b"3")
    data = b"".join(frame(DATA, END_STREAM if at + 1 == len(sizes) else 0, 1, bytes(n)) for at, n in enumerate(sizes))
    if role is SERVER:
        connection, head = server(), get(1, length, end=False)
    else:
        connection, head = client(b"GET"), headers(1, [*OK, length], end=False)
    events = expect_reset(connection, head + data, 1, codes.PROTOCOL_ERROR)
    assert not any(isinstance(event, End) for event in events)


def test_trailers_after_a_short_body_are_refused() -> None:
    connection = server()
    connection.feed(get(1, (b"content-length", b"3"), end=False))
    expect_reset(connection, headers(1, [(b"a", b"b")]), 1, codes.PROTOCOL_ERROR)


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", b"200"), (b"GET", b"304"), (b"GET", b"204")])
def test_responses_that_have_no_body(method: bytes, status: bytes) -> None:
    fields = [(b":status", status), (b"content-length", b"1000")]
    events = client(method).feed(headers(1, fields))
    assert isinstance(events[1][1], End)
    assert len(client(method).feed(headers(1, fields, end=False) + frame(DATA, END_STREAM, 1))) == 2
    expect_reset(client(method), headers(1, fields, end=False) + frame(DATA, 0, 1, b"x"), 1, codes.PROTOCOL_ERROR)


# --- flow control -----------------------------------------------------------------------------------------------------


def test_windows_are_updated_only_for_acknowledged_data() -> None:
    connection = server(window=65_535, connection_window=65_535 * 2)
    connection.feed(get(1, end=False) + get(3, end=False))
    connection.data_to_send()
    connection.feed(3 * frame(DATA, 0, 1, bytes(16_384)) + frame(DATA, 0, 1, bytes(16_383)))
    assert connection.data_to_send() == b""
    connection.acknowledge(1, 32_767)
    assert connection.data_to_send() == b""
    connection.acknowledge(1, 1)
    assert frames(connection.data_to_send()) == [(WINDOW_UPDATE, 0, 1, (32_768).to_bytes(4, "big"))]
    connection.acknowledge(1, 32_767)
    assert frames(connection.data_to_send())[0][2] == 0
    with pytest.raises(LocalProtocolError):
        connection.acknowledge(1, 1)
    with pytest.raises(LocalProtocolError):
        connection.acknowledge(3, -1)
    too_much = 2 * frame(DATA, 0, 1, bytes(16_384)) + frame(DATA, 0, 1, b"x")
    expect_reset(connection, too_much, 1, codes.FLOW_CONTROL_ERROR)


def test_all_streams_share_the_connection_window() -> None:
    connection = server(connection_window=65_535)
    connection.feed(get(1, end=False) + get(3, end=False) + 2 * frame(DATA, 0, 1, bytes(16_384)))
    connection.feed(frame(DATA, 0, 3, bytes(16_384)) + frame(DATA, 0, 3, bytes(16_383)))
    expect_goaway(connection, frame(DATA, 0, 3, b"x"), codes.FLOW_CONTROL_ERROR, "connection's window")


def test_an_ended_stream_credits_its_unread_bytes() -> None:
    connection = server(connection_window=65_535)
    for number in range(1, 400, 2):
        connection.feed(get(number, end=False) + frame(DATA, END_STREAM, number, bytes(16_384)))
        connection.send_response(number, Response(200, []), True)
        connection.acknowledge(number, 5)


def test_data_waits_for_both_windows_and_streams_take_turns() -> None:
    connection = client()
    first = connection.send_request(Request(b"PUT", b"/1", HOST))
    second = connection.send_request(Request(b"PUT", b"/2", HOST))
    connection.data_to_send()
    assert connection.send_data(first, b"a" * 100_000, True) == 100_000 - 65_535
    assert connection.send_data(second, b"b" * 50_000) == 50_000
    assert sum(len(f[3]) for f in frames(connection.data_to_send())) == 65_535
    assert connection.feed(window_update(0, 32_768)) == []
    got = frames(connection.data_to_send())
    # The window of the first stream is still used up.
    assert [(f[2], len(f[3])) for f in got] == [(second, 16_384), (second, 16_384)]
    assert connection.feed(window_update(first, 100_000) + window_update(0, 40_000)) == []
    got = frames(connection.data_to_send())
    assert [(f[2], len(f[3])) for f in got] == [(first, 16_384), (second, 16_384), (first, 7_232)]
    assert connection.feed(window_update(0, 100_000)) == [(second, Drained()), (first, Drained())]
    assert [f[:3] for f in frames(connection.data_to_send())] == [(DATA, 0, second), (DATA, END_STREAM, first)]


def test_settings_change_the_windows_of_open_streams() -> None:
    connection = client()
    stream = connection.send_request(Request(b"PUT", b"/", HOST))
    connection.send_data(stream, bytes(65_535))
    connection.feed(window_update(0, 1000))
    connection.data_to_send()
    connection.feed(settings((INITIAL_WINDOW_SIZE, 0)))
    assert connection.send_data(stream, b"xyz", True) == 3
    # The window is negative now (RFC 9113 section 6.9.2).
    connection.feed(window_update(stream, 65_535))
    connection.data_to_send()
    assert connection.unsent() == 3
    assert connection.feed(settings((INITIAL_WINDOW_SIZE, 3))) == [(0, SettingsReceived()), (stream, Drained())]
    assert frames(connection.data_to_send())[-1] == (DATA, END_STREAM, stream, b"xyz")


def test_windows_that_overflow_are_refused() -> None:
    connection = client(b"GET")
    expect_reset(connection, window_update(1, 0x7FFF_FFFF), 1, codes.FLOW_CONTROL_ERROR)
    connection = client(b"GET")
    connection.feed(window_update(1, 0x7FFF_FFFF - 65_535))
    expect_goaway(connection, settings((INITIAL_WINDOW_SIZE, 65_536)), codes.FLOW_CONTROL_ERROR)
    # Also when no stream is open whose window could overflow.
    expect_goaway(client(), settings((INITIAL_WINDOW_SIZE, 1 << 31)), codes.FLOW_CONTROL_ERROR)
    expect_reset(client(b"GET"), window_update(1, 0), 1, codes.PROTOCOL_ERROR)


def test_end_stream_needs_no_window() -> None:
    connection = client()
    connection.feed(settings((INITIAL_WINDOW_SIZE, 0)))
    stream = connection.send_request(Request(b"PUT", b"/", HOST))
    connection.data_to_send()
    assert connection.send_end(stream) == 0
    assert connection.data_to_send() == frame(DATA, END_STREAM, stream)


def test_trailers_wait_behind_the_data() -> None:
    connection = client()
    connection.feed(settings((INITIAL_WINDOW_SIZE, 2)))
    stream = connection.send_request(Request(b"PUT", b"/", HOST))
    connection.send_data(stream, b"abc")
    assert connection.send_end(stream, [(b"T", b"v")]) == 1
    connection.data_to_send()
    assert connection.feed(window_update(stream, 1)) == [(stream, Drained())]
    got = frames(connection.data_to_send())
    assert got[0] == (DATA, 0, stream, b"c") and got[1][:3] == (HEADERS, END_HEADERS | END_STREAM, stream)


def test_consecutive_data_frames_become_one_event() -> None:
    connection = server()
    events = connection.feed(get(1, end=False) + b"".join(frame(DATA, 0, 1, b"%d" % (n % 10)) for n in range(500)))
    assert events[1:] == [(1, Data(b"0123456789" * 50))]


# --- messages that are refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        Request(b"G T", b"/", HOST),
        Request(b"", b"/", HOST),
        Request(b"GET", b"", HOST),
        Request(b"GET", b"/ x", HOST),
        Request(b"GET", b"/\r\n", HOST),
        Request(b"GET", b"/", []),
        Request(b"GET", b"/", [(b"Host", b"")]),
        Request(b"GET", b"/", HOST * 2),
        Request(b"GET", b"/", [(b"Host", b"a@b")]),
        Request(b"GET", b"/", [*HOST, (b"X", b"a\nb")]),
        Request(b"GET", b"/", [*HOST, (b"X Y", b"a")]),
        Request(b"GET", b"/", [*HOST, (b":path", b"/")]),
        Request(b"GET", b"/", [*HOST, (b"Connection", b"close")]),
        Request(b"GET", b"/", [*HOST, (b"Transfer-Encoding", b"chunked")]),
        Request(b"GET", b"/", [*HOST, (b"TE", b"gzip")]),
        Request(b"GET", b"/", [*HOST, (b"Content-Length", b"x")]),
        Request(b"GET", b"/", [*HOST, (b"Content-Length", b"0"), (b"content-length", b"0")]),
        Request(b"GET", b"/", [*HOST, (b"Content-Length", b"5")]),
    ],
)
def test_requests_that_cannot_be_sent(request_: Request) -> None:
    client_side, server_side = client(), server()
    with pytest.raises(LocalProtocolError):
        client_side.send_request(request_, True)
    assert client_side.data_to_send() == b"" and client_side.open_streams == 0
    # A failed attempt must not change the HPACK encoder's dynamic table, because the peer does not see it.
    fields = [(b"Host", b"h"), (b"X-New", b"field"), (b"User-Agent", b"x")]
    for _ in range(2):
        with pytest.raises(LocalProtocolError):
            client_side.send_request(Request(b"GET", b"/", [*fields, (b"late", b"\0")]), True)
        stream = client_side.send_request(Request(b"GET", b"/", fields), True)
        event = server_side.feed(client_side.data_to_send())[0][1]
        assert event == Request(b"GET", b"/", [(b"host", b"h"), (b"x-new", b"field"), (b"user-agent", b"x")], 20)
    assert stream == 3


def test_messages_out_of_order() -> None:
    connection = server()
    with pytest.raises(LocalProtocolError):
        connection.send_request(Request(b"GET", b"/", HOST))
    with pytest.raises(LocalProtocolError):
        connection.send_response(1, Response(200, []))
    connection.feed(get(1))
    with pytest.raises(LocalProtocolError):
        connection.send_data(1, b"x")
    with pytest.raises(LocalProtocolError):
        connection.send_end(1, [(b"a", b"b")])
    informational = [Informational(status, []) for status in (101, 200)]
    for wrong in (*informational, *(Response(status, []) for status in (99, 100, 1000))):
        with pytest.raises(LocalProtocolError):
            connection.send_response(1, wrong)
    with pytest.raises(LocalProtocolError):
        connection.send_response(1, Informational(103, []), True)
    connection.send_response(1, Informational(103, []))
    with pytest.raises(LocalProtocolError):
        connection.send_response(1, Response(200, [(b"content-length", b"2"), (b"x", b"\n")]))
    connection.send_response(1, Response(200, [(b"content-length", b"2")]))
    with pytest.raises(LocalProtocolError):
        connection.send_response(1, Response(200, []))
    with pytest.raises(LocalProtocolError):
        connection.send_data(1, b"xyz")
    with pytest.raises(LocalProtocolError):
        connection.send_data(1, b"x", True)
    with pytest.raises(LocalProtocolError):
        connection.send_end(1, [(b"a", b"b")])
    connection.send_data(1, b"xy")
    with pytest.raises(LocalProtocolError):
        connection.send_end(1, [(b"a", b"\n")])
    connection.send_end(1, [(b"a", b"b")])
    with pytest.raises(LocalProtocolError):
        connection.send_data(1, b"")
    client_side = client(b"GET")
    with pytest.raises(LocalProtocolError):
        client_side.send_response(1, Response(200, []))
    with pytest.raises(LocalProtocolError):
        client_side.send_data(1, b"x")


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 304)])
def test_content_length_without_a_body(method: bytes, status: int) -> None:
    """RFC 9110 section 8.6: Content-Length describes another response; there is no body."""
    length = [(b"content-length", b"9")]
    connection = server()
    connection.feed(headers(1, [(b":method", method), *REQUEST[1:]]))
    connection.send_response(1, Response(status, length), True)
    assert client(method).feed(connection.data_to_send())[0][1] == Response(status, length, b"", 20)
    connection.feed(headers(3, [(b":method", method), *REQUEST[1:]]))
    connection.send_response(3, Response(status, length))
    with pytest.raises(LocalProtocolError):
        connection.send_data(3, b"x")
    connection.send_end(3)
    assert connection.open_streams == 0


def test_credentials_are_never_indexed() -> None:
    import hpack

    connection = client()
    connection.send_request(Request(b"GET", b"/", [*HOST, (b"Authorization", b"secret"), (b"Cookie", b"a=b")]), True)
    fields = hpack.Decoder().decode(frames(connection.data_to_send())[0][3], raw=True)
    never = [field[0] for field in fields if isinstance(field, hpack.NeverIndexedHeaderTuple)]
    assert never == [b"authorization", b"cookie"]


def test_large_heads_are_split_into_frames() -> None:
    client_side, server_side = client(), server()
    fields = [*HOST, *((b"x-%d" % n, bytes([65 + n % 26]) * 3000) for n in range(15))]
    client_side.send_request(Request(b"GET", b"/", fields), True)
    data = client_side.data_to_send()
    assert [f[0] for f in frames(data)] == [HEADERS, CONTINUATION, CONTINUATION]
    assert [f[1] for f in frames(data)] == [END_STREAM, 0, END_HEADERS]
    event = server_side.feed(data)[0][1]
    assert isinstance(event, Request) and event.headers.raw[1:] == fields[1:]


def test_a_head_that_finds_no_memory_leaves_nothing_behind() -> None:
    """Each allocation of one request fails in turn. The next request must be what the server reads."""
    fields = [*HOST, *((b"x-%d" % number, bytes([65 + number]) * 2000) for number in range(20))]
    failed = 0
    for allocation in range(1000):
        sender, receiver = client(), server()
        _testcapi.set_nomemory(allocation, allocation + 1)
        try:
            sender.send_request(Request(b"GET", b"/large", fields), True)
        except MemoryError:
            failed += 1
        else:
            break
        finally:
            _testcapi.remove_mem_hooks()
        sender.send_request(Request(b"GET", b"/next", fields[:2]), True)
        events = [event for _, event in receiver.feed(sender.data_to_send())]
        assert events == [Request(b"GET", b"/next", [(b"host", b"h"), fields[1]], 20), End()]
    assert failed, "no allocation was made"


def test_an_options_request_and_connect_are_sent() -> None:
    client_side, server_side = client(), server()
    client_side.send_request(Request(b"OPTIONS", b"*", HOST), True, b"http")
    client_side.send_request(Request(b"CONNECT", b"h:1", [(b"host", b"h:1")]))
    assert [event for _, event in server_side.feed(client_side.data_to_send()) if isinstance(event, Request)] == [
        Request(b"OPTIONS", b"*", [(b"host", b"h")], 20), Request(b"CONNECT", b"h:1", [(b"host", b"h:1")], 20)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "option", ["window", "connection_window", "max_streams", "max_head", "max_fields", "table_size"]
)
def test_options_have_ranges(option: str) -> None:
    with pytest.raises(ValueError, match="outside"):
        H2Connection(SERVER, **{option: -1})  # type: ignore[arg-type]
