"""The rules of a private HTTP cache (RFC 9111, RFC 5861) without a store: what may be stored, for how long, and for
which requests.

No I/O and no clock; times are arguments, Unix times in seconds. A field of a response that cannot be read is taken
conservatively: an unreadable max-age or Expires means stale, an unreadable Age or Date is ignored. No input raises.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from corenet.http.dates import parse_http_date
from corenet.http.headers import Headers
from corenet.limits import HTTP_CACHE_HEURISTIC_SECONDS, HTTP_CACHE_VARY_FIELDS

__all__ = [
    "Stored",
    "Use",
    "age_of",
    "bypasses_cache",
    "cache_control",
    "choose",
    "conditions",
    "fields_to_store",
    "freshened",
    "invalidates",
    "lifetime_of",
    "may_serve_on_error",
    "may_store",
    "variant_of",
    "vary_names",
]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Blanks are matched without backtracking: two runs next to each other would take quadratic time where nothing matches.
_DIRECTIVE = re.compile(rf'[ \t,]*+({_TOKEN})[ \t]*+(?:=[ \t]*+(?:({_TOKEN})|"((?:[^"\\]|\\.)*)"))?[ \t]*+(?:,|\Z)')
# To the next comma, with the separators before it: to try each of them as a beginning would be quadratic.
_UNREADABLE = re.compile(r"[ \t,]*+[^,]*+,?")
_DIGITS = 10
# RFC 9110 section 15.1, without 206, which is never kept here.
_HEURISTIC = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
# RFC 9110 section 15, without 206 and 304, which are never kept. `must-understand` requires this list (RFC
# 9111 section 5.2.2.3).
_UNDERSTOOD = _HEURISTIC | {201, 202, 205, 302, 303, 305, 307, *range(400, 418), 421, 422, 426, *range(500, 506)}
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_ERRORS = frozenset({500, 502, 503, 504})
# A caller that sends these does the cache's work itself, or wants a part.
_OWN = frozenset({b"range", b"if-range", b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since"})
# RFC 9111 section 3.1: about the connection or a proxy, not about the response.
_NOT_STORED = frozenset(
    "connection keep-alive proxy-authenticate proxy-authentication-info proxy-connection te transfer-encoding "
    "upgrade".split()
)
# What the rules read. A response that lists one of these in Connection cannot remove it.
_READ = frozenset("age cache-control date etag expires last-modified vary".split())
# RFC 9111 section 3.2. The body is kept as it was decoded, so the fields that describe it stay as well.
_NOT_UPDATED = _NOT_STORED.union("trailer content-length content-encoding content-type content-range".split())


class Use(Enum):
    """How a stored response may be used: as it is, with revalidation in the background, or after revalidation."""

    FRESH = 1
    WHILE_REVALIDATING = 2
    VALIDATE = 3


@dataclass(slots=True)
class Stored:
    """A stored response. `vary` has the names of its Vary field, `variant` the hash of the request fields they name."""

    status: int
    reason: str
    http_version: str
    headers: Headers
    body: bytes
    request_time: float
    response_time: float
    vary: str
    variant: bytes


def cache_control(values: Iterable[str]) -> dict[str, str | None]:
    """Parse Cache-Control fields into directives. What cannot be read is ignored.

    A directive with two different values has the value "", which no reader takes for a number (section 4.2.1).
    """
    found: dict[str, str | None] = {}
    for value in values:
        position = 0
        while position < len(value):
            match = _DIRECTIVE.match(value, position)
            if match is None:
                position = _UNREADABLE.match(value, position).end()  # type: ignore[union-attr]  # it matches any text
                continue
            position = match.end()
            name = match[1].lower()
            argument = match[2] if match[3] is None else match[3]
            found[name] = argument if found.get(name, argument) == argument else ""
    return found


def _seconds(directives: dict[str, str | None], name: str) -> float | None:
    """The number of a directive, None when it is absent; an unreadable number is 0."""
    if name not in directives:
        return None
    text = directives[name] or ""
    return _delta(text) if _is_number(text) else 0.0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _delta(text: str) -> float:
    """The value of digits; more than can be counted is as much as can be counted (RFC 9111 section 1.2.2)."""
    digits = text.lstrip("0") or "0"
    return float(10**_DIGITS) if len(digits) > _DIGITS else float(digits)


def _only_date(headers: Headers, name: str) -> float | None:
    values = headers.get_list(name)
    return parse_http_date(values[0]) if len(values) == 1 else None


def bypasses_cache(method: str, fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the cache has no part in a request: another method than GET, a range, or the caller's own conditions."""
    return method != "GET" or any(name.lower() in _OWN for name, _ in fields)


def invalidates(method: str, status: int) -> bool:
    """Whether a response makes what is stored for its URL invalid (section 4.4)."""
    return method not in _SAFE and 200 <= status < 400


def vary_names(headers: Headers) -> str | None:
    """The names of the Vary field, sorted; None when no other request can be answered with this response."""
    names = sorted(set(headers.get_members("vary")))
    if "*" in names or len(names) > HTTP_CACHE_VARY_FIELDS:
        return None
    return " ".join(names)


def variant_of(vary: str, fields: Iterable[tuple[bytes, bytes]], *, public: bool = False) -> bytes:
    """Hash of the request's fields that the response depends on; they may be secrets, so they are not kept.

    Authorization always counts, except for a `public` response: users who share a cache must not see each other's.
    """
    names = set(vary.encode("latin-1").split())
    if not public:
        names.add(b"authorization")
    sums = hashlib.sha256()
    given: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        given.setdefault(name.lower(), []).append(b" ".join(value.split()))
    for name in sorted(names):
        values = given.get(name)
        text = b"" if values is None else b"=" + b",".join(values)
        sums.update(b"%s %d " % (name, len(text)) + text)
    return sums.digest()


def may_store(request_cc: dict[str, str | None], status: int, headers: Headers) -> bool:
    """Whether a private cache may keep a response to GET, and has a use for it (section 3)."""
    response_cc = cache_control(headers.get_list("cache-control"))
    if "no-store" in request_cc or status in (206, 304) or not 200 <= status < 600:
        return False
    if "must-understand" in response_cc:
        # Servers send no-store with it, for caches that do not know this directive.
        if status not in _UNDERSTOOD:
            return False
    elif "no-store" in response_cc:
        return False
    if vary_names(headers) is None:
        return False
    explicit = "max-age" in response_cc or "expires" in headers or "public" in response_cc or "private" in response_cc
    if not explicit and status not in _HEURISTIC:
        return False
    return "etag" in headers or "last-modified" in headers or lifetime_of(status, headers, 0.0) > 0


def lifetime_of(status: int, headers: Headers, response_time: float) -> float:
    """Seconds for which a response is fresh (section 4.2.1); s-maxage is for shared caches only."""
    response_cc = cache_control(headers.get_list("cache-control"))
    max_age = _seconds(response_cc, "max-age")
    if max_age is not None:
        return max_age
    date = _only_date(headers, "date")
    sent = response_time if date is None else date
    if "expires" in headers:
        expires = _only_date(headers, "expires")
        return 0.0 if expires is None else max(0.0, expires - sent)
    modified = _only_date(headers, "last-modified")
    if modified is None or (status not in _HEURISTIC and "public" not in response_cc):
        return 0.0
    # Section 4.2.2: a tenth of the time since it was changed.
    return min(max(0.0, (sent - modified) / 10), float(HTTP_CACHE_HEURISTIC_SECONDS))


def age_of(stored: Stored, now: float) -> float:
    """The age in seconds (section 4.2.3); a clock that was set back makes nothing younger."""
    # Section 5.1: the first member counts; what is not a number is ignored.
    members = stored.headers.get_members("age")[:1]
    given = _delta(members[0]) if members and _is_number(members[0]) else 0.0
    date = _only_date(stored.headers, "date")
    apparent = 0.0 if date is None else max(0.0, stored.response_time - date)
    corrected = given + max(0.0, stored.response_time - stored.request_time)
    return max(apparent, corrected) + max(0.0, now - stored.response_time)


def _lateness(stored: Stored, now: float) -> float:
    """Seconds since the response became stale; negative while it is fresh."""
    return age_of(stored, now) - lifetime_of(stored.status, stored.headers, stored.response_time)


def choose(stored: Stored, request_cc: dict[str, str | None], now: float) -> Use:
    """Decide how a stored response may be used, by its directives and the request's (sections 4.2.4, 5.2.1)."""
    response_cc = cache_control(stored.headers.get_list("cache-control"))
    if "no-cache" in response_cc or "no-cache" in request_cc:
        return Use.VALIDATE
    age, late = age_of(stored, now), _lateness(stored, now)
    oldest = _seconds(request_cc, "max-age")
    if oldest is not None and age > oldest:
        return Use.VALIDATE
    if late < 0 and -late >= (_seconds(request_cc, "min-fresh") or 0.0):
        return Use.FRESH
    if "must-revalidate" in response_cc or "min-fresh" in request_cc:
        return Use.VALIDATE
    accepted = _seconds(request_cc, "max-stale") or 0.0
    if "max-stale" in request_cc and (request_cc["max-stale"] is None or late <= accepted):
        return Use.FRESH
    if late < (_seconds(response_cc, "stale-while-revalidate") or 0.0):
        return Use.WHILE_REVALIDATING
    return Use.VALIDATE


def may_serve_on_error(stored: Stored, request_cc: dict[str, str | None], now: float, status: int | None) -> bool:
    """Whether a stale response may replace an error (RFC 5861 section 4); `status` None: there was no response."""
    if status is not None and status not in _ERRORS:
        return False
    response_cc = cache_control(stored.headers.get_list("cache-control"))
    if not {"no-cache", "must-revalidate"}.isdisjoint(response_cc):
        return False
    if not {"no-cache", "max-age"}.isdisjoint(request_cc):
        return False
    late = _lateness(stored, now)
    return any(late < (_seconds(directives, "stale-if-error") or 0.0) for directives in (response_cc, request_cc))


def fields_to_store(headers: Headers) -> Headers:
    """The fields of a response without those that concern the connection or a proxy only (section 3.1)."""
    dropped = _NOT_STORED.union(headers.get_members("connection")) - _READ
    return Headers([field for field in headers.raw if field[0].lower().decode("latin-1") not in dropped])


def conditions(stored: Stored) -> list[tuple[bytes, bytes]]:
    """The fields that ask whether a stored response is still valid (section 4.3.1); empty when it has no validator."""
    fields: list[tuple[bytes, bytes]] = []
    for condition, validator in ((b"If-None-Match", "etag"), (b"If-Modified-Since", "last-modified")):
        fields += [(condition, value.encode("latin-1")) for value in stored.headers.get_list(validator)[:1]]
    return fields


def freshened(stored: Stored, headers: Headers, request_time: float, response_time: float) -> Stored | None:
    """The stored response with the fields of a 304 (section 3.2); None when the 304 is about another representation."""
    tag, kept = headers.get("etag"), stored.headers.get("etag")
    if tag is not None and kept is not None:
        if tag.removeprefix("W/") != kept.removeprefix("W/"):
            return None
    elif tag is not None and not tag.startswith("W/"):
        # A strong validator selects the stored responses that have it (RFC 9111 section 4.3.4).
        return None
    elif tag is None and (headers.get("last-modified") or "") not in ("", stored.headers.get("last-modified")):
        return None
    refused = _NOT_UPDATED.union(headers.get_members("connection"))
    newer = [field for field in headers.raw if field[0].lower().decode("latin-1") not in refused]
    names = {name.lower() for name, _ in newer} | {b"age"}
    merged = Headers([field for field in stored.headers.raw if field[0].lower() not in names] + newer)
    return Stored(
        stored.status,
        stored.reason,
        stored.http_version,
        merged,
        stored.body,
        request_time,
        response_time,
        stored.vary,
        stored.variant,
    )
