"""URLs: any text is rejected or normalised. Normalisation is idempotent, and its result has no dangerous characters.

The text is split at the first NUL into a base and a reference that is joined to it.
"""

from corenet.http.errors import InvalidUrl
from corenet.http.url import Url, _parse_cached, parse_url


def check(url: Url) -> None:
    """What holds for every URL that was accepted."""
    assert parse_url(str(url)) == url
    assert url.target.startswith(b"/") and b" " not in url.target and url.target.isascii()
    assert not set(url.host) & set("@/\\?#%") and url.host and url.host == url.host.lower()
    assert 0 < url.port < 65536
    assert not any(byte <= 0x20 or byte >= 0x7F for byte in url.target + url.host_field)


def run(data: bytes) -> None:
    """One input: base NUL reference."""
    base, _, reference = data.decode("utf-8", "replace").partition("\0")
    try:
        url = parse_url(base)
        check(url)
        check(url.join(reference))
    except InvalidUrl:
        return
    finally:
        _parse_cached.cache_clear()
