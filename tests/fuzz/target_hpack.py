"""HPACK: arbitrary blocks raise only its own error and stay within the limits; what was read is written and read again.

The first byte is the number of bytes of each block, so that later blocks meet a table that earlier ones have filled.
"""

from corenet.http.errors import RemoteProtocolError
from corenet.http.hpack import HpackDecoder, HpackEncoder
from corenet.limits import HPACK_TABLE_SIZE, HTTP_FIELD_COUNT, HTTP_HEAD_SIZE


def run(data: bytes) -> None:
    """One input: size of the blocks, then the blocks."""
    if not data:
        return
    size = 1 + data[0]
    decoder, encoder, again = HpackDecoder(), HpackEncoder(), HpackDecoder()
    for at in range(1, len(data), size):
        try:
            fields = decoder.decode(data[at : at + size])
        except RemoteProtocolError:
            return
        assert decoder.table.size <= HPACK_TABLE_SIZE.default
        assert len(fields) <= HTTP_FIELD_COUNT.default
        assert sum(len(name) + len(value) + 32 for name, value in fields) <= HTTP_HEAD_SIZE.default
        assert again.decode(encoder.encode(fields)) == fields
        assert again.table.size == encoder.table.size
