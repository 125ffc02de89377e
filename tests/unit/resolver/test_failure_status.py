"""Failures have a kind and a security status, and each is cached for one name only.

A client that validates itself (CD) is not refused for failures of validation. Stale data is used for outages and not
for bogus data. No decision depends on the extended error that clients see. Also: records of an unsigned reply for later
names of its alias chain are for that answer only (RFC 2181 section 5.4.1), and a DS set in a referral answers the DS
query.
"""

import itertools
from collections.abc import Callable

import dns.name
import dns.rdata
import dns.rrset
import pytest
from support.forger import EXAMPLE_IP, KEY, PLAIN_IP, ROOT_IP, forge, forged_set, world
from support.minet import EXAMPLE_ZONE, Minet, addresses, build, reply, scripted, standard
from support.signing import ZoneKey, spoiled

from resolver.effects import Failure, FailureKind
from resolver.settings import CacheSettings, DnssecSettings, Settings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

DAY = 86400
STALE = CacheSettings(max_stale_ttl=DAY)


def true_answer(minet: Minet, address: str) -> Callable[[bytes], MessageView]:
    host = minet.net.hosts[address]
    return lambda packet: MessageView.parse(host(packet, True) or b"")


def silent_about(minet: Minet, address: str, qtype: int, qname: str = "") -> None:
    """The server does not answer questions of one type."""
    true = minet.net.hosts[address]

    def host(packet: bytes, tcp: bool) -> bytes | None:
        view = MessageView.parse(packet)
        asked = names.to_text(names.lower(view.qname or b"\0"))
        return None if view.qtype == qtype and qname in ("", asked) else true(packet, tcp)

    minet.net.hosts[address] = host


def with_signature(minet: Minet, change: Callable[[bytes], bytes]) -> None:
    """The servers of example. change the signature of www A."""
    ask = true_answer(minet, EXAMPLE_IP)

    def forger(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if (qname, qtype) != ("www.example.", c.A):
            return None
        rrset = ask(packet).answer[0]
        return reply(packet, [rrset.with_sigs([change(rrset.sigs()[0])])])

    forge(minet, EXAMPLE_IP, forger)


# --- CD, after validation has failed ---------------------------------------------------------------------------------

TROUBLES: dict[str, tuple[Callable[[Minet], None], Verdict]] = {
    "wrong": (lambda m: with_signature(m, spoiled), Verdict.BOGUS),
    "expired": (lambda m: with_signature(m, lambda sig: sig[:8] + bytes(4) + sig[12:]), Verdict.BOGUS),
    "unknown algorithm": (lambda m: with_signature(m, lambda sig: sig[:2] + b"\xc8" + sig[3:]), Verdict.BOGUS),
    "another key": (lambda m: with_signature(m, lambda sig: sig[:16] + bytes([sig[16] ^ 1]) + sig[17:]), Verdict.BOGUS),
    "no signature": (lambda m: forge(m, EXAMPLE_IP, lambda qname, qtype, packet: reply(packet, [
        forged_set("www.example.", "A")]) if (qname, qtype) == ("www.example.", c.A) else None), Verdict.BOGUS),
    "keys not to be had": (lambda m: silent_about(m, EXAMPLE_IP, c.DNSKEY), Verdict.INDETERMINATE),
    "keys refused": (lambda m: forge(m, EXAMPLE_IP, lambda qname, qtype, packet: reply(packet, rcode=c.REFUSED)
                     if qtype == c.DNSKEY else None), Verdict.INDETERMINATE),
    "root's keys not to be had": (lambda m: silent_about(m, ROOT_IP, c.DNSKEY), Verdict.INDETERMINATE),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_validating_client_is_not_refused(trouble: str) -> None:
    m = world()
    bring, status = TROUBLES[trouble]
    bring(m)
    for _ in range(2):
        outcome = m.ask("www.example.")
        assert outcome.rcode == c.SERVFAIL
        assert outcome.failure is not None
        assert outcome.failure.verdict is status, outcome.failure
        unchecked = m.ask("www.example.", cd=True)
        assert unchecked.rcode == c.NOERROR
        assert unchecked.answer


def spoil_all_but_keys(minet: Minet) -> None:
    """Every signature of the servers of example. is wrong, except those of its keys."""
    ask = true_answer(minet, EXAMPLE_IP)

    def spoil(rrsets: list[RRset]) -> list[RRset]:
        return [rrset.with_sigs([spoiled(sig) for sig in rrset.sigs()]) for rrset in rrsets]

    def forger(qname: str, qtype: int, packet: bytes) -> bytes | None:
        view = ask(packet)
        return None if qtype == c.DNSKEY else reply(packet, spoil(view.answer), spoil(view.authority), rcode=view.rcode)

    forge(minet, EXAMPLE_IP, forger)


def times_of_failures(name: str, others: str) -> list[int]:
    """For how long each of some failures in a row is cached. `others` is when other clients ask the same with CD."""
    m = world()
    spoil_all_but_keys(m)
    times = []
    for _ in range(5):
        if others == "before and after":
            assert m.ask(name, cd=True).failure is None
        found = [m.start(name, cd=True)[1]] if others == "together" else []
        assert m.ask(name).failure is not None
        assert all(outcome.failure is None for outcomes in found for outcome in outcomes)
        failure = m.store.rrsets.find_failure(names.from_text(name), c.A, m.net.time())
        assert failure is not None
        assert failure.verdict is not None
        times.append(failure.left)
        for _ in range(2 if others == "before and after" else 0):
            assert m.ask(name, cd=True).failure is None
            asked = len(m.net.log)
            assert m.ask(name).failure is not None
            assert len(m.net.log) == asked
        m.net.sleep(m.mesh, 301)  # longer than the failure and the data
    return times


@pytest.mark.parametrize("others", ["never", "before and after", "together"])
@pytest.mark.parametrize("name", ["www.example.", "none.example.", "example."])
def test_queries_with_cd_do_not_end_a_failure_of_validation(name: str, others: str) -> None:
    """Data, NXDOMAIN and NODATA, which they leave in the cache unvalidated."""
    times = times_of_failures(name, others)
    assert all(later >= min(earlier * 3 // 2, 225) for earlier, later in itertools.pairwise(times)), times


def test_a_validating_client_is_refused_what_cannot_be_obtained() -> None:
    """A failure without data is remembered for everybody (RFC 9520)."""
    m = world()
    forge(m, EXAMPLE_IP, lambda qname, qtype, packet: reply(packet, rcode=c.REFUSED))
    outcome = m.ask("www.example.")
    assert outcome.failure is not None
    assert outcome.failure.verdict is None
    asked = len(m.net.log)
    assert m.ask("www.example.", cd=True).rcode == c.SERVFAIL
    assert len(m.net.log) == asked


def test_status_follows_from_the_kind_unless_it_is_given() -> None:
    assert Failure(FailureKind.BOGUS, 0, "").verdict is Verdict.BOGUS
    assert Failure(FailureKind.BOGUS, 0, "", verdict=Verdict.INDETERMINATE).verdict is Verdict.INDETERMINATE
    assert Failure(FailureKind.TIMEOUT, c.EDE_DNSSEC_BOGUS, "").verdict is None
    moved = Failure(FailureKind.BOGUS, 6, "why", verdict=Verdict.INDETERMINATE).at(b"\1a\0")
    assert (moved.kind, moved.ede, moved.text, moved.verdict, moved.name) == (
        FailureKind.BOGUS, 6, "why", Verdict.INDETERMINATE, b"\1a\0")


# --- stale data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", TROUBLES)
def test_stale_data_covers_outages_and_nothing_bogus(trouble: str) -> None:
    m = world(cache=STALE)
    m.ask("www.example.")
    m.net.sleep(m.mesh, 4000)  # the keys have expired as well
    bring, status = TROUBLES[trouble]
    bring(m)
    m.ask("www.example.")
    m.net.run(m.mesh, until=lambda: not m.mesh.statistics()["running"])
    for _ in range(2):
        outcome = m.ask("www.example.")
        assert outcome.stale is (status is Verdict.INDETERMINATE), outcome
        assert (outcome.rcode == c.SERVFAIL) is (status is Verdict.BOGUS)


@pytest.mark.parametrize("deadline", [0.3, 30.0])
def test_bogus_data_of_one_server_is_not_an_outage_when_another_is_silent(deadline: float) -> None:
    m = world(cache=STALE)
    m.ask("www.example.")
    m.net.sleep(m.mesh, 2000)
    m.store.rrsets.drop(names.from_text("example."), c.NS)
    m.mesh.forget()
    with_signature(m, spoiled)
    ask = true_answer(m, ROOT_IP)

    def two_servers(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if not qname.endswith("example.") or qtype == c.DS:
            return None
        ns = RRset(names.from_text("example."), c.NS, 3600,
                   [names.from_text("ns.example."), names.from_text("silent.example.")])
        kept = [rrset for rrset in ask(packet).authority if rrset.rtype != c.NS]
        glue = [f"ns.example. 3600 A {EXAMPLE_IP}", "silent.example. 3600 A 192.0.2.7"]
        return reply(packet, [], [ns, *kept], glue, flags=0)

    forge(m, ROOT_IP, two_servers)
    m.mesh._deadline = deadline
    m.mesh._serve_stale = False
    outcome = m.ask("www.example.")
    assert m.net.asked("192.0.2.7")
    assert outcome.failure is not None
    assert outcome.failure.verdict is Verdict.BOGUS
    assert m.ask("www.example.", cd=True).rcode == c.NOERROR


def moved_to(m: Minet, *, ttl: int) -> None:
    """www.example. has become an alias of t.example., whose address is forged."""
    alias = signed_alias("www.example.", "t.example.", ttl)

    def forger(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if (qname, qtype) == ("www.example.", c.A):
            return reply(packet, [alias])
        if (qname, qtype) == ("t.example.", c.A):
            return reply(packet, [forged_set("t.example.", "A")])
        return None

    forge(m, EXAMPLE_IP, forger)


def signed_alias(owner: str, target: str, ttl: int) -> RRset:
    made = dns.rrset.RRset(dns.name.from_text(owner), 1, 5)
    made.add(dns.rdata.from_text("IN", "CNAME", target), ttl)
    return RRset(names.from_text(owner), c.CNAME, ttl, [names.from_text(target)], sigs=[KEY.sign(made).to_wire()])


def test_a_bogus_target_does_not_affect_the_name_of_its_alias() -> None:
    """The alias is not kept (TTL 0), its target is forged, then the servers are gone: www's own data may be shown."""
    m = world(cache=STALE, example="t 300 A 192.0.2.81\n")
    m.ask("www.example.")
    m.net.sleep(m.mesh, 400)
    moved_to(m, ttl=0)
    m.ask("www.example.")
    m.net.run(m.mesh, until=lambda: not m.mesh.statistics()["running"])
    m.net.hosts.pop(EXAMPLE_IP)
    outcome = m.ask("www.example.")
    assert outcome.stale
    assert addresses(outcome) == ["192.0.2.80"]
    assert m.ask("t.example.").rcode == c.SERVFAIL


def test_an_alias_that_is_known_leads_to_no_stale_data_of_a_bogus_target() -> None:
    m = world(cache=STALE, example="t 300 A 192.0.2.81\n")
    assert m.ask("t.example.").verdict == Verdict.SECURE
    m.net.sleep(m.mesh, 400)
    moved_to(m, ttl=300)
    for _ in range(3):
        outcome = m.ask("www.example.")
        assert (outcome.rcode, outcome.stale) == (c.SERVFAIL, False)
        assert outcome.failure is not None
        assert outcome.failure.name == names.from_text("t.example.")
        outcome = m.ask("t.example.")
        assert (outcome.rcode, outcome.stale) == (c.SERVFAIL, False)


def test_a_bogus_target_that_is_remembered_is_no_outage_when_the_alias_has_become_stale() -> None:
    m = world(cache=STALE, example="t 300 A 192.0.2.81\n")
    assert m.ask("t.example.").verdict == Verdict.SECURE
    m.net.sleep(m.mesh, 400)
    moved_to(m, ttl=10)
    assert m.ask("www.example.").rcode == c.SERVFAIL
    m.net.sleep(m.mesh, 15)
    m.net.hosts.pop(EXAMPLE_IP)
    outcome = m.ask("www.example.")
    assert outcome.failure is not None
    assert outcome.failure.verdict is None, "the alias itself is not to be had any more"
    assert (outcome.rcode, outcome.stale) == (c.SERVFAIL, False)


def test_reading_a_cached_failure_through_aliases_does_not_prolong_it() -> None:
    """RFC 9520 section 3.2: only a new failure makes the time longer."""
    m = world(example="t 300 A 192.0.2.81\n")
    honest = m.net.hosts[EXAMPLE_IP]
    aliases = [f"w{number}.example." for number in range(6)]
    signed = {name: signed_alias(name, "t.example.", 10) for name in aliases}

    def forger(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if qtype == c.A and qname in signed:
            return reply(packet, [signed[qname]])
        return reply(packet, [forged_set("t.example.", "A")]) if (qname, qtype) == ("t.example.", c.A) else None

    forge(m, EXAMPLE_IP, forger)
    assert m.ask("t.example.").rcode == c.SERVFAIL
    for name in aliases:
        outcome = m.ask(name)
        assert outcome.rcode == c.SERVFAIL
        assert outcome.failure is not None
        assert outcome.failure.name == names.from_text("t.example.")
    m.net.hosts[EXAMPLE_IP] = honest
    m.net.sleep(m.mesh, CacheSettings().bogus_ttl + 1)
    assert m.ask("t.example.").verdict == Verdict.SECURE


# --- failures and aliases --------------------------------------------------------------------------------------------


def unsigned(host: Callable[[str, int, bytes], bytes | None], **cache: object) -> Minet:
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(**cache))
    m = build(standard(), settings=settings)
    for address in ("192.0.2.1", "192.0.2.2"):
        true = m.net.hosts[address]

        def both(packet: bytes, tcp: bool, true=true) -> bytes | None:
            return scripted(host)(packet, tcp) or true(packet, tcp)

        m.net.hosts[address] = both
    return m


def test_a_remembered_failure_comes_before_an_alias_learned_for_another_type() -> None:
    def host(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if qname != "odd.example.com.":
            return None
        if qtype == c.A:
            return reply(packet, rcode=c.SERVFAIL)
        return reply(packet, ["odd.example.com. 300 CNAME www.example.com.", "www.example.com. 300 A 192.0.2.80"])

    m = unsigned(host)
    assert m.ask("odd.example.com.").rcode == c.SERVFAIL
    assert m.ask("odd.example.com.", "AAAA").answer[0].rtype == c.CNAME
    asked = len(m.net.log)
    outcome = m.ask("odd.example.com.")
    assert outcome.rcode == c.SERVFAIL
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.CACHED_ERROR
    assert len(m.net.log) == asked


def test_a_failure_behind_an_alias_is_cached_for_the_failing_name() -> None:
    def host(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if qname == "b.example.com.":
            return reply(packet, rcode=c.SERVFAIL)
        return reply(packet, ["a.example.com. 300 CNAME b.example.com."]) if qname == "a.example.com." else None

    m = unsigned(host)
    outcome = m.ask("a.example.com.")
    assert outcome.failure is not None
    assert outcome.failure.name == names.from_text("b.example.com.")
    asked = len(m.net.log)
    for name in ("a.example.com.", "b.example.com."):
        assert m.ask(name).rcode == c.SERVFAIL
    assert len(m.net.log) == asked


# --- later members of a chain (RFC 2181 section 5.4.1) ---------------------------------------------------------------


CHAIN = EXAMPLE_ZONE + "one 300 CNAME two\ntwo 300 CNAME three\nthree 300 A 192.0.2.90\n"


def chained(**cache: object) -> Minet:
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(**cache))
    zones = [("example.com.", CHAIN)]
    return build(standard(a192_0_2_1=zones, a192_0_2_2=zones), settings=settings)


def asked_for(m: Minet, name: str) -> int:
    return len(m.net.asked(qname=name, qtype=c.A))


def test_later_names_of_an_unsigned_chain_are_queried_separately() -> None:
    m = chained()
    outcome = m.ask("one.example.com.")
    assert [rrset.rtype for rrset in outcome.answer] == [c.CNAME, c.CNAME, c.A]
    assert (asked_for(m, "two.example.com."), asked_for(m, "three.example.com.")) == (0, 0)
    assert addresses(m.ask("three.example.com.")) == ["192.0.2.90"]
    assert asked_for(m, "three.example.com.") == 1
    assert addresses(m.ask("three.example.com.")) == ["192.0.2.90"]
    assert asked_for(m, "three.example.com.") == 1
    assert addresses(m.ask("two.example.com.")) == ["192.0.2.90"]
    assert asked_for(m, "two.example.com.") == 1


def test_a_later_name_of_a_chain_does_not_replace_its_own_answer() -> None:
    def host(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if qname == "trap.example.com." and qtype == c.A:
            forged = "www.example.com. 300 A 203.0.113.66"
            return reply(packet, ["trap.example.com. 300 CNAME www.example.com.", forged])
        return None

    for first in ("www.example.com.", "trap.example.com."):
        m = unsigned(host)
        m.ask(first)
        assert addresses(m.ask("trap.example.com."))
        assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]


def test_signed_members_of_a_chain_are_kept() -> None:
    m = world(example="uno 300 CNAME dos\ndos 300 A 192.0.2.90\n")
    assert m.ask("uno.example.").verdict == Verdict.SECURE
    asked = len(m.net.log)
    assert m.ask("dos.example.").verdict == Verdict.SECURE
    assert len(m.net.log) == asked


def test_a_secure_denial_behind_an_unsigned_alias_keeps_its_status() -> None:
    """The server of example. is also authoritative for the unsigned zone below: an alias in it, and its target."""
    m = world()
    ask = true_answer(m, EXAMPLE_IP)
    denial = ask(make_query(1, names.from_text("www.example."), c.AAAA, do=True))

    def forger(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if (qname, qtype) == ("unsigned.example.", c.A):
            return reply(packet)
        if (qname, qtype) == ("x.unsigned.example.", c.AAAA):
            return reply(packet, ["x.unsigned.example. 300 CNAME www.example."], denial.authority)
        return None

    forge(m, EXAMPLE_IP, forger)
    mixed = m.ask("x.unsigned.example.", "AAAA")
    assert (mixed.rcode, mixed.verdict) == (c.NOERROR, Verdict.INSECURE)
    assert [rrset.rtype for rrset in mixed.answer] == [c.CNAME]
    assert len(m.net.asked(qname="www.example.", qtype=c.AAAA)) == 0
    outcome = m.ask("www.example.", "AAAA")
    assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE)


def test_a_stale_chain_is_served_as_a_whole_and_not_by_its_members() -> None:
    m = chained(max_stale_ttl=DAY)
    m.ask("one.example.com.")
    m.net.sleep(m.mesh, 400)
    for address in ("192.0.2.1", "192.0.2.2"):
        m.net.hosts.pop(address)
    outcome = m.ask("one.example.com.")
    assert outcome.stale
    assert addresses(outcome) == ["192.0.2.90"]
    m.net.run(m.mesh, until=lambda: not m.mesh.statistics()["running"])
    assert m.ask("three.example.com.").rcode == c.SERVFAIL


# --- DS in a referral ------------------------------------------------------------------------------------------------


def referring(m: Minet, change: Callable[[RRset], RRset | None] = lambda ds: ds) -> None:
    """The root's servers refer to example. also when they are asked for its DS."""
    ask = true_answer(m, ROOT_IP)

    def forger(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if (qname, qtype) != ("example.", c.DS):
            return None
        ds = change(next(rrset for rrset in ask(packet).answer if rrset.rtype == c.DS))
        sets = ["example. 3600 NS ns.example.", *([] if ds is None else [ds])]
        return reply(packet, [], sets, ["ns.example. 3600 A 192.0.2.1"], flags=0)

    forge(m, ROOT_IP, forger)


def test_a_signed_ds_in_a_referral_answers_the_question() -> None:
    m = world()
    referring(m)
    for _ in range(2):
        outcome = m.ask("example.", "DS")
        assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE)
        assert [rrset.rtype for rrset in outcome.answer] == [c.DS]
        assert outcome.answer[0].sig_len
    assert m.ask("www.example.").verdict == Verdict.SECURE


@pytest.mark.parametrize("change", [
    lambda ds: None, lambda ds: ds.without_sigs(), lambda ds: ds.with_name(names.from_text("other.")),
    lambda ds: ds.with_sigs([spoiled(ds.sigs()[0])]),
], ids=["none", "unsigned", "of another name", "wrongly signed"])
def test_other_ds_sets_in_a_referral_do_not_answer_the_question(change: Callable[[RRset], RRset | None]) -> None:
    m = world()
    referring(m, change)
    assert m.ask("example.", "DS").rcode == c.SERVFAIL


def test_without_validation_an_unsigned_ds_in_a_referral_is_no_answer_either() -> None:
    m = world()
    referring(m, lambda ds: ds.without_sigs())
    assert m.ask("example.", "DS", cd=True).rcode == c.SERVFAIL


def test_a_child_does_not_answer_for_its_own_ds() -> None:
    """Its servers "refer" to themselves, with a DS set signed by their own key."""
    m = world()
    ask = true_answer(m, ROOT_IP)
    seen: list[str] = []

    def forger(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if qtype == c.DS and qname == "unsigned.example.":
            seen.append(qname)
            return reply(packet, [], ["unsigned.example. 300 NS ns.plain.", forged_ds("unsigned.example.")], flags=0)
        return None

    assert ask is not None
    forge(m, EXAMPLE_IP, forger)
    forge(m, PLAIN_IP, forger)
    outcome = m.ask("unsigned.example.", "DS")
    assert (outcome.rcode, bool(seen)) == (c.SERVFAIL, True)


def forged_ds(owner: str) -> RRset:
    key = ZoneKey(owner, label="evil")
    made = dns.rrset.RRset(dns.name.from_text(owner), 1, 43)
    made.add(dns.rdata.from_text("IN", "DS", key.ds()), 300)
    rdata = made[0].to_wire()
    return RRset(names.from_text(owner), c.DS, 300, [rdata], sigs=[key.sign(made).to_wire()])
