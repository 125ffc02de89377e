"""The HTTP/2 connection: arbitrary bytes raise only its own error, and mean the same however they are cut.

The first byte chooses the role, what was said before, and the size of the pieces. After each piece the
counts that the connection reports are checked.
"""

from support.h2_frames import ACK, SETTINGS, frame, settings

from corenet.http.errors import Http2Error
from corenet.http.events import Data, End, Event, Request, Response
from corenet.http.h2 import CLIENT, PREFACE, SERVER, H2Connection

HOST = [(b"Host", b"h")]


def connection_for(choice: int) -> H2Connection:
    """A connection that has been greeted, a client with three requests on their way."""
    if choice & 1:
        connection = H2Connection(SERVER)
        if choice & 2:
            connection.feed(PREFACE + settings() + frame(SETTINGS, ACK, 0))
        return connection
    connection = H2Connection(CLIENT)
    connection.feed(settings() + frame(SETTINGS, ACK, 0))
    connection.send_request(Request(b"GET", b"/", HOST), True)
    connection.send_request(Request(b"HEAD", b"/", HOST), True)
    stream = connection.send_request(Request(b"POST", b"/", HOST))
    connection.send_data(stream, bytes(100_000), bool(choice & 2))
    return connection


def play(choice: int, pieces: list[bytes], answers: bool = False) -> tuple[list[tuple[int, Event]], bytes, bool]:
    """Events with neighbouring data joined, what was said to them, and whether the connection ended."""
    connection = connection_for(choice)
    bodies: dict[int, bytes] = {}
    events: list[tuple[int, Event]] = []
    out = b""
    try:
        for piece in pieces:
            for stream, event in connection.feed(piece):
                if isinstance(event, Data):
                    bodies[stream] = bodies.get(stream, b"") + event.data
                    continue
                if stream in bodies:
                    events.append((stream, Data(bodies.pop(stream))))
                events.append((stream, event))
                if answers and connection.server and isinstance(event, End) and connection.is_open(stream):
                    connection.send_response(stream, Response(200, [(b"Server", b"x")]))
                    connection.send_data(stream, b"body" * (stream % 10_000), True)
            out += connection.data_to_send()
            assert 0 <= connection.unsent() and connection.open_streams <= 100
    except Http2Error:
        assert connection.data_to_send()
        assert connection.open_streams == connection.unsent() == 0
        return [], b"", True
    return events, out, False


def run(data: bytes) -> None:
    """One input: choice, then the peer's bytes, at least one."""
    if len(data) < 2:
        return
    choice, stream = data[0], data[1:]
    size = 1 + (choice >> 2)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert play(choice, pieces) == play(choice, [stream])
    # What is answered depends on what has come by then.
    play(choice, pieces, answers=True)
