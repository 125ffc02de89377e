"""What we read ourselves of DNS over QUIC: headers of datagrams, tokens of Retry packets, and the octets of streams.

A header that is accepted lies within its datagram, a token opens only as it was made, and a stream gives at most the
one message that was sent on it. The name of a client lies within its ClientHello.
"""

from resolver import limits
from resolver.net.doq import MessageReader, ProtocolError, check_query
from resolver.net.quic_hello import HelloReader, Octets, TooShortError, joined, read_crypto, server_name
from resolver.net.quic_packets import make_token, open_token, parse_header

KEY = bytes(32)
CLIENT = b"\x7f\0\0\1\x10\x01"
CHOSEN = b"chosen"
NOW = 1_800_000_000


def run(data: bytes) -> None:
    """One input: a datagram, a token, and a stream cut into pieces by the first byte."""
    header = parse_header(data)
    if header is not None:
        size = 1 + len(header.destination) + len(header.source) + len(header.token)
        assert size <= len(data)
        assert header.destination in data and header.source in data and header.token in data
        if header.version == 1:
            assert max(len(header.destination), len(header.source)) <= limits.QUIC_CONNECTION_ID
    assert open_token(KEY, data, CLIENT, CHOSEN, NOW) is None
    original = data[:limits.QUIC_CONNECTION_ID]
    assert open_token(KEY, make_token(KEY, CLIENT, original, CHOSEN, NOW), CLIENT, CHOSEN, NOW) == original
    name_of(data, header is not None)
    if not data:
        return
    step, stream, reader = 1 + data[0] % 40, data[1:], MessageReader()
    try:
        for at in range(0, len(stream), step):
            assert reader.feed(stream[at : at + step], False) is None
        message = reader.feed(b"", True)
        assert message is not None and message == stream[2:]
        check_query(message)
        assert message[:2] == b"\0\0" and len(message) >= 12
    except ProtocolError:
        assert reader.held <= len(stream)


def name_of(data: bytes, accepted: bool) -> None:
    """A datagram without its protection is not to be had; so frames and ClientHello are read apart."""
    if accepted:
        reader = HelloReader(CHOSEN)
        found = [reader.feed(data) for _ in range(limits.QUIC_HELLO)]
        assert found == [None] * (limits.QUIC_HELLO - 1) + [""]
    pieces: dict[int, bytes] = {}
    try:
        read_crypto(Octets(data), pieces)
    except TooShortError:
        pass
    assert sum(map(len, pieces.values())) <= len(data) >= len(joined(pieces))
    try:
        assert server_name(Octets(data)).encode("latin-1") in data.lower()
    except TooShortError:
        pass
