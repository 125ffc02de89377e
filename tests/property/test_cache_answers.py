"""Any reply that dnspython can build, kept and rendered for any asker, reads back as that reply made older."""

import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st

from resolver.cache import AnswerCache, Arena, Table

NOW = 1_700_000_000
LABELS = st.text("abcxyzABCXYZ019-_", min_size=1, max_size=12)
NAMES = st.lists(LABELS, min_size=0, max_size=5).map(lambda labels: dns.name.from_text(".".join(labels) + "."))
DATA = st.sampled_from([
    ("A", "192.0.2.1"), ("AAAA", "2001:db8::1"), ("NS", "ns1.example.net."), ("CNAME", "alias.example.com."),
    ("MX", "10 mail.example.com."), ("TXT", '"some text" "more"'), ("SOA", "a.example. b.example. 1 2 3 4 5"),
    ("SRV", "1 2 53 srv.example.org."), ("DS", "12345 13 2 " + "ab" * 32), ("TYPE65280", r"\# 3 010203"),
])
RECORDS = st.lists(st.tuples(NAMES, st.integers(0, 0x7FFFFFFF), DATA), max_size=8)


def add(section: list[dns.rrset.RRset], records: list) -> None:
    for owner, ttl, (rtype, text) in records:
        section.append(dns.rrset.from_text(owner, ttl, "IN", rtype, text))


@given(
    qname=NAMES, qtype=st.sampled_from(["A", "MX", "TYPE65280"]), answer=RECORDS, authority=RECORDS, additional=RECORDS,
    ad=st.booleans(), do=st.booleans(), cd=st.booleans(), rd=st.booleans(), asks_ad=st.booleans(), edns=st.booleans(),
    rcode=st.sampled_from([0, 2, 3]), age=st.integers(0, 4000), swap=st.booleans(), limit=st.integers(0, 1500),
    options=st.sampled_from([b"", b"\x00\x0f\x00\x02\x00\x03"]),
)
def test_rendered_answers_equal_the_stored_ones(
    qname, qtype, answer, authority, additional, ad, do, cd, rd, asks_ad, edns, rcode, age, swap, limit, options,
) -> None:
    edns = edns or do
    message = dns.message.Message(id=1)
    message.flags = dns.flags.QR | dns.flags.RA | dns.flags.AA | (dns.flags.AD if ad else 0)
    message.set_rcode(rcode)
    message.question.append(dns.rrset.RRset(qname, dns.rdataclass.IN, dns.rdatatype.from_text(qtype)))
    add(message.answer, answer)
    add(message.authority, authority)
    add(message.additional, additional)
    packet = message.to_wire(max_size=65_535)

    cache = AnswerCache(Table(Arena(256 << 10), bytes(16)), payload=1232)
    assert cache.put(packet, do=do, cd=cd, now=NOW, ttl=3600, options=options)

    spelled = dns.name.Name([label.swapcase() if swap else label for label in qname.labels])
    query = dns.message.make_query(spelled, qtype, id=0xBEEF, use_edns=0 if edns else False, want_dnssec=do)
    query.flags = ((dns.flags.RD if rd else 0) | (dns.flags.CD if cd else 0) | (dns.flags.AD if asks_ad else 0))
    asked = query.to_wire()
    reply = cache.render(asked, NOW + age, limit)

    opt = 11 if edns else 0
    bare = 12 + len(qname.to_wire()) + 4
    if age >= 3600 or limit < bare + opt:
        assert reply is None
        return
    assert reply is not None
    assert len(reply) <= limit
    found = dns.message.from_wire(reply, one_rr_per_rrset=True)
    assert found.id == 0xBEEF
    assert found.question[0].name.labels == spelled.labels
    assert found.rcode() == rcode
    truncated = len(packet) + opt > limit
    expected = dns.flags.QR | dns.flags.RA | dns.flags.AA | (query.flags & (dns.flags.RD | dns.flags.CD))
    expected |= dns.flags.AD if ad and (do or asks_ad) else 0
    expected |= dns.flags.TC if truncated else 0
    assert found.flags & ~0xF == expected
    stored = dns.message.from_wire(packet, one_rr_per_rrset=True)
    for section in ("answer", "authority", "additional"):
        kept = [] if truncated else getattr(stored, section)
        shown = getattr(found, section)
        assert [(r.name, r.rdtype, r[0]) for r in shown] == [(r.name, r.rdtype, r[0]) for r in kept]
        assert [r.ttl for r in shown] == [max(0, r.ttl - age) for r in kept]
    assert (found.edns == 0) is edns
    if edns:
        assert found.payload == 1232
        assert bool(found.ednsflags & dns.flags.DO) is do
        room = limit - (bare if truncated else len(packet)) - opt
        assert len(found.options) == (1 if options and room >= len(options) else 0)
