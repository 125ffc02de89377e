"""DNS over HTTPS for clients (RFC 8484): `TlsListener` with HTTP on its connections.

The HTTP version of a connection is negotiated in the handshake (ALPN) and implemented by `resolver.net.http1_session`
or `resolver.net.http2_session`. Both check requests with `resolver.net.doh` and get the replies from
`HttpsConnection.ask`: from the cache by the fast path, else from the service. A request without a valid DNS message is
answered with an HTTP error status and counted by that status.

A client that ends its direction (`HttpsConnection.input_ended`) by close_notify of TLS 1.3 gets the replies to its
complete requests, as over DNS over TLS (`resolver.net.dns_connection`); then the connection is closed. A FIN without
close_notify ends the connection, because it may be forged (RFC 8446 section 6.1).
"""

import asyncio
from typing import Any, Protocol

from resolver import limits
from resolver.net.http1_session import Http1Session
from resolver.net.http2_session import Http2Session
from resolver.net.pending_queries import PendingQuery, Sink
from resolver.net.stream_connection import StreamConnection
from resolver.net.tls_listener import TlsListener
from resolver.wire import consts as c

__all__ = ["HttpsConnection", "HttpsListener"]

RCODE_BITS = 0x0F
TC_BIT = 0x02


class HttpsListener(TlsListener):
    """The listener of one socket for DNS over HTTPS, and all its connections."""

    query_transport = "https"
    serves_zones = False

    def __init__(self, *given: Any, path: str, **options: Any) -> None:
        """`path` is the path of requests; the other arguments are those of `TlsListener`."""
        super().__init__(*given, **options)
        self.path = path.encode()
        self.requests = 0
        self.http2_connections = 0
        self.refused: dict[int, int] = {}

    @property
    def octets_limit(self) -> int:
        return super().octets_limit + self._limit * self.pipeline * (limits.DOH_TARGET + limits.EXCHANGE_OVERHEAD)

    def make_connection(self) -> StreamConnection:
        """The protocol of a new connection."""
        return HttpsConnection(self)

    def reconfigure(self, context: Any, path: str) -> None:
        """Use `context` and `path` for new connections."""
        super().reconfigure(context, path)
        self.path = path.encode()

    def note_refused(self, status: int) -> None:
        """A request was answered with `status` instead of a DNS message."""
        self.refused[status] = self.refused.get(status, 0) + 1

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, by name; ``refused`` maps statuses to counts."""
        return {
            **super().statistics(),
            "requests": self.requests,
            "http2_connections": self.http2_connections,
            "refused": dict(self.refused),
        }


class Session(Protocol):
    """HTTP on one connection: `Http1Session` or `Http2Session`."""

    @property
    def held(self) -> int: ...

    def receive(self, data: bytes) -> None: ...

    def work(self) -> None: ...

    def is_late(self, now: float) -> bool: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def end_input(self) -> bool: ...

    def close(self) -> None: ...


class HttpsConnection(StreamConnection):
    """One connection of a client."""

    __slots__ = ("_session", "input_ended", "listener")

    def __init__(self, listener: HttpsListener) -> None:
        super().__init__(listener)
        self.listener = listener
        self._session: Session | None = None
        self.input_ended = False

    # --- StreamConnection ------------------------------------------------------------------------------------------

    def opened(self, transport: asyncio.Transport) -> None:
        """Start the session of the negotiated HTTP version."""
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self.listener.http2_connections += 1
            self._session = Http2Session(self, transport, self.listener.path)
        else:
            self._session = Http1Session(self, transport, self.listener.path)

    @property
    def held(self) -> int:
        return super().held + (0 if self._session is None else self._session.held)

    def received(self, data: bytes) -> None:
        """Process octets of requests, split at any position."""
        assert self._session is not None
        self._session.receive(data)

    def turn(self) -> None:
        """Requests that are left of earlier turns."""
        if self._session is not None:
            self._session.work()

    def closed(self) -> None:
        """Cancel what waits."""
        # A session refers to its connection. Without this cycle, what it holds is freed now, not by the collector.
        self.listener.turns.remove(self)
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def is_late(self, now: float) -> bool:
        """Whether one of the timeouts has passed."""
        return self._session is not None and self._session.is_late(now)

    def eof_received(self) -> bool:
        self.input_ended = True
        has_work = self.has_early if self._session is None else self._session.end_input()
        return has_work and self.can_answer_after_end()

    def pause_writing(self) -> None:
        if self._session is not None:
            self._session.pause_writing()

    def resume_writing(self) -> None:
        if self._session is not None:
            self._session.resume_writing()

    # --- for sessions ----------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds of the loop's clock."""
        return self.listener.now()

    def note_progress(self) -> None:
        """A request was received completely, or was answered."""
        self.listener.note_progress(self)

    def ask(self, message: bytes, sink: Sink) -> tuple[bytes | None, int | None, PendingQuery | None]:
        """Answer a DNS message. Returns the reply, its freshness in seconds, and the pending query.

        Only a cached reply is returned; a freshness of None means that HTTP caches must not store it. Without a reply,
        `sink` gets the reply, during this call or later; in the second case the pending query is returned.
        """
        listener = self.listener
        listener.requests += 1
        if self.allowed or listener.fast.knows_keys:
            reply, left = listener.fast.answer_encrypted(
                message, self.octets, listener.padding_block, None, self.access, listener.transport_number,
                self._peer[1],
            )
            if reply:
                return reply, _fresh(reply, left), None
            if reply is not None:
                sink.skip()
                return None, None, None
        return None, None, listener.service.handle(message, self._peer, sink, listener.own_access)


def _fresh(reply: bytes, left: int) -> int | None:
    """Freshness of a reply of the fast path in seconds; None for failures, truncated and not cached replies."""
    rcode = reply[3] & RCODE_BITS
    if not left or reply[2] & TC_BIT or rcode not in (c.NOERROR, c.NXDOMAIN):
        return None
    return left
