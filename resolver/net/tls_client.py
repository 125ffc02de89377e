"""TLS for upstream queries: contexts, descriptions of connections for traces, and texts for errors.

A context is made when the first connection needs it, in a thread, because reading the system's trust store takes 31 ms.
Servers with the same checks share a context and its sessions. The key of a session has the name and the port, so it is
never used for another server (`corenet.tls.sessions`).
"""

import asyncio
from typing import TYPE_CHECKING, Any

from corenet import tls
from corenet.tls.ssl_transport_type import SSLTransport
from resolver.effects import Server
from resolver.upstream_address import HTTPS, Encryption

if TYPE_CHECKING:
    import ssl

__all__ = ["ConnectionFacts", "TlsContexts", "check_pins", "sentence", "server_hostname"]

ALPN = {"tls": ("dot",), HTTPS: ("h2", "http/1.1")}


class TlsContexts:
    """The TLS contexts of the upstream servers. `cafile` is a PEM file of authorities; empty: those of the system."""

    def __init__(self, cafile: str = "") -> None:
        self._cafile = cafile
        self._made: dict[tuple[bool, tuple[str, ...], str], asyncio.Future[ssl.SSLContext]] = {}

    async def get(self, encryption: Encryption) -> "ssl.SSLContext":
        """The context for a server.

        Raises:
            OSError: the file of authorities cannot be read, or has no certificate.
        """
        key = (bool(encryption.name), encryption.pins, encryption.protocol)
        made = self._made.get(key)
        if made is None or (made.done() and (made.cancelled() or made.exception() is not None)):
            made = asyncio.get_running_loop().run_in_executor(None, self.make, encryption)
            self._made[key] = made
        return await asyncio.shield(made)

    def make(self, encryption: Encryption) -> "ssl.SSLContext":
        """Make a context. With a name, the chain and the name are verified; without, only the pins are.

        Raises:
            OSError: as for `get`.
        """
        return tls.client_context(
            cafile=self._cafile or None,
            verify=bool(encryption.name),
            # Authorities of `cafile` are private; the strict profile is for public ones.
            strict=not self._cafile,
            alpn=ALPN[encryption.protocol],
            pins=encryption.pins,
        )


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
        cast_context: Any = context
        cast_context.judge(transport.get_extra_info("ssl_object"), None, False)


def sentence(error: BaseException) -> str | None:
    """Why TLS failed, as a sentence; None when `error` has nothing to do with TLS."""
    failure = tls.describe_handshake_error(error)
    return None if failure is None else failure.reason


class ConnectionFacts:
    """One encrypted connection for traces. It is described only when a trace needs it.

    `seconds` is the duration of connecting and the handshake, `http` the HTTP version, empty for DNS over TLS.
    """

    __slots__ = ("_described", "http", "seconds", "ssl_object")

    def __init__(self, ssl_object: object, seconds: float, http: str = "") -> None:
        self.ssl_object = ssl_object
        self.seconds = seconds
        self.http = http
        self._described: dict[str, object] | None = None

    def describe(self) -> dict[str, object]:
        """Version, cipher, ALPN, resumption, certificate and duration, by name."""
        if self._described is None:
            found = tls.describe_connection(self.ssl_object)
            self._described = {} if found is None else found._asdict()
            self._described["connect_seconds"] = self.seconds
            self._described["http"] = self.http
        return self._described
