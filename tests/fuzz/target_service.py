"""Packets of clients: arbitrary bytes as datagrams and as a stream, through the fast path and the service, also signed.

For any input, nothing is raised, no state is left, and replies are well-formed responses with the id of the query, no
larger than the client accepts. The reply to what is signed with a known key is signed for it.
"""

from support.service_parts import NOW, Parts, Sink, address, failed, positive
from support.service_parts import query as make_query

from resolver.effects import Outcome, Question
from resolver.net.fastpath import ClientQuery, read_query
from resolver.net.tsig import keys_of
from resolver.settings import RateLimitSettings, Settings, TsigKey
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.consts import HEADER_SIZE
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset
from resolver.zones.tsig import Verifier, sign, split

PARTS = Parts(identity="fuzz")
REFUSING = Parts(identity="fuzz", non_recursive_queries="cache", minimal_any=False)
LIMITED = Parts(Settings(rate_limit=RateLimitSettings(
    queries_per_second=3, queries_action="truncate", responses_per_second=1, all_per_second=2, slip=1,
)))
KEYED = Parts(Settings(tsig_key=(TsigKey("k", secret="c2VjcmV0LXNlY3JldC1zZWNyZXQ="),)))
[KEY] = keys_of(KEYED.settings).values()
PEERS = (("127.0.0.1", 4000), ("192.0.2.1", 53), ("::1", 9, 0, 0))
SOA = RRset(names.from_text("com."), c.SOA, 60, [names.ROOT * 2 + bytes(20)])
OUTCOMES = (
    positive(address(), verdict=Verdict.SECURE),
    positive(address(count=120)),
    failed(),
    Outcome(Question(names.from_text("a.com."), c.A), c.NXDOMAIN, [], [SOA], Verdict.SECURE, 60),
    positive(verdict=Verdict.BOGUS),
)
PARTS.answer(make_query(), positive())
LIMITED.answer(make_query(), positive())
KEYED.answer(make_query(), positive())


def run(data: bytes) -> None:
    """One input: a byte that chooses client and outcome, the rest is a packet, and then a stream of them."""
    if not data:
        return
    choice, packet = data[0], data[1:]
    for parts in (PARTS, REFUSING, LIMITED):
        parts.mesh.instant = OUTCOMES[choice % len(OUTCOMES)]
        peer = PEERS[choice // len(OUTCOMES) % len(PEERS)]
        reply = parts.fast.answer(packet, peer, NOW)
        if reply is None:
            sink = Sink()
            assert parts.service.handle(packet, peer, sink) is None
            assert len(sink.packets) == 1
            [reply] = sink.packets
        _check(packet, reply, parts.settings.server.max_udp_size)
        _stream(parts, packet)
        assert parts.service.waiting == 0
    if len(packet) >= HEADER_SIZE and packet[10:12] != b"\xff\xff":  # one more record is counted in these octets
        _signed(packet, OUTCOMES[choice % len(OUTCOMES)])


def _signed(packet: bytes, outcome: Outcome) -> None:
    """The same bytes with a signature, as a datagram and on a stream."""
    KEYED.mesh.instant = outcome
    message, mac = sign(packet, KEY, NOW)
    accepted = KEYED.service.statistics()["signed"]
    for stream in (False, True):
        sink = Sink(stream=stream)
        KEYED.service.handle(message, PEERS[0], sink)
        [reply] = sink.packets
        taken, accepted = KEYED.service.statistics()["signed"] - accepted, KEYED.service.statistics()["signed"]
        if reply is None:
            continue
        if not stream:
            _check(packet, reply, KEYED.settings.server.max_udp_size)
        found = split(reply)
        # What follows a cut record may be a part of it, so the signature may be another one; its error is unsigned.
        assert bool(found is not None and found.mac) == bool(taken), "only accepted signatures lead to signed replies"
        if taken:
            Verifier(KEY, mac).check(reply, NOW)


def _check(packet: bytes, reply: bytes | None, largest: int) -> None:
    if not reply:
        return
    view = MessageView.parse(reply)
    assert reply[:2] == packet[:2]
    assert view.qr
    found = read_query(packet)
    if isinstance(found, ClientQuery):
        assert len(reply) <= (max(512, min(found.payload, largest)) if found.has_edns else 512)
        assert (view.edns is not None) <= found.has_edns


def _stream(parts: Parts, data: bytes) -> None:
    """The same bytes as messages of one connection, cut by the lengths that they contain."""
    frames = []
    while len(data) >= 2:
        size = int.from_bytes(data[:2], "big") % 97
        frames.append(data[2 : 2 + size])
        data = data[2 + size :]
    sink = Sink(stream=True)
    done = count = dropped = 0
    while done < len(frames):
        before = done
        replies, missed, done, garbled = parts.fast.answer_frames(frames, NOW, first=done)
        assert before < done <= len(frames)
        dropped += garbled
        for frame in missed:
            parts.service.handle(frame, PEERS[0], sink)
        while replies:
            size = int.from_bytes(replies[:2], "big")
            MessageView.parse(replies[2 : 2 + size])
            replies = replies[2 + size :]
            count += 1
    assert count + len(sink.packets) + dropped == len(frames)
