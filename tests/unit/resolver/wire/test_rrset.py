"""RRsets as values, their canonical form against dnspython's, and which arguments are rejected."""

import dns.rdata
import pytest

from resolver import limits
from resolver.wire import RRset, WireError, name, pack, unpack
from resolver.wire import consts as c
from resolver.wire import rdata as rdatas
from resolver.wire.rrset import negative_ttl

OWNER = name.from_text("Www.Example")


def mx(preference: int, target: str) -> bytes:
    """MX rdata."""
    return preference.to_bytes(2, "big") + name.from_text(target)


def test_fields() -> None:
    rrset = RRset(OWNER, c.MX, 300, [mx(2, "B"), mx(1, "a"), mx(2, "B")], sigs=[], trust=4, verdict=3)
    assert (rrset.name, rrset.rtype, rrset.rclass, rrset.ttl, len(rrset), rrset.sig_len) == (
        OWNER,
        c.MX,
        c.IN,
        300,
        2,
        0,
    )
    assert rrset.key == (name.from_text("www.example"), c.MX)
    assert rrset.rdatas() == [rrset.rdata(0), rrset.rdata(1)] == [mx(2, "B"), mx(1, "a")]
    assert rrset.rdata(-1) == mx(1, "a")
    assert rrset.targets() == [name.from_text("B"), name.from_text("a")]
    assert rrset.canonical_rdatas() == [mx(1, "a"), mx(2, "b")]
    assert unpack(rrset.packed) == rrset.rdatas()
    rrset.trust, rrset.verdict = 7, 1
    assert (rrset.trust, rrset.verdict) == (7, 1)
    for index in (2, -3):
        with pytest.raises(IndexError):
            rrset.rdata(index)
    with pytest.raises(AttributeError):
        rrset.ttl = 5  # type: ignore[misc]


def test_copies_with_one_changed_field() -> None:
    sig = c.MX.to_bytes(2, "big") + bytes(16) + OWNER + b"s"
    rrset = RRset(OWNER, c.MX, 300, [mx(1, "a")], sigs=[sig], trust=4, verdict=3)
    assert rrset.with_ttl(5).ttl == 5
    assert rrset.with_name(b"\1X\0").key == (b"\1x\0", c.MX)
    assert rrset.without_sigs().sigs() == []
    assert rrset.without_sigs().without_sigs().packed == rrset.packed
    assert rrset.without_sigs().with_sigs([sig]) == rrset
    assert (rrset.with_ttl(5).trust, rrset.with_ttl(5).verdict, rrset.with_ttl(5).sigs()) == (4, 3, [sig])
    assert rrset.ttl == 300
    with pytest.raises(WireError):
        rrset.with_sigs([b"short"])
    with pytest.raises(WireError):
        rrset.with_name(b"\1X")
    with pytest.raises(ValueError):
        rrset.with_ttl(1 << 31)


def test_equality_is_by_content() -> None:
    first = RRset(OWNER, c.MX, 300, [mx(1, "a"), mx(2, "b")])
    second = RRset(name.lower(OWNER), c.MX, 300, [mx(2, "B"), mx(1, "a")], trust=1)
    assert first == second
    assert hash(first) == hash(second)
    for other in (
        first.with_ttl(1),
        first.with_name(b"\1a\0"),
        RRset(OWNER, c.MX, 300, [mx(1, "a")]),
        "first",
        RRset(OWNER, c.MX, 300, [mx(1, "a"), mx(3, "b")]),
        RRset(OWNER, c.MX, 300, first.rdatas(), rclass=c.CH),
    ):
        assert first != other


def test_a_denial_is_cached_for_the_lesser_of_ttl_and_minimum() -> None:
    """RFC 2308 section 5."""
    for ttl, minimum, kept in ((300, 60, 60), (60, 300, 60)):
        soa = name.from_text("ns") + name.from_text("mail") + bytes(16) + minimum.to_bytes(4, "big")
        assert negative_ttl(RRset(OWNER, c.SOA, ttl, [soa])) == kept


def test_refusals() -> None:
    for given in ([bytes(3)], [bytes(4), bytes(5)]):
        with pytest.raises(WireError):
            RRset(OWNER, c.A, 1, given)
    with pytest.raises(WireError):
        RRset(b"", c.A, 1, [bytes(4)])
    with pytest.raises(WireError, match="none is allowed"):
        RRset(OWNER, c.NS, 1, [b"\xc0\x0c"])
    with pytest.raises(WireError):
        RRset(OWNER, c.NS, 1, [b"\1a" * 10 + b"\xc0\x0c"])
    with pytest.raises(WireError):
        RRset(OWNER, 65280, 1, [bytes(65536)])
    with pytest.raises(WireError):
        RRset(OWNER, c.A, 1, [bytes(4)], sigs=[bytes(4)])
    with pytest.raises(WireError):
        RRset(OWNER, c.A, 1, [i.to_bytes(4, "big") for i in range(limits.RRSET_RECORDS + 1)])
    with pytest.raises(WireError):
        RRset(OWNER, 65280, 1, [bytes((i,)) + bytes(1000) for i in range(limits.RRSET_BYTES // 1000 + 1)])
    for rtype, ttl, rclass in ((-1, 0, 1), (65536, 0, 1), (1, -1, 1), (1, 1 << 31, 1), (1, 0, 65536)):
        with pytest.raises(ValueError):
            RRset(OWNER, rtype, ttl, [], rclass=rclass)


def test_packed_form() -> None:
    assert pack([b"ab", b"", b"ab"]) == b"\0\2ab\0\0"
    assert unpack(b"\0\2ab\0\0") == [b"ab", b""]
    again = RRset.from_packed(OWNER, 65280, 9, b"\0\2ab\0\0", trust=2)
    assert again == RRset(OWNER, 65280, 9, [b"ab", b""])
    assert len(again) == 2
    for broken in (b"\0", b"\0\1", b"\0\2ab\0"):
        with pytest.raises(WireError):
            unpack(broken)
        with pytest.raises(WireError):
            RRset.from_packed(OWNER, 65280, 9, broken)


CANONICAL = {
    "NS": "Ns.Example.",
    "CNAME": "Ns.Example.",
    "DNAME": "Ns.Example.",
    "PTR": "Ns.Example.",
    "MX": "1 Mx.Example.",
    "SOA": "Ns.Example. Host.Example. 1 2 3 4 5",
    "RP": "Me.Example. Txt.Example.",
    "AFSDB": "1 Afs.Example.",
    "RT": "1 Rt.Example.",
    "PX": "1 Map822.Example. Mapx400.Example.",
    "KX": "1 Kx.Example.",
    "SRV": "1 2 3 Srv.Example.",
    "NAPTR": '1 2 "U" "SIP" "X" Www.Example.',
    "RRSIG": "A 8 2 300 20300101000000 20200101000000 1 Example. AAAA",
    "TXT": '"Upper"',
    "HINFO": '"CPU" "OS"',
    "CAA": '0 issue "CA.Example"',
    "SVCB": "1 Svc.Example. alpn=H2",
    "NSEC": "Next.Example. A NS",
    "LP": "10 L64.Example.",
    "DS": "1 8 2 " + "41" * 32,
}


@pytest.mark.parametrize("kind", sorted(CANONICAL))
def test_canonical_form(kind: str) -> None:
    parsed = dns.rdata.from_text("IN", kind, CANONICAL[kind])
    wire = parsed.to_wire()
    assert wire is not None
    assert rdatas.canonical(c.type_from_text(kind), wire) == parsed.to_digestable()


@pytest.mark.parametrize("kind", ["NSEC", "SVCB", "LP", "TXT", "CAA"])
def test_types_whose_names_keep_their_case(kind: str) -> None:
    # RFC 6840 section 5.1 for NSEC; the others are newer than the list of RFC 4034 section 6.2
    wire = dns.rdata.from_text("IN", kind, CANONICAL[kind]).to_wire()
    assert wire is not None
    assert rdatas.canonical(c.type_from_text(kind), wire) == wire
    assert wire != wire.lower()


def test_canonical_a6_and_minfo() -> None:
    assert rdatas.canonical(c.A6, b"\x80\1A\0") == b"\x80\1a\0"
    assert rdatas.canonical(c.A6, b"\0" + b"A" * 16) == b"\0" + b"A" * 16
    assert rdatas.canonical(c.MINFO, b"\1A\0\1B\0") == b"\1a\0\1b\0"
    assert rdatas.canonical(65280, b"\1A\0") == b"\1A\0"


def test_canonical_order_within_a_set() -> None:
    # RFC 4034 section 6.3: as left-justified bytes, the shorter first
    rrset = RRset(OWNER, 65280, 0, [b"b", b"ab", b"a", b"", b"a\0"])
    assert rrset.canonical_rdatas() == [b"", b"a", b"a\0", b"ab", b"b"]
