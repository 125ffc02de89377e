"""TLS contexts of the encrypted servers of a configuration, and the authorities that they trust.

The file of authorities is read once, when the configuration is loaded; all connections use what was read then, so a
file that is replaced or removed later changes nothing until the next load. Contexts are made in a thread, because the
system's trust store takes 24 ms: all of them when the daemon starts or reloads (`prepare`), else each when the first
connection needs it (`get`). Servers with the same checks share a context and its sessions. The key of a session has the
name and the port, so it is never used for another server (`corenet.tls.sessions`).

DNS over QUIC uses the library `qh3`, which takes the authorities as text (`authorities`) and has separate sessions.
"""

import asyncio
import re
from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING

from corenet import tls
from corenet.limits import TLS_SESSION_OCTETS
from corenet.tls.default import system_authorities, trust_sources
from corenet.tls.sessions import SessionCache
from resolver import limits
from resolver.cache.bounded import Held
from resolver.net.in_thread import in_thread
from resolver.regular_file import open_regular
from resolver.settings import Settings
from resolver.upstream_address import HTTPS, QUIC, TLS, Encryption, parse_upstream

if TYPE_CHECKING:
    import ssl

__all__ = ["BUNDLE_SETTING", "TlsContexts", "check", "contexts_for", "encrypted_servers"]

BUNDLE_SETTING = "iteration.tls_cert_bundle"
ALPN = {TLS: ("dot",), HTTPS: ("h2", "http/1.1")}
HTTP1 = ("http/1.1",)
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----")

Key = tuple[bool, tuple[str, ...], tuple[str, ...]]


class TlsContexts:
    """The TLS contexts of the upstream servers. `cafile` is a PEM file of authorities; empty: those of the system.

    It may be shared by upstreams of one event loop, one after the other.
    """

    def __init__(self, cafile: str = "") -> None:
        self.cafile = cafile
        self._sources: Hashable = None if cafile else trust_sources()
        self._authorities: bytes | None = None
        self._made: dict[Key, ssl.SSLContext] = {}
        self._making: dict[Key, asyncio.Future[ssl.SSLContext]] = {}
        self.quic_sessions = SessionCache()
        """The sessions of QUIC; those of TLS are in the contexts."""

    def memory(self) -> Iterator[Held]:
        """The sessions that servers can fill."""
        found = [self.quic_sessions, *(getattr(made, "sessions", None) for made in self._made.values())]
        caches = [one for one in found if one is not None]
        yield Held("tls_sessions", sum(cache.octets for cache in caches), len(caches) * TLS_SESSION_OCTETS)

    def same_trust(self, other: "TlsContexts") -> bool:
        """Whether both trust the same authorities. Files are compared by content, the system's store by its state."""
        if self.cafile != other.cafile or self._sources != other._sources:
            return False
        return not self.cafile or self.authorities() == other.authorities()

    def authorities(self) -> bytes:
        """The certificates of the authorities in PEM, read by the first call. That takes 24 ms for the system's.

        Raises:
            ValueError: the file cannot be read, is too large, or has no certificate; the message names it.
        """
        if self._authorities is None:
            self._authorities = _read(self.cafile) if self.cafile else system_authorities()
        return self._authorities

    async def load_authorities(self) -> bytes:
        """As `authorities`, but read in a thread."""
        if self._authorities is None:
            await in_thread(self.authorities)
        return self.authorities()

    def prepare(self, servers: Iterable[Encryption]) -> None:
        """Make all that connections to `servers` need. It takes some 25 ms for each context.

        Raises:
            ValueError: as for `authorities`, or a certificate in the file is invalid.
        """
        for server in servers:
            if server.protocol == QUIC:
                if server.name:
                    self.authorities()
                continue
            key = _key(server)
            if key not in self._made:
                self._made[key] = self.make(server)

    def prepare_all(self, settings: Settings) -> None:
        """As `prepare`, for the encrypted servers of `settings`.

        Raises:
            ValueError: as for `prepare`; the text names the setting.
        """
        try:
            self.prepare(encrypted_servers(settings))
        except ValueError as error:
            raise ValueError(f"{BUNDLE_SETTING}: {error}") from None

    async def get(self, server: Encryption, *, http1: bool = False) -> "ssl.SSLContext":
        """The context for a server; with `http1` it does not offer HTTP/2. Made in a thread by the first call.

        Raises:
            ValueError: as for `prepare`.
        """
        key = _key(server, http1)
        found = self._made.get(key)
        if found is not None:
            return found
        making = self._making.get(key)
        if making is None:
            making = asyncio.ensure_future(in_thread(lambda: self.make(server, http1=http1)))
            self._making[key] = making
            making.add_done_callback(lambda _: self._making.pop(key, None))
        try:
            found = self._made[key] = await asyncio.shield(making)
        finally:
            del making  # see `in_thread`
        return found

    def make(self, server: Encryption, *, http1: bool = False) -> "ssl.SSLContext":
        """Make a context. With a name, the chain and the name are verified; without, only the pins are.

        Raises:
            ValueError: as for `prepare`.
        """
        verify, pins, alpn = _key(server, http1)
        own = verify and bool(self.cafile)
        try:
            return tls.client_context(
                cadata=self.authorities().decode("ascii") if own else None,
                verify=verify,
                # Authorities of `cafile` are private; the strict profile is for public ones.
                strict=not self.cafile,
                alpn=alpn,
                pins=pins,
            )
        except OSError as error:
            reason = getattr(error, "reason", None)
            words = str(reason).replace("_", " ").lower() if reason else error.strerror or str(error)
            raise ValueError(f"{self.cafile or 'the trust store of the system'!r}: cannot be used: {words}") from None


def encrypted_servers(settings: Settings) -> list[Encryption]:
    """How the encrypted servers of `settings` are reached, each way once."""
    texts = [text for zone in settings.upstream_zones for text in zone.addresses]
    texts += [text for own in settings.own_zones for text in own.primaries]
    found = [parse_upstream(text, 53, "addresses").encryption for text in texts]
    return list(dict.fromkeys(one for one in found if one is not None))


def contexts_for(settings: Settings) -> TlsContexts:
    """The contexts for `settings`, with the file of authorities read.

    Raises:
        ValueError: an encrypted server needs the file of authorities, which cannot be used; the text names the setting.
    """
    made = TlsContexts(settings.iteration.tls_cert_bundle)
    if made.cafile and any(server.name for server in encrypted_servers(settings)):
        try:
            made.authorities()
        except ValueError as error:
            raise ValueError(f"{BUNDLE_SETTING}: {error}") from None
    return made


def check(settings: Settings) -> TlsContexts:
    """As `contexts_for`, with the contexts of all encrypted servers made. It takes some 25 ms for each.

    Raises:
        ValueError: as for `contexts_for`, also for an invalid certificate.
    """
    made = contexts_for(settings)
    made.prepare_all(settings)
    return made


def _key(server: Encryption, http1: bool = False) -> Key:
    return bool(server.name), server.pins, HTTP1 if http1 else ALPN[server.protocol]


def _read(path: str) -> bytes:
    """The certificates in a PEM file, without the text between them.

    Raises:
        ValueError: there is none; the message names the file.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limits.CA_FILE_SIZE + 1)
    except OSError as error:
        raise ValueError(f"{path!r}: cannot be read: {error.strerror}") from None
    if len(data) > limits.CA_FILE_SIZE:
        raise ValueError(f"{path!r}: the file is larger than {limits.CA_FILE_SIZE} bytes")
    found = CERTIFICATE.findall(data)
    if not found:
        raise ValueError(f"{path!r}: the file has no certificate in PEM form")
    return b"\n".join(found) + b"\n"
