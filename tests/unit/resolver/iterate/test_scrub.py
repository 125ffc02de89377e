"""Which records of a reply are used, set by set, without a network."""

import struct

import pytest
from support.minet import reply

from resolver import limits
from resolver.iterate.classify import classify
from resolver.iterate.scrub import ResponseType, glue_of, question_matches, scrub, with_misplaced_rrsigs
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder, make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

ZONE = names.from_text("example.com.")
WWW = names.from_text("www.example.com.")


def view(answer=(), authority=(), additional=(), *, qname=WWW, qtype=c.A, **more):
    return MessageView.parse(reply(make_query(7, qname, qtype), answer, authority, additional, **more))


def shown(sets):
    return [(names.to_text(rrset.name), c.type_to_text(rrset.rtype)) for rrset in sets]


def kind_of(packet, *, qname=WWW, qtype=c.A, zone=ZONE, recursive=False):
    return classify(packet, scrub(packet, qname, qtype, zone), qname, qtype, zone, recursive=recursive)


# --- the question -------------------------------------------------------------------------------------------------


def test_the_question_must_match():
    packet = view(["www.example.com. 60 A 192.0.2.1"])
    assert question_matches(packet, WWW, c.A)
    assert question_matches(packet, names.from_text("WWW.example.com."), c.A)
    assert not question_matches(packet, WWW, c.AAAA)
    assert not question_matches(packet, ZONE, c.A)


@pytest.mark.parametrize(
    ("rcode", "fine"), [(c.FORMERR, True), (c.REFUSED, True), (c.NOERROR, False), (c.NXDOMAIN, False)]
)
def test_a_reply_without_question_is_permitted_for_errors_only(rcode, fine):
    bare = MessageView.parse(b"\0\7" + (0x8000 | rcode).to_bytes(2, "big") + bytes(8))
    assert question_matches(bare, WWW, c.A) is fine


# --- answer -------------------------------------------------------------------------------------------------------


def test_only_the_alias_chain_is_used_in_its_order():
    packet = view([
        "b.example.com. 60 A 192.0.2.1", "www.example.com. 60 CNAME a.example.com.", "x.example.com. 60 A 6.6.6.6",
        "a.example.com. 60 CNAME b.example.com.",
    ])
    found = scrub(packet, WWW, c.A, ZONE)
    assert shown(found.answer) == [("www.example.com.", "CNAME"), ("a.example.com.", "CNAME"), ("b.example.com.", "A")]
    assert found.complete
    assert found.name == names.from_text("b.example.com.")


def test_the_alias_chain_ends_at_the_zone_cut():
    packet = view(["www.example.com. 60 CNAME www.other.com.", "www.other.com. 60 A 6.6.6.6"])
    found = scrub(packet, WWW, c.A, ZONE)
    assert shown(found.answer) == [("www.example.com.", "CNAME")]
    assert not found.complete
    assert kind_of(packet) is ResponseType.CNAME
    assert scrub(packet, WWW, c.A, names.from_text("com.")).complete


def test_a_single_set_of_another_name_is_no_answer():
    packet = view(["x.example.com. 60 A 6.6.6.6"])
    found = scrub(packet, WWW, c.A, ZONE)
    assert (found.answer, found.complete) == ([], False)


def test_aliases_of_one_reply_are_counted():
    most = limits.MAX_ALIASES + 1
    chain = [f"c{number}.example.com. 60 CNAME c{number + 1}.example.com." for number in range(40)]
    first = names.from_text("c0.example.com.")
    found = scrub(view([*chain, "c40.example.com. 60 A 192.0.2.1"], qname=first), first, c.A, ZONE)
    assert len(found.answer) == most and not found.complete
    dname_loop = ["d.example.com. 60 DNAME e.example.com.", "e.example.com. 60 DNAME d.example.com."]
    first = names.from_text("x.d.example.com.")
    found = scrub(view(dname_loop, qname=first), first, c.A, ZONE)
    assert sum(rrset.rtype == c.CNAME for rrset in found.answer) == most and not found.complete


def test_records_of_other_classes_are_ignored():
    packet = reply(make_query(7, WWW, c.A), ["www.example.com. 60 A 192.0.2.1"])
    chaos = packet[:-4 - 2 - 4 - 2 - 11] + b"\0\3" + packet[-4 - 4 - 2 - 11:]
    parsed = MessageView.parse(chaos)
    assert parsed.answer[0].rclass == c.CH
    assert scrub(parsed, WWW, c.A, ZONE).answer == []


def test_a_loop_inside_one_reply_ends():
    packet = view(["www.example.com. 60 CNAME a.example.com.", "a.example.com. 60 CNAME www.example.com."])
    found = scrub(packet, WWW, c.A, ZONE)
    assert len(found.answer) == 2
    assert not found.complete


def test_rrsig_questions_are_answered_from_signatures():
    signature = "A 8 3 60 20300101000000 20200101000000 1 example.com. AAAA"
    packet = view(["www.example.com. 60 A 192.0.2.1", f"www.example.com. 60 RRSIG {signature}"], qtype=c.RRSIG)
    found = scrub(packet, WWW, c.RRSIG, ZONE)
    assert shown(found.answer) == [("www.example.com.", "RRSIG")]


def test_any_is_answered_by_the_records_at_the_name():
    answer = ["www.example.com. 60 A 192.0.2.1", "www.example.com. 60 TXT x", "other.example.com. 60 A 6.6.6.6"]
    found = scrub(view(answer, qtype=c.ANY), WWW, c.ANY, ZONE)
    assert shown(found.answer) == [("www.example.com.", "A"), ("www.example.com.", "TXT")]


def test_signatures_in_other_sections_are_used_for_their_sets():
    dates = "60 20300101000000 20200101000000 1 example.com."
    packet = view(["www.example.com. 60 A 192.0.2.1"],
                  [f"other.example.com. 60 RRSIG A 8 3 {dates} AAAA",
                   f"www.example.com. 60 RRSIG AAAA 8 3 {dates} BBBB"],
                  [f"www.example.com. 60 RRSIG A 8 3 {dates} CCCC"])
    found = scrub(packet, WWW, c.A, ZONE)
    [rrset] = with_misplaced_rrsigs(found.answer, [*packet.authority, *packet.additional])
    assert [sig[-3:] for sig in rrset.sigs()] == [b"\x08\x20\x82"]
    assert not found.answer[0].sig_len


def signature(number, *, octets=0):
    return struct.pack("!HBBIIIH", c.A, 13, 3, 60, 2**31, 1, 1) + b"\0" + struct.pack("!H", number) + bytes(octets)


def with_signatures(answer, authority, *, owner=b"\xc0\x0c", rclass=c.IN, octets=0):
    """A reply with A and so many RRSIG records in its answer, and so many in authority."""

    def record(rtype, rdata, owner=b"\xc0\x0c", rclass=c.IN):
        return owner + struct.pack("!HHIH", rtype, rclass, 60, len(rdata)) + rdata

    packet = struct.pack("!HHHHHH", 7, 0x8400, 1, 1 + answer, authority, 0) + WWW + struct.pack("!HH", c.A, c.IN)
    packet += record(c.A, bytes((192, 0, 2, 1)))
    for number in range(answer + authority):
        rdata = signature(number, octets=octets)
        packet += record(c.RRSIG, rdata) if number < answer else record(c.RRSIG, rdata, owner, rclass)
    return MessageView.parse(packet)


def stray_of(packet):
    found = scrub(packet, WWW, c.A, ZONE)
    [rrset] = with_misplaced_rrsigs(found.answer, [*packet.authority, *packet.additional])
    return [sig[19:21] for sig in rrset.sigs()]


@pytest.mark.parametrize(("beside", "stray"), [(512, 1), (511, 2), (0, 512), (300, 500), (1, 1)])
def test_a_set_takes_stray_signatures_up_to_its_limits(beside, stray):
    most = limits.RRSET_RECORDS
    sigs = stray_of(with_signatures(beside, stray))
    assert sigs == [struct.pack("!H", number) for number in range(min(beside + stray, most))]


def test_a_set_takes_no_more_octets_of_signatures_than_one_may_have():
    name = b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\x3c" + b"x" * 60 + b"\0"
    rrset = RRset(WWW, c.A, 60, [bytes(4)], sigs=[signature(n)[:18] + name + bytes(4) + bytes([n]) for n in range(230)])
    more = [signature(n)[:18] + name + bytes(3) + b"\1" + bytes([n]) for n in range(230)]
    [made] = with_misplaced_rrsigs([rrset], [RRset(WWW, c.RRSIG, 60, more)])
    assert made.sig_len > 230
    assert len(made.packed_sigs) <= limits.RRSET_BYTES < len(made.packed_sigs) + len(more[0]) + 2


def test_a_duplicate_stray_signature_is_not_counted():
    packet = view(["www.example.com. 60 A 192.0.2.1", RRset(WWW, c.RRSIG, 60, [signature(1)])],
                  [RRset(WWW, c.RRSIG, 60, [signature(1), signature(2)])],
                  [RRset(WWW, c.RRSIG, 60, [signature(2)])])
    assert stray_of(packet) == [b"\0\1", b"\0\2"]


def test_stray_signatures_are_of_the_same_name_and_class():
    assert stray_of(with_signatures(0, 2, owner=b"\x03WWW" + WWW[4:])) == [b"\0\0", b"\0\1"]
    assert stray_of(with_signatures(0, 2, owner=b"\x03xww" + WWW[4:])) == []
    assert stray_of(with_signatures(0, 2, rclass=3)) == []


def test_looking_for_stray_signatures_reads_each_set_of_the_reply_once():
    reads = []

    class Set:
        """A set that records each access."""

        rclass = c.IN
        ttl = 60

        def __init__(self, rtype):
            self.name, self.sort = WWW, rtype

        @property
        def rtype(self):
            reads.append(self)
            return self.sort

    answer = [RRset(WWW, 40000 + n, 60, [b"x"]) for n in range(500)]
    assert with_misplaced_rrsigs(answer, [Set(20000 + n) for n in range(300)]) == answer
    assert len(reads) == 300


SIGNED_DS = [f"sub.example.com. 60 DS 1 13 2 {'ab' * 32}",
             "sub.example.com. 60 RRSIG DS 13 3 60 20300101000000 20200101000000 1 example.com. AAAA"]


@pytest.mark.parametrize(("name", "zone", "taken"), [
    ("sub.example.com.", "example.com.", True),
    ("a.sub.example.com.", "example.com.", False),
    ("sub.example.com.", "sub.example.com.", False),
])
def test_a_signed_ds_set_beside_a_referral_answers_for_its_own_name_from_above(name, zone, taken):
    name = names.from_text(name)
    packet = view((), ["sub.example.com. 60 NS ns.sub.example.com.", *SIGNED_DS], qname=name, qtype=c.DS, flags=0)
    found = scrub(packet, name, c.DS, names.from_text(zone))
    assert shown(found.answer) == ([("sub.example.com.", "DS")] if taken else [])


def test_a_dname_of_an_ancestor_redirects():
    found = scrub(view(["example.com. 60 DNAME b.example.net."]), WWW, c.A, ZONE)
    assert shown(found.answer) == [("example.com.", "DNAME"), ("www.example.com.", "CNAME")]
    assert (found.alias, found.name) == (True, names.from_text("www.b.example.net."))


@pytest.mark.parametrize("owner", ["www.example.com.", "x.www.example.com.", "other.example.com.", "com.", "."])
def test_a_dname_at_the_name_or_of_a_sibling_or_above_the_zone_redirects_nothing(owner):
    found = scrub(view([f"{owner} 60 DNAME b.example.com."]), WWW, c.A, ZONE)
    assert (found.answer, found.alias, found.name) == ([], False, WWW)


BELOW_DNAME = ["old.example.com. 60 DNAME new.example.com.", "www.old.example.com. 60 CNAME www.new.example.com.",
               "www.old.example.com. 60 A 6.6.6.6", "www.new.example.com. 60 A 192.0.2.1",
               "www.new.example.com. 60 RRSIG A 8 4 60 20300101000000 20200101000000 1 example.com. AAAA"]
RENAMED = [("old.example.com.", "DNAME"), ("www.old.example.com.", "CNAME")]


@pytest.mark.parametrize("rcode", [c.NOERROR, c.NXDOMAIN])
def test_any_below_a_dname_is_answered_by_the_alias_alone(rcode):
    """No other data exists below a DNAME; the rcode is that of the target (RFC 6604 section 3)."""
    name = names.from_text("www.old.example.com.")
    packet = view(BELOW_DNAME if rcode == c.NOERROR else BELOW_DNAME[:2], qname=name, qtype=c.ANY, rcode=rcode)
    found = scrub(packet, name, c.ANY, ZONE)
    assert shown(found.answer) == RENAMED
    assert (found.complete, found.alias, found.name) == (True, False, name)
    assert classify(packet, found, name, c.ANY, ZONE, recursive=False) is ResponseType.ANSWER


def test_signatures_below_a_dname_are_those_of_the_target():
    name = names.from_text("www.old.example.com.")
    found = scrub(view(BELOW_DNAME, qname=name, qtype=c.RRSIG), name, c.RRSIG, ZONE)
    assert shown(found.answer) == [*RENAMED, ("www.new.example.com.", "RRSIG")]
    assert found.complete


def test_any_does_not_follow_a_cname_and_rrsig_follows_an_unsigned_one():
    answer = ["www.example.com. 60 CNAME b.example.com.", "b.example.com. 60 A 192.0.2.1",
              "b.example.com. 60 RRSIG A 8 3 60 20300101000000 20200101000000 1 example.com. AAAA"]
    found = scrub(view(answer, qtype=c.ANY), WWW, c.ANY, ZONE)
    assert (shown(found.answer), found.complete) == ([("www.example.com.", "CNAME")], True)
    found = scrub(view(answer[1:], qtype=c.ANY), WWW, c.ANY, ZONE)
    assert (found.answer, found.complete) == ([], False)
    found = scrub(view(answer, qtype=c.RRSIG), WWW, c.RRSIG, ZONE)
    assert shown(found.answer) == [("www.example.com.", "CNAME"), ("b.example.com.", "RRSIG")]
    signed = [*answer, "www.example.com. 60 RRSIG CNAME 8 3 60 20300101000000 20200101000000 1 example.com. AAAA"]
    found = scrub(view(signed, qtype=c.RRSIG), WWW, c.RRSIG, ZONE)
    assert (shown(found.answer), found.alias) == ([("www.example.com.", "RRSIG")], False)


# --- authority and additional -------------------------------------------------------------------------------------


def test_a_referral_and_its_glue():
    packet = view((), ["sub.example.com. 60 NS ns.sub.example.com.", "sub.example.com. 60 NS ns.example.net."],
                  ["ns.sub.example.com. 60 A 192.0.2.5", "ns.example.net. 60 A 6.6.6.6",
                   "www.example.com. 60 A 6.6.6.6"],
                  qname=names.from_text("a.sub.example.com."), flags=0)
    found = scrub(packet, names.from_text("a.sub.example.com."), c.A, ZONE)
    assert found.ns is not None
    assert set(glue_of(packet, found.ns, ZONE, harden=True)) == {names.from_text("ns.sub.example.com.")}
    assert set(glue_of(packet, found.ns, ZONE, harden=False)) == {
        names.from_text("ns.sub.example.com."), names.from_text("ns.example.net.")}
    assert kind_of(packet, qname=names.from_text("a.sub.example.com.")) is ResponseType.REFERRAL


def test_authority_records_of_other_classes_are_ignored():
    builder = Builder()
    builder.start(7, c.QR | c.AA, WWW, c.A)
    soa = b"\2ns\0\1x\0" + bytes(20)
    builder.add(c.AUTHORITY, RRset(ZONE, c.SOA, 60, [soa], rclass=c.CH))
    builder.add(c.AUTHORITY, RRset(WWW, c.NS, 60, [b"\2ns\0"], rclass=c.CH))
    found = scrub(MessageView.parse(builder.finish()), WWW, c.A, ZONE)
    assert (found.soa, found.ns) == (None, None)


def test_the_first_of_two_referrals_counts():
    packet = view((), ["www.example.com. 60 NS a.example.com.", "example.com. 60 NS b.example.com."])
    found = scrub(packet, WWW, c.A, ZONE)
    assert found.ns is not None
    assert found.ns.name == WWW


def test_glue_is_used_for_a_bounded_number_of_name_servers():
    most = limits.MAX_NAME_SERVERS
    servers = [f"n{number:02}.sub.example.com." for number in range(most + 7)]
    packet = view((), [f"sub.example.com. 60 NS {server}" for server in servers],
                  [f"{server} 60 A 192.0.2.{number}" for number, server in enumerate(servers)],
                  qname=names.from_text("a.sub.example.com."), flags=0)
    found = scrub(packet, names.from_text("a.sub.example.com."), c.A, ZONE)
    assert found.ns is not None
    assert set(glue_of(packet, found.ns, ZONE, harden=True)) == set(map(names.from_text, servers[:most]))


SOA = "60 SOA ns.example.com. n.example.com. 1 2 3 4 5"


@pytest.mark.parametrize(
    ("answer", "authority", "more", "kind"),
    [
        (["www.example.com. 60 A 192.0.2.1"], [], {}, ResponseType.ANSWER),
        (["www.example.com. 60 A 192.0.2.1"], [], {"flags": 0}, ResponseType.ANSWER),
        (["www.example.com. 60 A 192.0.2.1"], ["com. 60 NS x.com."], {}, ResponseType.ANSWER),
        ([], [f"example.com. {SOA}"], {}, ResponseType.NODATA),
        ([], [f"example.com. {SOA}"], {"flags": 0}, ResponseType.NODATA),
        ([], [f"example.com. {SOA}"], {"rcode": c.NXDOMAIN}, ResponseType.NXDOMAIN),
        ([], [], {"rcode": c.NXDOMAIN}, ResponseType.NXDOMAIN),
        ([], [f"com. {SOA}"], {"rcode": c.NXDOMAIN}, ResponseType.LAME),
        ([], [f"com. {SOA}"], {}, ResponseType.LAME),
        ([], [], {}, ResponseType.EMPTY),
        ([], ["example.com. 60 NS ns.example.com."], {}, ResponseType.EMPTY),
        ([], ["example.com. 60 NS ns.example.com."], {"flags": 0}, ResponseType.LAME),
        ([], [". 60 NS ns.example.com."], {"flags": 0}, ResponseType.LAME),
        ([], ["other.com. 60 NS ns.example.com."], {"flags": 0}, ResponseType.LAME),
        ([], ["mail.example.com. 60 NS ns.example.com."], {"flags": 0}, ResponseType.LAME),
        ([], [f"mail.example.com. {SOA}"], {}, ResponseType.EMPTY),
        ([], ["www.example.com. 60 NS ns.example.com."], {"flags": 0}, ResponseType.REFERRAL),
        ([], [], {"rcode": c.SERVFAIL}, ResponseType.THROWAWAY),
        ([], [], {"rcode": c.REFUSED}, ResponseType.THROWAWAY),
        (["www.example.com. 60 A 192.0.2.1"], [], {"rcode": c.NXDOMAIN}, ResponseType.THROWAWAY),
        (["www.example.com. 60 CNAME a.example.com."], [], {}, ResponseType.CNAME),
        (["www.example.com. 60 CNAME a.example.com."], [f"example.com. {SOA}"], {}, ResponseType.NODATA),
        (
            ["www.example.com. 60 CNAME a.example.com."],
            [f"example.com. {SOA}"],
            {"rcode": c.NXDOMAIN},
            ResponseType.NXDOMAIN,
        ),
        (["www.example.com. 60 CNAME a.other.com."], [f"other.com. {SOA}"], {"rcode": c.NXDOMAIN}, ResponseType.CNAME),
    ],
)
def test_the_classification_of_a_reply(answer, authority, more, kind):
    assert kind_of(view(answer, authority, **more)) is kind


def test_a_forwarder_does_not_refer():
    packet = view((), ["www.example.com. 60 NS ns.example.com."], flags=c.RA)
    assert kind_of(packet, recursive=True) is ResponseType.EMPTY


def test_ds_is_answered_by_the_parent():
    sub = names.from_text("sub.example.com.")
    child = view((), [f"sub.example.com. {SOA}"], qname=sub, qtype=c.DS)
    assert kind_of(child, qname=sub, qtype=c.DS) is ResponseType.THROWAWAY
    denied = view((), [f"sub.example.com. {SOA}"], qname=sub, qtype=c.DS, rcode=c.NXDOMAIN)
    assert kind_of(denied, qname=sub, qtype=c.DS) is ResponseType.THROWAWAY
    parent = view((), [f"example.com. {SOA}"], qname=sub, qtype=c.DS)
    assert kind_of(parent, qname=sub, qtype=c.DS) is ResponseType.NODATA
    referral = view((), ["sub.example.com. 60 NS ns.sub.example.com."], qname=sub, qtype=c.DS, flags=0)
    assert kind_of(referral, qname=sub, qtype=c.DS) is ResponseType.THROWAWAY
