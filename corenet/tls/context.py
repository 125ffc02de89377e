"""TLS contexts with safe defaults, and what a failed handshake means in words.

This room is the only one that imports `ssl`. Strict certificate checks are on for every Python version (the standard
library has them from 3.13) and names are never looked for in the common name. The contexts of clients made here resume
sessions, where `corenet.tls.engines` has an engine that can; users' own contexts behave as with the standard library.
"""

import _ssl
import base64
import datetime
import hashlib
import math
import ssl
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, cast

from corenet.tls.der import subject_public_key_info
from corenet.tls.refusal import CertificateRefused
from corenet.tls.sessions import Resumption, SessionCache

__all__ = [
    "ALPN_HTTP1",
    "ALPN_HTTP2",
    "ClientContext",
    "HandshakeFailure",
    "client_context",
    "describe_handshake_error",
    "http2_client_context",
    "received_close_notify",
    "server_context",
]

ALPN_HTTP1: tuple[str, ...] = ("http/1.1",)
ALPN_HTTP2: tuple[str, ...] = ("h2", "http/1.1")
STAPLES = ("no", "asked", "required")


class ClientContext(ssl.SSLContext):
    """A client's context whose connections resume sessions and judge pins and staples; made by `client_context`.

    What is set by a method empties the cache of sessions; what is set by an attribute is part of each session's key.
    """

    sessions: SessionCache | None
    pins: frozenset[bytes]
    staples: str

    def judge(self, ssl_object: ssl.SSLObject | ssl.SSLSocket, staple: bytes | None, native: bool) -> float:
        """Look at what OpenSSL has accepted; return until when that is good, in seconds since the epoch.

        A resumed session was judged in its full handshake. `native` tells that a staple would have been seen.

        Raises:
            CertificateRefused: no pin fits, or the staple is wrong or missing.
        """
        if ssl_object.session_reused or not (self.pins or self.staples != "no"):
            return math.inf
        chain = self._chain(ssl_object)
        if not chain:
            raise CertificateRefused("the server sent no certificate")
        try:
            keys = {hashlib.sha256(subject_public_key_info(one)).digest() for one in chain} if self.pins else set()
        except ValueError as error:
            raise CertificateRefused(f"the server's certificate chain cannot be read: {error}") from None
        if self.pins and self.pins.isdisjoint(keys):
            raise CertificateRefused("none of the pinned public keys is in the server's certificate chain")
        if self.staples == "no":
            return math.inf
        # Loads a library of several MiB, which nobody needs who asks for no staples.
        from corenet.tls.staples import demands_staple, judge_staple

        if not native:
            if self.staples == "required":
                raise CertificateRefused("an OCSP staple is required, and the TLS engine in use cannot see any")
            if demands_staple(chain[0]):
                raise CertificateRefused(
                    "the certificate demands an OCSP staple (must-staple), and the TLS engine in use cannot see any"
                )
            return math.inf
        now = datetime.datetime.now(datetime.UTC)
        return judge_staple(staple, chain, now, required=self.staples == "required")

    def _chain(self, ssl_object: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
        """The certificates that were verified, in DER, the server's first; its alone when nothing was verified."""
        if self.verify_mode is ssl.CERT_REQUIRED:
            return [one.public_bytes(_ssl.ENCODING_DER) for one in ssl_object._sslobj.get_verified_chain()]  # type: ignore[union-attr]
        alone = ssl_object.getpeercert(True)
        return [alone] if alone else []

    def resumption(self, server_hostname: str | None, peer: Any, trust: Hashable) -> Resumption | None:
        """Return what a connection to `server_hostname` at the address `peer` has to do with resumption; None: nothing.

        `trust` is what `trust()` said when the connection was made. Without a name nobody can say whose session it is.
        """
        if self.sessions is None or not server_hostname:
            return None
        port = peer[1] if isinstance(peer, tuple) else peer
        return Resumption(self.sessions, (server_hostname.lower(), port, trust))

    def trust(self) -> Hashable:
        """Return what decides now which servers are accepted and what is agreed upon, as a part of a session's key."""
        # Numbers, since enumerations cost more.
        return (
            None if self.sessions is None else self.sessions.generation,
            _raw.verify_mode.__get__(self),
            _raw.verify_flags.__get__(self),
            _raw.check_hostname.__get__(self),
            _raw.options.__get__(self),
            _raw.minimum_version.__get__(self),
            _raw.maximum_version.__get__(self),
            _raw._host_flags.__get__(self),
            self.pins,
            self.staples,
        )

    def _forget_sessions(self) -> None:
        if self.sessions is not None:
            self.sessions.clear()

    def load_cert_chain(self, *args: Any, **kwargs: Any) -> None:
        """As `ssl.SSLContext.load_cert_chain`."""
        super().load_cert_chain(*args, **kwargs)
        self._forget_sessions()

    def load_verify_locations(self, *args: Any, **kwargs: Any) -> None:
        """As `ssl.SSLContext.load_verify_locations`."""
        super().load_verify_locations(*args, **kwargs)
        self._forget_sessions()

    def set_default_verify_paths(self, *args: Any, **kwargs: Any) -> None:
        """As `ssl.SSLContext.set_default_verify_paths`."""
        super().set_default_verify_paths(*args, **kwargs)
        self._forget_sessions()

    def set_alpn_protocols(self, *args: Any, **kwargs: Any) -> None:
        """As `ssl.SSLContext.set_alpn_protocols`."""
        super().set_alpn_protocols(*args, **kwargs)
        self._forget_sessions()

    def set_ciphers(self, *args: Any, **kwargs: Any) -> None:
        """As `ssl.SSLContext.set_ciphers`."""
        super().set_ciphers(*args, **kwargs)
        self._forget_sessions()


class JudgedObject(ssl.SSLObject):
    """A connection whose server is judged by its context also under another loop than ours, whose engines do it."""

    def do_handshake(self) -> None:
        """As `ssl.SSLObject.do_handshake`; raises `CertificateRefused` as well."""
        super().do_handshake()
        cast(ClientContext, self.context).judge(self, None, False)


class JudgedSocket(ssl.SSLSocket):
    """The same for connections on blocking sockets."""

    def do_handshake(self, block: bool = False) -> None:
        """As `ssl.SSLSocket.do_handshake`; raises `CertificateRefused` as well."""
        super().do_handshake(block)
        cast(ClientContext, self.context).judge(self, None, False)


# The class of plain contexts, and the attributes below those of `ssl`.
_plain: type[ssl.SSLContext] = ClientContext.__mro__[1]
_raw: Any = ClientContext.__mro__[2]

def client_context(
    *,
    cafile: str | PathLike[str] | None = None,
    cadata: str | bytes | None = None,
    verify: bool = True,
    strict: bool = True,
    alpn: Sequence[str] = ALPN_HTTP1,
    certificate: str | PathLike[str] | None = None,
    key: str | PathLike[str] | None = None,
    resume: bool = True,
    pins: Sequence[str] = (),
    staples: Literal["no", "asked", "required"] = "no",
) -> ssl.SSLContext:
    """Make a client context: TLS 1.2 or later, certificate and name verified.

    `cafile` or `cadata` replace the system's trust store. `strict=False` accepts private CAs whose certificates lack
    the extensions of RFC 5280; `verify=False` accepts anything and is for experiments. `certificate` and `key` identify
    the client. Connections of this context resume each other's sessions, which the server can tell; `resume=False`
    makes each handshake a full one.

    `pins` are SHA-256 hashes of public keys (SubjectPublicKeyInfo) in base64, as of curl's ``--pinnedpubkey``, with
    or without its ``sha256//``: one of them must be in the verified chain, with `verify=False` in the server's own
    certificate. `staples` asks the server for an OCSP staple; ``"asked"`` refuses a wrong one, and a missing one when
    the certificate demands it; ``"required"`` refuses each missing one.

    Without `cafile` and `cadata` this reads the trust store, about 31 ms.

    Raises:
        OSError: when a file cannot be read.
        ssl.SSLError: when it holds no certificate.
        ValueError: when a pin is none, or `staples` is no such word.
    """
    if staples not in STAPLES:
        raise ValueError(f"staples is one of {', '.join(STAPLES)}, not {staples!r}")
    digests = frozenset(_pin(pin) for pin in pins)
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
    context.options |= ssl.OP_NO_RENEGOTIATION
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    if type(context) is _plain:
        context.__class__ = ClientContext
        made = cast(ClientContext, context)
        made.sessions = SessionCache() if resume else None
        made.pins = digests
        made.staples = staples
        if digests or staples != "no":
            made.sslobject_class = JudgedObject
            made.sslsocket_class = JudgedSocket
    elif digests or staples != "no":
        raise TypeError(f"a context of the class {type(context).__name__} can check neither pins nor staples")
    # Without them a class that somebody has put in the place of the standard library's is left as it is.
    return context


def _pin(text: str) -> bytes:
    """The digest that a pin names.

    Raises:
        ValueError: it names none.
    """
    try:
        digest = base64.b64decode(text.removeprefix("sha256//"), validate=True)
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"{text!r} is no pin: the SHA-256 of a public key in base64 has 44 characters")
    return digest


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
    if isinstance(error, CertificateRefused):
        return HandshakeFailure(error.verify_message, True)
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
