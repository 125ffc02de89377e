"""An NXDOMAIN for a minimised name ends the query when its proof is valid; otherwise the full qname is queried.

A signed root has zones of several kinds below it. The tests look at the queries that the servers of one zone get.
"""

from dataclasses import dataclass

import pytest
from support.fakenet import START, FakeNet, SeededRandom, hosts_from
from support.minet import Minet
from support.signed_net import Crypto

from resolver.cache import Store
from resolver.effects import Budget, Fetch, Outcome, Question, RawReply
from resolver.mesh import Mesh
from resolver.playground.authority import Authority, ServerFaults
from resolver.playground.signing import Nsec3, Plan, sign_world
from resolver.playground.zones import Zone
from resolver.resolve import find_outcome
from resolver.settings import CacheSettings, DnssecSettings, IterationSettings, RootServer, Settings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

ROOT_SERVER = "198.41.0.4"
SERVER, SECOND = "192.0.2.1", "192.0.2.2"
ROOT = (
    f"@ 86400 SOA a.root. admin. 1 7200 1800 604800 900\n@ 86400 NS a.root.\na.root. 86400 A {ROOT_SERVER}\n"
    f"zone. 86400 NS ns.zone.\nns.zone. 86400 A {SERVER}\n"
    f"zone. 86400 NS ns2.zone.\nns2.zone. 86400 A {SECOND}\n"
)
ZONE = (
    f"@ 3600 SOA ns admin 1 7200 1800 604800 600\n@ 3600 NS ns\nns 3600 A {SERVER}\n"
    f"@ 3600 NS ns2\nns2 3600 A {SECOND}\n"
    "a.b.ent 300 A 192.0.2.7\nwww 300 A 192.0.2.8\n"
    f"island.hollow 3600 NS ns.island.hollow\nns.island.hollow 3600 A {SERVER}\n"
)
ISLAND = f"@ 3600 SOA ns admin 1 7200 1800 604800 600\n@ 3600 NS ns\nns 3600 A {SERVER}\nwww 300 A 192.0.2.9\n"
PLANS = {
    "nsec": Plan(),
    "nsec3": Plan(nsec3=Nsec3()),
    "opt-out": Plan(nsec3=Nsec3(opt_out=True)),
    "iterations": Plan(nsec3=Nsec3(iterations=500)),
}
SECURE_KINDS = ("nsec", "nsec3")
MISSING = "a.b.c.missing.zone."
CHAIN = (("zone.", c.DS), ("missing.zone.", c.DS))
"""What is asked to find out which zone is authoritative, where the records of denial prove nothing."""


@dataclass
class World:
    """A resolver, and the zone that is asked."""

    m: Minet

    def ask(self, name: str, rtype: str = "A", *, cd: bool = False) -> tuple[Outcome, list[tuple[str, int]]]:
        """The outcome, and what the servers of the zone were asked for it, without the chain of trust."""
        before = len(self.m.net.log)
        outcome = self.m.ask(name, rtype, cd=cd)
        asked = [(one.qname, one.qtype) for one in self.m.net.log[before:] if one.address != ROOT_SERVER]
        return outcome, [one for one in asked if one[1] != c.DNSKEY and one not in CHAIN]


def build(plan: Plan | None, *, faults: ServerFaults | None = None, aggressive: bool = True, anchored: bool = True,
          spoiled: int = 0, more_anchors: tuple[str, ...] = (), negative: tuple[str, ...] = ()) -> World:
    """A world whose zone is signed by `plan`. Of the replies about ``missing.zone.`` and names below it, the first
    `spoiled` have a last signature that is wrong. The resolver has `more_anchors` and `negative` trust anchors, too."""
    made = {".": Zone.from_text(".", ROOT), "zone.": Zone.from_text("zone.", ZONE)}
    plans = {".": Plan()} | ({} if plan is None else {"zone.": plan})
    anchors = sign_world(made, plans, START + 1000)
    island = Zone.from_text("island.hollow.zone.", ISLAND)
    server = Authority([made["zone."], island], quirks=faults)
    hosts = hosts_from({ROOT_SERVER: Authority([made["."]]), SERVER: server})
    answer, left = hosts[SERVER], spoiled

    def spoiling(query: bytes, tcp: bool) -> bytes | None:
        nonlocal left
        reply = answer(query, tcp)
        if reply is None or not left or names.from_text("missing.zone.") not in query.lower():
            return reply
        left -= 1
        mark = b"\4zone\0"
        at = reply.rindex(mark) + len(mark)  # the signer name in the last RRSIG; the signature follows
        return reply[: at + 5] + bytes([reply[at + 5] ^ 1]) + reply[at + 6 :]

    hosts[SERVER] = hosts[SECOND] = spoiling
    settings = Settings(
        root_hints=(RootServer("a.root.", (ROOT_SERVER,)),),
        dnssec=DnssecSettings(trust_anchors=(*anchors, *more_anchors) if anchored else (),
                              negative_trust_anchors=negative),
        iteration=IterationSettings(do_ip6=False),
        cache=CacheSettings(aggressive_nsec=aggressive),
    )
    net, store = FakeNet(hosts), Store.create(1 << 22, seed=bytes(16))
    mesh = Mesh(exchange=net, crypto=Crypto(), clock=net, rng=SeededRandom(3), store=store, settings=settings)
    return World(Minet(net, mesh, store, settings))


@pytest.mark.parametrize("rtype", ["A", "AAAA", "DS"])
@pytest.mark.parametrize("kind", PLANS)
def test_a_proved_nxdomain_for_a_minimised_name_ends_the_query(kind: str, rtype: str) -> None:
    world = build(PLANS[kind])
    outcome, asked = world.ask(MISSING, rtype)
    assert outcome.rcode == c.NXDOMAIN
    assert outcome.verdict == (Verdict.SECURE if kind in SECURE_KINDS else Verdict.INSECURE)
    assert asked == [("missing.zone.", c.A)]
    assert [one.name for one in outcome.authority if one.rtype == c.SOA] == [names.from_text("zone.")]
    assert any(one.rtype in (c.NSEC, c.NSEC3) and one.sig_len for one in outcome.authority)


@pytest.mark.parametrize("kind", PLANS)
def test_its_records_are_those_that_deny_the_full_name(kind: str) -> None:
    """So a client that validates itself accepts them."""
    short, _ = build(PLANS[kind]).ask(MISSING)
    whole, asked = build(PLANS[kind]).ask(MISSING, cd=True)
    assert asked == [("missing.zone.", c.A), (MISSING, c.A)], "without validation nothing is proved"

    def content(outcome: Outcome) -> set[tuple[bytes, int, bytes]]:
        return {(names.lower(one.name), one.rtype, one.packed) for one in outcome.authority}

    assert content(short) == content(whole)


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("aggressive", [False, True])
def test_the_denial_is_cached_for_the_qname(kind: str, aggressive: bool) -> None:
    world = build(PLANS[kind], aggressive=aggressive)
    first, _ = world.ask(MISSING)
    again, asked = world.ask(MISSING)
    assert again.rcode == c.NXDOMAIN and again.verdict == first.verdict and not asked
    rrsets, now = world.m.store.rrsets, world.m.net.time()
    assert rrsets.find_negative(names.from_text(MISSING), 0, now) is not None
    if kind != "iterations":  # there the DS set of that name was asked for
        assert rrsets.find_negative(names.from_text("missing.zone."), 0, now) is None, "nor for any other name"


def test_the_zone_of_an_unsigned_denial_is_asked_for_the_full_name() -> None:
    outcome, asked = build(None).ask(MISSING)
    assert outcome.rcode == c.NXDOMAIN and outcome.verdict == Verdict.INSECURE
    assert asked == [("missing.zone.", c.A), (MISSING, c.A)]


@pytest.mark.parametrize("kind", PLANS)
def test_a_signed_zone_without_a_chain_of_trust_is_asked_for_the_full_name(kind: str) -> None:
    plan = Plan(nsec3=PLANS[kind].nsec3, ds=lambda origin, keys: [])
    outcome, asked = build(plan).ask(MISSING)
    assert outcome.rcode == c.NXDOMAIN and outcome.verdict == Verdict.INSECURE
    assert asked == [("missing.zone.", c.A), (MISSING, c.A)]


@pytest.mark.parametrize("kind", PLANS)
def test_without_trust_anchors_the_full_name_is_asked(kind: str) -> None:
    outcome, asked = build(PLANS[kind], anchored=False).ask(MISSING)
    assert outcome.rcode == c.NXDOMAIN and asked == [("missing.zone.", c.A), (MISSING, c.A)]


@pytest.mark.parametrize("kind", ["nsec", "nsec3", "opt-out", "unsigned"])
def test_a_server_that_denies_empty_non_terminals_costs_no_name(kind: str) -> None:
    """The records of a signed zone show that the name has names below it, whatever the response code says."""
    world = build(PLANS.get(kind), faults=ServerFaults(blind_to_empty=True))
    outcome, asked = world.ask("a.b.ent.zone.")
    assert outcome.rcode == c.NOERROR and outcome.answer
    assert outcome.verdict == (Verdict.INSECURE if kind == "unsigned" else Verdict.SECURE)
    assert asked == [("ent.zone.", c.A), ("a.b.ent.zone.", c.A)]


def test_an_unsigned_delegation_below_an_empty_non_terminal_of_an_opt_out_zone_is_found() -> None:
    """There is no NSEC3 record for ``hollow.zone.`` (RFC 5155 section 7.1), but the server knows that it exists."""
    outcome, _ = build(PLANS["opt-out"]).ask("www.island.hollow.zone.")
    assert outcome.rcode == c.NOERROR and outcome.answer and outcome.verdict == Verdict.INSECURE


@pytest.mark.parametrize("spoiled", [1, 2])
@pytest.mark.parametrize("kind", ["nsec", "nsec3", "opt-out"])
def test_after_a_bogus_denial_of_a_minimised_name_the_full_name_is_asked(kind: str, spoiled: int) -> None:
    """And then another server, as after any bogus reply to a query for the full name."""
    world = build(PLANS[kind], spoiled=spoiled)
    outcome, asked = world.ask("a.missing.zone.")
    assert outcome.rcode == c.NXDOMAIN
    assert outcome.verdict == (Verdict.SECURE if kind in SECURE_KINDS else Verdict.INSECURE)
    assert asked[:2] == [("missing.zone.", c.A), ("a.missing.zone.", c.A)]
    assert len(asked) == spoiled + 1 and len(set(asked)) == 2


@pytest.mark.parametrize("rtype", ["A", "DS"])
@pytest.mark.parametrize("kind", PLANS)
def test_a_name_below_a_negative_trust_anchor_is_not_denied_securely(kind: str, rtype: str) -> None:
    """The anchor is below the name that does not exist, or, for DS, at it: the set belongs to the zone above."""
    world = build(PLANS[kind], negative=("b.c.missing.zone.",) if rtype == "A" else ("missing.zone.",))
    qname = MISSING if rtype == "A" else "a.missing.zone."
    outcome, asked = world.ask(qname, rtype)
    assert outcome.rcode == c.NXDOMAIN and outcome.verdict == Verdict.INSECURE
    assert asked == [("missing.zone.", c.A), (qname, c.type_from_text(rtype))]


@pytest.mark.parametrize("kind", PLANS)
def test_below_another_trust_anchor_only_a_secure_denial_counts(kind: str) -> None:
    """The zone of that anchor is signed, so that an opt-out span of a zone above says nothing about it."""
    anchor = f"c.missing.zone. DS 1 13 2 {'00' * 32}"
    outcome, asked = build(PLANS[kind], more_anchors=(anchor,)).ask(MISSING)
    assert ("missing.zone.", c.A) in asked and (MISSING, c.A) in asked
    if kind in SECURE_KINDS:  # as with the full name: the zone above has the last word on its own names
        assert outcome.rcode == c.NXDOMAIN and outcome.verdict == Verdict.SECURE
    else:
        assert outcome.failure is not None and outcome.failure.is_bogus


def test_the_second_level_cache_is_asked_once() -> None:
    world = build(Plan(ds=lambda origin, keys: []))
    context, fetched = world.m.mesh._context, []

    class Shelf:
        """A second-level cache that has nothing."""

        def start(self, fetch: Fetch, on_reply: object) -> None:
            fetched.append(fetch)

        def share(self, raw: RawReply, verdict: int, now: int) -> None:
            """Nothing is kept."""

    context.second_level, context.reads_second_level = Shelf(), True
    _, asked = world.ask(MISSING)
    assert asked == [("missing.zone.", c.A), (MISSING, c.A)] and len(fetched) == 1


DEEP = ".".join(f"d{number}" for number in range(20))


def test_cached_nsec3_records_deny_names_of_many_labels() -> None:
    world = build(PLANS["nsec3"])
    for number in range(8):
        world.ask(f"a.n{number}.zone.")
    outcome, asked = world.ask(f"{DEEP}.other.zone.")
    assert outcome.rcode == c.NXDOMAIN and outcome.verdict == Verdict.SECURE and not asked
    assert len([one for one in outcome.authority if one.rtype == c.NSEC3]) <= 3


def test_cached_records_of_an_opt_out_zone_cost_few_hashes() -> None:
    world = build(PLANS["opt-out"])
    for number in range(8):
        world.ask(f"a.n{number}.zone.")
    context, budget = world.m.mesh._context, Budget(0, 0.0)
    before = budget.hashes
    assert find_outcome(Question(names.from_text(f"{DEEP}.other.zone."), c.A), context, budget, cd=False) is False
    spent = before - budget.hashes
    assert 0 < spent <= 4, "the qname of two blocks, the next closer name and the encloser"
