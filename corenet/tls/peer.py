"""Readable details of a TLS connection: version, cipher, resumption, certificate.

`describe_connection` reads them from a connected transport. Traces and command line
tools show them; no decision depends on them.
"""

import base64
import hashlib
import ssl
from typing import Any, NamedTuple

from corenet.tls.der import subject_public_key_info

__all__ = ["TlsConnection", "describe_connection"]


class TlsConnection(NamedTuple):
    """A TLS connection. Certificate fields are empty when no certificate was verified, except `pin`."""

    version: str
    cipher: str
    alpn: str
    """The protocol negotiated by ALPN; empty for none."""
    resumed: bool
    subject: str
    """Common name of the certificate."""
    names: tuple[str, ...]
    """Names and addresses that the certificate is valid for."""
    issuer: str
    not_after: str
    """When the certificate expires, in the form of OpenSSL ("Jun  1 12:00:00 2027 GMT")."""
    pin: str
    """SHA-256 hash of the certificate's public key in base64, the form of a pin; empty without a certificate."""


def describe_connection(ssl_object: Any) -> TlsConnection | None:
    """Describe the connection of ``transport.get_extra_info("ssl_object")``; None when there is no TLS."""
    if not isinstance(ssl_object, ssl.SSLObject | ssl.SSLSocket):
        return None
    certificate: dict[str, Any] = ssl_object.getpeercert() or {}
    encoded = ssl_object.getpeercert(True)
    cipher = ssl_object.cipher()
    return TlsConnection(
        ssl_object.version() or "",
        cipher[0] if cipher else "",
        ssl_object.selected_alpn_protocol() or "",
        bool(ssl_object.session_reused),
        _common_name(certificate.get("subject", ())),
        tuple(value for _, value in certificate.get("subjectAltName", ())),
        _common_name(certificate.get("issuer", ())),
        certificate.get("notAfter", ""),
        _pin(encoded) if encoded else "",
    )


def _common_name(name: Any) -> str:
    """The common name of a distinguished name as `getpeercert` gives it, else its organisation."""
    fields = {key: value for part in name for key, value in part}
    return str(fields.get("commonName") or fields.get("organizationName") or "")


def _pin(certificate: bytes) -> str:
    return base64.b64encode(hashlib.sha256(subject_public_key_info(certificate)).digest()).decode("ascii")
