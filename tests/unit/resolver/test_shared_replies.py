"""Replies shared by a second-level cache, in virtual time: what one resolver offers, and what another does with it.

Each name of the signed playground is resolved by one resolver, then by another one that has an empty cache of its own.
"""

from collections.abc import Callable

import pytest
from support.mesh_invariants import broken_invariants
from support.minet import Minet
from support.signed_names import SIGNED
from support.signed_net import NOW, Crypto, resolver_in

from resolver.cache.second_level import UNSHARED_TYPES, Codec, EntryError, SharedReply, Signer
from resolver.effects import Fetch, RawReply
from resolver.mesh import Mesh
from resolver.playground import World, signed
from resolver.policy import PolicyPipeline
from resolver.settings import PolicySettings, replace
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

WWW = "www.nsec.dnssec.playground."


class Cancel:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Shelf:
    """A second-level cache in memory, used in virtual time. `delay` None: it never answers."""

    def __init__(self) -> None:
        self.codec = Codec(Signer(b"secret of the fleet"), b"label", "test:")
        self.entries: dict[bytes, bytes] = {}
        self.offered: list[tuple[RawReply, int]] = []
        self.fetched: list[Fetch] = []
        self.delay: float | None = 0.001
        self.busy = False
        self.pending: list[Cancel] = []
        self.minet: Minet

    def serve(self, minet: Minet) -> Minet:
        self.minet = minet
        assert minet.mesh.set_second_level(self)
        return minet

    def start(self, fetch: Fetch, on_reply: Callable[[SharedReply | None], None]) -> Cancel | None:
        self.fetched.append(fetch)
        if self.busy:
            return None
        handle, now, net = Cancel(), self.minet.net.time(), self.minet.net
        data = self.entries.get(self.codec.key(fetch.qname, fetch.qtype))
        reply = None
        if data is not None:
            try:
                reply, _ = self.codec.decode(data, fetch.qname, fetch.qtype, now)
            except EntryError:
                reply = None
        if self.delay is not None:
            net._at(self.delay, lambda: None if handle.cancelled else on_reply(reply))
        self.pending.append(handle)
        return handle

    def share(self, raw: RawReply, verdict: int, now: int) -> None:
        self.offered.append((raw, verdict))
        reply = SharedReply(raw.answer, raw.authority, raw.name, raw.rcode, verdict, raw.denied, raw.alias is not None,
                            raw.ttl if raw.denied else 0)
        data = self.codec.encode(reply, raw.qname, raw.qtype, now)
        if data is not None:
            self.entries[self.codec.key(raw.qname, raw.qtype)] = data


@pytest.fixture(scope="module")
def world() -> World:
    return signed.signed_world(NOW)


def packets(minet: Minet) -> int:
    return minet.mesh.statistics()["upstream_queries"]


def content(sets: list[RRset]) -> set[tuple[bytes, int, tuple[bytes, ...]]]:
    return {(names.lower(one.name), one.rtype, tuple(sorted(one.rdatas()))) for one in sets}


def test_another_resolver_gives_the_same_answers_without_asking(world: World) -> None:
    shelf = Shelf()
    first = shelf.serve(resolver_in(world))
    answers = [first.ask(special.qname, special.qtype) for special in SIGNED]
    assert len(shelf.entries) > 100
    second = shelf.serve(resolver_in(world))
    spared = 0
    for special, answer in zip(SIGNED, answers, strict=True):
        before = packets(second)
        again = second.ask(special.qname, special.qtype)
        assert (again.rcode, again.verdict) == (answer.rcode, answer.verdict), special
        assert content(again.answer) == content(answer.answer), special
        if answer.failure is None and c.type_from_text(special.qtype) not in UNSHARED_TYPES:
            spared += packets(second) == before
        assert not broken_invariants(second.mesh)
    good = sum(answer.failure is None and c.type_from_text(special.qtype) not in UNSHARED_TYPES
               for special, answer in zip(SIGNED, answers, strict=True))
    # The first resolver has made the others from NSEC and NSEC3 records that it had (RFC 8198).
    assert spared >= good * 0.9, f"{spared} of {good} without asking"


def test_nothing_bogus_and_nothing_unvalidated_is_offered(world: World) -> None:
    shelf = Shelf()
    minet = shelf.serve(resolver_in(world))
    for special in SIGNED:
        minet.ask(special.qname, special.qtype)
        minet.ask(special.qname, special.qtype, cd=True)
    assert {verdict for _, verdict in shelf.offered} == {Verdict.INSECURE, Verdict.SECURE}
    for raw, _ in shelf.offered:
        assert all(one.verdict in (Verdict.INSECURE, Verdict.SECURE) for one in raw.answer)
    bogus = {names.lower(names.from_text(one.qname)) for one in SIGNED if one.verdict is Verdict.BOGUS}
    # A valid alias may lead to bogus data, which is not in its reply.
    kept = {names.lower(raw.qname) for raw, _ in shelf.offered if raw.qtype not in UNSHARED_TYPES and raw.alias is None}
    assert not bogus & kept


def test_a_policy_for_an_alias_target_holds_for_a_shared_reply(world: World) -> None:
    """The reply has the target's data. It was shared by a resolver, or for a view, that has no such policy."""
    shelf = Shelf()
    first = shelf.serve(resolver_in(world))
    for special in SIGNED:
        first.ask(special.qname, special.qtype)
    whole = next(raw for raw, _ in shelf.offered
                 if raw.alias is None and not raw.denied and raw.qtype == c.A and raw.answer[0].rtype == c.CNAME)
    qname, target = names.to_text(whole.qname), names.to_text(whole.answer[0].targets()[0])
    base = resolver_in(world)
    settings = replace(base.settings, policy=PolicySettings(local_zones=(f"{target} always_nxdomain",)))
    mesh = Mesh(exchange=base.net, crypto=Crypto(), clock=base.net, rng=base.mesh._context.rng, store=base.store,
                settings=settings, policy=PolicyPipeline(settings))
    second = shelf.serve(Minet(base.net, mesh, base.store, settings))
    outcome = second.ask(qname)
    assert any(one.qname == whole.qname for one in shelf.fetched)
    assert (outcome.rcode, [one.rtype for one in outcome.answer]) == (c.NXDOMAIN, [c.CNAME])


def test_a_name_below_a_negative_trust_anchor_is_not_offered(world: World) -> None:
    shelf = Shelf()
    minet = shelf.serve(resolver_in(world))
    minet.mesh.validation.anchors._put_negative(names.from_text("nsec.dnssec.playground."), 1 << 39)
    assert minet.ask(WWW).verdict == Verdict.INSECURE
    assert not any(raw.qname == names.from_text(WWW) for raw, _ in shelf.offered)


def test_nothing_is_offered_after_a_flush(world: World) -> None:
    shelf = Shelf()
    minet = shelf.serve(resolver_in(world))
    _, found = minet.start(WWW)
    minet.store.drop(names.ROOT, subtree=True)
    minet.net.run(minet.mesh, until=lambda: bool(found))
    assert found[0].verdict == Verdict.SECURE
    assert not any(raw.qname == names.from_text(WWW) for raw, _ in shelf.offered)


def test_ttls_go_on_where_the_entry_was_stored(world: World) -> None:
    shelf = Shelf()
    answer = shelf.serve(resolver_in(world)).ask(WWW)
    second = shelf.serve(resolver_in(world))
    second.net.sleep(second.mesh, 100)
    again = second.ask(WWW)
    assert packets(second) == 0
    assert again.answer[0].ttl <= answer.answer[0].ttl - 100
    assert again.from_cache


def test_an_engine_that_never_answers_ends_with_the_query(world: World) -> None:
    shelf = Shelf()
    minet = shelf.serve(resolver_in(world))
    shelf.delay = None
    ticket, found = minet.start(WWW)
    assert minet.mesh.statistics()["running"] == 1
    assert not broken_invariants(minet.mesh)
    minet.mesh.cancel(ticket)
    assert minet.mesh.statistics()["running"] == 0
    assert not found
    assert all(handle.cancelled for handle in shelf.pending)


def test_a_busy_engine_costs_nothing(world: World) -> None:
    shelf = Shelf()
    shelf.busy = True
    minet, plain = shelf.serve(resolver_in(world)), resolver_in(world)
    assert minet.ask(WWW).verdict == plain.ask(WWW).verdict == Verdict.SECURE
    assert minet.net.now == plain.net.now


@pytest.mark.parametrize("rtype", ["NS", "DS", "DNSKEY", "ANY"])
def test_delegations_and_keys_are_not_fetched(world: World, rtype: str) -> None:
    shelf = Shelf()
    shelf.serve(resolver_in(world)).ask("nsec.dnssec.playground.", rtype)
    assert not shelf.fetched


def test_a_query_without_validation_does_not_fetch(world: World) -> None:
    shelf = Shelf()
    assert shelf.serve(resolver_in(world)).ask(WWW, cd=True).rcode == c.NOERROR
    assert not shelf.fetched


def test_nothing_is_read_where_a_policy_looks_at_name_servers(world: World) -> None:
    shelf = Shelf()
    shelf.serve(resolver_in(world)).ask(WWW)
    minet = resolver_in(world)
    minet.mesh._contexts[0].name_server = lambda *given: None
    shelf.minet = minet
    shelf.fetched.clear()
    assert not minet.mesh.set_second_level(shelf)
    assert minet.ask(WWW).verdict == Verdict.SECURE
    assert not shelf.fetched


def test_a_deadline_ends_the_wait_for_the_engine(world: World) -> None:
    shelf = Shelf()
    minet = shelf.serve(resolver_in(world))
    shelf.delay = None
    outcome = minet.ask(WWW)
    assert outcome.failure is not None
    assert outcome.failure.is_timeout
    assert all(handle.cancelled for handle in shelf.pending)
    assert minet.mesh.statistics()["running"] == 0
