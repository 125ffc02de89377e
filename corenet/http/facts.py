"""What is known about the connection that carried a response. For logs and tests; no decision depends on it."""

from dataclasses import dataclass
from typing import Any

__all__ = ["ConnectionFacts", "facts_of"]


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """The peer's address and port, and of TLS the version, cipher and whether the session was resumed.

    Through a Unix socket the address is empty and the port 0.

    `tls_version` and `cipher` are empty without TLS. `reused`: another request was sent on the connection before.
    """

    peer: tuple[str, int]
    tls_version: str
    cipher: str
    resumed: bool
    reused: bool = False


def facts_of(transport: Any) -> ConnectionFacts:
    """Describe a connected transport."""
    address = transport.get_extra_info("peername")
    if not isinstance(address, tuple):
        # The name of a Unix socket is text or bytes, without a port.
        address = ("", 0)
    secure = transport.get_extra_info("ssl_object")
    if secure is None:
        return ConnectionFacts((address[0], address[1]), "", "", False)
    cipher = secure.cipher()
    return ConnectionFacts(
        (address[0], address[1]), secure.version() or "", cipher[0] if cipher else "", bool(secure.session_reused)
    )
