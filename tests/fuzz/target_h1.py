"""The HTTP/1.1 codec: arbitrary bytes raise only its own error, and the result does not depend on how they are cut.

The first byte chooses the role, the method and the size of the pieces. A parsed request is encoded by a client codec
and must be parsed as the same request.
"""

from corenet.http.errors import LocalProtocolError, RemoteProtocolError
from corenet.http.events import Data, End, Event, Request
from corenet.http.h1 import CLIENT, SERVER, H1Codec


def codec_for(choice: int) -> H1Codec:
    """A codec that waits for a message."""
    if choice & 1:
        return H1Codec(SERVER)
    codec = H1Codec(CLIENT)
    codec.send(Request(b"HEAD" if choice & 2 else b"GET", b"/", [(b"Host", b"h")]))
    codec.send(End())
    return codec


def play(choice: int, pieces: list[bytes]) -> list[Event] | None:
    """The events with neighbouring data joined, or None when refused."""
    codec = codec_for(choice)
    events: list[Event] = []
    try:
        for piece in pieces:
            for event in codec.feed(piece):
                if isinstance(event, Data) and events and isinstance(events[-1], Data):
                    events[-1] = Data(events[-1].data + event.data)
                else:
                    events.append(event)
        events += codec.feed_eof()
    except RemoteProtocolError:
        return None
    return events


def run(data: bytes) -> None:
    """One input: choice, then the peer's bytes."""
    if not data:
        return
    choice, stream = data[0], data[1:]
    size = 1 + (choice >> 2)
    whole = play(choice, [stream])
    assert play(choice, [stream[at : at + size] for at in range(0, len(stream), size)]) == whole
    if whole and isinstance(whole[0], Request) and isinstance(whole[-1], End) and whole[0].version == 11:
        sender = H1Codec(CLIENT)
        try:
            wire = b"".join(map(sender.send, whole))
        except LocalProtocolError:
            raise AssertionError("what was received cannot be sent") from None
        assert play(1, [wire]) == whole
