"""Public names of the TLS package: contexts with safe defaults, the engine choice, and reasons of failed handshakes.

The event loop creates the transports (`corenet.tls.transport`). They are not exported here.
"""

from corenet.tls.certificate import CertificateInfo, certificate_info
from corenet.tls.context import (
    ALPN_HTTP1,
    ALPN_HTTP2,
    HandshakeFailure,
    client_context,
    describe_handshake_error,
    http1_only,
    http2_client_context,
    received_close_notify,
    server_context,
)
from corenet.tls.default import default_client_context
from corenet.tls.engine import handshake_seconds
from corenet.tls.engines import TlsEngineChoice, tls_engine, use_engine
from corenet.tls.peer import TlsConnection, describe_connection
from corenet.tls.refusal import CertificateRefused, StapleExpired
from corenet.tls.staples import set_staple
from corenet.tls.tickets import set_ticket_keys

__all__ = [
    "ALPN_HTTP1",
    "ALPN_HTTP2",
    "CertificateInfo",
    "CertificateRefused",
    "HandshakeFailure",
    "StapleExpired",
    "TlsConnection",
    "TlsEngineChoice",
    "certificate_info",
    "client_context",
    "default_client_context",
    "describe_connection",
    "describe_handshake_error",
    "handshake_seconds",
    "http1_only",
    "http2_client_context",
    "received_close_notify",
    "server_context",
    "set_staple",
    "set_ticket_keys",
    "tls_engine",
    "use_engine",
]
