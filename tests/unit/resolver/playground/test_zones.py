"""Zone: nodes, empty non-terminals, and the search of RFC 1034 section 4.3.2 within one zone.

Each case names its rule; the zone is small enough to be read in full.
"""

import pytest

from resolver.playground import LookupResult, Zone, ZoneError
from resolver.wire import consts as c
from resolver.wire import name as names

TEXT = """
$TTL 3600
@       SOA ns1 hostmaster 1 7200 900 1209600 300
        NS  ns1
        NS  ns.elsewhere.test.
ns1     A   192.0.2.1
www     A   192.0.2.2
        TXT "web"
alias   CNAME www
old     DNAME new.test.
*.wild  A   192.0.2.3
x.wild  TXT "beside"
a.b.c   A   192.0.2.4
sub     NS  ns.sub
        DS  1 13 2 0000000000000000000000000000000000000000000000000000000000000001
ns.sub  A   192.0.2.5
ns.sub  AAAA 2001:db8::5
deep.below.sub A 192.0.2.6
"""


@pytest.fixture(scope="module")
def zone() -> Zone:
    return Zone.from_text("example.test.", TEXT)


def wire(text: str) -> bytes:
    return names.from_text(f"{text}.example.test." if text else "example.test.")


@pytest.mark.parametrize(
    ("qname", "qtype", "kind", "node"),
    [
        ("www", c.A, LookupResult.ANSWER, "www"),
        ("WwW", c.A, LookupResult.ANSWER, "www"),
        ("www", c.AAAA, LookupResult.NODATA, "www"),
        ("www", c.ANY, LookupResult.ANSWER, "www"),
        ("", c.SOA, LookupResult.ANSWER, ""),
        ("", c.DS, LookupResult.NODATA, ""),
        ("alias", c.A, LookupResult.CNAME, "alias"),
        ("alias", c.CNAME, LookupResult.ANSWER, "alias"),
        ("alias", c.NSEC, LookupResult.CNAME, "alias"),  # no such record, as in a zone with NSEC3
        ("old", c.A, LookupResult.NODATA, "old"),
        ("old", c.DNAME, LookupResult.ANSWER, "old"),
        ("x.old", c.A, LookupResult.DNAME, "old"),
        ("a.b.old", c.DNAME, LookupResult.DNAME, "old"),
        ("q.wild", c.A, LookupResult.ANSWER, "*.wild"),
        ("p.q.wild", c.A, LookupResult.ANSWER, "*.wild"),
        ("q.wild", c.AAAA, LookupResult.NODATA, "*.wild"),
        ("x.wild", c.A, LookupResult.NODATA, "x.wild"),
        ("y.x.wild", c.A, LookupResult.NXDOMAIN, "x.wild"),
        ("*.wild", c.A, LookupResult.ANSWER, "*.wild"),
        ("wild", c.A, LookupResult.NODATA, "wild"),
        ("b.c", c.A, LookupResult.NODATA, "b.c"),
        ("c", c.A, LookupResult.NODATA, "c"),
        ("z.b.c", c.A, LookupResult.NXDOMAIN, "b.c"),
        ("none", c.A, LookupResult.NXDOMAIN, ""),
        ("sub", c.A, LookupResult.REFERRAL, "sub"),
        ("sub", c.NS, LookupResult.REFERRAL, "sub"),
        ("sub", c.DS, LookupResult.ANSWER, "sub"),
        ("x.sub", c.DS, LookupResult.REFERRAL, "sub"),
        ("ns.sub", c.A, LookupResult.REFERRAL, "sub"),
        ("deep.below.sub", c.A, LookupResult.REFERRAL, "sub"),
        ("not.there.sub", c.A, LookupResult.REFERRAL, "sub"),
    ],
)
def test_lookups_follow_rfc_1034(zone: Zone, qname: str, qtype: int, kind: LookupResult, node: str) -> None:
    found = zone.lookup(wire(qname), qtype)
    assert (found.kind, found.node) == (kind, wire(node))


def test_any_gives_every_set_of_the_name(zone: Zone) -> None:
    assert {rrset.rtype for rrset in zone.lookup(wire("www"), c.ANY).rrsets} == {c.A, c.TXT}


def test_a_wildcard_is_marked_and_remembers_its_closest_encloser(zone: Zone) -> None:
    found = zone.lookup(wire("p.q.wild"), c.A)
    assert found.wildcard
    assert found.closest_encloser == wire("wild")
    assert not zone.lookup(wire("*.wild"), c.A).wildcard


def test_glue_is_found_below_the_cut(zone: Zone) -> None:
    assert [rrset.rtype for rrset in zone.addresses(wire("ns.sub"))] == [c.A, c.AAAA]
    assert zone.addresses(names.from_text("ns.elsewhere.test.")) == []


def test_the_soa_of_a_denial_has_the_smaller_ttl(zone: Zone) -> None:
    assert zone.negative_soa().ttl == 300
    longer = Zone.from_text("t.", "@ 60 SOA a b 1 1 1 1 900\n@ 60 NS a\n")
    assert longer.negative_soa().ttl == 60


def test_a_zone_survives_its_text_form(zone: Zone) -> None:
    again = Zone.from_text("example.test.", zone.to_text())
    assert again.nodes == zone.nodes
    assert zone.to_text() == again.to_text()


def test_records_of_one_set_are_joined() -> None:
    zone = Zone.from_text(
        "t.", "@ 60 SOA a b 1 1 1 1 1\n@ 60 NS a\nx 60 A 192.0.2.1\ny 60 A 192.0.2.9\nX 60 A 192.0.2.2\n"
    )
    assert sorted(zone.nodes[names.from_text("x.t.")][c.A].rdatas()) == [b"\xc0\0\2\1", b"\xc0\0\2\2"]


@pytest.mark.parametrize(
    "text",
    [
        "@ 60 NS a\n",
        "@ 60 SOA a b 1 1 1 1 1\n",
        "@ 60 SOA a b 1 1 1 1 1\n@ 60 NS a\nx.elsewhere. 60 A 192.0.2.1\n",
        "@ 60 SOA a b 1 1 1 1 1\n@ 60 NS a\nx 60 A not-an-address\n",
        "@ 60 SOA a b 1 1 1 1 1\n@ 60 NS a\nx 60 RRSIG A 13 2 60 20300101000000 20200101000000 1 t. AAAA\n",
    ],
    ids=["no SOA", "no NS", "outside", "syntax", "signature over nothing"],
)
def test_texts_that_are_not_zones_are_refused(text: str) -> None:
    with pytest.raises(ZoneError):
        Zone.from_text("t.", text)
