"""The certificates of the daemon: files, checks, TLS contexts, and warnings before they expire.

`load` reads all files before it returns, so after an error in a reload the old certificates stay in use. When no file
has changed, it returns the old contexts. A context has the key of its session tickets, so clients can resume their
sessions after a reload of other settings. Workers share the contexts that were made before the fork, and this key.

DNS over QUIC uses the library `qh3`, which is installed as an extra and imported only when a listener needs it. It has
configuration objects instead of contexts.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from corenet.tls import CertificateInfo, certificate_info, server_context
from resolver import limits
from resolver.settings import Settings, TlsSettings

__all__ = ["ALPN", "Certificates", "ExpiryWatch", "load"]

ALPN = {"tls": ("dot",), "https": ("h2", "http/1.1")}
"""Protocols offered by the listeners with TLS (RFC 7858 section 3.1 registers "dot")."""
QUIC = "quic"
QUIC_MISSING = "listener: protocol quic needs qh3, which is not installed; run: pip install 'corenet-resolver[quic]'"
DAY = 86_400
HOUR = 3600


class Pair(NamedTuple):
    """One certificate and its key; `identity` changes with the content of either file."""

    certificate: str
    key: str
    identity: bytes
    info: CertificateInfo


class Certificates:
    """All certificates of a configuration, with the contexts of each protocol."""

    def __init__(self, pairs: tuple[Pair, ...], contexts: dict[str, Any]) -> None:
        self.pairs = pairs
        self._contexts = contexts

    def context(self, protocol: str) -> Any:
        """The `ssl.SSLContext` of listeners of `protocol`; the `QuicConfiguration` of qh3 for "quic"."""
        return self._contexts[protocol]

    def expiry(self) -> dict[str, int]:
        """When each certificate expires, in seconds since 1970, by file."""
        return {pair.certificate: pair.info.not_after for pair in self.pairs}


def load(settings: Settings, before: Certificates | None = None) -> Certificates | None:
    """Read the certificates that `settings` need; None when no listener has TLS. `before` are those in use.

    Raises:
        ValueError: a file cannot be used; the message names the setting, the file and the reason.
    """
    protocols = {listener.protocol for listener in settings.listeners} & {*ALPN, QUIC}
    if QUIC in protocols and importlib.util.find_spec("qh3") is None:
        raise ValueError(QUIC_MISSING)
    if not protocols:
        return None
    pairs = tuple(_read_pairs(settings.tls))
    if before is not None and before.pairs == pairs:
        if protocols <= before._contexts.keys():
            return before
        contexts = dict(before._contexts)
    else:
        contexts = {protocol: _context(pairs, ALPN[protocol]) for protocol in ALPN}
    if QUIC in protocols and QUIC not in contexts:
        contexts[QUIC] = _quic_configuration(pairs[0])
    return Certificates(pairs, contexts)


class ExpiryWatch:
    """The warnings about certificates that are due, each once a day. Without a clock: `now` is an argument."""

    def __init__(self) -> None:
        self._warned: dict[str, int] = {}

    def due(self, certificates: Certificates, now: int) -> list[str]:
        """Messages about the certificates that expire within `limits.CERTIFICATE_WARNING` days, or have expired."""
        found = []
        for file, not_after in certificates.expiry().items():
            left, day = not_after - now, now // DAY
            if left >= limits.CERTIFICATE_WARNING * DAY or self._warned.get(file) == day:
                continue
            self._warned[file] = day
            found.append(f"tls.certificate: {file} {_when(not_after, now)}; renew it and reload (SIGHUP)")
        return found


def _when(end: int, now: int) -> str:
    """How far `end` is from `now`, both in seconds since 1970."""
    left = end - now
    if left <= 0:
        return f"expired since {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC, so clients refuse it"
    count, unit = (left // DAY, "day") if left >= DAY else (left // HOUR, "hour")
    if not count:
        return "expires in less than one hour"
    return f"expires in {count} {unit}{'' if count == 1 else 's'}"


def _read_pairs(tls: TlsSettings) -> Iterator[Pair]:
    for certificate, key in zip(tls.certificate, tls.key, strict=True):
        chain, secret = _read(certificate, "tls.certificate"), _read(key, "tls.key")
        try:
            info = certificate_info(chain)
        except ValueError as error:
            raise ValueError(f"tls.certificate: {certificate!r}: {error}") from None
        if b"ENCRYPTED" in secret:
            raise ValueError(f"tls.key: {key!r}: the key is encrypted; the daemon needs an unencrypted key")
        yield Pair(certificate, key, sha256(sha256(chain).digest() + sha256(secret).digest()).digest(), info)


def _read(path: str, setting: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(limits.TLS_FILE_SIZE + 1)
    except OSError as error:
        raise ValueError(f"{setting}: {path!r}: cannot be read: {error.strerror}") from None
    if len(data) > limits.TLS_FILE_SIZE:
        raise ValueError(f"{setting}: {path!r}: the file is larger than {limits.TLS_FILE_SIZE} bytes")
    return data


def _context(pairs: Iterable[Pair], alpn: tuple[str, ...]) -> Any:
    """A context for all of `pairs`: the certificate that has the name in the client's SNI is used, else the first."""
    contexts = [(pair, _single_context(pair, alpn)) for pair in pairs]
    first = contexts[0][1]
    by_name: dict[str, Any] = {}
    for pair, context in contexts:
        for name in pair.info.names:
            by_name.setdefault(name, context)
    if len(contexts) > 1:

        def choose(connection: Any, name: str | None, _context: Any) -> None:
            wanted = (name or "").lower()
            found = by_name.get(wanted) or by_name.get("*." + wanted.partition(".")[2])
            if found is not None:
                connection.context = found

        first.sni_callback = choose
    return first


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
    """The configuration of QUIC servers with `pair`. The library offers one certificate, for any SNI."""
    from qh3.quic.configuration import QuicConfiguration

    from resolver.net import doq

    configuration = QuicConfiguration(is_client=False, alpn_protocols=[doq.ALPN])
    chain, secret = _read(pair.certificate, "tls.certificate"), _read(pair.key, "tls.key")
    try:
        configuration.load_cert_chain(chain, secret)
    except Exception as error:  # noqa: BLE001  the library names no types
        raise ValueError(f"tls.key: {pair.key!r}: cannot be used for QUIC with {pair.certificate}: {error}") from None
    return configuration
