"""The builder: whole sets or none, space reserved for OPT, truncation, padding, and compression."""

import random

import dns.message
import pytest

from resolver.wire import Builder, MessageView, RRset, WireError, make_error, make_query, name
from resolver.wire import consts as c

EXAMPLE = name.from_text("example")
WWW = name.from_text("www.example")


def addresses(count: int, owner: bytes = WWW, first: int = 0) -> RRset:
    """A set of A records, 16 bytes each once the owner is a pointer."""
    return RRset(owner, c.A, 60, [(first + i).to_bytes(4, "big") for i in range(count)])


def started(limit: int = 512, reserve: int = 0) -> Builder:
    """A builder after its question: 12 + 13 + 4 = 29 bytes."""
    builder = Builder(limit, reserve_opt=reserve)
    builder.start(1, c.QR, WWW, c.A)
    assert builder.size == 29
    return builder


def test_compression_of_owners_takes_any_spelling() -> None:
    builder = started()
    assert builder.add(c.ANSWER, addresses(3, name.from_text("WWW.EXAMPLE")))
    assert builder.size == 29 + 3 * 16
    assert MessageView.parse(builder.finish()).answer[0].name == WWW


def test_compression_in_rdata_keeps_the_spelling() -> None:
    builder = started()
    assert builder.add(
        c.ANSWER, RRset(EXAMPLE, c.NS, 60, [b"\2ns" + EXAMPLE, b"\2NS\7EXAMPLE\0", b"\2ns\2eu" + EXAMPLE])
    )
    (rrset,) = MessageView.parse(builder.finish()).answer
    assert rrset.rdatas() == [b"\2ns" + EXAMPLE, b"\2NS\7EXAMPLE\0", b"\2ns\2eu" + EXAMPLE]
    assert builder.size == 29 + 3 * 12 + (3 + 2) + 12 + (6 + 2)


def test_newer_types_are_not_compressed() -> None:
    for rtype, front in ((c.SRV, bytes(6)), (c.DNAME, b""), (c.RP, b"\1m\0"), (c.KX, b"\0\1")):
        builder = started()
        assert builder.add(c.ANSWER, RRset(WWW, rtype, 60, [front + EXAMPLE]))
        assert builder.finish().endswith(front + EXAMPLE)


def test_sets_are_added_completely_or_not_at_all() -> None:
    builder = started(29 + 5 * 16)
    assert builder.add(c.ANSWER, addresses(3))
    before = builder.finish()
    assert not builder.add(c.ANSWER, addresses(3, EXAMPLE, first=9))
    assert builder.finish() == before
    assert builder.add(c.ANSWER, addresses(2, WWW, first=20))
    assert builder.size == 29 + 5 * 16
    assert len(MessageView.parse(builder.finish()).answer[0]) == 5


def test_names_of_refused_sets_are_no_compression_targets() -> None:
    # the refused set has left "ns.deep.other" in the table of targets; later names must not point there
    builder = started(29 + 40)
    deep = name.from_text("ns.deep.other")
    assert not builder.add(c.ANSWER, RRset(deep, c.NS, 60, [b"\1a" + deep, b"\1b" + deep, b"\1c" + deep]))
    assert builder.add(c.ANSWER, addresses(1, deep))
    assert MessageView.parse(builder.finish()).answer[0].name == deep


def test_signatures_count_as_part_of_the_set() -> None:
    sig = c.A.to_bytes(2, "big") + bytes(16) + EXAMPLE + bytes(64)
    rrset = addresses(1).with_sigs([sig])
    small = started(29 + 16 + 50)
    assert not small.add(c.ANSWER, rrset, sigs=True)
    assert small.add(c.ANSWER, rrset)
    large = started()
    assert large.add(c.ANSWER, rrset, sigs=True, ttl=7, name=EXAMPLE)
    (read,) = MessageView.parse(large.finish()).answer
    assert (read.name, read.ttl, read.sigs()) == (EXAMPLE, 7, [sig])


def test_reserve_is_only_for_opt() -> None:
    builder = started(29 + 2 * 16 + 27, reserve=27)
    assert not builder.add(c.ANSWER, addresses(3)), "there is room, but not for it"
    assert builder.add(c.ANSWER, addresses(2))
    assert builder.opt(1232, do=True, options=[(c.OPTION_NSID, b"twelve bytes")])
    assert len(builder.finish()) == 29 + 2 * 16 + 27
    cramped = started(29 + 5)
    assert not cramped.opt(1232)
    assert MessageView.parse(cramped.finish()).edns is None


def test_fill_cuts_at_a_set_and_sets_tc() -> None:
    builder = started(29 + 5 * 16)
    assert not builder.fill([addresses(3), addresses(3, EXAMPLE)], [addresses(1, EXAMPLE)], [addresses(1)])
    view = MessageView.parse(builder.finish())
    assert view.tc
    assert [len(r) for r in view.answer] == [3]
    assert view.authority == view.additional == []


def test_fill_drops_additional_silently() -> None:
    builder = started(29 + 5 * 16)
    assert builder.fill([addresses(3)], [], [addresses(4, EXAMPLE), addresses(1, WWW, first=7)])
    view = MessageView.parse(builder.finish())
    assert not view.tc
    assert [len(r) for r in view.additional] == [1]


def test_fill_keeps_an_address_whose_signature_does_not_fit() -> None:
    signed = addresses(1).with_sigs([c.A.to_bytes(2, "big") + bytes(16) + EXAMPLE + bytes(64)])
    builder = started(29 + 20)
    assert builder.fill([], [], [signed], sigs=True)
    assert [(len(r), r.sig_len) for r in MessageView.parse(builder.finish()).additional] == [(1, 0)]


@pytest.mark.parametrize("block", [128, 468])
def test_padding(block: int) -> None:
    builder = started(4096)
    assert builder.add(c.ANSWER, addresses(40))
    assert builder.opt(1232, options=[(c.OPTION_NSID, b"x")], pad_block=block)
    packet = builder.finish()
    assert len(packet) % block == 0
    edns = MessageView.parse(packet).edns
    assert edns is not None
    padding = edns.get(c.OPTION_PADDING)
    assert padding is not None
    assert not any(padding)


def test_padding_stops_at_the_limit() -> None:
    builder = started(200)
    assert builder.opt(1232, pad_block=468)
    assert builder.size == 200
    tight = started(29 + 11 + 3)
    assert tight.opt(1232, pad_block=468)
    assert tight.size == 29 + 11


def test_wrong_calls_raise() -> None:
    for limit, reserve in ((11, 0), (65536, 0), (100, 89), (100, -1)):
        with pytest.raises(ValueError):
            Builder(limit, reserve_opt=reserve)
    fresh = Builder()
    for act in (fresh.finish, fresh.truncate, lambda: fresh.opt(1), lambda: fresh.add(1, addresses(1))):
        with pytest.raises(ValueError):
            act()
    with pytest.raises(ValueError):
        Builder(20).start(1, 0, WWW, 1)
    with pytest.raises(WireError):
        fresh.start(1, 0, b"\1", 1)
    builder = started()
    assert builder.add(c.AUTHORITY, addresses(1))
    for section in (0, c.ANSWER, 4):
        with pytest.raises(ValueError):
            builder.add(section, addresses(1))
    with pytest.raises(WireError):
        builder.add(c.AUTHORITY, addresses(1), name=b"\1")
    assert builder.opt(1)
    with pytest.raises(ValueError):
        builder.add(c.ADDITIONAL, addresses(1))
    with pytest.raises(ValueError):
        builder.opt(1)


def test_a_builder_can_be_used_again() -> None:
    builder = started()
    builder.add(c.ANSWER, addresses(2))
    builder.opt(1)
    builder.start(2, c.QR, EXAMPLE, c.NS)
    builder.add(c.ANSWER, addresses(1))
    view = MessageView.parse(builder.finish())
    assert (view.id, view.qname, len(view.answer), view.edns) == (2, EXAMPLE, 1, None)


def test_names_beyond_the_reach_of_pointers() -> None:
    builder, far = started(65535), name.from_text("far.away")
    assert builder.add(c.ANSWER, RRset(EXAMPLE, 65280, 60, [bytes(20_000)]))
    assert builder.add(c.ANSWER, addresses(2, far))
    assert builder.add(c.ANSWER, RRset(far, c.TXT, 60, [b"\1x"]))
    read = MessageView.parse(builder.finish()).answer
    assert [(rrset.name, rrset.rtype, len(rrset)) for rrset in read] == [
        (EXAMPLE, 65280, 1), (far, c.A, 2), (far, c.TXT, 1)
    ]


def test_large_messages() -> None:
    builder = Builder()
    builder.start(1, c.QR, EXAMPLE, c.TXT)
    sets = [RRset(name.from_text(f"h{i}.example"), c.TXT, 5, [b"\xff" + bytes((i % 251,)) * 255]) for i in range(400)]
    written = [rrset for rrset in sets if builder.add(c.ANSWER, rrset)]
    assert 200 < len(written) < 400
    assert MessageView.parse(builder.finish()).answer == written
    assert len(dns.message.from_wire(builder.finish()).answer) == len(written)


# In front of "ex." each of these labels leaves the hash of the suffix as it was, so all names made of them collide.
COLLIDING = (
    b"6\x14\x01\x9fa", b"\x1b+\x01,\xc0", b")\xe1\x039\x15", b"rp\x03\x85\xcd", b"\xfb\xc8\x04 \x08", b"d_\x04(\x0e",
)


@pytest.mark.parametrize("crafted", [False, True])
def test_names_with_colliding_hashes_end_compression(crafted: bool) -> None:
    """CVE-2024-8508: each failed comparison reads a whole name, and one message can cause a million of them."""
    labels = COLLIDING if crafted else (b"alpha", b"bravo", b"delta", b"gamma", b"omega", b"sigma")
    rng = random.Random(1)
    exchanges = [b"".join(b"\5" + rng.choice(labels) for _ in range(40)) + b"\2ex\0" for _ in range(80)]
    last = name.from_text("ex")
    builder = Builder()
    builder.start(1, c.QR, last, c.MX)
    sets = [RRset(last, c.MX, 5, [i.to_bytes(2, "big") + exchange for i, exchange in enumerate(exchanges)])]
    assert builder.add(c.ANSWER, sets[0])
    before = builder.size
    sets.append(RRset(last, c.TXT, 5, [b"\1x"]))
    assert builder.add(c.ANSWER, sets[1])
    assert builder.size - before == (len(last) if crafted else 2) + 10 + 2
    assert MessageView.parse(builder.finish()).answer == sets
    builder.start(1, c.QR, last, c.TXT)
    before = builder.size
    assert builder.add(c.ANSWER, sets[1])
    assert builder.size - before == 2 + 10 + 2, "the next message begins anew"


# --- small messages -----------------------------------------------------------------------------------------------


def test_make_query() -> None:
    packet = make_query(
        7, WWW, c.AAAA, do=True, flags=c.RD | c.CD, options=[(c.OPTION_COOKIE, bytes(8))], edns_payload=4096
    )
    message = dns.message.from_wire(packet)
    assert (message.id, message.payload, message.ednsflags) == (7, 4096, c.DO)
    assert message.flags == c.RD | c.CD
    view = MessageView.parse(packet)
    assert (view.qname, view.qtype, view.qclass) == (WWW, c.AAAA, c.IN)
    assert view.edns is not None
    assert view.edns.get(c.OPTION_COOKIE) == bytes(8)
    plain = MessageView.parse(make_query(7, WWW, c.A, edns_payload=None, flags=0))
    assert plain.edns is None
    for arguments in ({"edns_payload": None, "do": True}, {"qclass": 65536}, {"edns_payload": 70000}, {"flags": -1}):
        with pytest.raises(ValueError):
            make_query(7, WWW, c.A, **arguments)  # type: ignore[arg-type]


def test_make_error() -> None:
    asked = make_query(7, WWW, c.AAAA, flags=c.RD | c.CD | c.AD)
    packet = make_error(asked, c.SERVFAIL, edns_payload=1232, options=[(c.OPTION_EDE, b"\0\6")])
    assert packet is not None
    view = MessageView.parse(packet)
    assert (view.id, view.flags, view.qname, view.qtype) == (7, c.QR | c.RD | c.CD | c.RA | 2, WWW, c.AAAA)
    assert view.edns is not None
    assert view.edns.get(c.OPTION_EDE) == b"\0\6"


def test_make_error_with_a_large_rcode() -> None:
    packet = make_error(make_query(7, WWW, c.A), c.BADVERS)
    assert packet is not None
    assert MessageView.parse(packet).rcode == c.BADVERS


def test_make_error_without_a_readable_question() -> None:
    packet = make_error(b"\0\7\x21\0\0\1" + bytes(6) + b"\xff", c.FORMERR, flags=0)
    assert packet is not None
    view = MessageView.parse(packet)
    assert (view.id, view.opcode, view.rd, view.question_count, view.rcode) == (7, c.NOTIFY, True, 0, c.FORMERR)


def test_no_error_reply_to_responses_and_short_packets() -> None:
    assert make_error(bytes(11), c.FORMERR) is None
    assert make_error(b"\0\7\x81\0" + bytes(8), c.FORMERR) is None
