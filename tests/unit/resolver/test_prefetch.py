"""Prefetch: the mesh in virtual time, and the path from the fast path to a new answer."""

import pytest
from support.fakenet import Link
from support.minet import EXAMPLE_ZONE, addresses, build, standard
from support.service_parts import CLIENT, Sink

from resolver import limits
from resolver.effects import Question
from resolver.net.fastpath import FastPath
from resolver.net.service import Service
from resolver.policy import PolicyPipeline
from resolver.settings import CacheSettings, DnssecSettings, Settings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

WWW = names.from_text("www.example.com.")
SERVERS = ("192.0.2.1", "192.0.2.2")


class House:
    """Fast path, service and mesh on the fake network, as in a worker but for sockets."""

    def __init__(self, *, prefetch=True, zone=EXAMPLE_ZONE):
        settings = Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(prefetch=prefetch))
        self.m = build(standard(a192_0_2_1=[("example.com.", zone)], a192_0_2_2=[("example.com.", zone)]),
                       settings=settings)
        plan = PolicyPipeline(settings)
        self.fast = FastPath(self.m.store.answers, plan.access, prefetch=prefetch)
        self.service = Service(settings, mesh=self.m.mesh, plan=plan, fast=self.fast, clock=self.m.net)
        self.sink = Sink()

    def ask(self, name="www.example.com.", **options):
        """The reply to one query, and who gave it: "fast" or "python"."""
        packet = make_query(7, names.from_text(name), c.A, **options)
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
    house = House()
    assert house.ask()[1] == "python"
    for _ in range(20):
        house.sleep(275)
        before = len(house.m.net.log)
        view, who = house.ask()
        assert who == "python", "one query for the answer is handed over"
        assert view.answer[0].ttl in (24, 25), "and answered at once from the cache"
        house.m.net.run(house.m.mesh, seconds=2)
        assert len(house.m.net.log) == before + 1, "one question upstream"
        view, who = house.ask()
        assert who == "fast" and view.answer[0].ttl >= 298
    assert house.fast.statistics()["prefetch_due"] == 20
    assert house.m.mesh.statistics()["prefetches"] == 20


def test_a_query_with_a_cookie_causes_a_prefetch_too():
    house = House()
    house.ask()
    house.sleep(275)
    before = len(house.m.net.log)
    view, who = house.ask(options=[(c.OPTION_COOKIE, b"a client")])
    assert who == "python"
    assert view.answer[0].ttl in (24, 25)
    house.m.net.run(house.m.mesh, seconds=2)
    assert len(house.m.net.log) == before + 1
    assert house.ask()[0].answer[0].ttl >= 298


def test_each_answer_is_passed_for_prefetch_once():
    house = House()
    house.ask()
    for address in SERVERS:
        del house.m.net.hosts[address]
    house.sleep(275)
    assert [house.ask()[1] for _ in range(20)] == ["python", *["fast"] * 19]
    house.sleep(20)
    view, who = house.ask()
    assert (who, view.answer[0].ttl) == ("fast", 5), "a failed renewal leaves the old answer alone"


def test_no_prefetch_before_the_last_tenth():
    house = House()
    house.ask()
    house.sleep(265)
    assert house.ask()[1] == "fast"


def test_no_prefetch_when_switched_off():
    house = House(prefetch=False)
    house.ask()
    house.sleep(290)
    assert house.ask()[1] == "fast"
    assert house.m.mesh.statistics()["prefetches"] == 0


def test_short_lived_answers_are_not_prefetched():
    house = House(zone=EXAMPLE_ZONE + f"brief {limits.PREFETCH_TTL - 1} IN A 192.0.2.9\n")
    house.ask("brief.example.com.")
    house.sleep(limits.PREFETCH_TTL - 2)
    assert house.ask("brief.example.com.")[1] == "fast"


def test_queries_without_rd_cause_no_prefetch():
    settings = House()
    settings.fast = FastPath(settings.m.store.answers, None, prefetch=True, pass_without_rd=False)
    settings.ask()
    settings.sleep(275)
    packet = make_query(7, WWW, c.A, flags=0)
    assert settings.fast.answer(packet, None, settings.m.net.time()) is not None
    assert settings.ask()[1] == "python"


def test_all_forms_of_an_answer_are_renewed_by_one_query():
    house = House()
    house.ask(), house.ask(do=True)
    house.sleep(275)
    assert house.ask()[1] == "python"
    house.m.net.run(house.m.mesh, seconds=2)
    before = len(house.m.net.log)
    view, who = house.ask(do=True)
    assert who == "python" and view.answer[0].ttl >= 298
    assert house.ask(do=True)[1] == "fast"
    assert len(house.m.net.log) == before


def test_clients_do_not_wait_for_a_prefetch():
    house = House()
    house.ask()
    house.m.net.links.update({address: Link(delay=0.3) for address in SERVERS})
    house.sleep(275)
    house.ask()
    now = house.m.net.now
    assert addresses(house.m.ask("www.example.com.")) == ["192.0.2.80"]
    assert house.m.net.now == now
    assert house.m.mesh.statistics()["running"] == 1


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
    house = House()
    house.ask("alias.example.com.")
    house.sleep(275)
    house.ask("alias.example.com.")
    house.m.net.run(house.m.mesh, seconds=2)
    view, who = house.ask("alias.example.com.")
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
