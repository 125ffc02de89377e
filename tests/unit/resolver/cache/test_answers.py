"""Finished answers: the output of the C renderer, parsed by dnspython."""

import os

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from resolver.cache import AnswerCache, Arena, Store, Table, rotated
from resolver.wire import name as wire_name
from resolver.wire.rrset import RRset

NOW = 1_700_000_000
EDE_STALE = b"\x00\x0f\x00\x02\x00\x03"


@pytest.fixture
def cache() -> AnswerCache:
    return AnswerCache(Table(Arena(1 << 20), bytes(16)), payload=1232)


def reply(text: str = "www.example.com.", rtype: str = "A", *records: tuple[str, int, str, str], flags: int = 0,
          rcode: int = 0, section: str = "answer") -> bytes:
    """A final reply without OPT, as the service hands it over."""
    message = dns.message.make_response(dns.message.make_query(text, rtype), recursion_available=True)
    message.flags |= flags
    message.set_rcode(rcode)
    for owner, ttl, kind, data in records or ((text, 300, "A", "192.0.2.1"),):
        getattr(message, section).append(dns.rrset.from_text(owner, ttl, "IN", kind, data))
    return message.to_wire()


def query(text: str = "www.example.com.", rtype: str = "A", **options) -> bytes:
    return dns.message.make_query(text, rtype, **options).to_wire()


def put(cache: AnswerCache, packet: bytes, **options) -> bool:
    return cache.put(packet, **{"do": False, "cd": False, "now": NOW, "ttl": 300, **options})


def render(cache: AnswerCache, packet: bytes, now: int = NOW, limit: int = 1232, **options) -> dns.message.Message:
    out = cache.render(packet, now, limit, **options)
    assert out is not None
    return dns.message.from_wire(out)


# --- header, question, records ------------------------------------------------------------------------------------


def test_the_reply_is_the_stored_one_with_the_askers_header(cache):
    stored = reply("www.example.com.", "A", ("www.example.com.", 300, "CNAME", "host.example.net."),
                   ("host.example.net.", 600, "A", "192.0.2.7"))
    assert put(cache, stored)
    asked = dns.message.make_query("www.example.com.", "A", id=0x1234)
    found = render(cache, asked.to_wire())
    expected = dns.message.from_wire(stored)
    assert found.id == 0x1234
    assert found.question == expected.question
    assert found.answer == expected.answer
    assert [rrset.ttl for rrset in found.answer] == [300, 600]
    assert found.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
    assert found.edns == -1


@pytest.mark.parametrize("spelling", ["www.example.com.", "WWW.EXAMPLE.COM.", "wWw.eXaMpLe.CoM."])
def test_the_reply_has_the_spelling_of_the_query(cache, spelling):
    assert put(cache, reply("Www.Example.Com."))
    out = cache.render(query(spelling), NOW, 512)
    assert out is not None
    assert wire_name.from_text(spelling) == out[12 : 12 + 17]
    found = dns.message.from_wire(out)
    assert found.question[0].name.labels == dns.name.from_text(spelling).labels
    assert found.answer[0].name.labels == dns.name.from_text(spelling).labels


@pytest.mark.parametrize("rd", [True, False])
@pytest.mark.parametrize("cd", [True, False])
def test_rd_and_cd_come_from_the_query(cache, rd, cd):
    assert put(cache, reply(), cd=cd)
    flags = (dns.flags.RD if rd else 0) | (dns.flags.CD if cd else 0)
    found = render(cache, query(flags=flags))
    assert found.flags == dns.flags.QR | dns.flags.RA | flags


def test_aa_comes_from_the_stored_reply(cache):
    # Set only for local zones (RFC 6303 section 3), when the reply is composed.
    assert put(cache, reply(flags=dns.flags.AA))
    assert render(cache, query()).flags & dns.flags.AA
    assert put(cache, reply())
    assert not render(cache, query()).flags & dns.flags.AA


@pytest.mark.parametrize(("stored", "ad", "do", "shown"), [
    (True, False, False, False),
    (True, True, False, True),
    (True, False, True, True),
    (True, True, True, True),
    (False, True, True, False),
])
def test_ad_is_set_for_queries_with_ad_or_do(cache, stored, ad, do, shown):
    """RFC 6840 sections 5.7 and 5.8."""
    assert put(cache, reply(flags=dns.flags.AD if stored else 0), do=do)
    asked = query(flags=dns.flags.RD | (dns.flags.AD if ad else 0), want_dnssec=do)
    assert bool(render(cache, asked).flags & dns.flags.AD) is shown


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.SERVFAIL, dns.rcode.NXDOMAIN])
def test_rcode_and_authority_are_kept(cache, rcode):
    soa = "a. b. 1 2 3 4 5"
    assert put(cache, reply("nx.example.com.", "A", ("example.com.", 60, "SOA", soa), rcode=rcode, section="authority"))
    found = render(cache, query("nx.example.com."))
    assert found.rcode() == rcode
    assert found.authority[0].rdtype == dns.rdatatype.SOA
    assert found.answer == []


def test_an_empty_reply(cache):
    message = dns.message.make_response(dns.message.make_query(".", "A"))
    assert put(cache, message.to_wire())
    found = render(cache, query("."))
    assert (found.answer, found.authority, found.additional) == ([], [], [])


# --- time ---------------------------------------------------------------------------------------------------------


def test_ttls_are_reduced_by_the_age(cache):
    records = [("www.example.com.", 300, "CNAME", "a.example.com."), ("a.example.com.", 7, "A", "192.0.2.1")]
    assert put(cache, reply("www.example.com.", "A", *records))
    for age, expected in ((0, [300, 7]), (5, [295, 2]), (7, [293, 0]), (100, [200, 0]), (299, [1, 0])):
        assert [rrset.ttl for rrset in render(cache, query(), NOW + age).answer] == expected
    assert cache.render(query(), NOW + 300, 512) is None
    assert cache.render(query(), NOW + 20 * 31_536_000, 512) is None


def test_a_clock_set_back(cache):
    assert put(cache, reply())
    assert render(cache, query(), NOW - 30).answer[0].ttl == 300
    assert cache.render(query(), NOW - 3600, 512) is None
    assert cache.render(query(), NOW - 20 * 31_536_000, 512) is None


def test_every_ttl_of_a_large_answer_is_reduced(cache):
    message = dns.message.make_response(dns.message.make_query("www.example.com.", "TXT"))
    for number in range(200):
        message.answer.append(dns.rrset.from_text(f"n{number}.example.com.", 1000 + number, "IN", "TXT", "x" * 40))
    assert put(cache, message.to_wire(), ttl=1000)
    found = render(cache, query(rtype="TXT"), NOW + 999, 65535)
    assert [rrset.ttl for rrset in found.answer] == [1 + number for number in range(200)]


# --- keys ---------------------------------------------------------------------------------------------------------


def test_entries_are_separate_for_do_cd_type_and_view(cache):
    number = 0
    for do in (False, True):
        for cd in (False, True):
            for view in (0, 1, 1 << 63):
                number += 1
                assert put(cache, reply("www.example.com.", "A", ("www.example.com.", 300, "A", f"192.0.2.{number}")),
                           do=do, cd=cd, view=view)
    number = 0
    for do in (False, True):
        for cd in (False, True):
            for view in (0, 1, 1 << 63):
                number += 1
                asked = query(flags=dns.flags.CD if cd else 0, want_dnssec=do)
                assert render(cache, asked, view=view).answer[0][0].address == f"192.0.2.{number}"
    assert cache.render(query(rtype="AAAA"), NOW, 512) is None
    assert cache.render(query("ww.example.com."), NOW, 512) is None
    assert cache.render(query(), NOW, 512, view=2) is None


def test_entries_of_other_rules_are_separate_also_for_view_0(cache):
    rules = bytes(range(32))
    first, second, same = (cache.for_rules(one) for one in (rules, rules[1:] + b"x", rules))
    caches = (cache, first, second)
    for number, one in enumerate(caches):
        for view in (0, 1, 255):
            assert put(one, reply("www.example.com.", "A", ("www.example.com.", 300, "A", f"192.0.{number}.{view}")),
                       view=view)
    for number, one in enumerate((*caches, same, cache.for_rules(b""))):
        for view in (0, 1, 255):
            address = f"192.0.{(0, 1, 2, 1, 0)[number]}.{view}"
            assert render(one, query(), view=view).answer[0][0].address == address, (number, view)
    assert same.render(query(), NOW, 512, view=2) is None
    with pytest.raises(ValueError, match="at least 6 octets"):
        cache.for_rules(b"short")


def test_edns_without_do_shares_the_plain_entry(cache):
    assert put(cache, reply())
    assert render(cache, query(use_edns=0)).edns == 0
    assert cache.render(query(want_dnssec=True), NOW, 512) is None


# --- EDNS and size ------------------------------------------------------------------------------------------------


def test_opt_is_appended_with_the_stored_options(cache):
    assert put(cache, reply(), options=EDE_STALE)
    plain = render(cache, query())
    assert plain.edns == -1
    found = render(cache, query(use_edns=0, payload=4096))
    assert (found.edns, found.payload, found.ednsflags) == (0, 1232, 0)
    assert [option.to_wire() for option in found.options] == [EDE_STALE[4:]]
    assert found.options[0].otype == dns.edns.EDE


def test_the_do_bit_is_echoed(cache):
    """RFC 3225 section 3."""
    assert put(cache, reply(), do=True)
    assert render(cache, query(want_dnssec=True)).ednsflags == dns.flags.DO


def test_an_answer_that_is_too_large_becomes_tc_without_records(cache):
    records = [("www.example.com.", 300, "TXT", f'"{number:03d} {"x" * 60}"') for number in range(10)]
    stored = reply("www.example.com.", "TXT", *records)
    assert put(cache, stored, options=EDE_STALE)
    bare = len(stored)
    assert len(cache.render(query(rtype="TXT"), NOW, bare)) == bare
    small = render(cache, query(rtype="TXT"), limit=bare - 1)
    assert small.flags & dns.flags.TC
    assert (small.answer, small.authority, small.additional) == ([], [], [])
    assert small.question[0].name == dns.name.from_text("www.example.com.")

    asked = query(rtype="TXT", use_edns=0)
    whole = cache.render(asked, NOW, bare + 11 + len(EDE_STALE))
    assert len(whole) == bare + 11 + len(EDE_STALE)
    without_options = render(cache, asked, limit=bare + 11)
    assert not without_options.flags & dns.flags.TC
    assert without_options.options == ()
    cut = render(cache, asked, limit=bare + 10)
    assert cut.flags & dns.flags.TC
    assert cut.edns == 0
    assert [option.otype for option in cut.options] == [dns.edns.EDE]


def test_a_limit_below_the_question_is_left_to_python(cache):
    assert put(cache, reply())
    for limit in (0, 11, 12, 32):
        assert cache.render(query(), NOW, limit) is None


def test_edns_version_one_is_left_to_python(cache):
    """BADVERS needs an extended RCODE, which no template has."""
    assert put(cache, reply())
    assert cache.render(query(use_edns=1), NOW, 512) is None


def test_malformed_queries_are_not_answered(cache):
    assert put(cache, reply())
    whole = query()
    for size in range(len(whole)):
        assert cache.render(whole[:size], NOW, 512) is None
    assert cache.render(reply(), NOW, 512) is None


# --- what is not kept ---------------------------------------------------------------------------------------------


def test_packets_that_are_refused(cache):
    good = reply()
    assert not put(cache, good, ttl=0)
    assert not put(cache, query())
    assert not put(cache, reply(flags=dns.flags.TC))
    assert not put(cache, good + b"\0")
    for size in range(len(good)):
        assert not put(cache, good[:size])
    with_opt = dns.message.make_response(dns.message.make_query("www.example.com.", "A", use_edns=0))
    assert not put(cache, with_opt.to_wire())
    assert not put(cache, good[:4] + b"\0\2" + good[6:])
    assert cache.render(query(), NOW, 512) is None


def test_an_answer_too_large_for_the_arena_is_not_stored():
    cache = AnswerCache(Table(Arena(64 << 10), bytes(16)))
    records = [("www.example.com.", 300, "TXT", f'"{number:03d} {"x" * 200}"') for number in range(60)]
    assert not put(cache, reply("www.example.com.", "TXT", *records))


def test_payload_is_checked():
    with pytest.raises(ValueError, match="payload"):
        AnswerCache(Table(Arena(64 << 10), bytes(16)), payload=100)


def test_an_address_answer_costs_little_memory():
    """Goal: 90 to 120 bytes per answer, table included; the part in the ring is counted here."""
    table = Table(Arena(16 << 20), bytes(16))
    cache = AnswerCache(table)
    for number in range(1000):
        text = f"host{number:04d}.zone.example."
        assert put(cache, reply(text, "A", (text, 300, "A", "192.0.2.1")))
    assert table.arena.ring_used / 1000 <= 80


@pytest.mark.slow
def test_memory_of_many_answers_with_their_sets():
    """Goal: below 350 bytes a name, aim 150; ring and buckets together, for an answer and the set it came from."""
    store = Store.create(64 << 20, seed=bytes(16))
    count = 50_000
    header = b"\0\1\x81\x80\0\1\0\1\0\0\0\0"
    for number in range(count):
        owner = wire_name.from_text(f"host{number}.zone{number % 997}.example.")
        record = b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\1"
        assert store.answers.put(header + owner + b"\0\1\0\1" + record, do=False, cd=False, now=NOW, ttl=300)
        assert store.rrsets.put(RRset(owner, 1, 300, [b"\xc0\0\2\1"], trust=6), NOW)
    statistics = store.table.statistics()
    assert min(statistics.entries["answer"], statistics.entries["rrset"]) >= count - 20
    assert (statistics.bytes_used + statistics.groups * 4096) / count <= 175


# --- answers near their end ---------------------------------------------------------------------------------------


def test_a_prefetch_in_the_last_tenth_is_claimed_once(cache):
    put(cache, reply())
    assert not cache.claim(query(), NOW + 269)
    assert cache.claimed(query(), NOW + 270) == 0
    assert cache.claim(query("WWW.example.com."), NOW + 270)
    assert not cache.claim(query(), NOW + 271)
    assert cache.claimed(query(), NOW + 275) == 25
    assert render(cache, query(), NOW + 275).answer[0].ttl == 25
    assert not cache.claim(query(), NOW + 300)
    assert cache.claimed(query(), NOW + 300) == 0


@pytest.mark.parametrize("records", [1, 2])
def test_a_replaced_answer_can_be_claimed_again(cache, records):
    """Both when it overwrites the old one in memory (same size) and when it does not."""
    put(cache, reply())
    assert cache.claim(query(), NOW + 290)
    addresses = [("www.example.com.", 300, "A", f"192.0.2.{n}") for n in range(records)]
    put(cache, reply("www.example.com.", "A", *addresses), now=NOW + 290)
    assert cache.claimed(query(), NOW + 290) == 0
    assert cache.claim(query(), NOW + 290 + 280)


def test_short_lived_answers_are_not_prefetched(cache):
    put(cache, reply(), ttl=9)
    assert not any(cache.claim(query(), NOW + age) for age in range(10))
    put(cache, reply("other.example."), ttl=10)
    assert cache.claim(query("other.example."), NOW + 9)


def test_a_claim_is_seen_by_all_processes_that_share_the_memory():
    cache = AnswerCache(Table(Arena(1 << 20, shared=True), bytes(16)))
    put(cache, reply())
    child = os.fork()
    if child == 0:
        os._exit(0 if cache.claim(query(), NOW + 290) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not cache.claim(query(), NOW + 290)
    assert cache.claimed(query(), NOW + 290) == 10


def test_a_claimed_answer_stays_claimed_when_it_is_moved(cache):
    put(cache, reply(), ttl=100_000)
    assert cache.claim(query(), NOW + 99_000)
    for number in range(20_000):
        put(cache, reply(f"host{number}.example."), now=NOW + 99_000)
        if not number % 50:
            assert cache.render(query(), NOW + 99_000, 1232) is not None
    assert cache.table.statistics().carried > 0
    assert cache.claimed(query(), NOW + 99_000) == 1000


def test_absent_or_unusual_answers_are_not_claimed(cache):
    assert not cache.claim(query(), NOW)
    assert not cache.claim(b"", NOW) and cache.claimed(b"\0" * 12, NOW) == 0


# --- another order each time --------------------------------------------------------------------------------------

ADDRESSES = [f"192.0.2.{number}" for number in range(1, 6)]
SIXES = [f"2001:db8::{number}" for number in range(1, 4)]


def data(message: dns.message.Message, rtype: str) -> list[str]:
    """The data of one type in the answer, in the order of the packet."""
    return [str(rdata) for rrset in message.answer for rdata in rrset if dns.rdatatype.to_text(rrset.rdtype) == rtype]


def several(name: str, rtype: str, values: list[str], *before: tuple[str, int, str, str]) -> bytes:
    message = dns.message.make_response(dns.message.make_query(name, rtype), recursion_available=True)
    for owner, ttl, kind, value in before:
        message.answer.append(dns.rrset.from_text(owner, ttl, "IN", kind, value))
    owner = before[-1][3] if before else name
    message.answer.append(dns.rrset.from_text(owner, 300, "IN", rtype, *values))
    message.authority.append(dns.rrset.from_text("example.com.", 300, "IN", "NS", "ns.example.com."))
    message.additional.append(dns.rrset.from_text("ns.example.com.", 300, "IN", "A", "192.0.2.200", "192.0.2.201"))
    return message.to_wire()


@pytest.mark.parametrize(("rtype", "values"), [("A", ADDRESSES), ("AAAA", SIXES)])
@pytest.mark.parametrize("before", [(), (("www.example.com.", 300, "CNAME", "host.example.net."),)])
def test_rotation_gives_each_order_that_begins_with_another_address(cache, rtype, values, before):
    turning = cache.for_rules(b"", rotate=True)
    stored = several("www.example.com.", rtype, values, *before)
    values = data(dns.message.from_wire(stored), rtype)  # dnspython has shuffled them
    assert put(turning, stored)
    orders = set()
    for age in range(100):
        found = render(turning, query("www.example.com.", rtype), NOW + age)
        orders.add(tuple(data(found, rtype)))
        reference = dns.message.from_wire(stored)
        assert [rrset.name for rrset in found.answer] == [rrset.name for rrset in reference.answer]
        assert sorted(data(found, rtype)) == sorted(values)
        assert found.answer[-1].ttl == 300 - age
        assert (found.authority, found.additional) == (reference.authority, reference.additional) or age
    assert orders == {tuple(values[at:] + values[:at]) for at in range(len(values))}
    assert data(render(cache, query("www.example.com.", rtype)), rtype) == values, "the stored order has not changed"


def test_rotation_spreads_a_and_aaaa_that_are_queried_by_turns(cache):
    """A counter alone would give each client of two addresses the same one."""
    turning = cache.for_rules(b"", rotate=True)
    for rtype, values in (("A", ADDRESSES[:2]), ("AAAA", SIXES[:2])):
        assert put(turning, several("www.example.com.", rtype, values))
    first: dict[str, list[str]] = {"A": [], "AAAA": []}
    for _ in range(200):
        for rtype, seen in first.items():
            seen.append(data(render(turning, query("www.example.com.", rtype)), rtype)[0])
    for seen in first.values():
        assert 60 < seen.count(seen[0]) < 140


@pytest.mark.parametrize("records", [
    [("www.example.com.", 300, "A", "192.0.2.1")],
    [("www.example.com.", 300, "CNAME", "host.example.net.")],
    [("www.example.com.", 300, "TXT", "a"), ("www.example.com.", 300, "TXT", "b")],
    [("www.example.com.", 300, "A", "192.0.2.1"), ("www.example.com.", 300, "TXT", "b"),
     ("www.example.com.", 300, "A", "192.0.2.2")],
])
def test_rotation_leaves_other_answers_as_they_are(cache, records):
    turning = cache.for_rules(b"", rotate=True)
    stored = reply("www.example.com.", "A", *records)
    assert put(turning, stored)
    for turn in range(8):
        assert render(turning, query(), NOW).answer == dns.message.from_wire(stored).answer
        assert rotated(stored, turn) == stored


def test_a_composed_reply_is_rotated_too():
    packet = several("www.example.com.", "A", ADDRESSES)
    values = data(dns.message.from_wire(packet), "A")
    orders = {tuple(data(dns.message.from_wire(rotated(packet, turn)), "A")) for turn in range(100)}
    assert orders == {tuple(values[at:] + values[:at]) for at in range(5)}
    assert rotated(packet, 3) == rotated(packet, 3)
    for wrong in (b"", packet[:11], packet[:-1], packet[:4] + b"\0\2" + packet[6:], packet + b"x"):
        assert rotated(wrong, 1) is wrong
