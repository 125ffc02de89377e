"""Serving stale data (RFC 8767), and caching repeated failures for longer times (RFC 9520), in virtual time."""

import pytest
from support.fakenet import Link
from support.minet import EXAMPLE_ZONE, addresses, build, rr, standard

from resolver import limits
from resolver.effects import FailureKind, Question
from resolver.policy import PolicyPipeline
from resolver.settings import CacheSettings, DnssecSettings, PolicySettings, Settings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

WWW = names.from_text("www.example.com.")
SERVERS = ("192.0.2.1", "192.0.2.2")
DAY = 86400


def stale_world(zone=EXAMPLE_ZONE, **cache):
    cache.setdefault("max_stale_ttl", DAY)
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(**cache))
    return build(standard(a192_0_2_1=[("example.com.", zone)], a192_0_2_2=[("example.com.", zone)]), settings=settings)


def break_servers(m):
    """Make example.com unreachable; the returned function ends the outage."""
    hosts = {address: m.net.hosts.pop(address) for address in SERVERS}
    return lambda: m.net.hosts.update(hosts)


def codes(outcome):
    return [code for code, _ in outcome.ede]


# --- when -----------------------------------------------------------------------------------------------------------


def test_off_by_default_an_outage_is_an_error():
    m = stale_world(max_stale_ttl=0)
    m.ask("www.example.com.")
    break_servers(m)
    m.net.sleep(m.mesh, 400)
    assert m.ask("www.example.com.").rcode == c.SERVFAIL


def test_a_client_gets_stale_data_after_the_client_response_timeout():
    m = stale_world()
    m.ask("www.example.com.")
    break_servers(m)
    m.net.sleep(m.mesh, 400)
    began = m.net.now
    outcome = m.ask("www.example.com.")
    assert m.net.now - began == pytest.approx(1.8, abs=0.02)
    assert addresses(outcome) == ["192.0.2.80"]
    assert outcome.stale and outcome.failure is None
    assert outcome.answer[0].ttl == 30
    assert outcome.ttl == 0, "better is being sought: the finished answer is not to be kept"
    assert codes(outcome) == [c.EDE_STALE_ANSWER]
    assert m.mesh.statistics()["running"] >= 1, "the resolution continues"


def test_later_clients_get_the_stale_answer_at_once():
    m = stale_world()
    m.ask("www.example.com.")
    break_servers(m)
    m.net.sleep(m.mesh, 400)
    m.ask("www.example.com.")
    before, upstream = m.net.now, m.mesh.statistics()["jobs"]
    assert m.ask("WWW.example.com.").stale
    assert m.net.now == before
    assert m.mesh.statistics()["jobs"] == upstream


def test_after_a_failure_stale_data_comes_at_once_and_may_be_kept_until_the_next_attempt():
    m = stale_world()
    m.ask("www.example.com.")
    break_servers(m)
    m.net.sleep(m.mesh, 400)
    m.ask("www.example.com.")
    m.net.run(m.mesh, until=lambda: not m.mesh.statistics()["running"])
    before = len(m.net.log)
    outcome = m.ask("www.example.com.")
    assert outcome.stale and len(m.net.log) == before
    assert 0 < outcome.ttl <= m.settings.cache.servfail_ttl
    assert codes(outcome)[0] == c.EDE_STALE_ANSWER and len(codes(outcome)) == 2


def test_a_failure_before_the_client_response_timeout_is_answered_with_stale_data():
    m = stale_world()
    m.ask("www.example.com.")
    m.net.links.update({address: Link(unreachable=True) for address in SERVERS})
    m.net.sleep(m.mesh, 400)
    began = m.net.now
    assert m.ask("www.example.com.").stale
    assert m.net.now - began < 1.0


def test_the_resolution_continues_and_its_result_replaces_the_stale_data():
    m = stale_world()
    m.ask("www.example.com.")
    repair = break_servers(m)
    m.net.sleep(m.mesh, 400)
    assert m.ask("www.example.com.").stale
    repair()
    m.net.sleep(m.mesh, 10)
    m.net.sleep(m.mesh, 20)
    outcome = m.ask("www.example.com.")
    assert not outcome.stale and addresses(outcome) == ["192.0.2.80"]
    assert outcome.answer[0].ttl > 30


def test_a_client_response_timeout_of_zero_answers_at_once_and_refreshes():
    m = stale_world(stale_answer_client_timeout=0.0)
    m.ask("www.example.com.")
    m.net.sleep(m.mesh, 400)
    began = m.net.now
    assert m.ask("www.example.com.").stale
    assert m.net.now == began
    m.net.run(m.mesh)
    outcome = m.ask("www.example.com.")
    assert not outcome.stale and outcome.answer[0].ttl > 200


def test_fresh_answers_before_the_timeout_are_preferred():
    m = stale_world()
    m.ask("www.example.com.")
    m.net.sleep(m.mesh, 400)
    outcome = m.ask("www.example.com.")
    assert not outcome.stale and outcome.answer[0].ttl == 300


# --- what -----------------------------------------------------------------------------------------------------------


def test_stale_data_is_not_older_than_permitted():
    m = stale_world(max_stale_ttl=600)
    m.ask("www.example.com.")
    break_servers(m)
    m.net.sleep(m.mesh, 300 + 590)
    assert m.ask("www.example.com.").stale
    m.net.sleep(m.mesh, 30)
    assert m.ask("www.example.com.").rcode == c.SERVFAIL


def test_a_stale_denial_has_its_extended_error():
    m = stale_world()
    assert m.ask("nothing.example.com.").rcode == c.NXDOMAIN
    break_servers(m)
    m.net.sleep(m.mesh, 4000)
    outcome = m.ask("nothing.example.com.")
    assert (outcome.rcode, outcome.stale) == (c.NXDOMAIN, True)
    assert codes(outcome)[0] == c.EDE_STALE_NXDOMAIN_ANSWER
    assert outcome.authority[0].rtype == c.SOA and outcome.authority[0].ttl == 30


def test_chains_of_aliases_are_put_together():
    m = stale_world()
    m.ask("alias.example.com.")
    break_servers(m)
    m.net.sleep(m.mesh, 400)
    outcome = m.ask("alias.example.com.")
    assert outcome.stale and [rrset.rtype for rrset in outcome.answer] == [c.CNAME, c.A]


@pytest.mark.parametrize("rtype", ["DS", "NSEC", "RRSIG"])
def test_a_stale_alias_is_no_answer_for_types_permitted_beside_it(rtype):
    """RFC 4035 sections 2.4 and 2.5."""
    m = stale_world()
    m.ask("alias.example.com.")
    assert m.ask("www.example.com.", rtype).rcode == c.NOERROR
    m.net.hosts.clear()
    m.net.sleep(m.mesh, 400)
    assert m.ask("alias.example.com.", rtype).rcode == c.SERVFAIL
    outcome = m.ask("alias.example.com.", "ANY")
    assert (outcome.stale, [rrset.rtype for rrset in outcome.answer]) == (True, [c.CNAME])


def test_aliases_of_a_stale_chain_are_counted():
    chain = "".join(f"c{number} 60 IN CNAME c{number + 1}\n" for number in range(20))
    m = stale_world(EXAMPLE_ZONE + chain + "c20 60 IN A 192.0.2.99\n")
    assert addresses(m.ask("c20.example.com.")) == ["192.0.2.99"]
    for number in range(20):
        assert m.ask(f"c{number}.example.com.", "CNAME").rcode == c.NOERROR
    break_servers(m)
    m.net.sleep(m.mesh, 400)
    most = limits.MAX_ALIASES
    outcome = m.ask(f"c{20 - most}.example.com.")
    assert (addresses(outcome), outcome.stale) == (["192.0.2.99"], True)
    outcome = m.ask(f"c{19 - most}.example.com.")
    assert (outcome.rcode, outcome.answer) == (c.SERVFAIL, [])


def test_the_newest_stale_data_is_used():
    """The former data of a name that is denied now is not served."""
    m = stale_world()
    m.ask("www.example.com.")
    m.net.sleep(m.mesh, 400)
    soa = rr("example.com. 300 SOA ns1.example.com. nobody.example.com. 1 2 3 4 300")
    assert m.store.rrsets.put_negative(WWW, 0, soa=soa, ttl=60, verdict=Verdict.INSECURE, now=m.net.time())
    break_servers(m)
    m.net.sleep(m.mesh, 100)
    assert m.ask("www.example.com.").rcode == c.NXDOMAIN


@pytest.mark.parametrize(
    ("verdict", "cd", "shown"),
    [
        (Verdict.SECURE, False, True),
        (Verdict.INSECURE, False, True),
        (Verdict.INDETERMINATE, False, False),
        (Verdict.INDETERMINATE, True, True),
    ],
)
def test_with_validation_only_validated_data_is_served_stale(verdict, cd, shown):
    m = stale_world()
    m.ask("www.example.com.")
    rrset = m.store.rrsets.find(WWW, c.A, m.net.time())
    rrset.verdict = verdict
    m.store.rrsets.put(rrset, m.net.time())
    m.mesh._context.validator = lambda *arguments: pytest.fail("nothing arrived that could be validated")
    break_servers(m)
    m.net.sleep(m.mesh, 400)
    outcome = m.ask("www.example.com.", cd=cd)
    assert outcome.stale is shown
    if shown:
        assert outcome.verdict <= Verdict.INSECURE, "its signatures may have expired"
    else:
        assert outcome.rcode == c.SERVFAIL


def test_failed_validation_is_not_an_outage():
    m = stale_world()
    m.ask("www.example.com.")

    def bogus(question, raw, context, task):
        return Verdict.BOGUS, c.EDE_SIGNATURE_EXPIRED, "too old"
        yield

    rrset = m.store.rrsets.find(WWW, c.A, m.net.time())
    rrset.verdict = Verdict.SECURE
    m.store.rrsets.put(rrset, m.net.time())
    m.mesh._context.validator = bogus
    m.net.sleep(m.mesh, 400)
    outcome = m.ask("www.example.com.")
    assert (outcome.rcode, outcome.stale) == (c.SERVFAIL, False)
    assert outcome.failure.kind is FailureKind.BOGUS
    assert not m.ask("www.example.com.").stale


# --- failures that repeat themselves (RFC 9520 section 3.2) ---------------------------------------------------------


def times_kept(m, rounds):
    """Let a question fail again and again; for how long each failure was remembered."""
    kept = []
    for _ in range(rounds):
        assert m.ask("www.example.com.").rcode == c.SERVFAIL
        left = m.store.rrsets.find_failure(WWW, c.A, m.net.time()).left
        kept.append(left)
        m.net.sleep(m.mesh, left + 1)
    return kept


def test_repeated_failures_are_cached_with_exponential_back_off_up_to_five_minutes():
    m = build()
    break_servers(m)
    kept = times_kept(m, 10)
    assert kept[0] == 5
    for position, seconds in enumerate(kept):
        longest = min(5 << position, 300)
        assert longest * 3 // 4 <= seconds <= longest
    assert kept[-1] >= 225
    assert len(set(kept[-4:])) > 1, "spread, so that what failed together is not retried together"


def test_a_success_resets_the_back_off():
    m = build()
    repair = break_servers(m)
    assert times_kept(m, 4)[-1] >= 30
    repair()
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    break_servers(m)
    m.net.sleep(m.mesh, 301)
    assert times_kept(m, 1) == [5]


def test_five_minutes_without_a_query_reset_the_back_off():
    m = build()
    break_servers(m)
    times_kept(m, 3)
    m.net.sleep(m.mesh, 320)
    assert times_kept(m, 1) == [5]


def test_the_maximum_back_off_is_a_setting():
    m = build(settings=Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(max_servfail_ttl=12)))
    break_servers(m)
    assert max(times_kept(m, 6)) <= 12


# --- glue -----------------------------------------------------------------------------------------------------------

# The parent has other addresses for the name servers than the zone itself.
MOVED = EXAMPLE_ZONE.replace("ns1 7200 IN A 192.0.2.1", "ns1 60 IN A 192.0.2.50").replace(
    "ns2 7200 IN A 192.0.2.2", "ns2 60 IN A 192.0.2.51") + "toserver 80000 IN CNAME ns1\n"


def test_glue_behind_an_alias_is_no_stale_answer():
    m = stale_world(MOVED)
    assert addresses(m.ask("toserver.example.com.")) == ["192.0.2.50"]
    m.net.sleep(m.mesh, 7300)
    m.ask("www.example.com.")
    break_servers(m)
    m.net.sleep(m.mesh, 30)
    assert m.store.rrsets.find(names.from_text("ns1.example.com."), c.A, m.net.time()).trust == Trust.GLUE
    outcome = m.ask("toserver.example.com.")
    assert (outcome.rcode, addresses(outcome)) == (c.SERVFAIL, [])


def test_glue_does_not_replace_a_stale_answer():
    m = stale_world(MOVED)
    for name in ("ns1.example.com.", "ns2.example.com.", "toserver.example.com."):
        m.ask(name)
    m.net.sleep(m.mesh, 7300)
    m.ask("www.example.com.")
    m.mesh.forget()  # as in another worker: it has the delegation without addresses
    assert addresses(m.ask("deep.sub.tree.example.com.")) == ["192.0.2.81"], "the parent tells them again"
    break_servers(m)
    m.net.sleep(m.mesh, 100)
    for name in ("ns1.example.com.", "toserver.example.com."):
        outcome = m.ask(name)
        assert (outcome.stale, addresses(outcome)) == (True, ["192.0.2.50"])


def test_without_stale_data_glue_replaces_what_has_expired():
    m = stale_world(MOVED, max_stale_ttl=0)
    m.ask("ns1.example.com.")
    m.net.sleep(m.mesh, 7300)
    m.ask("www.example.com.")
    assert m.store.rrsets.find(names.from_text("ns1.example.com."), c.A, m.net.time()).trust == Trust.GLUE


# --- together with policies -----------------------------------------------------------------------------------------


def test_dns64_addresses_are_synthesised_from_stale_ones():
    """DNS64: the denial of AAAA and the A records are both stale; the client gets what it would have got before."""
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(max_stale_ttl=DAY),
                        policy=PolicySettings(dns64_prefix=("64:ff9b::/96",)))
    m = build(settings=settings)
    before = m.ask("www.example.com.", "AAAA")
    assert before.answer[0].rtype == c.AAAA
    break_servers(m)
    m.net.sleep(m.mesh, 4000)
    outcome = m.ask("www.example.com.", "AAAA")
    assert outcome.stale and outcome.answer[0].rdatas() == before.answer[0].rdatas()
    assert c.EDE_STALE_ANSWER in codes(outcome)


def test_a_stale_denial_alone_denies_no_addresses_that_would_have_been_made():
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(max_stale_ttl=DAY),
                        policy=PolicySettings(dns64_prefix=("64:ff9b::/96",)))
    m = build(settings=settings)
    m.ask("www.example.com.", "AAAA")
    m.store.rrsets.drop(WWW, c.A)
    break_servers(m)
    m.net.sleep(m.mesh, 4000)
    outcome = m.ask("www.example.com.", "AAAA")
    assert (outcome.rcode, outcome.stale) == (c.SERVFAIL, False)
    assert m.mesh.statistics()["internal_errors"] == 0


def test_local_zones_precede_stale_data():
    m = stale_world()
    m.ask("alias.example.com.")
    settings = Settings(policy=PolicySettings(local_zones=("www.example.com. nxdomain",)))
    m.mesh._context.policy = PolicyPipeline(settings).views[0]
    break_servers(m)
    m.net.sleep(m.mesh, 400)
    outcome = m.ask("alias.example.com.")
    assert outcome.stale and outcome.rcode == c.NXDOMAIN
    assert [rrset.rtype for rrset in outcome.answer] == [c.CNAME]


def test_other_classes_have_no_stale_data_either():
    m = stale_world()
    m.ask("www.example.com.")
    found = []
    m.mesh.submit(Question(WWW, c.A, c.CH), on_done=found.append)
    assert not found[0].stale and found[0].answer == []
