"""The cache's rules: whatever fields a server and a caller send, nothing raises and no age or lifetime is negative.

The input is split at NUL bytes into the request's Cache-Control and the fields of the response, each ``name: value``.
"""

from corenet.http.cache_rules import (
    Stored,
    age_of,
    cache_control,
    choose,
    conditions,
    freshened,
    lifetime_of,
    may_serve_on_error,
    may_store,
    variant_of,
    vary_names,
)
from corenet.http.headers import Headers

NOW = 1_700_000_000.0


def run(data: bytes) -> None:
    """One input: Cache-Control NUL field NUL field ..."""
    first, *lines = data.split(b"\0")
    pairs = [line.partition(b": ") for line in lines]
    headers = Headers([(name, value) for name, _, value in pairs])
    asked = cache_control([first.decode("latin-1")])
    may_store(asked, 200, headers)
    names = vary_names(headers)
    variant = variant_of(names or "", headers.raw)
    stored = Stored(200, "OK", "HTTP/1.1", headers, b"", NOW - 2, NOW - 1, names or "", variant)
    assert lifetime_of(200, headers, NOW) >= 0 and 0 <= age_of(stored, NOW) < 1e12
    choose(stored, asked, NOW)
    may_serve_on_error(stored, asked, NOW, 500)
    conditions(stored)
    updated = freshened(stored, headers, NOW, NOW)
    assert updated is not None and updated.body == b""
