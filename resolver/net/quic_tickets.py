"""Sessions of DNS over QUIC for resumption, without 0-RTT.

The cache, its limits, lifetimes and the rule of single use are those of TLS (`corenet.tls.sessions`). A resumed
handshake has no certificate, so the key of a session has all that was checked in the full one: the name, the port, the
pins, and whether the chain was verified. The authorities belong to the cache (`TlsContexts.quic_sessions`).

Tickets may arrive before the certificate is known to have a pinned key. They are held until then (`authenticated`), and
dropped when it has none.

0-RTT data can be replayed (RFC 9250 section 5.5), so a ticket is stored as one that does not permit it.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, cast

from corenet.limits import TLS_SESSIONS_PER_ORIGIN
from corenet.tls.sessions import Resumption, SessionCache
from resolver.upstream_address import Encryption

if TYPE_CHECKING:
    from qh3.tls import SessionTicket

__all__ = ["Tickets"]

OVERHEAD = 1000
"""Bytes of the objects of a ticket, besides its octets."""


class _Session:
    """One ticket, in the form of `TlsSession`, with what is known about the certificate."""

    single_use = True

    def __init__(self, ticket: "SessionTicket", certificate: dict[str, object]) -> None:
        self.ticket = ticket
        self.certificate = certificate
        self.lifetime = int((ticket.not_valid_after - ticket.not_valid_before).total_seconds())
        self.octets = len(ticket.ticket) + sum(len(value) for _, value in ticket.other_extensions) + OVERHEAD
        self.trusted_until = 0.0
        self.expires = 0.0

    def resumable(self) -> bool:
        """Whether the ticket is still valid by the clock of the library."""
        return bool(self.ticket.is_valid)


class Tickets:
    """The sessions of one connection to `server` at `address` and `port`."""

    def __init__(self, cache: SessionCache, server: Encryption, address: str, port: int) -> None:
        self._resumption = Resumption(cache, (server.name or address, port, bool(server.name), server.pins))
        self._held: list[SessionTicket] = []
        self._certificate: dict[str, object] | None = None
        self._offered: _Session | None = None

    def offer(self) -> "SessionTicket | None":
        """The ticket to resume, if there is one."""
        self._offered = cast(Any, self._resumption.offer())
        return None if self._offered is None else self._offered.ticket

    def take(self, ticket: "SessionTicket") -> None:
        """Store a ticket of the server, or hold it until the server is authenticated."""
        if self._certificate is None:
            if len(self._held) < TLS_SESSIONS_PER_ORIGIN:
                self._held.append(ticket)
            return
        kept = dataclasses.replace(ticket, max_early_data_size=None)
        self._resumption.keep(cast(Any, _Session(kept, self._certificate)))

    def resumed(self) -> dict[str, object]:
        """The offered session was resumed; returns what is known about the certificate."""
        assert self._offered is not None
        self._resumption.succeeded(True, math.inf)
        self._store(self._offered.certificate)
        return self._offered.certificate

    def authenticated(self, certificate: dict[str, object], not_after: int) -> None:
        """A full handshake has succeeded, with a certificate that is valid until `not_after` (seconds since 1970)."""
        self._resumption.succeeded(False, not_after)
        self._store(certificate)

    def _store(self, certificate: dict[str, object]) -> None:
        self._certificate = certificate
        held, self._held = self._held, []
        for ticket in held:
            self.take(ticket)

    def failed(self) -> None:
        """The handshake failed: drop the sessions of this server."""
        self._resumption.failed()
