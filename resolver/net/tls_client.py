"""TLS as a client: checks of the server, descriptions of connections for traces, and sentences for errors."""

import asyncio
from typing import TYPE_CHECKING, Any

from corenet import tls
from corenet.tls.ssl_transport_type import SSLTransport
from resolver.effects import Server

if TYPE_CHECKING:
    import ssl

__all__ = ["ConnectionFacts", "check_pins", "describe_tls_failure", "server_hostname"]


def server_hostname(server: Server) -> str:
    """The name for SNI, for the check of the certificate, and for the key of sessions."""
    assert server.encryption is not None
    return server.encryption.name or server.address


def check_pins(transport: asyncio.BaseTransport, context: "ssl.SSLContext") -> None:
    """Check the pins of `context`, unless the transport is corenet's, which has checked them in the handshake.

    Raises:
        ssl.SSLError: no pin matches.
    """
    if not isinstance(transport, SSLTransport):
        # It is a context of `corenet.tls`, whose methods the annotation does not have. Without a staple, because the
        # ssl module cannot read one.
        cast_context: Any = context
        cast_context.check_server(transport.get_extra_info("ssl_object"), None, False)


def describe_tls_failure(error: BaseException) -> str | None:
    """Why the handshake failed, as a sentence; None when `error` has nothing to do with TLS."""
    failure = tls.describe_handshake_error(error)
    return None if failure is None else failure.reason


class ConnectionFacts:
    """One encrypted connection for traces. It is described at the first call of `describe`, because few queries are
    traced.

    `connect_seconds` is the duration of connecting and the handshake, `http` the HTTP version, empty for DNS over TLS.
    """

    __slots__ = ("_described", "connect_seconds", "http", "ssl_object")

    def __init__(self, ssl_object: object, connect_seconds: float, http: str = "") -> None:
        self.ssl_object = ssl_object
        self.connect_seconds = connect_seconds
        self.http = http
        self._described: dict[str, object] | None = None

    def describe(self) -> dict[str, object]:
        """Version, cipher, ALPN, resumption, certificate and duration, by name."""
        if self._described is None:
            found = tls.describe_connection(self.ssl_object)
            self._described = {} if found is None else found._asdict()
            self._described["connect_seconds"] = self.connect_seconds
            self._described["http"] = self.http
        return self._described
