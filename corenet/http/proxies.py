"""Proxies: their URLs, the environment variables that name them, and which of them a URL is requested through.

Nothing here does I/O; the environment is an argument. Names, precedence and `NO_PROXY` are those of curl 7.86 and
later, so that one environment means the same to both. Credentials are part of a proxy's value, because connections
with other credentials must not be shared. They never appear in texts.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from corenet.http.arguments import expect
from corenet.http.errors import InvalidUrl
from corenet.http.url import Origin, Url, parse_url
from corenet.tls.context import expect_context

if TYPE_CHECKING:
    import ssl

__all__ = ["Proxies", "Proxy"]

HTTP, SOCKS5 = "http", "socks5"
# The kind of each scheme, whether the connection to the proxy is TLS, and curl's default port.
_SCHEMES = {
    "http": (HTTP, False, 1080),
    "https": (HTTP, True, 443),
    "socks5": (SOCKS5, False, 1080),
    "socks5h": (SOCKS5, False, 1080),
}
# RFC 1929 section 2: one octet has the length of each.
_SOCKS5_CREDENTIAL_SIZE = 255


@dataclass(frozen=True)
class Proxy:
    """A proxy: ``scheme://[user:password@]host[:port]``, scheme http, https, socks5 or socks5h; without a scheme http.

    With socks5 the origin's name is resolved here, with socks5h by the proxy, and HTTP proxies resolve it themselves.
    The default port is 443 for https, otherwise 1080. User and password may be percent-encoded. `tls_context` is for
    the connection to an https proxy; None is the default context of the process.

    Raises:
        InvalidUrl: the URL is not of this form; the message does not have the credentials.
    """

    url: str = field(repr=False)
    tls_context: "ssl.SSLContext | None" = field(default=None, repr=False)
    kind: str = field(init=False, compare=False)
    secure: bool = field(init=False, compare=False)
    host: str = field(init=False, compare=False)
    port: int = field(init=False, compare=False)
    is_address: bool = field(init=False, compare=False, repr=False)
    resolves: bool = field(init=False, compare=False)
    credentials: tuple[bytes, bytes] | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        expect(self.url, str, "Proxy url", "a str")
        if self.tls_context is not None:
            expect_context(self.tls_context, "Proxy tls_context")
        scheme, separator, rest = self.url.partition("://")
        if not separator:
            scheme, rest = "http", self.url
        scheme = scheme.lower()
        if scheme not in _SCHEMES:
            # If it has a colon it is not a scheme, but a user and a password that contains "://".
            shown = "" if ":" in scheme else f" {scheme[:20]!r}"
            raise InvalidUrl(f"a proxy with the scheme{shown}: only {', '.join(_SCHEMES)} are supported")
        kind, secure, port = _SCHEMES[scheme]
        user_part, at, host_part = rest.rpartition("@")
        host_part = host_part.removesuffix("/")
        if "/" in host_part or "?" in host_part or "#" in host_part:
            raise InvalidUrl(f"a {scheme} proxy with a path: only host and port can be given")
        if not host_part.rpartition("]")[2].rpartition(":")[1]:
            host_part = f"{host_part}:{port}"
        try:
            parsed = parse_url(f"http://{host_part}/")
        except InvalidUrl as error:
            raise InvalidUrl(f"the {scheme} proxy cannot be used: {error}") from None
        given: dict[str, object] = {
            "kind": kind,
            "secure": secure,
            "host": parsed.host,
            "port": parsed.port,
            "is_address": parsed.is_address,
            "resolves": scheme != "socks5",
            "credentials": _credentials(kind, user_part) if at else None,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def origin(self) -> Origin:
        """Where the proxy listens."""
        return Origin("https" if self.secure else "http", self.host, self.port)

    @property
    def authorization(self) -> list[tuple[bytes, bytes]]:
        """The field with the credentials for an HTTP proxy (RFC 7617); empty without credentials."""
        if self.credentials is None:
            return []
        return [(b"Proxy-Authorization", b"Basic " + base64.b64encode(b":".join(self.credentials)))]

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.url.partition('://')[0] if '://' in self.url else HTTP}://{host}:{self.port}"


def _credentials(kind: str, text: str) -> tuple[bytes, bytes]:
    user_text, _, password_text = text.partition(":")
    user, password = unquote_to_bytes(user_text), unquote_to_bytes(password_text)
    if kind == SOCKS5:
        for what, value in (("user", user), ("password", password)):
            if not 0 < len(value) <= _SOCKS5_CREDENTIAL_SIZE:
                raise InvalidUrl(f"the {what} of a socks5 proxy has {len(value)} bytes; 1 to 255 are possible")
    elif b":" in user:
        raise InvalidUrl("the user of an HTTP proxy has a colon, which Basic authentication cannot carry")
    if any(byte < 32 or byte == 127 for byte in user + password):
        raise InvalidUrl("the credentials of the proxy have a control character")
    return user, password


class Proxies:
    """Which proxy is used for which URL: one for http, one for https, and the hosts that are reached directly.

    `no_proxy` is curl's list, separated by commas or blanks: a host name covers its subdomains, with or without a
    leading dot; an address or a network (``10.0.0.0/8``) covers addresses in URLs; ``host:port`` covers one port; a
    single ``*`` covers everything.

    Raises:
        InvalidUrl: a proxy's URL cannot be used.
    """

    def __init__(
        self, *, http: str | Proxy | None = None, https: str | Proxy | None = None, no_proxy: str = ""
    ) -> None:
        self.http: Proxy | None = _proxy(http, "http")
        self.https: Proxy | None = _proxy(https, "https")
        expect(no_proxy, str, "Proxies no_proxy", "a str, as curl's NO_PROXY")
        self._direct = _Direct(no_proxy)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Proxies":
        """Read ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``, in lower case first, as curl does.

        ``HTTP_PROXY`` in capitals is not read, because a CGI server sets it from a request's field Proxy
        (CVE-2016-5385). Empty variables count as absent.

        Raises:
            InvalidUrl: a variable has no usable proxy; the message names it.
        """

        def read(*names: str) -> Proxy | None:
            for name in names:
                text = environment.get(name, "").strip()
                if text:
                    try:
                        return Proxy(text)
                    except InvalidUrl as error:
                        raise InvalidUrl(f"the environment variable {name}: {error}") from None
            return None

        return cls(
            http=read("http_proxy", "all_proxy", "ALL_PROXY"),
            https=read("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
            no_proxy=environment.get("no_proxy") or environment.get("NO_PROXY", ""),
        )

    def find(self, url: Url) -> Proxy | None:
        """The proxy for `url`; None: a direct connection."""
        proxy = self.https if url.scheme == "https" else self.http
        return None if proxy is None or self._direct.covers(url) else proxy


def _proxy(given: str | Proxy | None, name: str) -> Proxy | None:
    expect(given, (str, Proxy, type(None)), f"Proxies {name}", "a URL as str, a Proxy or None")
    return Proxy(given) if isinstance(given, str) else given


class _Direct:
    """A parsed ``NO_PROXY``. Entries that are neither a host nor an address cover nothing, as in curl."""

    def __init__(self, text: str) -> None:
        self.all = text.strip() == "*"
        self.names: set[tuple[str, int]] = set()
        self.networks: list[tuple[IPv4Network | IPv6Network, int]] = []
        for entry in text.replace(",", " ").split():
            host, port = entry, 0
            before, colon, after = entry.rpartition(":")
            if colon and after.isascii() and after.isdigit() and (before.endswith("]") or ":" not in before):
                host, port = before, int(after)
            try:
                self.networks.append((ip_network(host.strip("[]"), strict=False), port))
            except ValueError:
                name = host.lower().strip(".")
                if name:
                    self.names.add((name, port))

    def covers(self, url: Url) -> bool:
        """Whether `url` is reached without a proxy."""
        if self.all:
            return True
        if url.is_address:
            address: IPv4Address | IPv6Address = ip_address(url.host)
            return any(
                address.version == network.version and address in network
                for network, port in self.networks
                if port in (0, url.port)
            )
        if not self.names:
            return False
        labels = url.host.rstrip(".").split(".")
        suffixes = (".".join(labels[position:]) for position in range(len(labels)))
        return any((suffix, port) in self.names for suffix in suffixes for port in (0, url.port))
