"""Connections of DNS over HTTPS without sockets: a transport that keeps what is written, a cache that has an answer to
everything or to nothing, and a service that never answers.
"""

from typing import Any

from resolver.net.https_listener import HttpsConnection
from resolver.net.turns import Turns

__all__ = ["QUERY", "Connection", "FixedCache", "Listener", "Pending", "Service", "Transport", "connect"]

# A query for the A record of example., with the id 0.
QUERY = bytes.fromhex("000001000001000000000000076578616d706c650000010001")
# The seconds for which an answer is fresh.
TTL = 60


class Tls:
    """The TLS object of a connection: what the handshake has negotiated."""

    def __init__(self, alpn: str) -> None:
        self._alpn = alpn

    def selected_alpn_protocol(self) -> str:
        return self._alpn


class Transport:
    """A transport that keeps what is written to it."""

    def __init__(self, alpn: str) -> None:
        self._tls = Tls(alpn)
        self.written: list[bytes] = []
        self.reading = True
        self.closing = False
        self.half_closed = False

    def get_extra_info(self, name: str) -> Any:
        return self._tls if name == "ssl_object" else None

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is buffered here."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


class FixedCache:
    """A cache that has an answer to everything, or to nothing."""

    def __init__(self, reply: bytes | None) -> None:
        self._reply = reply
        self.asked: list[bytes] = []

    def answer_encrypted(self, message: bytes, octets: bytes, block: int, *_: object) -> tuple[bytes | None, int]:
        self.asked.append(message)
        return self._reply, TTL


class Pending:
    """A query that waits."""

    def __init__(self, service: "Service") -> None:
        self.service = service


class Service:
    """A service that never answers."""

    def __init__(self) -> None:
        self.pending: list[Pending] = []

    def handle(self, message: bytes, peer: Any, sink: Any, access: Any) -> Pending:
        self.pending.append(Pending(self))
        return self.pending[-1]

    def forget(self, pending: Pending) -> None:
        self.pending.remove(pending)


class Listener:
    """A listener without sockets; times are in seconds of `clock`."""

    message_timeout = 5.0
    idle_timeout = 30.0
    handshake_timeout = 5.0
    padding_block = 0
    pipeline = 100
    path = b"/dns-query"
    own_access = None
    tls_context: Any = "one"
    origin = ("https", "127.0.0.1:443")
    transport_number = 3

    def __init__(self, reply: bytes | None = b"\0" * 12) -> None:
        self.fast = FixedCache(reply)
        self.service = Service()
        self.turns = Turns()
        self.clock = 0.0
        self.requests = self.http2_connections = self.write_overrun = self.malformed = 0
        self.refused: list[int] = []

    def now(self) -> float:
        return self.clock

    def note_progress(self, client: Any) -> None:
        """The order of eviction is not of interest here."""

    def note_refused(self, status: int) -> None:
        self.refused.append(status)

    def remove(self, client: Any) -> None:
        """There are no slots here."""


class Connection(HttpsConnection):
    """A connection to which tests make weak references; the base class has `__slots__` without ``__weakref__``."""


def connect(listener: Any, alpn: str) -> tuple[Connection, Any]:
    """An open connection of an allowed client."""
    connection, transport = Connection(listener), Transport(alpn)
    connection.allowed = True
    connection._open(transport, b"")  # type: ignore[arg-type]
    return connection, transport
