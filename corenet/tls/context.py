"""TLS contexts with safe defaults, and readable reasons of failed handshakes.

Strict certificate checks are on for every Python version (the standard library has them from 3.13), and the common name
is never compared with the host name. Client contexts made here resume sessions when the TLS engine supports it
(`corenet.tls.engines`). Users' own contexts behave as with the standard library.
"""

import _ssl
import base64
import datetime
import hashlib
import math
import ssl
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any, Literal, cast

from corenet.tls.dane import DanePolicy
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
    "expect_context",
    "http1_only",
    "http2_client_context",
    "received_close_notify",
    "server_context",
    "with_dane",
]

ALPN_HTTP1: tuple[str, ...] = ("http/1.1",)
ALPN_HTTP2: tuple[str, ...] = ("h2", "http/1.1")
STAPLES = ("no", "requested", "required")


class ClientContext(ssl.SSLContext):
    """A client context whose connections resume sessions and check pins and staples; made by `client_context`.

    A method that changes certificates, authorities, ciphers or ALPN protocols empties the session cache. Attributes
    that affect trust are part of each session's cache key (`trust`).
    """

    sessions: SessionCache | None
    pins: frozenset[bytes]
    staples: str
    protocols: tuple[str, ...]
    """What is offered by ALPN."""
    dane: DanePolicy | None
    """The TLSA records by which servers are verified."""
    changes: int
    """How often certificates, authorities, ciphers or ALPN protocols were changed."""
    remake: "tuple[Callable[[], ssl.SSLContext], Hashable] | None"
    """The function that makes the same context for HTTP/1.1 only, and the state of this one when it was made."""

    def state(self) -> Hashable:
        """What two contexts have in common when they trust the same servers."""
        return (self.changes, self.trust()[1:])

    def check_server(self, ssl_object: ssl.SSLObject | ssl.SSLSocket, staple: bytes | None, native: bool) -> float:
        """Check TLSA records, pins and staple after OpenSSL has accepted the server; return the expiry of that check.

        The expiry is in seconds since the epoch, `math.inf` when there is none. A resumed session was checked in its
        full handshake. `native` is True when the engine can read staples.

        Raises:
            CertificateRefused: no TLSA record or pin matches, or the staple is wrong or missing.
        """
        if ssl_object.session_reused or not (self.pins or self.staples != "no" or self.dane is not None):
            return math.inf
        if self.dane is not None:
            self.dane.verify_chain(self._sent_chain(ssl_object), (ssl_object.server_hostname or "").lower())
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
        # Loads a library of several MiB, which is needed only for staples.
        from corenet.tls.staples import has_must_staple, verify_staple

        if not native:
            if self.staples == "required":
                raise CertificateRefused("an OCSP staple is required, and the TLS engine in use cannot read staples")
            if has_must_staple(chain[0]):
                raise CertificateRefused(
                    "the certificate demands an OCSP staple (must-staple); the TLS engine in use cannot read staples"
                )
            return math.inf
        now = datetime.datetime.now(datetime.UTC)
        return verify_staple(staple, chain, now, required=self.staples == "required")

    def _chain(self, ssl_object: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
        """The verified chain in DER, the server's certificate first; without verification only that certificate."""
        if self.verify_mode is ssl.CERT_REQUIRED:
            return [one.public_bytes(_ssl.ENCODING_DER) for one in ssl_object._sslobj.get_verified_chain()]  # type: ignore[union-attr]
        alone = ssl_object.getpeercert(True)
        return [alone] if alone else []

    def _sent_chain(self, ssl_object: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
        """The chain for TLSA records: the verified one, without verification the one that the server has sent."""
        if self.verify_mode is ssl.CERT_REQUIRED:
            return self._chain(ssl_object)
        sent = ssl_object._sslobj.get_unverified_chain()  # type: ignore[union-attr]
        return [one.public_bytes(_ssl.ENCODING_DER) for one in sent or ()]

    def resumption(self, server_hostname: str | None, peer: Any, trust: Hashable) -> Resumption | None:
        """Return the `Resumption` of a connection to `server_hostname` at the address `peer`, None if it cannot resume.

        `trust` is the result of `trust()` when the connection was made. A connection without a host name does not
        resume, because its sessions have no key.
        """
        if self.sessions is None or not server_hostname:
            return None
        port = peer[1] if isinstance(peer, tuple) else peer
        return Resumption(self.sessions, (server_hostname.lower(), port, trust))

    def trust(self) -> tuple[Hashable, ...]:
        """Return the current settings that affect trust and negotiation, as part of a session's cache key."""
        # Read as plain numbers through the C attributes: making enumeration members costs more.
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
        self.changes += 1
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
        self.protocols = tuple(args[0] if args else kwargs["alpn_protocols"])
        self._forget_sessions()

    def set_ciphers(self, *args: Any, **kwargs: Any) -> None:
        """As `ssl.SSLContext.set_ciphers`."""
        super().set_ciphers(*args, **kwargs)
        self._forget_sessions()


class CheckedObject(ssl.SSLObject):
    """Checks pins and refuses required staples on other event loops; on ours the TLS engine does both."""

    def do_handshake(self) -> None:
        """As `ssl.SSLObject.do_handshake`; raises `CertificateRefused` as well."""
        super().do_handshake()
        cast(ClientContext, self.context).check_server(self, None, False)


class CheckedSocket(ssl.SSLSocket):
    """Checks pins and refuses required staples on blocking sockets."""

    def do_handshake(self, block: bool = False) -> None:
        """As `ssl.SSLSocket.do_handshake`; raises `CertificateRefused` as well."""
        super().do_handshake(block)
        cast(ClientContext, self.context).check_server(self, None, False)


# `ssl.SSLContext`, and the C class below it, whose attributes `trust` reads.
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
    staples: Literal["no", "requested", "required"] = "no",
) -> ssl.SSLContext:
    """Make a client context: TLS 1.2 or later, certificate and name verified.

    `cafile` or `cadata` replace the system's trust store. `strict=False` accepts private CAs whose certificates lack
    the extensions of RFC 5280; `verify=False` accepts every certificate and is for experiments. `certificate` and `key`
    identify the client. Connections of this context resume each other's sessions, so the server can link them;
    `resume=False` makes every handshake a full one.

    `pins` are SHA-256 hashes of public keys (SubjectPublicKeyInfo) in base64, as for curl's ``--pinnedpubkey``, with or
    without ``sha256//``. One of them must match a key in the verified chain, with `verify=False` the key of the
    server's own certificate. `staples` requests an OCSP staple: ``"requested"`` refuses a wrong one, and a missing one
    if the certificate has must-staple; ``"required"`` refuses every missing one.

    Without `cafile` and `cadata` this reads the trust store, about 31 ms.

    Raises:
        OSError: when a file cannot be read.
        ssl.SSLError: when the file holds no certificate.
        ValueError: when a pin is malformed, or `staples` is not one of the three values.
        TypeError: when the program has replaced `ssl.SSLContext` and there are pins or staples to check.
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
        made.protocols = tuple(alpn)
        made.dane = None
        made.changes = 0
        made.remake = None
        if digests or staples != "no":
            made.sslobject_class = CheckedObject
            made.sslsocket_class = CheckedSocket
    elif digests or staples != "no":
        raise TypeError(f"a context of the class {type(context).__name__} can check neither pins nor staples")
    if isinstance(context, ClientContext):
        again = partial(
            client_context, cafile=cafile, cadata=cadata, verify=verify, strict=strict, certificate=certificate,
            key=key, resume=resume, pins=pins, staples=staples,
        )  # fmt: skip
        context.remake = (again, context.state())
    # If the program has replaced `ssl.SSLContext`, its class is kept and does not resume sessions.
    return context


def http1_only(context: ssl.SSLContext) -> "Callable[[], ssl.SSLContext] | None":
    """Return a function that makes `context` again, but offers HTTP/1.1 only; it raises what `client_context` raises.

    None when `client_context` did not make it, or when it was changed since: the new one would trust other servers.
    """
    if not isinstance(context, ClientContext) or context.remake is None:
        return None
    again, state = context.remake
    return again if context.state() == state else None


def with_dane(context: ssl.SSLContext, policy: DanePolicy) -> "Callable[[], ssl.SSLContext] | None":
    """Return a function that makes `context` again for servers that are verified by `policy`; it raises what
    `client_context` raises. Sessions of other contexts are not resumed with it.

    None when `client_context` did not make `context`, or when it was changed since.
    """
    if not isinstance(context, ClientContext) or context.remake is None:
        return None
    again, state = context.remake
    if context.state() != state:
        return None
    protocols = context.protocols

    def make() -> ssl.SSLContext:
        if policy.replaces_pkix:
            made = cast(Any, again)(alpn=protocols, cafile=None, cadata=None, verify=False)
        else:
            made = cast(Any, again)(alpn=protocols)
        made.dane = policy
        made.sslobject_class = CheckedObject
        made.sslsocket_class = CheckedSocket
        return cast(ssl.SSLContext, made)

    return make


def _pin(text: str) -> bytes:
    """Decode a pin to its digest.

    Raises:
        ValueError: the pin is malformed.
    """
    try:
        digest = base64.b64decode(text.removeprefix("sha256//"), validate=True)
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"{text!r} is not a pin: a pin is the SHA-256 of a public key in base64, 44 characters")
    return digest


def server_context(
    certificate: str | PathLike[str],
    key: str | PathLike[str] | None = None,
    *,
    alpn: Sequence[str] = ALPN_HTTP1,
) -> ssl.SSLContext:
    """Make a server context from PEM files: TLS 1.2 or later, no client certificate is requested.

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
    """Make a client context that offers HTTP/2 before HTTP/1.1, with the other defaults of `client_context`."""
    return client_context(alpn=ALPN_HTTP2)


# --- reasons of failures ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandshakeFailure:
    """Why a handshake failed: a sentence, and whether the server's certificate was the reason."""

    reason: str
    certificate: bool


# Common certificate errors (OpenSSL's X509_V_ERR numbers), in words that suggest what to do.
_CERTIFICATE_WORDS = {
    9: "the certificate is not valid yet; is the clock right?",
    10: "the certificate has expired",
    18: "the certificate is self-signed and not trusted here",
    19: "the certificate chain ends in an authority that is not trusted here",
    20: "the certificate's issuer is not known here; the server may not send its intermediate certificates",
    21: "the certificate chain cannot be checked: the issuer is not known here",
    23: "the certificate has been revoked",
    26: "the certificate is not meant for a server",
    62: "the certificate is not for this host name",
    64: "the certificate is not for this address",
}


def describe_handshake_error(error: BaseException) -> HandshakeFailure | None:
    """Return why the handshake failed as a sentence, or None when `error` is not a TLS error."""
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
    """Return whether the peer sent close_notify before its data ended.

    RFC 9112 section 9.8: only then is a body that ends with the connection complete; otherwise an attacker in the path
    may have truncated it. `ssl_object` is a transport's ``get_extra_info("ssl_object")`` at the time of `eof_received`.
    """
    if not isinstance(ssl_object, ssl.SSLObject | ssl.SSLSocket):
        return False
    try:
        return ssl_object.read(1) == b""
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


def expect_context(value: object, where: str) -> None:
    """Check the type of an argument; `where` names it.

    Raises:
        TypeError: it is no `ssl.SSLContext`.
    """
    if not isinstance(value, ssl.SSLContext):
        raise TypeError(f"{where} is an ssl.SSLContext or None, not {type(value).__name__}")
