"""TLS contexts with safe defaults, and what a failed handshake means in words.

This room is the only one that imports `ssl`. Strict certificate checks are on for every Python version (the standard
library has them from 3.13) and names are never looked for in the common name. Session resumption is left out: the
standard library copies a session by encoding and decoding it, which costs more CPU than the shorter handshake saves.
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

__all__ = [
    "ALPN_HTTP1",
    "ALPN_HTTP2",
    "HandshakeFailure",
    "client_context",
    "describe_handshake_error",
    "http2_client_context",
    "received_close_notify",
    "server_context",
]

ALPN_HTTP1: tuple[str, ...] = ("http/1.1",)
ALPN_HTTP2: tuple[str, ...] = ("h2", "http/1.1")

def client_context(
    *,
    cafile: str | PathLike[str] | None = None,
    cadata: str | bytes | None = None,
    verify: bool = True,
    strict: bool = True,
    alpn: Sequence[str] = ALPN_HTTP1,
    certificate: str | PathLike[str] | None = None,
    key: str | PathLike[str] | None = None,
) -> ssl.SSLContext:
    """Make a client context: TLS 1.2 or later, certificate and name verified.

    `cafile` or `cadata` replace the system's trust store. `strict=False` accepts private CAs whose certificates lack
    the extensions of RFC 5280; `verify=False` accepts anything and is for experiments. `certificate` and `key` identify
    the client. Without `cafile` and `cadata` this reads the trust store, about 31 ms.

    Raises:
        OSError: when a file cannot be read.
        ssl.SSLError: when it holds no certificate.
    """
    if verify:
        context = ssl.create_default_context(cafile=cafile, cadata=cadata)
        context.hostname_checks_common_name = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if strict:
            context.verify_flags |= ssl.VERIFY_X509_STRICT
        else:
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def server_context(
    certificate: str | PathLike[str],
    key: str | PathLike[str] | None = None,
    *,
    alpn: Sequence[str] = ALPN_HTTP1,
) -> ssl.SSLContext:
    """Make a server context from PEM files: TLS 1.2 or later, the client is not asked for a certificate.

    Raises:
        OSError: when a file cannot be read.
        ssl.SSLError: when certificate and key do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.load_cert_chain(certificate, key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def http2_client_context() -> ssl.SSLContext:
    """Make a client context that offers HTTP/2 before HTTP/1.1, with everything else as `client_context` has it."""
    return client_context(alpn=ALPN_HTTP2)


# --- what went wrong --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandshakeFailure:
    """Why a handshake failed: a sentence, and whether the server's certificate was the reason."""

    reason: str
    certificate: bool


# The certificate errors people meet (OpenSSL's X509_V_ERR numbers), said so that one knows what to do.
_CERTIFICATE_WORDS = {
    9: "the certificate is not valid yet; is the clock right?",
    10: "the certificate has expired",
    18: "the certificate is signed by itself and not by an authority that is trusted here",
    19: "the certificate chain ends in an authority that is not trusted here",
    20: "the certificate's issuer is not known here; the server may not send its intermediate certificates",
    21: "the certificate chain cannot be checked: the issuer is not known here",
    23: "the certificate has been revoked",
    26: "the certificate is not meant for a server",
    62: "the certificate is not for this host name",
    64: "the certificate is not for this address",
}


def describe_handshake_error(error: BaseException) -> HandshakeFailure | None:
    """Say in words why the handshake failed, or return None when `error` has nothing to do with TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        words = _CERTIFICATE_WORDS.get(error.verify_code)
        detail = error.verify_message.strip().rstrip(".")
        return HandshakeFailure(f"{words} ({detail})" if words else f"certificate refused: {detail}", True)
    if isinstance(error, ssl.CertificateError):
        return HandshakeFailure(f"certificate refused: {error}", True)
    if isinstance(error, ssl.SSLError):
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return HandshakeFailure("the server ended the connection during the handshake", False)
        reason = error.reason.replace("_", " ").lower() if error.reason else str(error)
        if reason in ("wrong version number", "record layer failure", "packet length too long"):
            return HandshakeFailure(f"the server does not speak TLS on this port ({reason})", False)
        return HandshakeFailure(reason, False)
    return None


def received_close_notify(ssl_object: object) -> bool:
    """Tell whether the peer said goodbye (close_notify) before its bytes ended.

    RFC 9112 section 9.8: a body that ends with the connection is complete only then; otherwise somebody on the way may
    have cut it. `ssl_object` is a transport's ``get_extra_info("ssl_object")`` at the time of `eof_received`.
    """
    if not isinstance(ssl_object, ssl.SSLObject | ssl.SSLSocket):
        return False
    try:
        return ssl_object.read(1) == b""
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False
