"""http and https URLs: parsing, normalising, joining, origins.

What is accepted is read as the WHATWG URL standard reads it. What is refused are URLs that another parser could read as
a different host, or that result from a mistake: user names, a scheme without two slashes, backslashes before the
query, tabs and line ends, blanks at either end, percent-encoded hosts, IPv4 addresses in any form but four decimal
numbers.

Path, query and fragment keep their percent-encoding as it is, a lone `%` too; the characters that browsers encode are
encoded. Dot segments are removed, escaped dots count as dots.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

from corenet.http.errors import InvalidUrl
from corenet.limits import HTTP_URL_CACHE, HTTP_URL_CACHED_SIZE, HTTP_URL_SIZE

__all__ = ["Origin", "Url", "parse_url"]

DEFAULT_PORTS = {"http": 80, "https": 443}

# The regular expression of RFC 3986 appendix B, with a strict scheme.
_SPLIT = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_FORBIDDEN = re.compile(r"[\t\n\r]|^[^?#]*\\|^[\x00-\x20]|[\x00-\x20]$")
_HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_LAST_IS_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\.?$")
# The percent-encode sets of path, special query and fragment (WHATWG URL section 1.3).
_PATH_BAD = re.compile(r"""[^!-~]|["#<>?^`{}]""")
_QUERY_BAD = re.compile(r"""[^!-~]|["#<>']""")
_FRAGMENT_BAD = re.compile(r"""[^!-~]|["<>`]""")
_DOT = re.compile(r"(?:\.|%2[Ee])")


class Origin(NamedTuple):
    """Scheme, host (lower-case ASCII, or an address) and port. Credentials are sent only to their origin."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}")


class Url:
    """A parsed and normalised URL. Not changed after `parse_url` or `join` has created it."""

    __slots__ = ("fragment", "host_field", "is_address", "origin", "path", "query", "target", "text")

    origin: Origin
    path: str
    query: str | None
    fragment: str | None
    target: bytes
    text: str
    host_field: bytes
    is_address: bool

    def __init__(self, origin: Origin, path: str, query: str | None, fragment: str | None, *, is_address: bool) -> None:
        self.origin = origin
        self.path = path
        self.query = query
        self.fragment = fragment
        self.is_address = is_address
        self.target = (path if query is None else f"{path}?{query}").encode("ascii")
        base = str(origin)
        self.host_field = base[len(origin.scheme) + 3 :].encode("ascii")
        self.text = f"{base}{self.target.decode('ascii')}" + ("" if fragment is None else f"#{fragment}")

    @property
    def scheme(self) -> str:
        """http or https."""
        return self.origin.scheme

    @property
    def host(self) -> str:
        """The host in lower-case ASCII, an IPv6 address without brackets."""
        return self.origin.host

    @property
    def port(self) -> int:
        """The port; the scheme's default when none was given."""
        return self.origin.port

    def with_https(self) -> "Url":
        """This URL of http with https instead; port 80 becomes 443, another port stays (RFC 9460 section 9.5)."""
        port = 443 if self.port == 80 else self.port
        return Url(Origin("https", self.host, port), self.path, self.query, self.fragment, is_address=self.is_address)

    def join(self, reference: str) -> "Url":
        """Resolve `reference`, for example a Location field, relative to this URL (RFC 3986 section 5.2).

        Raises:
            InvalidUrl: the result is not an http or https URL.
        """
        # The length is checked by `parse_url`, on the whole URL.
        _check_characters(reference)
        match = _SPLIT.fullmatch(reference)
        assert match is not None  # the pattern matches any text
        scheme, authority, path, query, fragment = match.groups()
        # RFC 9110 section 10.2.2: a redirect without a fragment inherits that of the original URL.
        if fragment is None:
            fragment = self.fragment
        tail = ("" if query is None else f"?{query}") + ("" if fragment is None else f"#{fragment}")
        if scheme is not None:
            return parse_url(f"{scheme}:{'' if authority is None else '//' + authority}{path}{tail}")
        if authority is not None:
            return parse_url(f"{self.scheme}://{authority}{path}{tail}")
        if not path:
            path = self.path
            if query is None and self.query is not None:
                tail = f"?{self.query}" + ("" if fragment is None else f"#{fragment}")
        elif not path.startswith("/"):
            path = self.path[: self.path.rindex("/") + 1] + path
        return parse_url(f"{self.origin}{path}{tail}")

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Url({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def parse_url(text: str) -> Url:
    """Parse and normalise an absolute http or https URL.

    Raises:
        InvalidUrl: it cannot be requested safely; the message has the reason.
        TypeError: it is no str.
    """
    try:
        return _parse_cached(text) if len(text) <= HTTP_URL_CACHED_SIZE else _parse(text)
    except TypeError:
        if isinstance(text, str):
            raise
        raise TypeError(f"a URL is a str, not {type(text).__name__}") from None


def _parse(text: str) -> Url:
    if len(text) > HTTP_URL_SIZE:
        raise InvalidUrl(f"the URL has more than {HTTP_URL_SIZE} characters")
    _check_characters(text)
    match = _SPLIT.fullmatch(text)
    assert match is not None  # the pattern matches any text
    scheme, authority, path, query, fragment = match.groups()
    if scheme is None or scheme.lower() not in DEFAULT_PORTS:
        raise InvalidUrl(f"{text!r} does not begin with http:// or https://")
    if not authority:
        raise InvalidUrl(f"{text!r} has no host")
    scheme = scheme.lower()
    if "@" in authority:
        raise InvalidUrl("user names and passwords in a URL are refused; send an Authorization field instead")
    host, port, is_address = _authority(authority, scheme)
    return Url(
        Origin(scheme, host, port),
        _remove_dots(_encode(path, _PATH_BAD)) or "/",
        None if query is None else _encode(query, _QUERY_BAD),
        None if fragment is None else _encode(fragment, _FRAGMENT_BAD),
        is_address=is_address,
    )


_parse_cached = lru_cache(maxsize=HTTP_URL_CACHE)(_parse)


def _check_characters(text: str) -> None:
    if _FORBIDDEN.search(text):
        raise InvalidUrl(f"{text!r} has a tab, a line end, a blank at either end, or a backslash before the query")


# --- components -------------------------------------------------------------------------------------------------------


def _authority(authority: str, scheme: str) -> tuple[str, int, bool]:
    """Return host, port, and whether the host is an address."""
    if authority.startswith("["):
        inside, closing, rest = authority[1:].partition("]")
        if not closing or (rest and not rest.startswith(":")):
            raise InvalidUrl(f"{authority!r}: the brackets of an IPv6 address do not match")
        try:
            address = IPv6Address(inside)
        except AddressValueError as error:
            raise InvalidUrl(f"{authority!r} is not an IPv6 address: {error}") from None
        if "%" in inside:
            raise InvalidUrl(f"{authority!r}: an IPv6 zone has a meaning on one machine only")
        mapped = address.ipv4_mapped
        # From Python 3.13 on `compressed` has dots here. Origins must be equal in every version.
        host = address.compressed if mapped is None else f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}"
        return host, _port(rest[1:], authority, scheme), True
    name, _, port = authority.partition(":")
    host = _host(name)
    is_address = False
    if _LAST_IS_NUMBER.search(host):
        try:
            host = str(IPv4Address(host))
        except AddressValueError:
            raise InvalidUrl(f"{name!r} looks like an IPv4 address but is not four decimal numbers") from None
        is_address = True
    return host, _port(port, authority, scheme), is_address


def _port(text: str, authority: str, scheme: str) -> int:
    if not text:
        return DEFAULT_PORTS[scheme]
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdigit() and 0 < len(digits) <= 5 and int(digits) < 65536):
        raise InvalidUrl(f"{authority!r}: the port is not a number from 1 to 65535")
    return int(digits)


def _host(name: str) -> str:
    host = name.lower()
    if not name.isascii() or "xn--" in host:
        # Imported here: its tables take a megabyte, which ASCII names do not need.
        from corenet.http.host_names import to_ascii

        try:
            host = to_ascii(name)
        except ValueError as error:
            raise InvalidUrl(f"{name!r} is not a valid internationalised host name: {error}") from None
    if len(host.rstrip(".")) > 253 or not _HOST.fullmatch(host):
        raise InvalidUrl(f"{name!r} is not a valid host name")
    return host


def _encode(text: str, bad: re.Pattern[str]) -> str:
    """Percent-encode the characters in `bad`. A lone surrogate is encoded as U+FFFD, as UTF-8 encode does it."""
    return bad.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    character = "\ufffd" if "\ud800" <= found[0] <= "\udfff" else found[0]
    return "".join(f"%{byte:02X}" for byte in character.encode())


def _remove_dots(path: str) -> str:
    """Remove dot segments (RFC 3986 section 5.2.4). Escaped dots count as dots, because servers decode them."""
    if "/." not in path and "/%2e" not in path.lower():
        return path
    out: list[str] = []
    segments = path.split("/")[1:]
    for position, segment in enumerate(segments):
        plain = _DOT.sub(".", segment)
        if plain in (".", ".."):
            if plain == ".." and out:
                out.pop()
            if position == len(segments) - 1:
                out.append("")
        else:
            out.append(segment)
    return "/" + "/".join(out)
