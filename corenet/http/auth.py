"""Credentials of requests: `Auth` and its schemes Basic and Bearer. Digest and netrc have modules of their own.

The client calls `authorize` for the Authorization field of each request that it sends, and `answer` after a response
401. It does so only for the origin of the caller's URL: after a redirect to another origin nothing is sent, also not
when a later redirect leads back.
"""

import base64
import re
from collections.abc import Iterable
from urllib.parse import unquote

from corenet.http.arguments import expect
from corenet.http.url import Url

__all__ = ["Auth", "AuthTypes", "BasicAuth", "BearerAuth", "auth_of", "parse_challenges", "split_credentials"]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SEPARATOR = re.compile(r"[ \t,]*")
_PARAM = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))(?=[ \t]*(?:,|\Z))')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+[0-9A-Za-z._~+/-]+=*(?=[ \t]*(?:,|\Z)))?(?=[ \t,]|\Z)")
_QUOTED = re.compile(r"\\(.)")
_TOKEN68 = re.compile(r"[0-9A-Za-z._~+/-]+=*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# An authority with one "@". Where there are more, parsers disagree which one ends the credentials.
_CREDENTIALS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#@\\]*)@([^/?#@\\]*(?:[/?#].*)?)", re.DOTALL)


class Auth:
    """A scheme of authentication. Subclasses override `authorize`, and `answer` if they react to challenges."""

    __slots__: tuple[str, ...] = ()

    def authorize(self, method: str, url: Url) -> str | None:
        """Return the value of the Authorization field for a request, or None to send none."""
        raise NotImplementedError

    def answer(self, url: Url, challenges: list[tuple[str, dict[str, str]]], answered: int) -> bool:
        """React to a response 401; return whether the request is to be sent again.

        `challenges` are schemes in lower case with their parameters, `answered` is how often this request was sent
        again after a challenge.
        """
        return False

    def identity(self) -> bytes | None:
        """Return octets that identify the user, as part of a cache key; they are hashed and not kept.

        None: the value of the Authorization field is used. A scheme whose field differs from request to request must
        return the same octets each time, or none of its responses would be found in the cache.
        """
        return None


class BasicAuth(Auth):
    """User name and password (RFC 7617), encoded as UTF-8. Use it with https only: it is not encrypted."""

    __slots__ = ("_value",)

    def __init__(self, user: str, password: str) -> None:
        expect(user, str, "BasicAuth user", "a str")
        expect(password, str, "BasicAuth password", "a str")
        if ":" in user or _CONTROL.search(user + password):
            raise ValueError("a user name must not have a colon, and neither it nor the password control characters")
        self._value = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")

    def authorize(self, method: str, url: Url) -> str:
        return self._value


class BearerAuth(Auth):
    """A token (RFC 6750)."""

    __slots__ = ("_value",)

    def __init__(self, token: str) -> None:
        expect(token, str, "BearerAuth token", "a str")
        if not _TOKEN68.fullmatch(token):
            raise ValueError("a bearer token must consist of letters, digits and -._~+/, with = at its end only")
        self._value = f"Bearer {token}"

    def authorize(self, method: str, url: Url) -> str:
        return self._value


AuthTypes = Auth | tuple[str, str]


def auth_of(given: "AuthTypes | None") -> Auth | None:
    """Convert the `auth` argument: a tuple of two str becomes `BasicAuth`.

    Raises:
        TypeError: it is something else.
    """
    if given is None or isinstance(given, Auth):
        return given
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, str) for part in given):
        return BasicAuth(*given)
    raise TypeError(f"auth= is an Auth or (user name, password), not {type(given).__name__}")


def split_credentials(url: str) -> tuple[str, BasicAuth | None]:
    """Return a URL without user name and password, and these, percent-decoded."""
    found = _CREDENTIALS.fullmatch(url)
    if found is None:
        return url, None
    user, _, password = found[2].partition(":")
    return found[1] + found[3], BasicAuth(unquote(user), unquote(password))


def parse_challenges(values: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Parse WWW-Authenticate fields (RFC 9110 section 11.6.1): scheme in lower case, parameters.

    Parsing of a field ends where it breaks the grammar; the challenges before that are returned. A challenge with a
    parameter that occurs twice is left out, because two readers could choose differently. The time is linear in the
    length of the fields.
    """
    found: list[tuple[str, dict[str, str]]] = []
    for value in values:
        at = 0
        params: dict[str, str] | None = None
        separator = _SEPARATOR.match(value, at)
        while separator is not None and (at := separator.end()) < len(value):
            if params is not None and (param := _PARAM.match(value, at)) is not None:
                name = param[1].lower()
                if name in params:
                    params.clear()
                    params[""] = "a parameter occurs twice"
                params[name] = _QUOTED.sub(r"\1", param[2]) if param[2] is not None else param[3]
                at = param.end()
            elif (scheme := _SCHEME.match(value, at)) is not None:
                params = {}
                found.append((scheme[1].lower(), params))
                at = scheme.end()
            else:
                break
            separator = _SEPARATOR.match(value, at)
    return [(scheme, params) for scheme, params in found if "" not in params]
