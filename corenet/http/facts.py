"""Data about the connection that carried a response. For logs and tests; no decision depends on it."""

from dataclasses import dataclass
from typing import Any

__all__ = ["ConnectionFacts", "facts_of"]


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """The peer's address and port, and of TLS the version, cipher and whether the session was resumed.

    Through a Unix socket the address is empty and the port 0.

    `tls_version` and `cipher` are empty without TLS. `reused`: another request was sent on the connection before.
    `endpoint` is the host and port of an HTTPS record (RFC 9460), empty when the connection leads to the origin itself.
    `tlsa` is the name of the TLSA records that have accepted the server (DANE), empty without.
    """

    peer: tuple[str, int]
    tls_version: str
    cipher: str
    resumed: bool
    reused: bool = False
    endpoint: str = ""
    tlsa: str = ""


def facts_of(transport: Any, endpoint: str = "", tlsa: str = "") -> ConnectionFacts:
    """Describe a connected transport; `endpoint` and `tlsa` are those of `ConnectionFacts`."""
    address = transport.get_extra_info("peername")
    if not isinstance(address, tuple):
        # The name of a Unix socket is text or bytes, without a port.
        address = ("", 0)
    secure = transport.get_extra_info("ssl_object")
    if secure is None:
        return ConnectionFacts((address[0], address[1]), "", "", False)
    cipher = secure.cipher()
    return ConnectionFacts(
        (address[0], address[1]), secure.version() or "", cipher[0] if cipher else "", bool(secure.session_reused),
        endpoint=endpoint, tlsa=tlsa,
    )  # fmt: skip
