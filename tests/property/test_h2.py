"""The HTTP/2 connection against the library h2 in both roles, under any cutting of the bytes.

Hypothesis draws a program of requests, bodies, trailers, resets, pings and changed settings for both ends; the bytes of
each side are cut at random. What one side sends, the other receives, in order, for each stream; at the end no
data waits and no stream is open.
"""

from collections import defaultdict
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from corenet.http.errors import Http2Error
from corenet.http.events import Data, End, Event, Informational, Request, Response
from corenet.http.h2 import CLIENT, SERVER, H2Connection
from corenet.http.h2_events import Pong, StreamReset

NAME = st.sampled_from([b"x-a", b"x-b", b"accept", b"authorization", b"user-agent", b"content-type", b"x-" + b"n" * 70])
VALUE = st.sampled_from([b"", b"*/*", b"value", b"w" * 300, b"\xc3\xa4"])
FIELDS = st.lists(st.tuples(NAME, VALUE), max_size=5)
BODY = st.lists(st.sampled_from([1, 10, 5_000, 16_384, 70_000]), max_size=2)
CUTS = st.lists(st.sampled_from([1, 3, 9, 10, 100, 5_000, 70_000]), min_size=1, max_size=6)
MESSAGE = st.tuples(FIELDS, BODY, FIELDS)
STEP = st.one_of(
    st.tuples(st.just("exchange"), MESSAGE, MESSAGE, st.booleans()),
    st.tuples(st.just("reset"), st.booleans()),
    st.tuples(st.just("ping"), st.booleans()),
    st.tuples(st.just("window"), st.sampled_from([0, 10_000, 65_535, 1 << 20])),
    st.tuples(st.just("table"), st.sampled_from([0, 100, 4096, 8192])),
)
PROGRAM = st.lists(STEP, max_size=5)
BYTES = bytes(range(251)) * 400


def body_of(sizes: list[int]) -> list[bytes]:
    return [BYTES[:size] for size in sizes]


class Theirs:
    """The library, its windows opened as data comes, its data queued until a window admits it."""

    def __init__(self, client: bool) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding=None)
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        self.queues: dict[int, list[tuple[bytes, bool, Any]]] = defaultdict(list)
        self.heard: dict[int, list[Any]] = defaultdict(list)
        self.pongs = 0

    def send(self, stream: int, data: bytes, end: bool, trailers: Any = None) -> None:
        self.queues[stream].append((data, end, trailers))
        self.pump()

    def pump(self) -> None:
        for stream, queue in self.queues.items():
            while queue:
                data, end, trailers = queue[0]
                try:
                    window = min(self.connection.local_flow_control_window(stream), 16_384)
                except h2.exceptions.ProtocolError:
                    queue.clear()
                    break
                if len(data) > window and window <= 0:
                    break
                if len(data) > window:
                    self.connection.send_data(stream, data[:window])
                    queue[0] = (data[window:], end, trailers)
                    continue
                if data or (end and trailers is None):
                    self.connection.send_data(stream, data, end_stream=end and trailers is None)
                if trailers is not None:
                    self.connection.send_headers(stream, trailers, end_stream=True)
                queue.pop(0)

    def feed(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived):
                fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                self.heard[event.stream_id] += [[f for f in fields if f[0][:1] != b":"], b"", [], False]
            elif isinstance(event, h2.events.DataReceived):
                self.heard[event.stream_id][1] += event.data
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                self.heard[event.stream_id][2] = [(bytes(name), bytes(value)) for name, value in event.headers]
            elif isinstance(event, h2.events.StreamEnded):
                self.heard[event.stream_id][3] = True
            elif isinstance(event, h2.events.StreamReset):
                self.heard[event.stream_id].append("reset")
            elif isinstance(event, h2.events.PingAckReceived):
                self.pongs += 1
        self.pump()


class Ours:
    """Our connection, driven the same way."""

    def __init__(self, role: bool) -> None:
        self.connection = H2Connection(role)
        self.heard: dict[int, list[Any]] = defaultdict(list)
        self.pongs = 0

    def feed(self, data: bytes) -> None:
        for stream, event in self.connection.feed(data):
            heard = self.heard[stream]
            if isinstance(event, Request | Response) and not isinstance(event, Informational):
                heard += [[f for f in event.headers.raw if f[0] != b"host"], b"", [], False]
            elif isinstance(event, Data):
                heard[1] += event.data
                self.connection.acknowledge(stream, len(event.data))
            elif isinstance(event, End):
                heard[2], heard[3] = event.trailers.raw, True
            elif isinstance(event, StreamReset):
                heard.append("reset")
            elif isinstance(event, Pong):
                self.pongs += 1


def shuttle(ours: Ours, theirs: Theirs, cuts: list[int]) -> None:
    """Carry bytes both ways until neither side has more to send."""
    turn = 0
    while True:
        to_them, to_us = ours.connection.data_to_send(), theirs.connection.data_to_send()
        if not to_them and not to_us:
            return
        for data, feed in ((to_them, theirs.feed), (to_us, ours.feed)):
            at = 0
            while at < len(data):
                size = cuts[turn % len(cuts)]
                # Many short pieces of a long stream take long and show nothing new.
                size = max(size, len(data) // 200)
                feed(data[at : at + size])
                at, turn = at + size, turn + 1


def ours_sends(ours: Ours, stream: int, body: list[bytes], trailers: Any) -> None:
    for piece in body:
        ours.connection.send_data(stream, piece)
    ours.connection.send_end(stream, trailers)


def theirs_sends(theirs: Theirs, stream: int, body: list[bytes], trailers: Any) -> None:
    for piece in body:
        theirs.send(stream, piece, False)
    theirs.send(stream, b"", True, trailers or None)


def pseudo(fields: Any) -> Any:
    return [(b":method", b"PUT"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/"), *fields]


def sent(message: Any) -> list[Any]:
    fields, sizes, trailers = message
    return [fields, b"".join(body_of(sizes)), trailers, True]


@settings(max_examples=50)  # the library takes 50 ms for some programs
@given(PROGRAM, CUTS, st.booleans())
def test_programs_against_h2(program: list[Any], cuts: list[int], we_ask: bool) -> None:
    ours, theirs = Ours(CLIENT if we_ask else SERVER), Theirs(client=not we_ask)
    shuttle(ours, theirs, cuts)
    asked: dict[int, Any] = {}
    answered: dict[int, Any] = {}
    reset: set[int] = set()
    pings = [0, 0]

    def ask(message: Any) -> int:
        fields, sizes, trailers = message
        if we_ask:
            stream = ours.connection.send_request(Request(b"PUT", b"/", [(b"Host", b"h"), *fields]))
            ours_sends(ours, stream, body_of(sizes), trailers)
        else:
            stream = theirs.connection.get_next_available_stream_id()
            theirs.connection.send_headers(stream, pseudo(fields))
            theirs_sends(theirs, stream, body_of(sizes), trailers)
        asked[stream] = message
        return stream

    def answer(stream: int, message: Any) -> None:
        fields, sizes, trailers = message
        if we_ask:
            theirs.connection.send_headers(stream, [(b":status", b"200"), *fields])
            theirs_sends(theirs, stream, body_of(sizes), trailers)
        else:
            ours.connection.send_response(stream, Response(200, fields))
            ours_sends(ours, stream, body_of(sizes), trailers)
        answered[stream] = message

    for step in program:
        if step[0] == "exchange":
            stream = ask(step[1])
            if step[3]:
                # The answer is on its way while the request still is.
                shuttle(ours, theirs, cuts)
            elif (theirs if we_ask else ours).heard[stream] == []:
                shuttle(ours, theirs, cuts)
            answer(stream, step[2])
        elif step[0] == "reset":
            stream = ask(([], [10], []))
            shuttle(ours, theirs, cuts)
            if step[1]:
                ours.connection.reset(stream)
            else:
                theirs.connection.reset_stream(stream)
            reset.add(stream)
        elif step[0] == "ping":
            pings[step[1]] += 1
            if step[1]:
                ours.connection.ping(bytes(8))
            else:
                theirs.connection.ping(bytes(8))
        elif step[0] == "window":
            theirs.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: step[1]})
        else:
            theirs.connection.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: step[1]})
    # Windows of 0 open in the end.
    theirs.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
    shuttle(ours, theirs, cuts)
    servers, clients = (theirs.heard, ours.heard) if we_ask else (ours.heard, theirs.heard)
    for stream, message in asked.items():
        if stream not in reset:
            assert servers[stream] == sent(message)
            assert clients[stream] == sent(answered[stream])
    assert [theirs.pongs, ours.pongs] == pings
    assert ours.connection.unsent() == ours.connection.open_streams == 0


@given(PROGRAM, st.integers(0, 20), st.integers(0, 1000), st.binary(min_size=1, max_size=4), CUTS)
def test_what_h2_says_means_the_same_however_it_is_cut(
    program: list[Any], number: int, at: int, wrong: bytes, cuts: list[int]
) -> None:
    """And with some bytes changed on the way: then both cuttings are refused, or neither."""
    whole, pieces = changed_bytes(program, number, at, wrong), []
    start = turn = 0
    while start < len(whole):
        size = max(cuts[turn % len(cuts)], len(whole) // 300)
        pieces.append(whole[start : start + size])
        start, turn = start + size, turn + 1
    assert read(pieces) == read([whole])


@given(PROGRAM, st.integers(0, 12), st.integers(0, 1000), st.binary(min_size=1, max_size=4))
def test_what_both_accept_means_the_same_to_h2(program: list[Any], number: int, at: int, wrong: bytes) -> None:
    """The bytes of a client, most with some changed. Each side may be stricter; what both read is equal."""
    data = changed_bytes(program, number, at, wrong)
    ours, theirs = Ours(SERVER), Theirs(client=False)
    try:
        ours.feed(data)
        theirs.feed(data)
    except (Http2Error, h2.exceptions.ProtocolError):
        return
    for stream in ours.heard.keys() & theirs.heard.keys():
        if "reset" not in ours.heard[stream] and ours.heard[stream] and theirs.heard[stream]:
            assert ours.heard[stream] == theirs.heard[stream]


def changed_bytes(program: list[Any], number: int, at: int, wrong: bytes) -> bytes:
    """What a client of the library h2 says; with `number` below 10 some bytes are replaced after the preface."""
    theirs = Theirs(client=True)
    stream = 0
    for step in program:
        if step[0] == "exchange":
            stream = theirs.connection.get_next_available_stream_id()
            theirs.connection.send_headers(stream, pseudo(step[1][0]))
            theirs_sends(theirs, stream, body_of(step[1][1][:1]), step[1][2])
        elif step[0] == "ping":
            theirs.connection.ping(bytes(8))
        elif step[0] == "reset" and stream and not theirs.queues[stream]:
            theirs.connection.reset_stream(stream)
            stream = 0
    data = bytearray(theirs.connection.data_to_send())
    if number < 10:
        at = 24 + at % (len(data) - 24)
        data[at : at + len(wrong)] = wrong
    return bytes(data)


def read(pieces: list[bytes]) -> Any:
    """Events of a server with data joined, and its answers; also when it gave up."""
    connection = H2Connection(SERVER)
    events: list[tuple[int, Event]] = []
    bodies: dict[int, bytes] = defaultdict(bytes)

    def take(found: list[tuple[int, Event]]) -> None:
        for stream, event in found:
            if isinstance(event, Data):
                bodies[stream] += event.data
            else:
                events.append((stream, event))

    refused = ""
    for piece in pieces:
        try:
            take(connection.feed(piece))
        except Http2Error as error:
            take(error.events)
            refused = str(error)
            break
    return events, dict(bodies), connection.data_to_send(), refused
