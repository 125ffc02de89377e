"""The cookie jar: the storage model of RFC 6265bis sections 5.7 and 5.8, in memory.

Cookies are grouped by registrable domain (the public suffix and one label). A request is served from one group, and a
site cannot displace the cookies of another. There are limits to the size of a cookie, the number of cookies in a group
and in the jar, and the size of the field that is sent. When a group or the jar is full, expired cookies are removed; if
there are none, a tenth of all: those without Secure before those with it, and those unused for longest before others.

Over a connection without TLS no Secure cookie is set, replaced or sent (section 5.7 steps 8 and 11). HttpOnly is stored
so that the program can see it. SameSite has no meaning here, because every request is the program's own.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from corenet.http.arguments import expect_callable
from corenet.http.cookie_rules import (
    SetCookie,
    default_path,
    domain_matches,
    parse_set_cookie,
    path_matches,
)
from corenet.http.headers import Headers
from corenet.http.public_suffixes import is_public_suffix, registrable_domain, require_list
from corenet.http.url import Url
from corenet.limits import HTTP_COOKIE_FIELD_SIZE, HTTP_COOKIES, HTTP_COOKIES_PER_SITE

__all__ = ["Cookie", "CookieJar"]

_Key = tuple[str, str, bool, str]


@dataclass(slots=True)
class Cookie:
    """One cookie.

    `expires` is a Unix time in seconds; None: it lasts as long as the jar. `host_only`: it is not sent to subdomains.
    """

    name: str
    value: str = field(repr=False)
    domain: str
    path: str
    expires: float | None
    secure: bool
    http_only: bool
    host_only: bool
    # Order of creation and of last use, in which cookies are sent and displaced.
    created: int = field(default=0, repr=False)
    used: int = field(default=0, repr=False)


class CookieJar:
    """The cookies of a client, or of several clients of one thread; iterating yields each `Cookie`.

    `clock` returns the Unix time in seconds.

    Raises:
        ImportError: the package with the public suffix list is not installed (the extra ``cookies``).
        TypeError: `clock` is not callable.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        expect_callable(clock, "CookieJar clock", "that returns seconds")
        require_list()
        self._clock = clock
        self._sites: dict[str, dict[_Key, Cookie]] = {}
        self._size = 0
        self._last_use = 0  # a counter: the order of creation and use

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Cookie]:
        return iter([cookie for site in self._sites.values() for cookie in site.values()])

    def clear(self) -> None:
        """Remove all cookies."""
        self._sites.clear()
        self._size = 0

    def store(self, url: Url, headers: Headers) -> None:
        """Store the cookies of a response to a request for `url`."""
        for text in headers.get_list("set-cookie"):
            found = parse_set_cookie(text, self._clock())
            if found is not None:
                self._store(url, found)

    def header(self, url: Url) -> str:
        """The value of the field Cookie for a request for `url`; empty when there is no cookie for it."""
        site = self._sites.get(_site(url)) if self._sites else None
        if site is None:
            return ""
        now = self._clock()
        chosen = [cookie for cookie in site.values() if _is_for(cookie, url) and not _has_expired(cookie, now)]
        chosen.sort(key=lambda cookie: (-len(cookie.path), cookie.created))
        parts: list[str] = []
        size = 0
        for cookie in chosen:
            text = f"{cookie.name}={cookie.value}" if cookie.name else cookie.value
            size += len(text) + 2
            if size > HTTP_COOKIE_FIELD_SIZE:
                break
            self._last_use += 1
            cookie.used = self._last_use
            parts.append(text)
        return "; ".join(parts)

    def _store(self, url: Url, found: SetCookie) -> None:
        """Store one cookie by section 5.7, without its steps for browsing contexts and for scripts."""
        cookie = _accept(url, found)
        if cookie is None:
            return
        name = _site(url)
        site = self._sites.get(name, {})
        if not cookie.secure and url.scheme != "https" and any(_is_shadowed(cookie, other) for other in site.values()):
            return
        key = (cookie.name, cookie.domain, cookie.host_only, cookie.path)
        old = site.pop(key, None)
        self._last_use += 1
        self._size -= old is not None
        cookie.created = self._last_use if old is None else old.created
        cookie.used = self._last_use
        now = self._clock()
        if not _has_expired(cookie, now):
            if len(site) >= HTTP_COOKIES_PER_SITE:
                self._evict([site], now)
            if self._size >= HTTP_COOKIES:
                self._evict(list(self._sites.values()), now)
            site[key] = cookie
            self._size += 1
        if site:
            self._sites[name] = site
        else:
            self._sites.pop(name, None)

    def _evict(self, sites: list[dict[_Key, Cookie]], now: float) -> None:
        """Remove the expired cookies of `sites`; if there are none, a tenth: those without Secure and long unused.

        A tenth at a time, because finding them means sorting all.
        """
        entries = [(site, key, cookie) for site in sites for key, cookie in site.items()]
        removed = [entry for entry in entries if _has_expired(entry[2], now)]
        if not removed:
            entries.sort(key=lambda entry: (entry[2].secure, entry[2].used))
            removed = entries[: len(entries) // 10]
        for site, key, _ in removed:
            del site[key]
        self._size -= len(removed)
        self._sites = {name: site for name, site in self._sites.items() if site}


def _accept(url: Url, found: SetCookie) -> Cookie | None:
    """The cookie as it is stored, None when `url` may not set it."""
    secure_connection = url.scheme == "https"
    domain = found.domain
    if domain and not domain.isascii():
        return None
    if domain and is_public_suffix(domain):
        if domain != url.host:
            return None
        domain = ""
    if domain and not domain_matches(url.host, domain, url.is_address):
        return None
    if found.secure and not secure_connection:
        return None
    # Servers compare prefixes without case, so clients do (section 5.7 steps 20 to 22).
    name = found.name.lower()
    if name.startswith("__secure-") and not found.secure:
        return None
    if name.startswith("__host-") and not (found.secure and not domain and found.path == "/"):
        return None
    if not name and found.value.lower().startswith(("__secure-", "__host-")):
        return None
    return Cookie(
        found.name,
        found.value,
        domain or url.host,
        found.path or default_path(url.path),
        found.expires,
        found.secure,
        found.http_only,
        host_only=not domain,
    )


def _is_for(cookie: Cookie, url: Url) -> bool:
    if cookie.secure and url.scheme != "https":
        return False
    if cookie.host_only:
        if cookie.domain != url.host:
            return False
    elif not domain_matches(url.host, cookie.domain, url.is_address):
        return False
    return path_matches(url.path, cookie.path)


def _site(url: Url) -> str:
    """What shares a limit of cookies: a registered domain with the names below it, or an IP address."""
    return url.host if url.is_address else registrable_domain(url.host)


def _has_expired(cookie: Cookie, now: float) -> bool:
    return cookie.expires is not None and cookie.expires <= now


def _is_shadowed(cookie: Cookie, other: Cookie) -> bool:
    """Whether a cookie set without TLS would hide or replace the Secure cookie `other` (section 5.7 step 11)."""
    return (
        other.secure
        and other.name == cookie.name
        and (domain_matches(cookie.domain, other.domain, False) or domain_matches(other.domain, cookie.domain, False))
        and path_matches(cookie.path, other.path)
    )
