"""Cookies and HSTS: whatever a server sends, nothing raises, the bounds hold, and what is sent back is a field value.

The input is split at NUL bytes into fields.
"""

from corenet import limits
from corenet.http.cookies import CookieJar
from corenet.http.field_grammar import is_value
from corenet.http.headers import Headers
from corenet.http.hsts import parse_policy
from corenet.http.url import parse_url

URL = parse_url("https://www.example.org/a/b")


def run(data: bytes) -> None:
    """One input: Set-Cookie NUL Set-Cookie NUL ..."""
    jar = CookieJar(clock=lambda: 1_700_000_000.0)
    fields = data.split(b"\0")
    jar.store(URL, Headers([(b"Set-Cookie", field) for field in fields]))
    value = jar.header(URL)
    assert len(jar) <= len(fields) and len(value) <= limits.HTTP_COOKIE_FIELD_SIZE
    assert is_value(value.encode("latin-1").strip(b" \t"))
    for field in fields:
        policy = parse_policy(field.decode("latin-1"))
        assert policy is None or 0 <= policy[0] <= limits.HTTP_HSTS_SECONDS
