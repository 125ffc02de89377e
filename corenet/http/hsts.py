"""HTTP Strict Transport Security (RFC 6797): hosts that are requested over https only, in memory.

A host is noted only by a response over TLS whose certificate and name were verified, and never for an address. An
http URL of a known host becomes https before anything is sent. The store is bounded; when it is full, the host that
was noted first is forgotten. Each host can only add itself.
"""

import re
import time
from collections.abc import Callable
from typing import Any

from corenet.http.arguments import expect_callable
from corenet.http.headers import Headers
from corenet.http.url import Url, parse_url
from corenet.limits import HTTP_HSTS_HOSTS, HTTP_HSTS_SECONDS

__all__ = ["HstsStore", "is_verified", "parse_policy"]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Blanks are matched without backtracking: two runs next to each other would take quadratic time where nothing matches.
_DIRECTIVE = re.compile(rf'[ \t]*+(?:({_TOKEN})[ \t]*+(?:=[ \t]*+({_TOKEN}|"(?:[^"\\]|\\.)*"))?)?[ \t]*+(?:;|\Z)')
_DIGITS = 12


def parse_policy(text: str) -> tuple[int, bool] | None:
    """Parse Strict-Transport-Security: seconds, and whether subdomains are included. None: invalid, to be ignored."""
    directives: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _DIRECTIVE.match(text, position)
        if match is None:
            return None
        position = match.end()
        if match[1] is not None:
            name = match[1].lower()
            if name in directives:
                # Section 6.1 rule 2: a directive must not appear twice.
                return None
            directives[name] = (match[2] or "").strip('"')
    age = directives.get("max-age", "")
    if not (age.isascii() and age.isdigit()):
        return None
    digits = age.lstrip("0") or "0"
    seconds = HTTP_HSTS_SECONDS if len(digits) > _DIGITS else min(int(digits), HTTP_HSTS_SECONDS)
    return seconds, "includesubdomains" in directives


def is_verified(transport: Any) -> bool:
    """Whether the connection is TLS and its certificate and host name were verified."""
    context = transport.get_extra_info("sslcontext")
    # A context that checks the name always demands a certificate; Python refuses any other combination.
    return context is not None and bool(context.check_hostname)


class HstsStore:
    """The known hosts of a client, or of several clients of one thread. `clock` returns the Unix time in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        expect_callable(clock, "HstsStore clock", "that returns seconds")
        self._clock = clock
        self._hosts: dict[str, tuple[float, bool]] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    def note(self, url: Url, headers: Headers, transport: Any) -> None:
        """Note the policy of a response for `url`, when the connection was verified (section 8.1: the first field)."""
        fields = headers.get_list("strict-transport-security")
        policy = parse_policy(fields[0]) if fields and url.scheme == "https" and not url.is_address else None
        if policy is None or not is_verified(transport):
            return
        host = url.host.rstrip(".")
        self._hosts.pop(host, None)
        seconds, subdomains = policy
        if seconds:
            if len(self._hosts) >= HTTP_HSTS_HOSTS:
                del self._hosts[next(iter(self._hosts))]
            self._hosts[host] = (self._clock() + seconds, subdomains)

    def knows(self, host: str) -> bool:
        """Whether `host` is to be requested over https only: it is known, or a known domain above it says so."""
        now = self._clock()
        name = host.rstrip(".")
        exact = True
        while name:
            found = self._hosts.get(name)
            if found is not None:
                if found[0] <= now:
                    del self._hosts[name]
                elif exact or found[1]:
                    return True
            name = name.partition(".")[2]
            exact = False
        return False

    def upgrade(self, url: Url) -> Url:
        """`url` itself, or with https instead of http; port 80 becomes 443, another port stays (section 8.3)."""
        if url.scheme != "http" or url.is_address or not self._hosts or not self.knows(url.host):
            return url
        host, _, port = url.host_field.decode("ascii").partition(":")
        authority = host if not port else f"{host}:{port}"
        return parse_url(f"https://{authority}{url.text[len(str(url.origin)) :]}")
