"""Prefetch: the mesh in virtual time, and the path from the fast path to a new answer."""

import pytest
from support.fakenet import Link
from support.minet import EXAMPLE_ZONE, addresses, build, standard
from support.service_parts import CLIENT, Sink

from resolver import limits
from resolver.effects import Question
from resolver.mesh import Mesh
from resolver.net.fastpath import FastPath
from resolver.net.service import Service
from resolver.policy import PolicyPipeline
from resolver.settings import CacheSettings, DnssecSettings, PolicySettings, Settings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

WWW = names.from_text("www.example.com.")
SERVERS = ("192.0.2.1", "192.0.2.2")


class WorkerParts:
    """Fast path, service and mesh on the fake network, as in a worker but for sockets."""

    def __init__(self, *, prefetch=True, zone=EXAMPLE_ZONE, policy=None):
        settings = Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(prefetch=prefetch),
                            policy=policy or PolicySettings())
        self.m = build(standard(a192_0_2_1=[("example.com.", zone)], a192_0_2_2=[("example.com.", zone)]),
                       settings=settings)
        plan = PolicyPipeline(settings)
        self.m.mesh = Mesh(exchange=self.m.net, crypto=None, clock=self.m.net, rng=self.m.mesh._context.rng,
                           store=self.m.store, settings=settings, policy=plan)
        self.fast = FastPath(self.m.store.answers, plan.access, prefetch=prefetch)
        self.service = Service(settings, mesh=self.m.mesh, plan=plan, fast=self.fast, clock=self.m.net)
        self.sink = Sink()

    def ask(self, name="www.example.com.", qtype=c.A, **options):
        """The reply to one query, and who gave it: "fast" or "python"."""
        packet = make_query(7, names.from_text(name), qtype, **options)
        reply = self.fast.answer(packet, CLIENT, self.m.net.time())
        if reply is not None:
            return MessageView.parse(reply), "fast"
        count = len(self.sink.packets)
        self.service.handle(packet, CLIENT, self.sink)
        if len(self.sink.packets) == count:
            self.m.net.run(self.m.mesh, until=lambda: len(self.sink.packets) > count)
        return self.sink.last, "python"

    def sleep(self, seconds):
        self.m.net.sleep(self.m.mesh, seconds)


def test_an_answer_queried_near_its_expiry_is_renewed_in_time():
    parts = WorkerParts()
    assert parts.ask()[1] == "python"
    for _ in range(20):
        parts.sleep(275)
        before = len(parts.m.net.log)
        view, who = parts.ask()
        assert who == "python", "one query for the answer is handed over"
        assert view.answer[0].ttl in (24, 25), "and answered at once from the cache"
        parts.m.net.run(parts.m.mesh, seconds=2)
        assert len(parts.m.net.log) == before + 1, "one question upstream"
        view, who = parts.ask()
        assert who == "fast" and view.answer[0].ttl >= 298
    assert parts.fast.statistics()["prefetch_due"] == 20
    assert parts.m.mesh.statistics()["prefetches"] == 20


@pytest.mark.parametrize("cached", ["aaaa", "both"])
def test_a_synthesised_answer_is_renewed_with_new_addresses(cached):
    """DNS64: the A set behind an answer is resolved anew, also when it is cached for long."""
    zone = EXAMPLE_ZONE + "six4 300 IN A 192.0.2.99\n"
    parts = WorkerParts(zone=zone, policy=PolicySettings(dns64_prefix=("64:ff9b::/96",)))
    if cached == "both":
        parts.ask("six4.example.com.")
        parts.sleep(1)
    first = parts.ask("six4.example.com.", c.AAAA)[0].answer[0].ttl
    for _ in range(5):
        parts.sleep(first - 10)
        before = len(parts.m.net.log)
        view, who = parts.ask("six4.example.com.", c.AAAA)
        assert who == "python" and view.answer[0].ttl <= 11
        parts.m.net.run(parts.m.mesh, seconds=2)
        assert len(parts.m.net.log) == before + 2, "AAAA and A"
        view, who = parts.ask("six4.example.com.", c.AAAA)
        first = view.answer[0].ttl
        assert who == "fast" and first >= 50
    assert parts.m.mesh.statistics()["prefetches"] == 5


def test_a_query_with_a_cookie_causes_a_prefetch_too():
    parts = WorkerParts()
    parts.ask()
    parts.sleep(275)
    before = len(parts.m.net.log)
    view, who = parts.ask(options=[(c.OPTION_COOKIE, b"a client")])
    assert who == "python"
    assert view.answer[0].ttl in (24, 25)
    parts.m.net.run(parts.m.mesh, seconds=2)
    assert len(parts.m.net.log) == before + 1
    assert parts.ask()[0].answer[0].ttl >= 298


def test_each_answer_is_passed_for_prefetch_once():
    parts = WorkerParts()
    parts.ask()
    for address in SERVERS:
        del parts.m.net.hosts[address]
    parts.sleep(275)
    assert [parts.ask()[1] for _ in range(20)] == ["python", *["fast"] * 19]
    parts.sleep(20)
    view, who = parts.ask()
    assert (who, view.answer[0].ttl) == ("fast", 5), "a failed renewal leaves the old answer alone"


def test_no_prefetch_before_the_last_tenth():
    parts = WorkerParts()
    parts.ask()
    parts.sleep(265)
    assert parts.ask()[1] == "fast"


def test_no_prefetch_when_switched_off():
    parts = WorkerParts(prefetch=False)
    parts.ask()
    parts.sleep(290)
    assert parts.ask()[1] == "fast"
    assert parts.m.mesh.statistics()["prefetches"] == 0


def test_short_lived_answers_are_not_prefetched():
    parts = WorkerParts(zone=EXAMPLE_ZONE + f"brief {limits.PREFETCH_TTL - 1} IN A 192.0.2.9\n")
    parts.ask("brief.example.com.")
    parts.sleep(limits.PREFETCH_TTL - 2)
    assert parts.ask("brief.example.com.")[1] == "fast"


def test_queries_without_rd_cause_no_prefetch():
    settings = WorkerParts()
    settings.fast = FastPath(settings.m.store.answers, None, prefetch=True, pass_without_rd=False)
    settings.ask()
    settings.sleep(275)
    packet = make_query(7, WWW, c.A, flags=0)
    assert settings.fast.answer(packet, None, settings.m.net.time()) is not None
    assert settings.ask()[1] == "python"


def test_all_forms_of_an_answer_are_renewed_by_one_query():
    parts = WorkerParts()
    parts.ask(), parts.ask(do=True)
    parts.sleep(275)
    assert parts.ask()[1] == "python"
    parts.m.net.run(parts.m.mesh, seconds=2)
    before = len(parts.m.net.log)
    view, who = parts.ask(do=True)
    assert who == "python" and view.answer[0].ttl >= 298
    assert parts.ask(do=True)[1] == "fast"
    assert len(parts.m.net.log) == before


def test_clients_do_not_wait_for_a_prefetch():
    parts = WorkerParts()
    parts.ask()
    parts.m.net.links.update({address: Link(delay=0.3) for address in SERVERS})
    parts.sleep(275)
    parts.ask()
    now = parts.m.net.now
    assert addresses(parts.m.ask("www.example.com.")) == ["192.0.2.80"]
    assert parts.m.net.now == now
    assert parts.m.mesh.statistics()["running"] == 1


def test_a_running_prefetch_is_joined_after_the_answer_has_expired():
    m = build(links={address: Link(delay=0.2) for address in SERVERS})
    m.ask("www.example.com.")
    m.net.sleep(m.mesh, 298)
    found = []
    assert m.mesh.refresh(Question(WWW, c.A), on_done=found.append)
    m.net.shift += 10
    before = len(m.net.log)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert len(m.net.log) == before and len(found) == 1


def test_aliases_are_renewed_along_the_whole_chain():
    parts = WorkerParts()
    parts.ask("alias.example.com.")
    parts.sleep(275)
    parts.ask("alias.example.com.")
    parts.m.net.run(parts.m.mesh, seconds=2)
    view, who = parts.ask("alias.example.com.")
    assert who == "fast" and min(rrset.ttl for rrset in view.answer) >= 298


def test_the_number_of_concurrent_prefetches_is_limited():
    m = build()
    m.ask("www.example.com.")
    for address in SERVERS:
        del m.net.hosts[address]
    begun = [m.mesh.refresh(Question(names.from_text(f"x{n}.example.com."), c.A), on_done=lambda outcome: None)
             for n in range(limits.PREFETCH_JOBS + 3)]
    assert begun == [True] * limits.PREFETCH_JOBS + [False] * 3
    assert m.mesh.statistics()["prefetch_refused"] == 3
    m.net.sleep(m.mesh, 30)
    assert m.mesh.refresh(Question(WWW, c.A), on_done=lambda outcome: None)


def test_the_rate_of_prefetches_is_limited(monkeypatch):
    from resolver import mesh

    monkeypatch.setattr(mesh, "PREFETCH_RATE", 5)
    m = build()
    m.ask("www.example.com.")
    m.net.now = float(int(m.net.now) + 1)
    names_ = [names.from_text(f"x{n}.example.com.") for n in range(7)]
    begun = [m.mesh.refresh(Question(name, c.A), on_done=lambda outcome: None) for name in names_]
    assert begun == [True] * 5 + [False] * 2
    m.net.sleep(m.mesh, 1.5)
    assert m.mesh.refresh(Question(names_[6], c.A), on_done=lambda outcome: None)


def test_no_prefetch_for_a_question_that_is_already_resolved():
    m = build()
    m.start("www.example.com.")
    assert not m.mesh.refresh(Question(WWW, c.A), on_done=lambda outcome: pytest.fail("nothing was begun"))


def test_a_failed_prefetch_is_not_cached_as_a_failure():
    m = build()
    m.ask("www.example.com.")
    for address in SERVERS:
        del m.net.hosts[address]
    found = []
    m.mesh.refresh(Question(WWW, c.A), on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert found[0].failure is not None
    assert m.store.rrsets.find_failure(WWW, c.A, m.net.time()) is None
