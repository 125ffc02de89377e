"""SOCKS5 proxies: whatever one sends, the handshake waits for more, ends, or raises ProxyError; little is kept.

The first byte chooses credentials and the size of the pieces in which the rest arrives.
"""

from corenet.http.errors import ProxyError
from corenet.http.socks5 import Socks5Handshake


def run(data: bytes) -> None:
    """One input: options, bytes of the proxy."""
    if not data:
        return
    size = 1 + (data[0] >> 1) % 16
    handshake = Socks5Handshake("example.org", 443, (b"user", b"password") if data[0] & 1 else None)
    assert handshake.start()[0] == 5
    try:
        for position in range(1, len(data), size):
            handshake.feed(data[position : position + size])
            assert len(handshake._received) <= 4 + 256 + 2
    except ProxyError:
        return
