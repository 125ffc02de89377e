"""Answer cache: arbitrary bytes as the reply to keep and as the query to answer.

A stored reply must be returned as a message that `MessageView` parses, with the stored records. Nothing may be written
past the requested limit. With rotation the same bytes come back in another order.
"""

import struct

from resolver.cache import AnswerCache, Arena, Table, rotated
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView

CACHE = AnswerCache(Table(Arena(1 << 20), bytes(16)))
TURNING = CACHE.for_rules(b"", rotate=True)
NOW = 1_700_000_000


def run(data: bytes) -> None:
    """One input: a length, so many bytes of reply, the rest a query."""
    if len(data) < 3:
        return
    (cut,) = struct.unpack_from(">H", data)
    packet, query = data[2 : 2 + cut], data[2 + cut :]
    for turn in range(3):
        assert sorted(rotated(packet, turn)) == sorted(packet)
    kept = CACHE.put(packet, do=False, cd=False, now=NOW, ttl=300, options=b"\x00\x0f\x00\x02\x00\x03")
    for limit in (0, 40, 512, 65535):
        reply = CACHE.render(query, NOW + 10, limit)
        assert reply is None or 12 <= len(reply) <= limit
    if not kept:
        return
    # The stored question, asked plainly, must bring the stored body back.
    end = 12
    while packet[end]:
        end += packet[end] + 1
    asked = packet[:2] + b"\x01\x00\x00\x01" + bytes(6) + packet[12 : end + 5]
    reply = CACHE.render(asked, NOW, 65535)
    if reply is None:
        return
    try:
        MessageView.parse(packet)
    except WireError:
        return
    turned = TURNING.render(asked, NOW, 65535)
    assert turned is not None and sorted(turned) == sorted(reply)
    MessageView.parse(turned)
    assert len(reply) == len(packet)
    assert reply[12:] == packet[12:]
    MessageView.parse(reply)
