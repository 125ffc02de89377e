"""The ClientHello of TLS: in any segments the verdict is the same, and what is collected has a bound.

The first octet of the input is the size of the segments.
"""

from resolver import limits
from resolver.net.client_hello import ClientHello

RECORD_MAX = 5 + 0xFFFF


def run(data: bytes) -> None:
    """One input: the size of the segments, then what the client sends."""
    size, data = (data[0] or 1 if data else 1), data[1:]
    reader = ClientHello()
    begun = False
    for at in range(0, len(data), size):
        begun = reader.feed(data[at:at + size])
        if begun:
            break
    assert len(reader.data) <= limits.TLS_HELLO_OCTETS + RECORD_MAX + size
    assert begun == ClientHello().feed(reader.data)
