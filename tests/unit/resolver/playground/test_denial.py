"""Denial: the NSEC and NSEC3 records in replies of a signed zone, and signatures of every RRset with DO.

The expected records follow from RFC 4035 section 3.1.3 and RFC 5155 section 7.2; dnspython computes the hashes, so that
our hash is compared with another implementation.
"""

import functools

import dns.dnssec
import pytest
from support.signing import Nsec3, ZoneKey, sign_zone

from resolver.playground import Authority, Zone
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

TEXT = """
$TTL 3600
@       SOA ns hostmaster 1 7200 900 1209600 300
@       NS  ns
ns      A   192.0.2.1
www     A   192.0.2.2
alias   CNAME www
*.wild  A   192.0.2.3
*.wild-alias CNAME www
a.empty A   192.0.2.4
old     DNAME www
secure  NS  ns.elsewhere.
secure  DS  1 13 2 0000000000000000000000000000000000000000000000000000000000000001
plain   NS  ns.plain
ns.plain A  192.0.2.5
x.under NS  ns.elsewhere.
"""


@functools.cache
def server(nsec3: Nsec3 | None = None) -> Authority:
    return Authority([Zone.from_text("z.test.", sign_zone("z.test.", TEXT, [ZoneKey("z.test.")], nsec3=nsec3))])


def ask(qname: str, qtype: int = c.A, nsec3: Nsec3 | None = None, *, do: bool = True) -> MessageView:
    reply = server(nsec3).answer(make_query(1, names.from_text(qname), qtype, do=do), tcp=True)
    assert reply is not None
    return MessageView.parse(reply)


def owners(view: MessageView, rtype: int) -> list[str]:
    return [names.to_text(rrset.name) for rrset in view.authority if rrset.rtype == rtype]


def test_without_do_there_are_no_dnssec_records() -> None:
    for qname in ("www.z.test.", "nothing.z.test.", "secure.z.test."):
        view = ask(qname, do=False)
        shown = [*view.answer, *view.authority, *view.additional]
        assert not {c.RRSIG, c.NSEC, c.DS} & {rrset.rtype for rrset in shown}
        assert not any(rrset.sigs() for rrset in shown)


@pytest.mark.parametrize("nsec3", [None, Nsec3(3, "abcd")])
def test_every_authoritative_set_is_signed(nsec3: Nsec3 | None) -> None:
    for qname, qtype in (
        ("www.z.test.", c.A),
        ("alias.z.test.", c.A),
        ("z.test.", c.NS),
        ("none.z.test.", c.A),
        ("z.test.", c.DNSKEY),
        ("any.wild.z.test.", c.A),
        ("secure.z.test.", c.DS),
    ):
        view = ask(qname, qtype, nsec3)
        sets = [*view.answer, *view.authority]
        assert sets and all(len(rrset.sigs()) == 1 for rrset in sets), qname


def test_the_cname_made_from_a_dname_is_not_signed() -> None:
    view = ask("x.old.z.test.")
    assert [(rrset.rtype, len(rrset.sigs())) for rrset in view.answer] == [(c.DNAME, 1), (c.CNAME, 0)]


def test_signatures_can_be_asked_for() -> None:
    view = ask("www.z.test.", c.RRSIG)
    assert [rrset.rtype for rrset in view.answer] == [c.RRSIG]


# --- NSEC -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("qname", "qtype", "proofs"),
    [
        ("www.z.test.", c.A, []),
        ("www.z.test.", c.AAAA, ["www.z.test."]),
        ("empty.z.test.", c.A, ["alias.z.test."]),  # owns no NSEC: the one before it in canonical order
        ("beta.z.test.", c.A, ["alias.z.test.", "z.test."]),  # covers the name; covers *.z.test.
        ("b.alias.z.test.", c.A, ["alias.z.test."]),  # one record covers the name and the wildcard below alias
        ("any.wild.z.test.", c.A, ["*.wild.z.test."]),
        ("any.wild.z.test.", c.AAAA, ["*.wild.z.test."]),  # matches the wildcard and covers the name
        ("any.wild-alias.z.test.", c.A, ["*.wild-alias.z.test."]),
        ("x.plain.z.test.", c.A, ["plain.z.test."]),
        ("x.secure.z.test.", c.A, []),
        ("plain.z.test.", c.DS, ["plain.z.test."]),
    ],
)
def test_nsec(qname: str, qtype: int, proofs: list[str]) -> None:
    assert owners(ask(qname, qtype), c.NSEC) == proofs


def test_a_secure_referral_has_the_ds() -> None:
    view = ask("x.secure.z.test.")
    assert [(rrset.rtype, len(rrset.sigs())) for rrset in view.authority] == [(c.NS, 0), (c.DS, 1)]
    assert not view.aa


# --- NSEC3 ------------------------------------------------------------------------------------------------------------


def spans(view: MessageView, nsec3: Nsec3) -> tuple[set[str], list[tuple[str, str]]]:
    """Owner hashes of the NSEC3 records of a reply, and (owner hash, next hash) of each."""
    from resolver.wire import present

    pairs = []
    for rrset in view.authority:
        if rrset.rtype == c.NSEC3:
            owner = names.labels(rrset.name)[0].decode().upper()
            pairs.append((owner, present.rdata_to_text(c.NSEC3, rrset.rdata(0)).split()[4].upper()))
    return {owner for owner, _ in pairs}, pairs


def hashed(name: str, nsec3: Nsec3) -> str:
    return dns.dnssec.nsec3_hash(name, nsec3.salt, nsec3.iterations, 1)


def covered(name: str, pairs: list[tuple[str, str]], nsec3: Nsec3) -> bool:
    digest = hashed(name, nsec3)
    return any(a < digest < b if a < b else digest > a or digest < b for a, b in pairs)


PARAMETERS = [Nsec3(), Nsec3(7, "0badc0de")]


@pytest.mark.parametrize("nsec3", PARAMETERS)
def test_nsec3_name_error(nsec3: Nsec3) -> None:
    matching, pairs = spans(ask("x.y.www.z.test.", c.A, nsec3), nsec3)
    assert hashed("www.z.test.", nsec3) in matching
    assert covered("y.www.z.test.", pairs, nsec3) and covered("*.www.z.test.", pairs, nsec3)


@pytest.mark.parametrize("nsec3", PARAMETERS)
def test_nsec3_no_data(nsec3: Nsec3) -> None:
    for qname in ("www.z.test.", "empty.z.test.", "plain.z.test."):
        matching, _ = spans(ask(qname, c.DS, nsec3), nsec3)
        assert matching == {hashed(qname, nsec3)}


@pytest.mark.parametrize("nsec3", PARAMETERS)
def test_nsec3_wildcards(nsec3: Nsec3) -> None:
    _, pairs = spans(ask("x.any.wild.z.test.", c.A, nsec3), nsec3)
    assert len(pairs) == 1 and covered("any.wild.z.test.", pairs, nsec3)
    matching, pairs = spans(ask("any.wild.z.test.", c.AAAA, nsec3), nsec3)
    assert {hashed("wild.z.test.", nsec3), hashed("*.wild.z.test.", nsec3)} <= matching
    assert covered("any.wild.z.test.", pairs, nsec3)


def test_nsec3_opt_out() -> None:
    nsec3 = Nsec3(opt_out=True)
    for qname, qtype in (("x.plain.z.test.", c.A), ("plain.z.test.", c.DS)):
        matching, pairs = spans(ask(qname, qtype, nsec3), nsec3)
        assert hashed("z.test.", nsec3) in matching and covered("plain.z.test.", pairs, nsec3)
    assert not spans(ask("x.secure.z.test.", c.A, nsec3), nsec3)[1]


def test_nsec3_opt_out_below_an_empty_non_terminal_that_was_left_out() -> None:
    """The encloser that counts is the nearest one with a record (RFC 5155 section 7.2.1), here the apex."""
    nsec3 = Nsec3(opt_out=True)
    view = ask("y.under.z.test.", c.A, nsec3)
    matching, pairs = spans(view, nsec3)
    assert view.rcode == c.NXDOMAIN and hashed("z.test.", nsec3) in matching
    assert covered("under.z.test.", pairs, nsec3) and covered("*.z.test.", pairs, nsec3)


def test_an_unsigned_zone_shows_no_ds() -> None:
    unsigned = Authority([Zone.from_text("z.test.", TEXT)])
    view = MessageView.parse(unsigned.answer(make_query(1, names.from_text("x.secure.z.test."), c.A, do=True)))
    assert [rrset.rtype for rrset in view.authority] == [c.NS]


def test_hashed_names_do_not_exist() -> None:
    zone = server(Nsec3()).zones[names.from_text("z.test.")]
    owner = names.to_text(next(iter(zone.nsec3.values())).name)
    assert ask(owner, c.NSEC3, Nsec3()).rcode == c.NXDOMAIN


@pytest.mark.parametrize("nsec3", [None, *PARAMETERS])
def test_a_signed_zone_survives_its_text(nsec3: Nsec3 | None) -> None:
    zone = server(nsec3).zones[names.from_text("z.test.")]
    again = Zone.from_text("z.test.", zone.to_text())
    assert again.nodes == zone.nodes and again.nsec3 == zone.nsec3 and again.signed
