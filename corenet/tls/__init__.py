"""The door of the TLS room: safe contexts for clients and servers, and words for failed handshakes.

Transports live in `corenet.tls.transport` and are made by the loop; nobody imports them from here.
"""

from corenet.tls.certificate import CertificateInfo, certificate_info
from corenet.tls.context import (
    ALPN_HTTP1,
    HandshakeFailure,
    client_context,
    describe_handshake_error,
    received_close_notify,
    server_context,
)
from corenet.tls.default import default_client_context

__all__ = [
    "ALPN_HTTP1",
    "CertificateInfo",
    "HandshakeFailure",
    "certificate_info",
    "client_context",
    "default_client_context",
    "describe_handshake_error",
    "received_close_notify",
    "server_context",
]
