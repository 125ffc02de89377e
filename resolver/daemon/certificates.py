"""The certificates of the daemon: files, checks, TLS contexts, session tickets, and warnings before anything expires.

`load` reads all files before it returns, so after an error in a reload the old certificates stay in use. When no file
has changed, it returns the old contexts.

A staple that clients would refuse is an error of the configuration, except one that is only stale: fetching it is the
task of another program, whose failure must not keep the daemon from starting. Such a staple is not sent, and
`ExpiryWatch` warns of it. Without a staple, clients that follow RFC 7633 refuse a certificate with must-staple.

The keys of session tickets belong to the daemon, not to its files (`resolver.daemon.ticket_keys`): they are made at
start, before the workers are forked, and outlive reloads. So a client resumes its session at any worker, also after a
certificate was renewed. If Python's ssl does not permit setting them, each context has its own keys.

DNS over QUIC uses the library `qh3`, which is installed as an extra and imported only when a listener needs it. It has
configuration objects instead of contexts, and neither session tickets nor staples.
"""

import importlib.util
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from logging import ERROR, WARNING
from typing import Any, NamedTuple

from corenet.tls import (
    CertificateInfo,
    StapleExpired,
    certificate_info,
    server_context,
    set_staple,
    set_ticket_keys,
)
from resolver import limits
from resolver.cache.bounded import Held
from resolver.daemon.ticket_keys import TicketKeys
from resolver.net.tls_listener import for_name
from resolver.regular_file import open_regular
from resolver.settings import Settings, TlsSettings

__all__ = ["ALPN", "Certificates", "ExpiryWatch", "load"]

ALPN = {"tls": ("dot",), "https": ("h2", "http/1.1")}
"""Protocols offered by the listeners with TLS (RFC 7858 section 3.1 registers "dot")."""
QUIC = "quic"
QUIC_MISSING = "listener: protocol quic needs qh3, which is not installed; run: pip install 'corenet-resolver[quic]'"
DAY = 86_400
HOUR = 3600
_SECRET = 64


class Pair(NamedTuple):
    """One certificate, its key, and its OCSP staple; `identity` changes with the content of any of the three files.

    `staple` is the name of the file, empty without one, and `response` its content.
    """

    certificate: str
    key: str
    staple: str
    response: bytes
    identity: bytes
    info: CertificateInfo


class Certificates:
    """All certificates of a configuration, with the contexts of each protocol."""

    def __init__(self, pairs: tuple[Pair, ...], before: "Certificates | None") -> None:
        """Make the contexts of `pairs`, or use those of `before` when they are for the same files.

        Raises:
            ValueError: certificate and key, or certificate and staple, do not belong together, or a staple is one that
                clients refuse for another reason than its age.
        """
        self.pairs = pairs
        self.ticket_keys: TicketKeys = (
            TicketKeys(os.urandom(_SECRET), time.monotonic()) if before is None else before.ticket_keys
        )
        """The keys of session tickets."""
        self.ticket_trouble = ""
        """Why Python's ssl does not use these keys; empty when it does."""
        self._staples: dict[str, int] = {}
        self._contexts: dict[str, Any] = {}
        self._each: list[Any] = []
        if before is not None and before.pairs == pairs:
            self.ticket_trouble = before.ticket_trouble
            self._staples, self._contexts, self._each = before._staples, dict(before._contexts), before._each
            return
        for protocol, alpn in ALPN.items():
            made = [self._context(pair, alpn) for pair in pairs]
            self._each += made
            self._contexts[protocol] = _choosing(pairs, made)
        self.rotate_ticket_keys(time.monotonic())

    def add_quic(self) -> None:
        """Make the configurations for "quic", unless there are some.

        Raises:
            ValueError: the library cannot use certificate and key.
        """
        if QUIC not in self._contexts:
            made = [_quic_configuration(pair) for pair in self.pairs]
            by_name = {"": made[0]}
            for pair, configuration in zip(self.pairs, made, strict=True):
                for name in pair.info.names:
                    by_name.setdefault(name, configuration)
            self._contexts[QUIC] = by_name

    def has(self, protocols: Iterable[str]) -> bool:
        """Whether there is a context for each of `protocols`."""
        return self._contexts.keys() >= set(protocols)

    def context(self, protocol: str) -> Any:
        """The `ssl.SSLContext` of listeners of `protocol`. For "quic" the `QuicConfiguration`s of qh3 by the names in
        their certificates; the empty name has the first."""
        return self._contexts[protocol]

    def expiry(self) -> dict[str, int]:
        """When each certificate expires, in seconds since 1970, by file."""
        return {pair.certificate: pair.info.not_after for pair in self.pairs}

    def staple_expiry(self) -> dict[str, int]:
        """When each OCSP staple ceases to be sent, in seconds since 1970, by file."""
        return dict(self._staples)

    def staples_missing(self, now: int) -> dict[str, int]:
        """For each certificate with must-staple, by file: 1 if no staple is sent with it at `now`, in seconds since
        1970, else 0."""
        return {
            pair.certificate: int(self._staples.get(pair.staple, 0) <= now)
            for pair in self.pairs
            if pair.info.must_staple
        }

    def memory(self) -> Held:
        """The sessions of clients that OpenSSL keeps."""
        kept, size = sum(context.session_stats()["number"] for context in self._each), limits.TLS_SERVER_SESSION_OCTETS
        return Held("client_tls_sessions", kept * size, len(self._each) * limits.TLS_SERVER_SESSIONS * size)

    def rotate_ticket_keys(self, now: float) -> float:
        """Have all contexts use the ticket keys of the period of `now`, in seconds of the monotonic clock. Returns the
        seconds until the next period."""
        left = self.ticket_keys.advance(now)
        if not self.ticket_trouble:
            keys = self.ticket_keys.current()
            try:
                for context in self._each:
                    set_ticket_keys(context, keys)
            except RuntimeError as error:
                self.ticket_trouble = str(error)
        return left

    def _context(self, pair: Pair, alpn: tuple[str, ...]) -> Any:
        context = _single_context(pair, alpn)
        if pair.staple:
            try:
                self._staples[pair.staple] = int(set_staple(context, pair.response))
            except StapleExpired as error:
                self._staples[pair.staple] = int(error.until)
            except (ValueError, RuntimeError) as error:
                raise ValueError(f"tls.ocsp-staple: {pair.staple!r}: {error}") from None
        return context


def load(
    settings: Settings, before: Certificates | None = None, *, keep_unreadable: bool = False
) -> Certificates | None:
    """Read the certificates that `settings` need; None when no listener has TLS. `before` are those in use. With
    `keep_unreadable`, those of files in use stay that this user may not read any more: a start reads them as root.

    Raises:
        ValueError: a file cannot be used; the message names the setting, the file and the reason.
    """
    protocols = {listener.protocol for listener in settings.listeners} & {*ALPN, QUIC}
    if QUIC in protocols and importlib.util.find_spec("qh3") is None:
        raise ValueError(QUIC_MISSING)
    if not protocols:
        return None
    kept = {} if before is None or not keep_unreadable else {
        (pair.certificate, pair.key, pair.staple): pair for pair in before.pairs
    }
    pairs = tuple(_read_pairs(settings.tls, kept))
    if before is not None and before.pairs == pairs and before.has(protocols):
        return before
    found = Certificates(pairs, before)
    if QUIC in protocols:
        found.add_quic()
    return found


class Due(NamedTuple):
    """One message of `ExpiryWatch`; `level` is a level of `logging`."""

    level: int
    text: str


class ExpiryWatch:
    """The messages about certificates and staples that are due, each once a day. Without a clock: `now` is an argument.
    """

    def __init__(self) -> None:
        self._warned: dict[str, int] = {}

    def due(self, certificates: Certificates, now: int) -> list[Due]:
        """Messages about the certificates that expire within `limits.CERTIFICATE_WARNING` days, the staples that expire
        within `limits.STAPLE_WARNING` hours, those that have expired, and certificates with must-staple that are sent
        without a staple. The last are errors, the others warnings. `now` is in seconds since 1970."""
        days, hours = limits.CERTIFICATE_WARNING * DAY, limits.STAPLE_WARNING * HOUR
        found = [
            Due(WARNING, f"tls.certificate: {file} {_when(end, now, 'clients refuse it')}; renew it and reload"
                         " (SIGHUP)")
            for file, end in certificates.expiry().items()
            if end - now < days and self._is_due(file, now)
        ]
        found += [
            Due(WARNING, f"tls.ocsp-staple: {file} {_when(end, now, 'it is not sent')}; fetch a new one and reload"
                         " (SIGHUP)")
            for file, end in certificates.staple_expiry().items()
            if end - now < hours and self._is_due(file, now)
        ]
        return found + [
            Due(ERROR, f"tls.ocsp-staple: none is sent with {file}, whose must-staple demands one, so clients may"
                       " refuse it; fetch one and reload (SIGHUP)")
            for file, missing in certificates.staples_missing(now).items()
            if missing and self._is_due(f"{file} without staple", now)
        ]

    def _is_due(self, message: str, now: int) -> bool:
        """Whether the message has not been given today."""
        day = now // DAY
        if self._warned.get(message) == day:
            return False
        self._warned[message] = day
        return True


def _when(end: int, now: int, then: str) -> str:
    """How far `end` is from `now`, both in seconds since 1970, and what follows when it has passed."""
    left = end - now
    if left <= 0:
        return f"expired since {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC, so {then}"
    count, unit = (left // DAY, "day") if left >= DAY else (left // HOUR, "hour")
    if not count:
        return "expires in less than one hour"
    return f"expires in {count} {unit}{'' if count == 1 else 's'}"


class _NotPermittedError(ValueError):
    """This user may not read a file."""


def _read_pairs(tls: TlsSettings, kept: Mapping[tuple[str, str, str], Pair]) -> Iterator[Pair]:
    """The pairs of `tls`, from `kept` those whose files this user may not read."""
    staples = tls.ocsp_staple or ("",) * len(tls.certificate)
    for files in zip(tls.certificate, tls.key, staples, strict=True):
        try:
            yield _read_pair(*files)
        except _NotPermittedError:
            if files not in kept:
                raise
            yield kept[files]


def _read_pair(certificate: str, key: str, staple: str) -> Pair:
    chain, secret = _read(certificate, "tls.certificate"), _read(key, "tls.key")
    response = _read(staple, "tls.ocsp-staple") if staple else b""
    if staple and not response:
        raise ValueError(f"tls.ocsp-staple: {staple!r}: the file is empty")
    try:
        info = certificate_info(chain)
    except ValueError as error:
        raise ValueError(f"tls.certificate: {certificate!r}: {error}") from None
    if b"ENCRYPTED" in secret:
        raise ValueError(f"tls.key: {key!r}: the key is encrypted; the daemon needs an unencrypted key")
    identity = sha256(b"".join(sha256(data).digest() for data in (chain, secret, response))).digest()
    return Pair(certificate, key, staple, response, identity, info)


def _read(path: str, setting: str) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(limits.TLS_FILE_SIZE + 1)
    except PermissionError as error:
        raise _NotPermittedError(f"{setting}: {path!r}: cannot be read: {error.strerror}") from None
    except OSError as error:
        raise ValueError(f"{setting}: {path!r}: cannot be read: {error.strerror}") from None
    if len(data) > limits.TLS_FILE_SIZE:
        raise ValueError(f"{setting}: {path!r}: the file is larger than {limits.TLS_FILE_SIZE} bytes")
    return data


def _choosing(pairs: Iterable[Pair], contexts: list[Any]) -> Any:
    """The context of a listener: the certificate that has the name in the client's SNI is used, else the first."""
    by_name: dict[str, Any] = {}
    for pair, context in zip(pairs, contexts, strict=True):
        for name in pair.info.names:
            by_name.setdefault(name, context)
    if len(contexts) > 1:

        def choose(connection: Any, name: str | None, _context: Any) -> None:
            found = for_name(by_name, (name or "").lower())
            if found is not None:
                connection.context = found

        contexts[0].sni_callback = choose
    return contexts[0]


def _single_context(pair: Pair, alpn: tuple[str, ...]) -> Any:
    try:
        return server_context(pair.certificate, pair.key, alpn=alpn)
    except OSError as error:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"tls.key: {pair.key!r}: it is not the key of {pair.certificate}") from None
        words = str(reason).replace("_", " ").lower() if reason else error.strerror or str(error)
        raise ValueError(f"tls.key: {pair.key!r}: cannot be used with {pair.certificate}: {words}") from None


def _quic_configuration(pair: Pair) -> Any:
    """The configuration of QUIC servers with `pair`."""
    from qh3.quic.configuration import QuicConfiguration

    from resolver.net import doq

    configuration = QuicConfiguration(is_client=False, alpn_protocols=[doq.ALPN])
    chain, secret = _read(pair.certificate, "tls.certificate"), _read(pair.key, "tls.key")
    try:
        configuration.load_cert_chain(chain, secret)
    except Exception as error:  # noqa: BLE001  the library names no types
        raise ValueError(f"tls.key: {pair.key!r}: cannot be used for QUIC with {pair.certificate}: {error}") from None
    return configuration
