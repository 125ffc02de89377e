"""TLS as a client: the name of the server, descriptions of connections for traces, and sentences for errors.

Pins are checked in the handshake by the contexts of `corenet.tls`, on every event loop.
"""

from corenet import tls
from resolver.effects import Server

__all__ = ["ConnectionFacts", "describe_tls_failure", "server_hostname"]


def server_hostname(server: Server) -> str:
    """The name for SNI, for the check of the certificate, and for the key of sessions."""
    assert server.encryption is not None
    return server.encryption.name or server.address


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
