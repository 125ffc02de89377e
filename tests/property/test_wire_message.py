"""Messages against dnspython in both directions, and damaged ones against the promise of WireError or nothing.

Random messages are made as lists of (section, owner, type, TTL, rdata); one side writes them, the other reads them, and
the sets must be equal as sets of records.
"""

import random
from collections import defaultdict

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resolver.wire import Builder, MessageView, RRset, WireError, make_error, name
from resolver.wire import consts as c
from resolver.wire.message import inspect_query
from resolver.wire.present import message_to_text

OWNERS = [
    "example.",
    "www.example.",
    "WWW.Example.",
    "a.b.c.d.example.",
    ".",
    "other.test.",
    r"od\.d.example.",
    "x." * 60,
]
RDATA = {
    "A": ["192.0.2.1", "192.0.2.2"],
    "AAAA": ["2001:db8::1", "::"],
    "NS": ["ns.example.", "ns1.Example.", "a.b.c.d.example.", "."],
    "CNAME": ["www.example."],
    "DNAME": ["other.test."],
    "PTR": ["www.example.", "x.other.test."],
    "MX": ["10 mx.example.", "20 mx.other.test."],
    "SOA": ["ns.example. Host.master.example. 1 2 3 4 5"],
    "TXT": ['"some" "words"', '""'],
    "SRV": ["1 2 53 srv.example."],
    "NAPTR": ['1 2 "u" "sip" "!^.*$!x!" www.example.'],
    "RP": ["me.example. txt.example."],
    "AFSDB": ["1 afs.example."],
    "KX": ["1 kx.example."],
    "HINFO": ['"cpu" "os"'],
    "DS": ["1 8 2 " + "ab" * 32],
    "DNSKEY": ["257 3 8 AwEAAQ=="],
    "NSEC": ["b.Example. A NS TYPE1234"],
    "NSEC3": ["1 0 5 AB 2t7b4g4vsa5smi47k61mv5bv1a22bojr A RRSIG", "1 0 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr"],
    "NSEC3PARAM": ["1 0 5 -"],
    "RRSIG": [
        "A 8 2 300 20300101000000 20200101000000 1 Example. AAAA",
        "NS 8 2 300 20300101000000 20200101000000 1 . AA==",
    ],
    "CAA": ['0 issue "ca.example"'],
    "SVCB": ["1 svc.example. alpn=h2 port=53", "0 alias.example."],
    "HTTPS": ["1 . alpn=h2,h3 ipv4hint=192.0.2.1"],
    "TLSA": ["3 1 1 " + "cd" * 32],
    "SSHFP": ["1 1 " + "ef" * 20],
    "LOC": ["52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m"],
    "CERT": ["1 1 8 AAAA"],
    "URI": ['10 1 "https://example/"'],
    "CSYNC": ["1 3 A NS"],
    "ZONEMD": ["1 1 1 " + "ab" * 48],
    "APL": ["1:192.0.2.0/24 !2:2001:db8::/32"],
    "IPSECKEY": ["10 1 2 192.0.2.1 AAAA"],
    "HIP": ["2 200100107B1A74DF365639CC39F1D578 AwEAAQ== rvs.example."],
    "EUI48": ["00-00-5e-00-53-2a"],
    "LP": ["10 l64.example."],
    "OPENPGPKEY": ["AAAA"],
    "DHCID": ["AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA="],
    "TYPE65280": [r"\# 3 c00c00", r"\# 0"],
}

RECORDS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.sampled_from(OWNERS),
        st.sampled_from(sorted(RDATA)),
        st.integers(0, 1),
        st.integers(0, 0x7FFFFFFF),
    ),
    max_size=14,
)

# (section, lower owner, type, covered type) -> rdata in canonical form
Content = dict[tuple[int, bytes, int, int], set[bytes]]


def parsed_rdata(kind: str, index: int) -> dns.rdata.Rdata:
    """One of the prepared rdatas."""
    texts = RDATA[kind]
    return dns.rdata.from_text("IN", kind, texts[index % len(texts)])


def content_of_view(view: MessageView) -> Content:
    """What our reader found."""
    found: Content = defaultdict(set)
    for section, sets in ((1, view.answer), (2, view.authority), (3, view.additional)):
        for rrset in sets:
            owner, rtype = rrset.key
            for rdata, canonical in zip(rrset.rdatas(), rrset.rdatas(), strict=True):
                covered = int.from_bytes(rdata[:2], "big") if rtype == c.RRSIG else 0
                found[section, owner, rtype, covered].add(canonical)
            for rdata in rrset.sigs():
                assert int.from_bytes(rdata[:2], "big") == rtype
                found[section, owner, c.RRSIG, rtype].add(rdata)
    return dict(found)


def content_of_message(message: dns.message.Message) -> Content:
    """What dnspython found."""
    found: Content = defaultdict(set)
    for section, sets in ((1, message.answer), (2, message.authority), (3, message.additional)):
        for rrset in sets:
            owner = rrset.name.canonicalize().to_wire()
            for rdata in rrset:
                found[section, owner, int(rrset.rdtype), int(rrset.covers)].add(rdata.to_wire())
    return dict(found)


def lowered(content: Content) -> Content:
    """The same with rdata in lower case: the two libraries may keep different spellings of equal records."""
    return {key: {rdata.lower() for rdata in rdatas} for key, rdatas in content.items()}


@given(RECORDS, st.booleans(), st.integers(0, 65535))
def test_messages_of_dnspython_are_read_by_us(
    records: list[tuple[int, str, str, int, int]], edns: bool, number: int
) -> None:
    message = dns.message.make_query("WwW.example.", "A", use_edns=0 if edns else None, want_dnssec=edns, id=number)
    message.flags |= dns.flags.QR
    sections = {1: message.answer, 2: message.authority, 3: message.additional}
    for section, owner, kind, index, ttl in records:
        rdata = parsed_rdata(kind, index)
        rrset = message.find_rrset(
            sections[section], dns.name.from_text(owner), rdata.rdclass, rdata.rdtype, rdata.covers(), create=True
        )
        rrset.add(rdata, ttl)
    view = MessageView.parse(message.to_wire(max_size=65535))
    assert (view.id, view.qr, view.qname, view.qtype) == (number, True, name.from_text("WwW.example."), c.A)
    assert (view.edns is not None) == edns
    assert lowered(content_of_view(view)) == lowered(content_of_message(message))


@given(RECORDS, st.booleans(), st.booleans())
def test_our_messages_are_read_by_dnspython(
    records: list[tuple[int, str, str, int, int]], sigs: bool, edns: bool
) -> None:
    builder = Builder()
    builder.start(7, c.QR | c.AA | c.RD, name.from_text("www.example."), c.A)
    for section, owner, kind, index, ttl in sorted(records):
        wire = parsed_rdata(kind, index).to_wire()
        assert wire is not None
        attached = [parsed_rdata("RRSIG", 0).to_wire()] if kind == "A" and sigs else []
        rrset = RRset(name.from_text(owner), c.type_from_text(kind), ttl, [wire], sigs=attached)
        assert builder.add(section, rrset, sigs=sigs)
    if edns:
        assert builder.opt(1232, do=True, options=[(c.OPTION_NSID, b"id")])
    packet = builder.finish()
    message = dns.message.from_wire(packet)
    assert message.flags & 0xFFF0 == c.QR | c.AA | c.RD
    assert (message.edns == 0) == edns
    assert lowered(content_of_message(message)) == lowered(content_of_view(MessageView.parse(packet)))
    expected: Content = defaultdict(set)
    for section, owner, kind, index, _ in records:
        key = name.lower(name.from_text(owner))
        rdata = parsed_rdata(kind, index)
        expected[section, key, int(rdata.rdtype), int(rdata.covers())].add(rdata.to_wire() or b"")
        if kind == "A" and sigs:
            expected[section, key, c.RRSIG, c.A].add(parsed_rdata("RRSIG", 0).to_wire() or b"")
    assert lowered(content_of_message(message)) == lowered(dict(expected))
    assert MessageView.parse(packet).qname == name.from_text("www.example.")


@given(RECORDS)
def test_a_view_that_is_written_again_is_equal(records: list[tuple[int, str, str, int, int]]) -> None:
    builder = Builder()
    builder.start(7, c.QR, name.from_text("example."), c.ANY)
    for section, owner, kind, index, ttl in sorted(records):
        rrset = RRset(name.from_text(owner), c.type_from_text(kind), ttl, [parsed_rdata(kind, index).to_wire() or b""])
        assert builder.add(section, rrset)
    first = MessageView.parse(builder.finish())
    builder.start(first.id, first.flags, first.qname, first.qtype)
    assert builder.fill(first.answer, first.authority, first.additional, sigs=True)
    second = MessageView.parse(builder.finish())
    assert content_of_view(first) == content_of_view(second)
    assert [r.key for r in first.answer] == [r.key for r in second.answer]


def touch_everything(data: bytes) -> None:
    """Read a packet in all ways; only WireError may come out."""
    code, fields = inspect_query(data)
    assert code in (0, 1) or code < 0
    if code == 0:
        view = MessageView.parse(data)
        assert (view.id, view.qname, view.qtype) == (fields["id"], fields["qname"], fields["qtype"])
    reply = make_error(data, c.FORMERR)
    assert (reply is None) == (len(data) < 12 or data[2] >= 128)
    if reply is not None:
        assert MessageView.parse(reply).rcode == c.FORMERR
    try:
        view = MessageView.parse(data)
    except WireError:
        return
    for rrset in [*view.answer, *view.authority, *view.additional]:
        assert len(rrset) == len(rrset.rdatas()) > 0
        assert name.is_valid(rrset.name)
        rrset.canonical_rdatas()
        for target in rrset.targets():
            assert name.is_valid(target)
        assert (
            RRset(rrset.name, rrset.rtype, rrset.ttl, rrset.rdatas(), rclass=rrset.rclass) is not None
            or rrset.rclass >= 254
        )
    message_to_text(view)


def seed_packet() -> bytes:
    """A packet with one record of every prepared type."""
    builder = Builder()
    builder.start(9, c.QR, name.from_text("www.example."), c.A)
    for kind, texts in RDATA.items():
        members = [dns.rdata.from_text("IN", kind, text).to_wire() for text in texts]
        assert builder.add(1, RRset(name.from_text("www.example."), c.type_from_text(kind), 60, members))
    assert builder.opt(1232, options=[(c.OPTION_COOKIE, bytes(8)), (c.OPTION_EDE, b"\0\6bogus")])
    return builder.finish()


@settings(max_examples=60)
@given(st.randoms(use_true_random=False))
def test_damaged_packets_raise_only_wire_errors(rng: random.Random) -> None:
    whole = seed_packet()
    for _ in range(10):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            what = rng.randrange(4)
            if what == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif what == 1:
                data[at] = rng.choice((0, 1, 63, 64, 128, 192, 255))
            elif what == 2:
                del data[at:]
                data += b"\0" * max(0, 12 - len(data))
            else:
                data[at : at + 2] = bytes((0xC0, rng.randrange(256)))
        touch_everything(bytes(data))


@given(st.binary(max_size=120))
@example(b"")
@example(bytes(12))
def test_noise_raises_only_wire_errors(data: bytes) -> None:
    touch_everything(data)
