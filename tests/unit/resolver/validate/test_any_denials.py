"""Replies to ANY. A denial needs a record of denial without any data type (RFC 4035 section 5.4, RFC 8482 section 4.1).

Type bitmaps have no bit for ANY, so its absence proves nothing: an attacker who answers ANY with NODATA and the valid
record of the name would hide all its data.
"""

import dns.rrset
import pytest
from support.forger import EXAMPLE_IP, KEY, PLAIN_IP, forge, world
from support.minet import Minet, reply
from support.signing import Nsec3

from resolver.validate.anchors import Anchors
from resolver.validate.records import bitmap_is_within
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

CHAINS = pytest.mark.parametrize("chain", [None, Nsec3(), Nsec3(3, "ab")], ids=["nsec", "nsec3", "salted"])
ZONE = "a.ent 300 A 192.0.2.86\n*.txt 300 TXT x\nmany 300 TXT y\nmany 300 CAA 0 issue \"x\"\n"


def claim_no_data(minet: Minet, name: str, rtype: int) -> None:
    """Let the servers of example. answer ANY at `name` with their genuine denial of `rtype`."""
    packet = make_query(1, names.from_text(name), rtype, edns_payload=4096, do=True)
    view = MessageView.parse(minet.net.hosts[EXAMPLE_IP](packet, True))
    assert not view.answer
    assert any(rrset.rtype in (c.NSEC, c.NSEC3) for rrset in view.authority)
    forge(minet, EXAMPLE_IP, lambda qname, qtype, packet:
          reply(packet, [], view.authority) if (qname, qtype) == (name, c.ANY) else None)


@CHAINS
@pytest.mark.parametrize(("name", "denied"), [
    ("www.example.", c.MX), ("many.example.", c.MX), ("x.txt.example.", c.MX), ("example.", c.MX),
    ("dn.example.", c.MX), ("unsigned.example.", c.DS),
])
def test_existing_data_is_not_hidden(chain: Nsec3 | None, name: str, denied: int) -> None:
    minet = world(chain, example=ZONE)
    claim_no_data(minet, name, denied)
    for _ in range(2):
        outcome = minet.ask(name, "ANY")
        assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS), outcome


@CHAINS
def test_an_empty_non_terminal_has_nothing(chain: Nsec3 | None) -> None:
    minet = world(chain, example=ZONE)
    outcome = minet.ask("ent.example.", "ANY")
    assert (outcome.rcode, outcome.verdict, outcome.answer) == (c.NOERROR, Verdict.SECURE, [])
    assert minet.ask("none.example.", "ANY").rcode == c.NXDOMAIN


@CHAINS
@pytest.mark.parametrize("name", ["www.dn.example.", "www.here.example.", "none.here.example."])
def test_below_a_dname_any_is_answered_by_the_alias(chain: Nsec3 | None, name: str) -> None:
    minet = world(chain, example="here 300 DNAME there\nwww.there 300 A 192.0.2.87\n")
    for _ in range(2):
        outcome = minet.ask(name, "ANY")
        assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE), outcome
        assert [rrset.rtype for rrset in outcome.answer] == [c.DNAME, c.CNAME]
        minet.ask(name)


@CHAINS
def test_rrsig_queries_at_an_alias_and_below_a_dname(chain: Nsec3 | None) -> None:
    minet = world(chain, example="here 300 DNAME there\nwww.there 300 A 192.0.2.87\n")
    for _ in range(2):
        outcome = minet.ask("alias.example.", "RRSIG")
        assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.INSECURE), outcome
        assert {(names.to_text(rrset.name), rrset.rtype) for rrset in outcome.answer} == {("alias.example.", c.RRSIG)}
        outcome = minet.ask("www.here.example.", "RRSIG")
        assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.INSECURE), outcome
        assert [rrset.rtype for rrset in outcome.answer[:3]] == [c.DNAME, c.CNAME, c.RRSIG]
        minet.ask("alias.example.")
        minet.ask("www.here.example.")


def made_up(owner: str, following: str, types: str) -> RRset:
    """An NSEC record that the servers of example. sign on the spot."""
    rdata = f"{following} {types}"
    text = dns.rrset.from_text(owner, 300, "IN", "NSEC", rdata)
    return RRset(names.from_text(owner), c.NSEC, 300, [present.rdata_from_text(c.NSEC, rdata)],
                 sigs=[KEY.sign(text).to_wire()])


@pytest.mark.parametrize(("following", "types", "proved"), [
    ("\\000.ent.example.", "RRSIG NSEC", True),
    ("\\000.ent.example.", "RRSIG NSEC TYPE128", True),
    ("\\000.ent.example.", "RRSIG NSEC TYPE65281", True),
    ("\\000.ent.example.", "RRSIG NSEC TYPE65283", True),
    ("\\000.ent.example.", "RRSIG NSEC TYPE65282", False),
    ("\\000.ent.example.", "A RRSIG NSEC TYPE65281", False),
    ("zz.example.", "RRSIG NSEC TYPE128", True),
    ("zz.example.", "RRSIG NSEC TYPE65281", False),
    ("zz.example.", "RRSIG NSEC TYPE65283", False),
    ("\\000.zz.example.", "RRSIG NSEC TYPE65281", False),
])
def test_compact_denials_of_any_before_and_after_rfc_9824(following: str, types: str, proved: bool) -> None:
    """RFC 9824: private types were used before NXNAME; elsewhere they may be data."""
    minet = world()
    packet = make_query(1, names.from_text("none.example."), c.A, edns_payload=4096, do=True)
    view = MessageView.parse(minet.net.hosts[EXAMPLE_IP](packet, True))
    soa = [rrset for rrset in view.authority if rrset.rtype == c.SOA]
    denial = made_up("ent.example.", following, types)
    forge(minet, EXAMPLE_IP, lambda qname, qtype, packet:
          reply(packet, [], [*soa, denial]) if (qname, qtype) == ("ent.example.", c.ANY) else None)
    outcome = minet.ask("ent.example.", "ANY")
    expected = (c.NOERROR, Verdict.SECURE) if proved else (c.SERVFAIL, Verdict.BOGUS)
    assert (outcome.rcode, outcome.verdict, outcome.answer) == (*expected, [])


@pytest.mark.parametrize(("types", "within"), [
    ("RRSIG NSEC", True), ("", True), ("RRSIG NSEC NXNAME", True), ("NSEC", True), ("A RRSIG NSEC", False),
    ("RRSIG NSEC CAA", False), ("TYPE65280", False), ("RRSIG NSEC TYPE512", False), ("NS", False), ("TYPE0", False),
])
def test_types_of_a_bitmap(types: str, within: bool) -> None:
    words = types.replace("NXNAME", "TYPE128").replace("TYPE0", "")
    bitmap = present.rdata_from_text(c.NSEC, f"a. {words}".strip())[3:]
    if types == "TYPE0":
        bitmap = b"\0\1\x80"
    assert bitmap_is_within(bitmap, frozenset((c.RRSIG, c.NSEC, c.NXNAME))) is within


@pytest.mark.parametrize("bitmap", [b"\0", b"\0\0", b"\0\7\0\0", b"\0\1\0\5", b"\0\x21" + bytes(33), b"\1\1\0\0\1\0",
                                    b"\0\1\0\0\1\0"])
def test_a_malformed_bitmap_proves_nothing(bitmap: bytes) -> None:
    assert not bitmap_is_within(bitmap, frozenset((c.RRSIG, c.NSEC)))


def test_many_unsigned_sets_of_one_owner_need_their_status_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply to ANY has room for thousands of types, and the status of a name takes a step for each of its labels."""
    name = names.from_text("a." * 100 + "plain.")
    sets = [RRset(name, 1000 + number, 300, [b"x"]) for number in range(500)]
    walks = []
    closest = Anchors.closest

    def counted(anchors: Anchors, place: bytes, now: int) -> object:
        walks.append(place)
        return closest(anchors, place, now)

    monkeypatch.setattr(Anchors, "closest", counted)
    minet = world()
    forge(minet, PLAIN_IP, lambda qname, qtype, packet: reply(packet, sets) if qtype == c.ANY else None)
    outcome = minet.ask(names.to_text(name), "ANY")
    assert (outcome.rcode, outcome.verdict, len(outcome.answer)) == (c.NOERROR, Verdict.INSECURE, len(sets))
    assert {rrset.verdict for rrset in outcome.answer} == {Verdict.INSECURE}
    assert len(walks) < len(sets)


def test_a_ds_set_has_not_the_status_of_unsigned_sets_of_its_owner() -> None:
    """It belongs to the parent zone, which is signed."""
    minet = world()
    name = names.from_text("plain.")
    sets = [RRset(name, c.A, 300, [bytes(4)]), RRset(name, c.DS, 300, [bytes(36)])]
    forge(minet, PLAIN_IP, lambda qname, qtype, packet: reply(packet, sets) if qtype == c.ANY else None)
    outcome = minet.ask("plain.", "ANY")
    assert (outcome.rcode, outcome.verdict, outcome.answer) == (c.SERVFAIL, Verdict.BOGUS, [])
