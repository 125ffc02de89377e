"""The rules of RFC 6265bis without a store: parsing Set-Cookie, matching domains and paths.

Nothing here reads a clock or does I/O. A field that breaks a rule gives None, because RFC 6265bis section 5.6 ignores
it; no input raises. Text is ISO-8859-1, as in `Headers`, so octets that a server has chosen are sent back unchanged.
"""

import re
from typing import NamedTuple

from corenet.http.dates import parse_cookie_date
from corenet.limits import HTTP_COOKIE_ATTRIBUTE_SIZE, HTTP_COOKIE_SECONDS, HTTP_COOKIE_SIZE

__all__ = ["SetCookie", "default_path", "domain_matches", "parse_set_cookie", "path_matches"]

# Section 5.6 step 1: all control characters except the horizontal tab.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BLANKS = " \t"
_MAX_AGE = re.compile(r"-?[0-9]+")
# More digits than any number of seconds within the limit has.
_MAX_AGE_DIGITS = 12


class SetCookie(NamedTuple):
    """A parsed Set-Cookie field. `domain` and `path` are as given, "" when absent or unusable.

    `expires` is a Unix time in seconds, None for the end of the session. SameSite is not kept: a client without pages
    has no cross-site requests.
    """

    name: str
    value: str
    domain: str
    path: str
    expires: float | None
    secure: bool
    http_only: bool


def parse_set_cookie(field: str, now: float) -> SetCookie | None:
    """Parse a field received at the Unix time `now` (section 5.6); None: it is to be ignored."""
    if _CONTROL.search(field):
        return None
    pair, _, rest = field.partition(";")
    name, equals, value = pair.partition("=")
    if not equals:
        name, value = "", pair
    name, value = name.strip(_BLANKS), value.strip(_BLANKS)
    if not (name or value) or len(name) + len(value) > HTTP_COOKIE_SIZE:
        return None
    domain = path = ""
    expires: float | None = None
    max_age: float | None = None
    secure = http_only = False
    for attribute in rest.split(";"):
        key, _, text = attribute.partition("=")
        key, text = key.strip(_BLANKS).lower(), text.strip(_BLANKS)
        if len(text) > HTTP_COOKIE_ATTRIBUTE_SIZE:
            continue
        if key == "expires":
            date = parse_cookie_date(text)
            expires = expires if date is None else date
        elif key == "max-age":
            seconds = _seconds(text)
            max_age = max_age if seconds is None else seconds
        elif key == "domain":
            domain = text.removeprefix(".").lower()
        elif key == "path":
            path = text if text.startswith("/") else ""
        elif key == "secure":
            secure = True
        elif key == "httponly":
            http_only = True
    if max_age is not None:
        # Section 5.7 step 3: Max-Age wins. With a lifetime of zero or less the cookie has expired.
        expires = now + max_age if max_age > 0 else -1.0
    if expires is not None:
        expires = min(expires, now + HTTP_COOKIE_SECONDS)
    return SetCookie(name, value, domain, path, expires, secure, http_only)


def _seconds(text: str) -> float | None:
    if not _MAX_AGE.fullmatch(text):
        return None
    if text.startswith("-"):
        return 0.0
    digits = text.lstrip("0")
    return float(HTTP_COOKIE_SECONDS) if len(digits) > _MAX_AGE_DIGITS else float(int(digits or "0"))


def default_path(request_path: str) -> str:
    """The directory of the request's path (section 5.1.4)."""
    return request_path[: request_path.rfind("/")] or "/"


def domain_matches(host: str, domain: str, is_address: bool) -> bool:
    """Whether `host` is `domain` or a subdomain of it; an address only matches itself (section 5.1.3)."""
    return host == domain or (not is_address and host.endswith("." + domain))


def path_matches(request_path: str, path: str) -> bool:
    """Whether `request_path` is `path` or below it (section 5.1.4)."""
    if not request_path.startswith(path):
        return False
    return len(request_path) == len(path) or path.endswith("/") or request_path[len(path)] == "/"
