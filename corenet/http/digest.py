"""HTTP Digest authentication (RFC 7616): MD5 and SHA-256, also as -sess, with qop auth.

The first request of an origin is sent without credentials; the server answers with a challenge. Later requests use its
nonce again with a counter, until the server says that it is stale. A challenge without qop=auth is not answered:
without a client nonce the server, or an attacker who changes its response, chooses all hashed data.
"""

import hashlib
import secrets
from collections.abc import Callable
from urllib.parse import quote

from corenet.http.arguments import expect, expect_callable
from corenet.http.auth import Auth
from corenet.http.url import Origin, Url
from corenet.limits import HTTP_DIGEST_CHALLENGES

__all__ = ["DigestAuth"]

_HASHES = {"md5": hashlib.md5, "sha-256": hashlib.sha256}


class _Challenge:
    """A challenge that we can answer, and how often it was."""

    __slots__ = ("algorithm", "cnonce", "count", "hash", "nonce", "opaque", "origin", "realm", "session", "userhash")

    def __init__(self, origin: Origin, params: dict[str, str], cnonce: str) -> None:
        self.origin = origin
        self.realm = params["realm"]
        self.nonce = params["nonce"]
        self.opaque = params.get("opaque")
        self.algorithm = params.get("algorithm", "MD5")
        name = self.algorithm.lower()
        self.session = name.endswith("-sess")
        self.hash = _HASHES[name.removesuffix("-sess")]
        self.userhash = params.get("userhash", "").lower() == "true"
        self.cnonce = cnonce
        self.count = 0


class DigestAuth(Auth):
    """User name and password, of which only hashes are sent; for one origin at a time.

    `random` returns the client's nonce.
    """

    __slots__ = ("_challenge", "_password", "_random", "_user")

    def __init__(self, user: str, password: str, *, random: Callable[[], str] = secrets.token_hex) -> None:
        expect(user, str, "DigestAuth user", "a str")
        expect(password, str, "DigestAuth password", "a str")
        expect_callable(random, "DigestAuth random", "that returns a str")
        self._user = user
        self._password = password
        self._random = random
        self._challenge: _Challenge | None = None

    def answer(self, url: Url, challenges: list[tuple[str, dict[str, str]]], answered: int) -> bool:
        for scheme, params in challenges:
            if scheme == "digest" and _usable(params):
                stale = params.get("stale", "").lower() == "true"
                if answered >= HTTP_DIGEST_CHALLENGES or (answered and not stale):
                    # The nonce was fresh, so the server does not accept name and password.
                    self._challenge = None
                    return False
                self._challenge = _Challenge(url.origin, params, self._random())
                return True
        return False

    def authorize(self, method: str, url: Url) -> str | None:
        known = self._challenge
        if known is None or known.origin != url.origin:
            return None
        known.count += 1
        count = f"{known.count:08x}"
        uri = url.target.decode("ascii")

        # What the server sent is hashed as the bytes that it sent, our own as UTF-8 (RFC 7616 section 4).
        realm, nonce = known.realm.encode("latin-1"), known.nonce.encode("latin-1")

        def hashed(*parts: str | bytes) -> str:
            return known.hash(b":".join(part.encode() if isinstance(part, str) else part for part in parts)).hexdigest()

        secret = hashed(self._user, realm, self._password)
        if known.session:
            secret = hashed(secret, nonce, known.cnonce)
        response = hashed(secret, nonce, count, known.cnonce, "auth", hashed(method, uri))
        fields = [
            self._name(hashed(self._user, realm) if known.userhash else None),
            f"realm={_quote(known.realm)}",
            f"nonce={_quote(known.nonce)}",
            f"uri={_quote(uri)}",
            f'response="{response}"',
            f"algorithm={known.algorithm}",
            "qop=auth",
            f"nc={count}",
            f'cnonce="{known.cnonce}"',
        ]
        if known.opaque is not None:
            fields.append(f"opaque={_quote(known.opaque)}")
        if known.userhash:
            fields.append("userhash=true")
        return "Digest " + ", ".join(fields)

    def identity(self) -> bytes:
        """User name and password: the Authorization field has a counter and never repeats."""
        return f"Digest {len(self._user)} {self._user}:{self._password}".encode()

    def _name(self, name_hash: str | None) -> str:
        if name_hash is not None:
            return f'username="{name_hash}"'
        if self._user.isascii() and self._user.isprintable():
            return f"username={_quote(self._user)}"
        # RFC 7616 section 3.4: other names in the form of RFC 5987.
        return f"username*=UTF-8''{quote(self._user, safe='')}"


def _usable(params: dict[str, str]) -> bool:
    """Return whether we can answer the challenge. Its values go into our field, which is ISO-8859-1 already."""
    algorithm = params.get("algorithm", "MD5").lower().removesuffix("-sess")
    qops = [word.strip().lower() for word in params.get("qop", "").split(",")]
    return "realm" in params and "nonce" in params and algorithm in _HASHES and "auth" in qops


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
