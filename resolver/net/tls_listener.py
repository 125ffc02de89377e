"""DNS over TLS for clients (RFC 7858): `StreamListener` with TLS below its connections.

All limits of TCP connections apply: a connection takes its slot before its handshake begins, and framing, pipelining,
back-pressure and timeouts are those of `resolver.net.stream_listener`. Cached answers come from the same fast path;
replies to padded queries are padded (RFC 8467). Handshakes are counted here: completed, resumed, and failed by reason.

The TLS context is made from the configuration (`resolver.daemon.certificates`). After a reload, new connections use the
new context; open connections keep the old one.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from resolver import limits
from resolver.net.fastpath import FastPath
from resolver.net.padding import PADDING_BLOCK
from resolver.net.service import Service
from resolver.net.stream_listener import StreamListener
from resolver.policy import AccessTable
from resolver.settings import ServerSettings

__all__ = ["BUSY", "CLOSED", "OTHER", "TIMEOUT", "TlsListener", "for_name"]

TIMEOUT = "timeout"
CLOSED = "closed by the client"
OTHER = "other"
BUSY = "too many handshakes"


def for_name(contexts: Mapping[str, Any], name: str) -> Any:
    """The one of `contexts` that is for `name`, in lower case, or for all names one label longer than another (key
    "*.NAME"); None when there is none (RFC 6125 section 6.4.3)."""
    return contexts.get(name) or contexts.get("*." + name.partition(".")[2])


class TlsListener(StreamListener):
    """The listener of one socket for DNS over TLS, and all its connections."""

    query_transport = "tls"
    padding_block = PADDING_BLOCK

    def __init__(
        self,
        service: Service,
        fast: FastPath,
        access: AccessTable,
        settings: ServerSettings,
        context: Any,
        **options: Any,
    ) -> None:
        """`context` is the `ssl.SSLContext` of new connections; `options` are those of `StreamListener`."""
        super().__init__(service, fast, access, settings, **options)
        self.tls_context = context
        self.handshakes = 0
        self.resumed = 0
        self.handshake_failures: dict[str, int] = {}

    def reconfigure(self, context: Any, path: str) -> None:
        """Use `context` for new connections; only HTTPS uses `path`."""
        self.tls_context = context

    def note_handshake(self, transport: asyncio.Transport) -> None:
        """A TLS handshake was completed."""
        self.handshakes += 1
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.session_reused:
            self.resumed += 1

    def note_handshake_failure(self, error: OSError) -> None:
        """A TLS handshake has failed, or was not completed in time (TimeoutError)."""
        self.count_handshake_failure(_reason(error))

    def note_handshake_dropped(self) -> None:
        """A connection is closed because too many wait for their handshake."""
        self.count_handshake_failure(BUSY)

    def count_handshake_failure(self, reason: str) -> None:
        """A handshake has failed for `reason`."""
        failures = self.handshake_failures
        if reason not in failures and len(failures) >= limits.TLS_FAILURE_REASONS:
            reason = OTHER
        failures[reason] = failures.get(reason, 0) + 1

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, by name; ``handshake_failures`` maps reasons to counts."""
        return {
            **super().statistics(),
            "handshakes": self.handshakes,
            "resumed": self.resumed,
            "handshake_failures": dict(self.handshake_failures),
        }


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return TIMEOUT
    if isinstance(error, ConnectionError):
        return CLOSED
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else OTHER
