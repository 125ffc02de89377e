"""The explanation of a query: delegations, exchanges with reasons, the chain of trust, proofs, the cache.

It comes from the signed playground in virtual time, so that all values are known; `minet` simulates network faults.
"""

from types import SimpleNamespace

import pytest
from support.fakenet import Link
from support.minet import build, reply, scripted
from support.signed_net import NOW, explained, resolver_in
from support.signing import ZoneKey

from resolver.explain.advice import advise
from resolver.explain.explanation import Recorder, build_explanation
from resolver.playground import World, signed
from resolver.settings import DnssecSettings, FetchLimitSettings, Settings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.edns import encode_ede


@pytest.fixture(scope="module")
def world() -> World:
    return signed.signed_world(NOW)


def n(text: str) -> bytes:
    return names.from_text(text)


# --- a good name ----------------------------------------------------------------------------------------------------


def test_delegations_have_servers_glue_and_ds(world: World) -> None:
    explanation = explained(resolver_in(world), "www.nsec.dnssec.playground.")
    told = {names.to_text(one.zone): one for one in explanation.delegations}
    assert list(told) == [".", "playground.", "dnssec.playground.", "nsec.dnssec.playground."]
    cut = told["playground."]
    assert (cut.parent, cut.referred_by is not None, cut.ttl) == (names.ROOT, True, 3600)
    assert [(names.to_text(host.name), host.addresses) for host in cut.hosts] == [
        ("a.nic.playground.", ["127.20.3.1"]),
        ("b.nic.playground.", ["127.20.3.2"]),
    ]
    assert [(ds.algorithm, ds.digest_type) for ds in cut.ds] == [(15, 2)]


def test_every_exchange_has_its_reason_time_and_size(world: World) -> None:
    minet = resolver_in(world)
    explanation = explained(minet, "www.nsec.dnssec.playground.")
    assert len(explanation.exchanges) == len(minet.net.log)
    for number, (told, seen) in enumerate(zip(explanation.exchanges, minet.net.log, strict=True), 1):
        assert (told.number, told.address, told.tcp) == (number, seen.address, seen.tcp)
        assert told.seconds == pytest.approx(0.01) and told.good and told.octets > 20 and told.why
        assert told.address in [candidate.address for candidate in told.candidates]
    times = [one.at for one in explanation.exchanges]
    assert times == pytest.approx([0.01 * k for k in range(len(times))])
    first = explanation.exchanges[1]
    assert {candidate.state for candidate in first.candidates} == {"known", "untried"}
    assert {one.purpose for one in explanation.exchanges} == {"client", "dnssec", "priming"}


def test_the_chain_has_every_key_ds_and_signature(world: World) -> None:
    explanation = explained(resolver_in(world), "www.nsec.dnssec.playground.")
    chain = {names.to_text(one.zone): one for one in explanation.zones}
    assert list(chain) == [".", "playground.", "dnssec.playground.", "nsec.dnssec.playground."]
    assert all(one.verdict is Verdict.SECURE for one in explanation.zones)
    root = chain["."]
    assert root.anchor and [key.flags for key in root.keys] in ([257, 256], [256, 257]) and len(root.entry) == 1
    for below in explanation.zones[1:]:
        assert [ds.tag for ds in below.ds] == below.entry
    last = chain["nsec.dnssec.playground."].checks
    assert [(names.to_text(k.owner), k.rtype, k.result) for k in last] == [
        ("nsec.dnssec.playground.", c.DNSKEY, "valid"),
        ("www.nsec.dnssec.playground.", c.A, "valid"),
    ]
    for check in explanation.checks:
        assert check.signature.inception < NOW < check.signature.expiration
        assert check.key.tag == check.signature.tag


def test_a_proof_of_absence_names_its_records(world: World) -> None:
    explanation = explained(resolver_in(world), "missing.nsec3.dnssec.playground.")
    (proof,) = explanation.proofs
    assert proof.verdict is Verdict.SECURE and proof.what == "missing.nsec3.dnssec.playground. does not exist"
    assert {record.rtype for record in proof.records} == {c.NSEC3} and len(proof.records) >= 2
    assert "does not exist, validated" in advise(explanation).why


def test_data_from_the_cache_are_listed(world: World) -> None:
    minet = resolver_in(world)
    minet.ask("www.nsec.dnssec.playground.")
    explanation = explained(minet, "www.nsec.dnssec.playground.")
    assert not explanation.exchanges and len(explanation.cache) == 1 and explanation.cache[0].verdict is Verdict.SECURE
    explanation = explained(minet, "aaa.nsec.dnssec.playground.")
    assert len(explanation.exchanges) == 1 and explanation.zones[0].cached, "the keys were validated before"
    assert explanation.outcome.verdict == Verdict.SECURE


def test_all_aliases_across_zones_are_listed(world: World) -> None:
    explanation = explained(resolver_in(world), "far.chains.dnssec.playground.")
    assert explanation.aliases == [n("alias.nsec.dnssec.playground."), n("www.nsec.dnssec.playground.")]
    zones = [names.to_text(one.zone) for one in explanation.zones]
    assert zones == [".", "playground.", "dnssec.playground.", "chains.dnssec.playground.", "nsec.dnssec.playground."]


def test_an_insecure_delegation_names_its_proof(world: World) -> None:
    explanation = explained(resolver_in(world), "www.insecure.dnssec.playground.")
    last = explanation.zones[-1]
    assert last.verdict is Verdict.INSECURE and last.denial and not last.keys
    assert [check.result for check in last.checks] == ["not needed"]
    assert advise(explanation).zone == n("insecure.dnssec.playground.") and "not signed" in advise(explanation).why


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "who", "zone", "words"),
    [
        ("expired", "zone", "expired.dnssec.playground.", "expired 2 d"),
        ("future-one", "zone", "future-one.dnssec.playground.", "becomes valid in"),
        ("tampered", "zone", "tampered.dnssec.playground.", "is wrong"),
        ("no-signature", "zone", "no-signature.dnssec.playground.", "no signature in a signed zone"),
        ("ds-mismatch", "parent", "ds-mismatch.dnssec.playground.", "no key of ds-mismatch"),
        ("wrong-tag", "zone", "wrong-tag.dnssec.playground.", "no key 1 of algorithm"),
        ("no-zone-key", "zone", "no-zone-key.dnssec.playground.", "may not sign"),
    ],
)
def test_a_bogus_name_has_a_reason_and_a_responsible_party(world: World, label, who, zone, words) -> None:
    explanation = explained(resolver_in(world), f"www.{label}.dnssec.playground.")
    advice = advise(explanation)
    assert (advice.who, advice.zone) == (who, n(zone)), advice
    assert words in advice.why.lower() and len(advice.hint) > 30
    assert explanation.outcome.ede[0][0] == next(
        s.ede for s in world.specials if s.qname == f"www.{label}.dnssec.playground."
    )
    assert [one.zone for one in explanation.zones if one.shown is Verdict.BOGUS] == [n(zone)]


@pytest.mark.parametrize("special", [s for s in signed.SPECIALS if s.verdict is Verdict.BOGUS], ids=lambda s: s.qname)
def test_every_bogus_name_of_the_playground_has_advice_about_its_own_zone(world: World, special) -> None:
    explanation = explained(resolver_in(world), special.qname, special.qtype)
    advice = advise(explanation)
    assert advice.who in ("zone", "parent", "network") and advice.zone is not None, advice
    assert names.is_subdomain(advice.zone, n("dnssec.playground.")), advice
    assert advice.zone != n("dnssec.playground."), "the home of all is sound"


def test_a_wrong_anchor_is_attributed_to_the_resolver(world: World) -> None:
    another = SimpleNamespace(**vars(world) | {"trust_anchors": (ZoneKey(".", label="another").anchor(),)})
    advice = advise(explained(resolver_in(another), "www.dnssec.playground."))
    assert advice.who == "resolver" and "trust anchor" in advice.hint


def told(minet, name, rtype="A"):
    return explained(minet, name, rtype, validating=False)


def test_silent_servers_are_named_with_their_timeouts() -> None:
    minet = build(links={"192.0.2.1": Link(loss=1.0), "192.0.2.2": Link(loss=1.0)})
    explanation = told(minet, "www.example.com.")
    silent = [one for one in explanation.exchanges if one.result == "timeout"]
    assert {one.address for one in silent} == {"192.0.2.1", "192.0.2.2"}
    assert all(one.seconds > 0.3 and not one.good for one in silent)
    advice = advise(explanation)
    assert (advice.who, advice.zone) == ("network", n("example.com.")) and "192.0.2.1: no reply" in advice.why


def test_a_zone_with_its_quota_of_fetches_is_named() -> None:
    minet = build(links={"192.0.2.1": Link(loss=1.0), "192.0.2.2": Link(loss=1.0)},
                  settings=Settings(dnssec=DnssecSettings(trust_anchors=()),
                                    fetch_limit=FetchLimitSettings(per_zone=1)))
    minet.start("other.example.com.")
    minet.net.sleep(minet.mesh, 0.2)
    advice = advise(told(minet, "www.example.com."))
    assert (advice.who, advice.why) == ("resolver", "Too many queries for example.com. are outstanding.")
    assert "fetch-limit" in advice.hint


def test_unreachable_root_servers_are_attributed_to_the_network() -> None:
    advice = advise(told(build(links={"198.41.0.4": Link(loss=1.0)}), "www.example.com."))
    assert (advice.who, advice.zone, advice.people) == ("network", names.ROOT, "the network")
    assert advice.hint.startswith("No root server can be reached") and "[[forward]]" in advice.hint


def test_intercepted_root_servers_are_recognised() -> None:
    def impostor(qname, qtype, packet):
        return reply(packet, rcode=c.REFUSED, flags=c.RA)

    minet = build()
    minet.net.hosts["198.41.0.4"] = scripted(impostor)
    advice = advise(told(minet, "www.example.com."))
    assert (advice.who, advice.people) == ("network", "the network")
    assert "a device in the network intercepts DNS" in advice.hint


def test_lame_servers_are_attributed_to_the_delegation() -> None:
    def refuse(qname, qtype, packet):
        return reply(packet, rcode=c.REFUSED, flags=0)

    minet = build()
    minet.net.hosts["192.0.2.1"] = minet.net.hosts["192.0.2.2"] = scripted(refuse)
    advice = advise(told(minet, "www.example.com."))
    assert advice.zone == n("example.com.") and advice.who in ("zone", "parent")
    assert "REFUSED" in advice.why


def test_truncation_and_tcp_are_listed() -> None:
    minet = build(links={"192.0.2.1": Link(truncate_above=20), "192.0.2.2": Link(truncate_above=20)})
    explanation = told(minet, "www.example.com.")
    assert [(one.result, one.tcp) for one in explanation.exchanges[-2:]] == [("truncated", False), ("answer", True)]


def test_a_cached_failure_is_named_as_such() -> None:
    minet = build(links={"192.0.2.1": Link(loss=1.0), "192.0.2.2": Link(loss=1.0)})
    minet.ask("www.example.com.")
    explanation = told(minet, "www.example.com.")
    assert not explanation.exchanges
    advice = advise(explanation)
    assert advice.who == "resolver" and "flush" in advice.hint


def test_an_extended_error_of_a_server_is_kept_beside_its_reply() -> None:
    def angry(qname, qtype, packet):
        from resolver.wire.build import Builder
        from resolver.wire.message import MessageView

        query = MessageView.parse(packet)
        builder = Builder(4096, reserve_opt=100)
        builder.start(query.id, c.QR | c.REFUSED, query.qname, query.qtype)
        builder.opt(1232, options=[(c.OPTION_EDE, encode_ede(18, "go away"))])
        return builder.finish()

    minet = build()
    minet.net.hosts["192.0.2.1"] = minet.net.hosts["192.0.2.2"] = scripted(angry)
    explanation = told(minet, "www.example.com.")
    assert explanation.exchanges[-1].ede == [(18, "go away")]


def test_steps_without_data_keep_their_sentences() -> None:
    """A trace of another recorder, which has only texts."""
    minet = build()
    steps = Recorder(minet.net.monotonic)
    outcome = minet.ask("www.example.com.", trace=steps)
    for step in steps:
        step.facts = None
    explanation = build_explanation(steps, outcome, seconds=0.1, now=NOW, validating=False)
    assert len(explanation.exchanges) == len(minet.net.log) and explanation.exchanges[0].why
    assert len(explanation.steps) == len(steps)
