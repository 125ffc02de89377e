"""RRsets, denials and failures: ranking, TTL bounds, cuts, removal."""

import pytest

from resolver import limits
from resolver.cache import Arena, RRsetCache, Table
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire.name import from_text, to_text
from resolver.wire.rrset import PUBLIC_ZONE_LABELS, UNKNOWN_ZONE_LABELS, RRset

NOW = 1_700_000_000


@pytest.fixture
def cache() -> RRsetCache:
    return RRsetCache(Table(Arena(1 << 20), bytes(16)))


def sig(text: str) -> bytes:
    """RRSIG rdata with `text` for a signature."""
    return bytes(18) + from_text("example.com.") + text.encode()


def a(text: str = "www.example.com.", ttl: int = 300, trust: int = Trust.ANSWER, verdict: int = 0,
      address: bytes = b"\xc0\0\2\1", rtype: int = c.A, **options) -> RRset:
    return RRset(from_text(text), rtype, ttl, [address], trust=trust, verdict=verdict, **options)


def ns(zone: str, host: str = "ns.example.net.", ttl: int = 300, trust: int = Trust.GLUE) -> RRset:
    return RRset(from_text(zone), c.NS, ttl, [from_text(host)], trust=trust)


def soa(zone: str = "example.com.", ttl: int = 300, trust: int = Trust.AUTHORITY) -> RRset:
    rdata = from_text("a." + zone) + from_text("b." + zone) + bytes(16) + (60).to_bytes(4, "big")
    return RRset(from_text(zone), c.SOA, ttl, [rdata], sigs=[sig("of the SOA")], trust=trust)


# --- sets -----------------------------------------------------------------------------------------------------------


def test_a_stored_set_is_returned_unchanged(cache):
    kept = RRset(from_text("www.Example.com."), c.A, 300, [b"\1\2\3\4", b"\5\6\7\x08"],
                 sigs=[sig("one"), sig("another")], trust=Trust.VALIDATED, verdict=Verdict.SECURE)
    assert cache.put(kept, NOW)
    found = cache.find(from_text("WWW.example.COM."), c.A, NOW + 100)
    assert found is not None
    assert to_text(found.name) == "WWW.example.COM."
    assert (found.rtype, found.rclass, found.ttl) == (c.A, c.IN, 200)
    assert found.rdatas() == kept.rdatas()
    assert found.sigs() == kept.sigs()
    assert len(found) == 2
    assert (found.trust, found.verdict) == (Trust.VALIDATED, Verdict.SECURE)


def test_absent_expired_and_other_sets_are_not_found(cache):
    assert cache.put(a(), NOW)
    assert cache.find(from_text("example.com."), c.A, NOW) is None
    assert cache.find(from_text("www.example.com."), c.AAAA, NOW) is None
    assert cache.find(from_text("www.example.com."), c.A, NOW + 299).ttl == 1
    assert cache.find(from_text("www.example.com."), c.A, NOW + 300) is None
    assert cache.find(from_text("www.example.com."), c.A, NOW - 3600) is None


def test_sets_below_the_minimum_trust_are_not_returned(cache):
    name = from_text("www.example.com.")
    cache.put(a(trust=Trust.ADDITIONAL), NOW)
    assert cache.find(name, c.A, NOW) is None
    assert cache.find(name, c.A, NOW, min_trust=Trust.ADDITIONAL) is not None
    cache.put(a(trust=Trust.GLUE), NOW)
    assert cache.find(name, c.A, NOW) is not None
    assert cache.find(name, c.A, NOW, min_trust=Trust.NONAUTH_ANSWER) is None


@pytest.mark.parametrize("old", list(Trust))
@pytest.mark.parametrize("new", list(Trust))
def test_ranking_of_rfc_2181_5_4_1(cache, old, new):
    name = from_text("www.example.com.")
    assert cache.put(a(trust=old, address=b"old!"), NOW)
    assert cache.put(a(trust=new, address=b"new!"), NOW + 1) is (new >= old)
    found = cache.find(name, c.A, NOW + 1, min_trust=Trust.NONE)
    assert found.rdatas() == [b"new!" if new >= old else b"old!"]
    assert cache.put(a(trust=new, address=b"late"), NOW + 1000)
    assert cache.find(name, c.A, NOW + 1000, min_trust=Trust.NONE).rdatas() == [b"late"]


def test_stale_sets_are_returned_on_demand(cache):
    name = from_text("www.example.com.")
    cache.put(a(ttl=300), NOW)
    assert cache.find(name, c.A, NOW + 400) is None
    assert cache.find(name, c.A, NOW + 400, stale=100) is None
    found = cache.find(name, c.A, NOW + 400, stale=101)
    assert found.ttl == limits.CACHE_STALE_TTL.default
    assert cache.find(name, c.A, NOW - 3600, stale=86_400) is None


def test_ttl_bounds():
    cache = RRsetCache(Table(Arena(1 << 20), bytes(16)), max_ttl=100)
    for ttl, expected in ((1, 1), (50, 50), (100, 100), (0x7FFFFFFF, 100)):
        assert cache.put(a(ttl=ttl), NOW)
        assert cache.find(from_text("www.example.com."), c.A, NOW).ttl == expected
    with pytest.raises(ValueError, match="max_ttl"):
        RRsetCache(Table(Arena(1 << 20), bytes(16)), max_ttl=0)


def test_sets_that_are_not_stored(cache):
    assert not cache.put(a(ttl=0), NOW)
    assert not cache.put(a(rclass=c.CH), NOW)
    with pytest.raises(ValueError, match="not a name"):
        cache.find(b"\3www", c.A, NOW)
    with pytest.raises(ValueError, match="not a name"):
        cache.find(b"\3www\0\0", c.A, NOW)
    with pytest.raises(ValueError, match="not a name"):
        cache.closest_cut(b"", NOW)


# --- delegations ----------------------------------------------------------------------------------------------------


def test_closest_cut_walks_up(cache):
    www = from_text("a.b.WWW.Example.com.")
    assert cache.closest_cut(www, NOW) is None
    cache.put(ns("."), NOW)
    cache.put(ns("com.", ttl=600), NOW)
    cache.put(ns("www.example.com.", ttl=60), NOW)
    zone, found = cache.closest_cut(www, NOW)
    assert (to_text(zone), found.ttl, found.rtype) == ("www.example.com.", 60, c.NS)
    assert found.name == zone
    assert to_text(cache.closest_cut(www, NOW + 60)[0]) == "com."
    assert to_text(cache.closest_cut(from_text("org."), NOW)[0]) == "."
    assert cache.closest_cut(www, NOW + 600) is None


def test_closest_cut_for_ds_looks_above(cache):
    cache.put(ns("."), NOW)
    cache.put(ns("com."), NOW)
    cache.put(ns("example.com."), NOW)
    assert to_text(cache.closest_cut(from_text("example.com."), NOW, for_ds=True)[0]) == "com."
    assert to_text(cache.closest_cut(from_text("com."), NOW, for_ds=True)[0]) == "."
    assert to_text(cache.closest_cut(from_text("."), NOW, for_ds=True)[0]) == "."


def test_an_untrusted_ns_set_is_not_a_zone_cut(cache):
    cache.put(ns("example.com.", trust=Trust.ADDITIONAL), NOW)
    assert cache.closest_cut(from_text("www.example.com."), NOW) is None


@pytest.mark.parametrize("trust", [Trust.AUTHORITY, Trust.ANSWER, Trust.VALIDATED])
def test_a_child_cannot_prolong_its_delegation(cache, trust):
    """Ghost domains, CVE-2012-1192: the child's NS set, renewed again and again, expires with the parent's."""
    zone = from_text("ghost.example.")
    cache.put(ns("ghost.example.", ttl=300), NOW)
    for age in range(0, 300, 50):
        assert cache.put(ns("ghost.example.", f"ns{age}.ghost.example.", ttl=86_400, trust=trust), NOW + age)
        assert cache.find(zone, c.NS, NOW + age).ttl == 300 - age
    assert cache.find(zone, c.NS, NOW + 300) is None
    assert cache.put(ns("ghost.example.", ttl=300), NOW + 300)
    assert cache.find(zone, c.NS, NOW + 300).ttl == 300


def test_the_parent_may_prolong_a_delegation(cache):
    cache.put(ns("example.com.", ttl=300), NOW)
    cache.put(ns("example.com.", ttl=300), NOW + 100)
    assert cache.find(from_text("example.com."), c.NS, NOW + 100).ttl == 300


# --- denials --------------------------------------------------------------------------------------------------------


def test_nxdomain_covers_the_name_and_nodata_its_type(cache):
    name = from_text("nx.example.com.")
    proof = RRset(from_text("a.example.com."), c.NSEC, 300, [from_text("z.example.com.") + b"\0\1\x40"],
                  sigs=[sig("of the NSEC")], trust=Trust.VALIDATED, verdict=Verdict.SECURE)
    assert cache.put_negative(name, c.MX, soa=soa(), proofs=[proof], ttl=60, verdict=Verdict.SECURE, now=NOW)
    found = cache.find_negative(from_text("NX.example.com."), c.MX, NOW + 10)
    assert (found.rcode, found.ttl, found.verdict) == (c.NOERROR, 50, Verdict.SECURE)
    assert found.soa == soa(ttl=50)
    assert found.soa.sigs() == [sig("of the SOA")]
    assert found.proofs == [proof.with_ttl(50)]
    assert (found.proofs[0].trust, found.proofs[0].verdict) == (Trust.VALIDATED, Verdict.SECURE)
    assert cache.find_negative(name, c.A, NOW) is None

    assert cache.put_negative(name, 0, soa=None, proofs=[], ttl=60, verdict=Verdict.INSECURE, now=NOW)
    found = cache.find_negative(name, c.A, NOW)
    assert (found.rcode, found.soa, found.proofs, found.verdict) == (c.NXDOMAIN, None, [], Verdict.INSECURE)
    assert cache.find_negative(name, 0, NOW).rcode == c.NXDOMAIN
    assert cache.find_negative(from_text("sub.nx.example.com."), c.A, NOW) is None
    assert cache.find_negative(name, c.A, NOW + 60) is None


def test_negative_ttl_is_capped():
    cache = RRsetCache(Table(Arena(1 << 20), bytes(16)), max_negative_ttl=30)
    name = from_text("nx.example.com.")
    assert cache.put_negative(name, 0, soa=soa(ttl=86_400), ttl=86_400, verdict=0, now=NOW)
    found = cache.find_negative(name, c.A, NOW)
    assert (found.ttl, found.soa.ttl) == (30, 30)
    assert not cache.put_negative(name, c.A, soa=None, ttl=0, verdict=0, now=NOW)


def test_too_many_proofs_are_not_kept(cache):
    proofs = [a()] * (limits.CACHE_ENTRY_RECORDS + 1)
    assert not cache.put_negative(from_text("x."), 0, soa=None, proofs=proofs, ttl=60, verdict=0, now=NOW)
    assert cache.put_negative(from_text("x."), 0, soa=None, proofs=proofs[1:], ttl=60, verdict=0, now=NOW)
    assert len(cache.find_negative(from_text("x."), 0, NOW).proofs) == len(proofs) - 1


def test_an_answer_replaces_a_denial_unless_that_is_more_trusted(cache):
    name = from_text("www.example.com.")
    for rtype in (0, c.A):
        cache.put_negative(name, rtype, soa=None, ttl=60, verdict=Verdict.INSECURE, now=NOW)
        cache.put(a(trust=Trust.GLUE, ttl=1), NOW)
        assert cache.find_negative(name, c.A, NOW)
        cache.put(a(verdict=Verdict.INSECURE), NOW + 2)
        assert cache.find_negative(name, c.A, NOW + 2) is None
        cache.put_negative(name, rtype, soa=None, ttl=60, verdict=Verdict.SECURE, now=NOW)
        cache.put(a(verdict=Verdict.INSECURE), NOW + 2)
        assert cache.find_negative(name, c.A, NOW + 2)
        cache.drop(name, c.A)


# --- anything -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("put", [
    lambda cache, name: cache.put(a(trust=Trust.ADDITIONAL), NOW),
    lambda cache, name: cache.put(RRset(name, c.CNAME, 300, [name], trust=Trust.ANSWER), NOW),
    lambda cache, name: cache.put_negative(name, c.A, soa=None, ttl=60, verdict=0, now=NOW),
    lambda cache, name: cache.put_negative(name, 0, soa=None, ttl=60, verdict=0, now=NOW),
    lambda cache, name: cache.put_failure(name, c.A, kind=7, verdict=None, ede=22, text="", ttl=5, now=NOW),
], ids=["a set of any trust", "an alias", "a denial of the type", "a denial of the name", "a failure"])
def test_whatever_may_answer_a_question_is_held(cache, put):
    name = from_text("www.example.com.")
    assert not cache.holds(name, c.A)
    assert put(cache, name)
    assert cache.holds(from_text("WWW.example.com."), c.A)
    assert not cache.holds(from_text("example.com."), c.A)
    assert not cache.partition(b"one view").holds(name, c.A)


def test_the_sets_of_other_types_are_not_held(cache):
    name = from_text("www.example.com.")
    cache.put(a(), NOW)
    cache.put_failure(name, c.MX, kind=7, verdict=None, ede=22, text="", ttl=5, now=NOW)
    assert not cache.holds(name, c.AAAA)
    with pytest.raises(ValueError, match="not a name in wire form"):
        cache.holds(b"\3www", c.A)


# --- failures -------------------------------------------------------------------------------------------------------


def test_failures_are_stored_and_expire(cache):
    name = from_text("broken.example.")
    assert cache.find_failure(name, c.A, NOW) is None
    text = "no server answered \N{SNOWMAN}"
    assert cache.put_failure(name, c.A, kind=7, verdict=None, ede=22, text=text, ttl=5, now=NOW)
    assert cache.find_failure(from_text("BROKEN.example."), c.A, NOW + 1) == (7, None, 22, text, 4)
    assert cache.find_failure(name, c.AAAA, NOW) is None
    assert cache.find_failure(name, c.A, NOW + 5) is None
    assert cache.put_failure(name, c.A, kind=7, verdict=None, ede=0, text="", ttl=86_400, now=NOW)
    assert cache.find_failure(name, c.A, NOW) == (7, None, 0, "", 300)
    assert not cache.put_failure(name, c.A, kind=7, verdict=None, ede=0, text="", ttl=0, now=NOW)


def test_a_long_text_is_truncated(cache):
    cache.put_failure(from_text("x."), c.A, kind=7, verdict=None, ede=0, text="\N{SNOWMAN}" * 1000, ttl=5, now=NOW)
    _, _, _, text, _ = cache.find_failure(from_text("x."), c.A, NOW)
    assert 0 < len(text.encode()) <= limits.EDE_TEXT
    assert set(text) == {"\N{SNOWMAN}"}


# --- removal --------------------------------------------------------------------------------------------------------


def fill(cache: RRsetCache) -> None:
    for text in ("example.com.", "www.example.com.", "example.org."):
        cache.put(a(text), NOW)
        cache.put(a(text, rtype=c.SSHFP), NOW)
        cache.put_negative(from_text(text), c.MX, soa=None, ttl=60, verdict=0, now=NOW)
        cache.put_failure(from_text(text), c.SRV, kind=7, verdict=None, ede=0, text="", ttl=60, now=NOW)


def test_drop_one_type(cache):
    fill(cache)
    assert cache.drop(from_text("WWW.example.com."), c.A) == 1
    assert cache.drop(from_text("www.example.com."), c.MX) == 1
    assert cache.drop(from_text("www.example.com."), c.SRV) == 1
    assert cache.drop(from_text("www.example.com."), c.A) == 0
    assert cache.find(from_text("www.example.com."), c.SSHFP, NOW)


def test_a_set_is_dropped_without_its_failure(cache):
    cache.put(a("www.example.com."), NOW)
    cache.put_failure(from_text("www.example.com."), c.A, kind=7, verdict=1, ede=0, text="", ttl=60, now=NOW)
    assert cache.drop(from_text("www.example.com."), c.A, failure=False) == 1
    assert cache.find(from_text("www.example.com."), c.A, NOW) is None
    assert cache.find_failure(from_text("www.example.com."), c.A, NOW) is not None
    assert cache.drop(from_text("www.example.com."), c.A) == 1


# --- what has expired, what failed, and all there is --------------------------------------------------------------


def test_expired_denials_are_returned_on_demand(cache):
    cache.put_negative(from_text("a.example."), c.A, soa=soa("example."), ttl=300, verdict=Verdict.SECURE, now=NOW)
    assert cache.find_negative(from_text("a.example."), c.A, NOW + 300) is None
    found = cache.find_negative(from_text("a.example."), c.A, NOW + 3600, stale=3301)
    assert (found.ttl, found.soa.ttl, found.verdict) == (30, 30, Verdict.SECURE)
    assert cache.find_negative(from_text("a.example."), c.A, NOW + 3600, stale=3300) is None


def test_an_expired_denial_is_always_replaced(cache):
    cache.put_negative(from_text("a.example."), 0, soa=soa("example."), ttl=300, verdict=Verdict.SECURE, now=NOW)
    cache.put(RRset(from_text("a.example."), c.A, 60, [bytes(4)], trust=Trust.ANSWER), NOW + 301)
    assert cache.find_negative(from_text("a.example."), c.A, NOW + 400, stale=86400) is None


def test_the_time_when_data_was_stored(cache):
    assert cache.created(from_text("a.example."), c.A) == 0
    cache.put(RRset(from_text("a.example."), c.A, 60, [bytes(4)], trust=Trust.ANSWER), NOW)
    cache.put_negative(from_text("b.example."), c.A, soa=None, ttl=60, verdict=0, now=NOW + 1)
    cache.put_negative(from_text("b.example."), 0, soa=None, ttl=60, verdict=0, now=NOW + 2)
    assert cache.created(from_text("A.example."), c.A) == NOW
    assert cache.created(from_text("a.example."), c.A, denied=True) == 0
    assert cache.created(from_text("b.example."), c.A, denied=True) == NOW + 2
    assert cache.created(from_text("b.example."), c.TXT, denied=True) == NOW + 2


def test_consecutive_failures_are_counted_until_a_success(cache):
    broken = from_text("broken.example.")
    assert cache.failures(broken, c.A, NOW) == 0
    cache.put_failure(broken, c.A, kind=7, verdict=None, ede=22, text="x", ttl=5, now=NOW, count=3)
    assert cache.failures(broken, c.A, NOW) == 3
    assert cache.failures(broken, c.AAAA, NOW) == 0
    assert cache.failures(broken, c.A, NOW + 304) == 3
    assert cache.failures(broken, c.A, NOW + 305) == 0
    cache.put(RRset(broken, c.A, 60, [bytes(4)], trust=Trust.GLUE), NOW + 1)
    assert cache.failures(broken, c.A, NOW + 2) == 3, "glue is no answer"
    cache.put_negative(broken, 0, soa=None, ttl=60, verdict=0, now=NOW + 1)
    assert cache.failures(broken, c.A, NOW + 2) == 0


@pytest.mark.parametrize("what", ["set", "no data", "no name"])
@pytest.mark.parametrize("verdict", Verdict)
def test_data_that_was_not_validated_ends_no_failures_of_validation(cache, what, verdict):
    broken = from_text("broken.example.")
    cache.put_failure(broken, c.A, kind=8, verdict=Verdict.BOGUS, ede=6, text="x", ttl=5, now=NOW, count=3)
    if what == "set":
        cache.put(RRset(broken, c.A, 60, [bytes(4)], trust=Trust.ANSWER, verdict=verdict), NOW + 1)
    else:
        rtype = c.A if what == "no data" else 0
        cache.put_negative(broken, rtype, soa=None, ttl=60, verdict=verdict, now=NOW + 1)
    assert cache.failures(broken, c.A, NOW + 2) == 0
    assert cache.failures(broken, c.A, NOW + 2, validated=True) == (0 if verdict >= Verdict.INSECURE else 3)


def test_iteration_returns_all_fresh_entries(cache):
    for number in range(50):
        rrset = RRset(from_text(f"a{number}.example."), c.A, 60, [bytes(4)], sigs=[bytes(20)], trust=Trust.ANSWER)
        cache.put(rrset, NOW)
    cache.put(RRset(from_text("old.example."), c.A, 5, [bytes(4)], trust=Trust.ANSWER), NOW)
    cache.put_negative(from_text("no.example."), c.TXT, soa=None, ttl=60, verdict=0, now=NOW)
    found = list(cache.walk(NOW + 10))
    assert len(found) == 51
    assert {(owner, rtype) for owner, rtype, _, rrset in found if rrset is None} == {(from_text("no.example."), c.TXT)}
    owner, rtype, ttl, rrset = found[0]
    assert (owner, rtype, ttl) == (rrset.name, c.A, 50)
    assert (rrset.ttl, rrset.rdatas(), rrset.sigs(), rrset.trust) == (50, [bytes(4)], [bytes(20)], Trust.ANSWER)


# --- the zone of a set ----------------------------------------------------------------------------------------------


def test_the_zone_of_a_set_is_kept(cache):
    kept = a(sigs=[sig("one")])
    assert kept.zone_labels == UNKNOWN_ZONE_LABELS
    for labels in (0, 2, 127, 2 + PUBLIC_ZONE_LABELS, UNKNOWN_ZONE_LABELS):
        kept.zone_labels = labels
        assert cache.put(kept, NOW)
        found = cache.find(from_text("www.example.com."), c.A, NOW + 1)
        assert (found.zone_labels, found.sigs(), found.rdatas()) == (labels, kept.sigs(), kept.rdatas())
        for copy in (found.with_ttl(5), found.with_name(from_text("*.example.com.")), found.without_sigs()):
            assert copy.zone_labels == labels
    assert [entry[3].sigs() for entry in cache.walk(NOW)] == [kept.sigs()]
