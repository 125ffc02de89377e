"""DNS over HTTPS: any octets on a connection with HTTP/1.1 or HTTP/2, and any target and content type of a request.

For any input, nothing is raised, no query is left waiting, what is written is HTTP, and what is held of the client's
octets stays within its limits.
"""

import asyncio
from typing import Any

from support.service_parts import NOW, Parts, address, positive, query

from corenet.http.h1 import CLIENT as CLIENT1
from corenet.http.h1 import H1Codec
from corenet.http.h2 import CLIENT, PREFACE, H2Connection
from resolver import limits
from resolver.net import doh
from resolver.net.http1_session import Http1Session
from resolver.net.http2_session import Http2Session
from resolver.net.https_listener import HttpsConnection, HttpsListener
from resolver.wire.consts import MESSAGE_MAX

PATH = b"/dns-query"
LOOP = asyncio.new_event_loop()
PARTS = Parts()
PARTS.mesh.instant = positive(address())
LISTENER = HttpsListener(
    PARTS.service, PARTS.fast, PARTS.plan.access, PARTS.settings.server, None, path=PATH.decode()
)
LISTENER._loop = LOOP


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """What is written before it was kept."""

    def pause_reading(self) -> None:
        """Nothing more comes in any case."""

    def resume_reading(self) -> None:
        """As above."""

    def get_write_buffer_size(self) -> int:
        return 0


def connected() -> tuple[HttpsConnection, Transport]:
    connection = HttpsConnection(LISTENER)
    connection._transport = transport = Transport()
    connection._peer, connection.octets, connection.allowed = ("127.0.0.1", 5), bytes(4), True
    return connection, transport


def run(data: bytes) -> None:
    """One input: a byte that chooses how it is cut, then octets for each of the readers."""
    if not data:
        return
    cut, octets = data[0] + 1, data[1:]
    for offered in (octets, b"GET /dns-query?dns=" + octets):
        _classify(offered)
    PARTS.clock.real = NOW
    for make, begin in ((Http1Session, b""), (Http2Session, PREFACE), (Http2Session, FRAMES)):
        connection, transport = connected()
        session: Any = make(connection, transport, PATH)
        connection._session = session
        given = begin + octets
        for at in range(0, len(given), cut * 8):
            LOOP.run_until_complete(_receive(session, transport, given[at:at + cut * 8]))
        assert connection.waiting == 0 and PARTS.service.waiting == 0
        _held(session)
        connection.closed()
        _is_http(transport.written, make is Http1Session)


async def _receive(session: Any, transport: Transport, octets: bytes) -> None:
    """Give octets to a session, and time for one turn more."""
    if not transport.closed:
        session.receive(octets)
    await asyncio.sleep(0)


def _classify(octets: bytes) -> None:
    target, _, kind = octets.partition(b" ")
    for method in (b"GET", b"POST", target[:4]):
        found = doh.classify_request(method, PATH + b"?dns=" + target, kind, False, PATH)
        assert isinstance(found, doh.BodyWanted | bytes) or 400 <= found.status < 600
        found = doh.classify_request(method, target, kind, bool(kind), PATH)
        assert isinstance(found, doh.BodyWanted | bytes) or 400 <= found.status < 600
    fresh = doh.freshness(octets)
    assert fresh is None or fresh >= 0


def _held(session: Any) -> None:
    if isinstance(session, Http1Session):
        assert len(session._message) <= MESSAGE_MAX + limits.STREAM_READ_CHUNK
        return
    assert len(session._requests) <= LISTENER.pipeline
    assert sum(len(request.body or b"") for request in session._requests.values()) <= limits.DOH_WINDOW


def _is_http(written: bytes, first: bool) -> None:
    """Our own client reads every response of HTTP/1.1; of HTTP/2 all frames are whole."""
    if first:
        while written:
            codec = H1Codec(CLIENT1)
            codec.send_request(b"GET", b"/", [(b"Host", b"x")], -1)
            if written.startswith(b"HTTP/1.1 405"):  # perhaps to HEAD, whose response has no body
                return
            codec.feed(written[: (end := written.index(b"\r\n\r\n") + 4)])
            written = written[end + codec.length_left:]
        return
    while written:  # whole frames of known types (RFC 9113 section 4.1)
        size = 9 + int.from_bytes(written[:3], "big")
        assert size <= 9 + 16_384 and size <= len(written) and written[3] <= 9
        written = written[size:]


def _frames() -> bytes:
    """The octets of a client that asks one question, so that mutations begin behind good ones."""
    from corenet.http.events import Request

    client = H2Connection(CLIENT)
    stream = client.send_request(
        Request(b"POST", PATH, [(b"host", b"x"), (b"content-type", b"application/dns-message")])
    )
    client.send_data(stream, query(), end=True)
    return client.data_to_send()


FRAMES = _frames()


# Each input is played in many ways, in Python.
run.cost = 5  # type: ignore[attr-defined]
